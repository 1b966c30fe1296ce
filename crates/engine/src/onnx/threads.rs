//! The threads of a session's own pool, so that their processor time can be told from that of others.

use std::{
    sync::{Arc, LazyLock, Mutex, PoisonError, mpsc},
    thread::{self, JoinHandle},
};

use ort::environment::ThreadManager;

/// The ids of a pool's threads, as the kernel has them.
#[derive(Clone, Default)]
pub(super) struct Pool {
    ids: Arc<Mutex<Vec<i32>>>,
}

impl Pool {
    pub(super) fn ids(&self) -> Vec<i32> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ThreadManager for Pool {
    type Thread = JoinHandle<()>;

    fn create(&self, work: impl FnOnce() + Send + 'static) -> ort::Result<JoinHandle<()>> {
        let ids = Arc::clone(&self.ids);
        let work = Box::new(move || {
            let id = rustix::thread::gettid().as_raw_nonzero().get();
            ids.lock().unwrap_or_else(PoisonError::into_inner).push(id);
            work();
            ids.lock().unwrap_or_else(PoisonError::into_inner).retain(|known| *known != id);
        });
        let (answer, answered) = mpsc::sync_channel(1);
        let asked = SPAWNER.send((work, answer));
        let spawned = asked.ok().and_then(|()| answered.recv().ok());
        match spawned {
            Some(Ok(handle)) => Ok(handle),
            Some(Err(error)) => Err(ort::Error::new(error.to_string())),
            None => Err(ort::Error::new("the thread that starts threads is gone")),
        }
    }

    fn join(thread: JoinHandle<()>) -> ort::Result<()> {
        thread.join().map_err(|_| ort::Error::new("a thread of the pool panicked"))
    }
}

/// Starts the thread that starts the threads of models, which then all have the priority of whoever calls this first.
pub fn prepare() {
    LazyLock::force(&SPAWNER);
}

type Work = Box<dyn FnOnce() + Send>;
type Spawn = (Work, mpsc::SyncSender<std::io::Result<JoinHandle<()>>>);

/// Starts threads. A thread inherits its maker's priority, and models are loaded at a low one: see [`prepare`].
static SPAWNER: LazyLock<mpsc::Sender<Spawn>> = LazyLock::new(|| {
    let (sender, receiver) = mpsc::channel::<Spawn>();
    // Where no thread can be started the channel is closed, which its users are told.
    let _ = thread::Builder::new().name("wattle-spawner".into()).spawn(move || {
        while let Ok((work, answer)) = receiver.recv() {
            let _ = answer.send(thread::Builder::new().name("wattle-engine".into()).spawn(work));
        }
    });
    sender
});
