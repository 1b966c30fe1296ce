//! Processes of this binary that serve one model each: replicas on this machine.
//!
//! Such a process gets its order as the first line of its standard input, answers with one line on its standard output
//! when it is ready, and ends when its standard input does: none outlives its server. What order and answer say is the
//! business of those who write and read them.

mod cgroup;
mod limits;
mod sockets;

use std::{
    io::Write as _,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStderr, ChildStdin, Command},
    sync::watch,
};

pub use limits::{Enforced, Limits};

use self::{
    cgroup::{Group, Groups},
    sockets::Sockets,
};
use crate::{Error, Result};

/// How long a process may take until it is ready: as long as the largest models load.
const READY_WITHIN: Duration = Duration::from_secs(600);
/// The longest answer to an order.
const MAX_ANSWER_BYTES: u64 = 1 << 20;
/// The longest line of what a process says.
const MAX_LINE_BYTES: u64 = 16 << 10;

/// Starts the processes of one server.
pub struct Processes {
    program: PathBuf,
    arguments: Vec<String>,
    sockets: Sockets,
    /// Looked for when the first process is to be limited, since the server itself may have to change its group for them.
    groups: OnceLock<Option<Groups>>,
    started: AtomicU64,
}

/// A process that serves. It is killed when this is dropped, and what it had is removed.
pub struct Process {
    socket: PathBuf,
    enforced: Enforced,
    ended: watch::Receiver<Option<ExitStatus>>,
    // When it is dropped, the task that has the process kills it.
    _kill: watch::Sender<()>,
}

impl Processes {
    /// Processes of this program with these arguments, whose sockets are in this folder. Nothing else may be there: what
    /// is, an earlier server left.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn new(program: PathBuf, arguments: &[&str], folder: &Path) -> Result<Processes> {
        Ok(Processes {
            program,
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            sockets: Sockets::new(folder)?,
            groups: OnceLock::new(),
            started: AtomicU64::new(0),
        })
    }

    /// Starts a process within these limits, gives it the order that is made for its socket, and waits for its answer. What
    /// it says on its standard error goes to the server's, and line by line to `said`.
    ///
    /// # Errors
    /// When it cannot be started, ends without an answer, or takes too long.
    pub async fn start<O: Serialize, A: DeserializeOwned>(
        &self,
        limits: Limits,
        order: impl FnOnce(&Path) -> O,
        said: impl Fn(&str) + Send + 'static,
    ) -> Result<(Process, A)> {
        let number = self.started.fetch_add(1, Relaxed);
        let socket = self.sockets.path(number);
        let order = serde_json::to_vec(&order(&socket)).map_err(|error| Error::Unavailable(error.to_string()))?;
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            // The allocator takes a gigabyte at its first step otherwise, which counts as taken whether it is used or not: a
            // limit that comes a moment later leaves no room for anything.
            .env("MIMALLOC_ARENA_EAGER_COMMIT", "0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C is for the server, which needs it until the last call is answered.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(pass_on(stderr, said));
        }
        // It waits for its order with one thread and next to no memory, so that the limits hold for all that follows.
        let (enforced, group) = match limits == Limits::default() {
            true => (Enforced::None, None),
            false => limits.hold(&child, self.groups.get_or_init(Groups::find).as_ref(), number),
        };
        let answer = tokio::time::timeout(READY_WITHIN, ask(&mut child, order)).await;
        let (answer, stdin) = match answer {
            Ok(Ok(answered)) => answered,
            failed => {
                let _ = child.start_kill();
                let status = child.wait().await?;
                remove(group, &socket);
                return Err(Error::Unavailable(match failed {
                    Err(_) => format!("it was not ready within {} s", READY_WITHIN.as_secs()),
                    _ => format!("its process ended before it was ready, with {}", words(status, limits)),
                }));
            }
        };
        let (kill, killed) = watch::channel(());
        let (ending, ended) = watch::channel(None);
        let process = Process { socket: socket.clone(), enforced, ended, _kill: kill };
        tokio::spawn(see_to_the_end(child, stdin, killed, ending, (group, socket)));
        let answer = serde_json::from_str(&answer)
            .map_err(|error| Error::Unavailable(format!("its process did not answer in the expected way: {error}")))?;
        Ok((process, answer))
    }
}

impl Process {
    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// By what its limits hold.
    pub fn enforced(&self) -> Enforced {
        self.enforced
    }

    /// Whether it is still there.
    pub fn is_alive(&self) -> bool {
        self.ended.borrow().is_none() && self.ended.has_changed().is_ok()
    }

    /// Waits for its end.
    pub async fn ended(&self) {
        let mut ended = self.ended.clone();
        // Nobody tells any more when the server itself ends.
        let _ = ended.wait_for(Option::is_some).await;
    }
}

/// Gives a process its order; its answer, and its standard input, with whose end it ends.
async fn ask(child: &mut Child, mut order: Vec<u8>) -> std::io::Result<(String, ChildStdin)> {
    let closed = || std::io::Error::from(std::io::ErrorKind::BrokenPipe);
    let (mut stdin, stdout) = (child.stdin.take().ok_or_else(closed)?, child.stdout.take().ok_or_else(closed)?);
    order.push(b'\n');
    stdin.write_all(&order).await?;
    let mut answer = String::new();
    BufReader::new(stdout.take(MAX_ANSWER_BYTES)).read_line(&mut answer).await?;
    if answer.is_empty() { Err(closed()) } else { Ok((answer, stdin)) }
}

