//! Whose turn it is on the processors of a machine, of several processes with a model each.
//!
//! The threads that compute a step wait for each other hundreds of times, and spin while they do: if one of them has no
//! processor for a while, all the others are busy with nothing. So two models that compute at once on the same processors take
//! not twice as long but many times. Therefore each step first takes as many processors as it has threads, and those of
//! several models go round. A process that ends gives back what it has, however it ends: the locks are the kernel's.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    num::NonZeroUsize,
    path::Path,
    thread,
};

/// The processors, as one model sees them.
#[derive(Debug)]
pub(crate) struct Processors {
    /// Who has it chooses next. Whoever gave processors back has to wait for it behind those who wait for them already.
    next: File,
    each: Vec<File>,
}

/// Processors that were taken; free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    taken: Vec<&'a File>,
    /// Whether others had to be waited for.
    pub(crate) waited: bool,
}

impl Processors {
    /// Those of this machine, for all who name the same folder, which is made if need be.
    ///
    /// # Errors
    /// If there can be no files in it.
    pub(crate) fn open(folder: &Path) -> io::Result<Processors> {
        Processors::of(folder, thread::available_parallelism().map_or(1, NonZeroUsize::get))
    }

    fn of(folder: &Path, count: usize) -> io::Result<Processors> {
        fs::create_dir_all(folder)?;
        let open = |name: &str| OpenOptions::new().create(true).append(true).open(folder.join(name));
        let each = (0..count).map(|number| open(&number.to_string())).collect::<io::Result<_>>()?;
        Ok(Processors { next: open("next")?, each })
    }

    /// Waits for so many of them, or for all if there are fewer.
    ///
    /// # Errors
    /// If the system gives no locks.
    pub(crate) fn take(&self, threads: usize) -> io::Result<Turn<'_>> {
        let wanted = threads.clamp(1, self.each.len());
        let mut waited = lock(&self.next)?;
        let next = Turn { taken: vec![&self.next], waited };
        let mut turn = Turn { taken: Vec::with_capacity(wanted), waited: false };
        let mut left: Vec<&File> = self.each.iter().collect();
        while turn.taken.len() < wanted {
            let mut busy = Vec::new();
            for file in left {
                if turn.taken.len() == wanted {
                    break;
                }
                match file.try_lock() {
                    Ok(()) => turn.taken.push(file),
                    Err(TryLockError::WouldBlock) => busy.push(file),
                    Err(TryLockError::Error(error)) => return Err(error),
                }
            }
            if turn.taken.len() < wanted {
                // Nobody else takes any meanwhile, so that all of these become free.
                let file = busy.remove(0);
                waited |= lock(file)?;
                turn.taken.push(file);
            }
            left = busy;
        }
        drop(next);
        turn.waited = waited;
        Ok(turn)
    }
}

/// Waits for a lock; whether that took a while.
fn lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => return Ok(false),
        Err(TryLockError::WouldBlock) => {}
        Err(TryLockError::Error(error)) => return Err(error),
    }
    while let Err(error) = file.lock() {
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(true)
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        for file in &self.taken {
            // It ends with the file at the latest.
            let _ = file.unlock();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc,
    };

    use super::*;

    #[test]
    fn no_more_threads_compute_than_there_are_processors_and_all_have_their_turns() {
        let folder = tempfile::tempdir().unwrap();
        let (busy, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let order = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for threads in [1, 2, 3, 9] {
                let (busy, most, order) = (&busy, &most, &order);
                let processors = Processors::of(folder.path(), 3).unwrap();
                scope.spawn(move || {
                    for _ in 0..50 {
                        let turn = processors.take(threads).unwrap();
                        assert_eq!(turn.taken.len(), threads.min(3));
                        let now = busy.fetch_add(turn.taken.len(), SeqCst) + turn.taken.len();
                        most.fetch_max(now, SeqCst);
                        order.lock().unwrap().push(threads);
                        thread::sleep(std::time::Duration::from_micros(300));
                        busy.fetch_sub(turn.taken.len(), SeqCst);
                    }
                });
            }
        });
        assert_eq!((busy.load(SeqCst), most.load(SeqCst)), (0, 3));
        // None was done before every other had a good part of its turns.
        let order = order.into_inner().unwrap();
        for threads in [1, 2, 3, 9] {
            let last = order.iter().rposition(|one| *one == threads).unwrap();
            for other in [1, 2, 3, 9] {
                let turns = order[..=last].iter().filter(|one| **one == other).count();
                assert!(turns >= 5, "{other} had {turns} turns when {threads} had all: {order:?}");
            }
        }
    }

    #[test]
    fn whoever_waits_is_not_passed_by_the_one_that_had_it() {
        let folder = tempfile::tempdir().unwrap();
        let (mine, theirs) = (Processors::of(folder.path(), 2).unwrap(), Processors::of(folder.path(), 2).unwrap());
        let turn = mine.take(2).unwrap();
        assert!(!turn.waited);
        let (tell, told) = mpsc::channel();
        thread::scope(|scope| {
            let telling = tell.clone();
            scope.spawn(move || {
                let turn = theirs.take(2).unwrap();
                telling.send(("theirs", turn.waited)).unwrap();
            });
            // Until the other one is next; whether it has come as far as to wait cannot be seen.
            let watch = Processors::of(folder.path(), 2).unwrap();
            while watch.next.try_lock().is_ok() {
                watch.next.unlock().unwrap();
                thread::yield_now();
            }
            drop(turn);
            let turn = mine.take(1).unwrap();
            tell.send(("mine", turn.waited)).unwrap();
        });
        assert_eq!(told.recv().unwrap().0, "theirs");
        assert_eq!(told.recv().unwrap().0, "mine");
    }

    #[test]
    fn what_a_process_had_is_free_when_it_ends() {
        let folder = tempfile::tempdir().unwrap();
        let gone = Processors::of(folder.path(), 1).unwrap();
        std::mem::forget(gone.take(1).unwrap());
        drop(gone);
        assert!(!Processors::of(folder.path(), 1).unwrap().take(1).unwrap().waited);
    }
}