/// Passes on what a process says, until it says no more.
async fn pass_on(stderr: ChildStderr, said: impl Fn(&str)) {
    let mut lines = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        line.clear();
        // What goes on for longer comes in several lines.
        match (&mut lines).take(MAX_LINE_BYTES).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        // Whoever reads the log may be gone.
        let _ = std::io::stderr().write_all(&line);
        said(String::from_utf8_lossy(&line).trim_end());
    }
}

/// Waits for a process's end, or kills it when nobody needs it any more.
async fn see_to_the_end(
    mut child: Child,
    stdin: ChildStdin,
    mut killed: watch::Receiver<()>,
    ending: watch::Sender<Option<ExitStatus>>,
    (group, socket): (Option<Group>, PathBuf),
) {
    let status = tokio::select! {
        status = child.wait() => status,
        _ = killed.changed() => {
            let _ = child.start_kill();
            child.wait().await
        }
    };
    drop(stdin);
    remove(group, &socket);
    ending.send_replace(Some(status.unwrap_or_default()));
}

fn remove(group: Option<Group>, socket: &Path) {
    if let Some(group) = group {
        group.remove();
    }
    // One that was killed leaves it, and one that was not ready has none.
    let _ = std::fs::remove_file(socket);
}

fn words(status: ExitStatus, limits: Limits) -> String {
    match (status.signal(), limits.memory_bytes) {
        (Some(signal), Some(bytes)) => {
            format!("signal {signal}: it may need more memory than its limit of {bytes} bytes")
        }
        (Some(signal), None) => format!("signal {signal}"),
        (None, _) => status.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A shell that says what a worker would.
    fn shell(script: &str, folder: &Path) -> Processes {
        Processes::new("/bin/sh".into(), &["-c", script], folder).unwrap()
    }

    #[tokio::test]
    async fn a_process_answers_its_order_and_ends_when_it_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        // It sends back its order and its own number, and waits for the end of its standard input.
        let script = r#"read -r order; echo "[$order, $$]"; cat >/dev/null"#;
        let processes = shell(script, &folder.path().join("run"));
        let order = |socket: &Path| socket.to_owned();
        let (process, (socket, id)): (Process, (PathBuf, u32)) =
            processes.start(Limits::default(), order, |_| {}).await.unwrap();
        assert_eq!((socket.as_path(), process.enforced()), (process.socket(), Enforced::None));
        assert!(process.is_alive());
        let mut ended = process.ended.clone();
        drop(process);
        ended.wait_for(Option::is_some).await.unwrap();
        assert!(!Path::new(&format!("/proc/{id}")).exists());
    }

    #[tokio::test]
    async fn a_process_that_is_killed_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let processes = shell("read -r order; echo $$; cat >/dev/null", &folder.path().join("run"));
        let (process, id): (Process, i32) = processes.start(Limits::default(), |_| (), |_| {}).await.unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_raw(id).unwrap(), rustix::process::Signal::KILL)
            .unwrap();
        process.ended().await;
        assert!(!process.is_alive());
    }

    #[tokio::test]
    async fn what_a_process_says_is_passed_on_line_by_line() {
        let folder = tempfile::tempdir().unwrap();
        let script = "read -r order; echo one >&2; echo two >&2; echo 1; cat >/dev/null";
        let processes = shell(script, &folder.path().join("run"));
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let said = move |line: &str| tell.send(line.to_owned()).unwrap();
        let (_process, _): (Process, u32) = processes.start(Limits::default(), |_| (), said).await.unwrap();
        assert_eq!([told.recv().await.unwrap(), told.recv().await.unwrap()], ["one", "two"]);
    }

    #[tokio::test]
    async fn one_that_ends_without_an_answer_says_how() {
        let folder = tempfile::tempdir().unwrap();
        let refusal = async |script: &str| {
            let processes = shell(script, &folder.path().join("run"));
            processes.start::<_, ()>(Limits::default(), |_| (), |_| {}).await.err().unwrap().to_string()
        };
        assert!(refusal("exit 3").await.contains("exit status: 3"));
        assert!(refusal("kill -SEGV $$").await.contains("signal 11"));
        assert!(refusal("echo nonsense; cat").await.contains("did not answer in the expected way"));
    }

    #[tokio::test]
    async fn limits_hold_for_a_process_where_there_are_no_groups() {
        let folder = tempfile::tempdir().unwrap();
        let script = r#"read -r order; echo "[$(ulimit -d), $(nproc)]"; cat >/dev/null"#;
        let mut processes = shell(script, &folder.path().join("run"));
        processes.groups = OnceLock::from(None);
        let limits = Limits { memory_bytes: Some(256 << 20), processors: Some(0.5) };
        let (process, (kilobytes, processors)): (Process, (u64, u32)) =
            processes.start(limits, |_| (), |_| {}).await.unwrap();
        assert_eq!((kilobytes, processors), (256 << 10, 1));
        assert_eq!(process.enforced(), Enforced::AffinityAndRlimit);
    }
}
