//! A child process that never outlives its owner, nor its owner's process.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::watch;

use crate::error::StackError;

/// The user that a process runs as, when it is not this process' own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RunAs {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// What to start.
#[derive(Debug)]
pub(crate) struct ProcessOptions<'a> {
    /// The name used in errors and logs.
    pub(crate) name: &'static str,
    pub(crate) program: &'a Path,
    pub(crate) arguments: Vec<String>,
    /// Added to the environment.
    pub(crate) environment: Vec<(&'static str, OsString)>,
    pub(crate) folder: &'a Path,
    pub(crate) run_as: Option<RunAs>,
    /// Its output goes to the end of this file.
    pub(crate) log: PathBuf,
    /// Sent when this process dies, however it dies.
    pub(crate) signal_when_orphaned: Signal,
}

/// A running, or ended, child process.
///
/// A thread of its own starts each child and waits for it. The kernel ties the signal for orphans to the
/// *thread* that started the child, and tokio's threads come and go; this one lives as long as the child.
#[derive(Debug)]
pub(crate) struct Process {
    name: &'static str,
    pid: Pid,
    log: PathBuf,
    state: Arc<State>,
    ended: watch::Receiver<bool>,
}

#[derive(Debug, Default)]
struct State {
    status: Mutex<Option<ExitStatus>>,
    ended: Condvar,
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Option<ExitStatus>> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Process {
    /// Starts it. Whether it is ready to serve is for the caller to find out.
    pub(crate) async fn spawn(options: ProcessOptions<'_>) -> Result<Self, StackError> {
        let ProcessOptions { name, program, log, .. } = &options;
        let (name, program, log) = (*name, program.to_path_buf(), log.clone());
        let mut command = command(&options)?;

        let state = Arc::new(State::default());
        let (ended_sender, ended) = watch::channel(false);
        let (started_sender, started) = tokio::sync::oneshot::channel();
        let waiter_state = Arc::clone(&state);
        std::thread::Builder::new()
            .name(format!("wait-{name}"))
            .spawn(move || match command.spawn() {
                Ok(child) => {
                    // nobody listens any more when the start was cancelled: the child must not outlive that
                    if started_sender.send(Ok(child.id())).is_err() {
                        end_cancelled(child);
                        return;
                    }
                    wait(child, &waiter_state);
                    let _ = ended_sender.send(true);
                }
                Err(error) => {
                    let _ = started_sender.send(Err(error));
                }
            })
            .map_err(StackError::io("start a thread for", &program))?;

        let pid = started
            .await
            .map_err(|_| std::io::Error::other("its thread ended"))
            .and_then(|started| started)
            .map_err(StackError::io("start", &program))?;
        let pid = i32::try_from(pid).map_err(|_| std::io::Error::other("process id out of range"));
        let pid = Pid::from_raw(pid.map_err(StackError::io("start", &program))?);
        Ok(Self { name, pid, log, state, ended })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw().unsigned_abs()
    }

    pub(crate) fn is_running(&self) -> bool {
        self.state.lock().is_none()
    }

    /// Sends a signal, unless the process has ended: its id may then be another's.
    pub(crate) fn signal(&self, signal: Signal) {
        let status = self.state.lock();
        if status.is_none() {
            let _ = kill(self.pid, signal);
        }
    }

    /// SIGKILL for the process and its children, all at once: what a crash looks like to their files.
    pub(crate) fn crash(&self) {
        // stopped first, so that no child is started while the children are looked up
        self.signal(Signal::SIGSTOP);
        for child in children(self.pid) {
            let _ = kill(child, Signal::SIGKILL);
        }
        self.signal(Signal::SIGKILL);
    }

    /// Waits until the process has ended.
    pub(crate) async fn ended(&self) {
        let mut ended = self.ended.clone();
        // an error says that the waiting thread is gone, and it goes only after the process
        let _ = ended.wait_for(|ended| *ended).await;
    }

    /// Sends `signal`, and after `grace` SIGKILL; returns when the process is gone.
    pub(crate) async fn stop(&self, signal: Signal, grace: Duration) {
        self.signal(signal);
        if tokio::time::timeout(grace, self.ended()).await.is_err() {
            tracing::warn!(process = self.name, ?grace, "did not stop in time, killed");
            self.crash();
            self.ended().await;
        }
    }

    /// As [`Self::stop`], for `drop`: blocks the thread for as long as the process needs.
    pub(crate) fn stop_blocking(&self, signal: Signal, grace: Duration) {
        self.signal(signal);
        if !self.ended_within(grace) {
            self.crash();
            self.ended_within(grace);
        }
    }

    fn ended_within(&self, limit: Duration) -> bool {
        let status = self.state.lock();
        let waited = self.state.ended.wait_timeout_while(status, limit, |status| status.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.is_some()
    }

    /// Waits until `ready` says so, the process ends, or `limit` is over.
    pub(crate) async fn wait_ready<F>(
        &self,
        limit: Duration,
        mut ready: impl FnMut() -> F,
    ) -> Result<(), StackError>
    where
        F: Future<Output = Result<(), String>>,
    {
        /// Between two tries to connect: short beside the start itself, about 100 ms.
        const INTERVAL: Duration = Duration::from_millis(10);
        let deadline = Instant::now() + limit;
        loop {
            let not_ready = tokio::select! {
                result = ready() => match result {
                    Ok(()) => return Ok(()),
                    Err(reason) => reason,
                },
                () = self.ended() => {
                    let status = *self.state.lock();
                    let status = status.map_or_else(|| "it ended".to_owned(), |status| status.to_string());
                    return Err(self.start_error(status));
                }
            };
            if Instant::now() >= deadline {
                return Err(self.start_error(format!("not ready after {limit:?}: {not_ready}")));
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// For a program that does its work and ends: waits for that, and asks that it succeeded.
    pub(crate) async fn succeed(&self, limit: Duration) -> Result<(), StackError> {
        if tokio::time::timeout(limit, self.ended()).await.is_err() {
            return Err(self.start_error(format!("not done after {limit:?}")));
        }
        match *self.state.lock() {
            Some(status) if !status.success() => Err(self.start_error(status.to_string())),
            _ => Ok(()),
        }
    }

    fn start_error(&self, reason: String) -> StackError {
        StackError::Start { program: self.name, reason, log: log_tail(&self.log) }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_running() {
            self.crash();
            self.ended_within(Duration::from_secs(5));
        }
    }
}

/// The last lines that were logged, for an error's text.
pub(crate) fn log_tail(log: &Path) -> String {
    const BYTES: u64 = 2_000;
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_default()
}

fn command(options: &ProcessOptions<'_>) -> Result<Command, StackError> {
    let log = File::options().create(true).append(true).open(&options.log);
    let log = log.map_err(StackError::io("open the log", &options.log))?;
    let errors = log.try_clone().map_err(StackError::io("open the log", &options.log))?;

    let mut command = match set_death_signal() {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            let signal = options.signal_when_orphaned.as_str().trim_start_matches("SIG");
            command.args(["--pdeathsig", signal, "--"]).arg(options.program);
            command
        }
        None => Command::new(options.program),
    };
    command
        .args(&options.arguments)
        .envs(options.environment.iter().map(|(name, value)| (name, value)))
        .current_dir(options.folder)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        // a Ctrl-C at the terminal is for the owner, who then stops its servers in order
        .process_group(0);
    if let Some(RunAs { uid, gid }) = options.run_as {
        command.gid(gid).uid(uid);
    }
    Ok(command)
}

/// `setpriv` of util-linux: asks the kernel for a signal when the parent dies, which std cannot without unsafe
/// code. Where it is missing (not Linux), an owner that is killed leaves its servers running.
fn set_death_signal() -> Option<PathBuf> {
    if !cfg!(target_os = "linux") {
        return None;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/bin", "/bin"].map(PathBuf::from));
    folders.map(|folder| folder.join("setpriv")).find(|program| program.is_file())
}

fn wait(mut child: Child, state: &State) {
    wait_unreaped(&child);
    // reaped under the lock: until then the id stays the child's, so `signal` cannot hit a stranger
    let mut status = state.lock();
    *status = Some(child.wait().unwrap_or_default());
    state.ended.notify_all();
}

#[cfg(target_os = "linux")]
fn wait_unreaped(child: &Child) {
    use nix::errno::Errno;
    use nix::sys::wait::{Id, WaitPidFlag, waitid};
    let Ok(pid) = i32::try_from(child.id()) else { return };
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
    while waitid(Id::Pid(Pid::from_raw(pid)), flags) == Err(Errno::EINTR) {}
}

#[cfg(not(target_os = "linux"))]
fn wait_unreaped(_child: &Child) {}

fn end_cancelled(mut child: Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// The direct children of a process, read from /proc; none where there is no /proc.
fn children(parent: Pid) -> Vec<Pid> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| parent_of(*pid) == Some(parent.as_raw())).map(Pid::from_raw).collect()
}

fn parent_of(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // "pid (name) state parent …", where the name may hold blanks and brackets
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options<'a>(folder: &'a Path, script: &str) -> ProcessOptions<'a> {
        ProcessOptions {
            name: "sh",
            program: Path::new("/bin/sh"),
            arguments: vec!["-c".to_owned(), script.to_owned()],
            environment: Vec::new(),
            folder,
            run_as: None,
            log: folder.join("log"),
            signal_when_orphaned: Signal::SIGKILL,
        }
    }

    #[tokio::test]
    async fn a_process_that_ends_early_is_an_error_with_the_end_of_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let process = Process::spawn(options(folder.path(), "echo no such luck >&2; exit 3")).await.unwrap();
        let ready = process.wait_ready(Duration::from_secs(30), || async { Err("not yet".to_owned()) });
        let error = ready.await.unwrap_err();
        assert!(matches!(error, StackError::Start { program: "sh", .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("exit status: 3") && text.contains("no such luck"), "{text}");
    }

    #[tokio::test]
    async fn a_process_deaf_to_the_signal_is_killed_after_the_grace() {
        let folder = tempfile::tempdir().unwrap();
        let script = "trap '' TERM; echo ready; while :; do sleep 1; done";
        let process = Process::spawn(options(folder.path(), script)).await.unwrap();
        let log = folder.path().join("log");
        let ready = || async { if log_tail(&log).is_empty() { Err(String::new()) } else { Ok(()) } };
        process.wait_ready(Duration::from_secs(30), ready).await.unwrap();
        process.stop(Signal::SIGTERM, Duration::from_millis(50)).await;
        assert!(!process.is_running());
    }

    #[tokio::test]
    async fn a_crash_takes_the_children_along_and_a_drop_leaves_nothing_running() {
        let folder = tempfile::tempdir().unwrap();
        let process = Process::spawn(options(folder.path(), "sleep 600 & echo $!; wait")).await.unwrap();
        let log = folder.path().join("log");
        let ready = || async { log_tail(&log).trim().parse::<i32>().map(|_| ()).map_err(|e| e.to_string()) };
        process.wait_ready(Duration::from_secs(30), ready).await.unwrap();
        let pids = children(process.pid);
        assert_eq!(pids.len(), 1);
        drop(process);
        let gone =
            || async { if kill(pids[0], None).is_err() || is_zombie(pids[0]) { Ok(()) } else { Err(()) } };
        let deadline = Instant::now() + Duration::from_secs(30);
        while gone().await.is_err() {
            assert!(Instant::now() < deadline, "the child of a crashed process still runs");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn is_zombie(pid: Pid) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('Z'))
    }

    #[tokio::test]
    async fn a_missing_program_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let mut options = options(folder.path(), "");
        options.program = Path::new("/nowhere/at/all");
        let started = Process::spawn(options).await;
        let failed = match started {
            // started through setpriv, which then says that there is no such program
            Ok(process) => {
                process.wait_ready(Duration::from_secs(30), || async { Err(String::new()) }).await.is_err()
            }
            Err(_) => true,
        };
        assert!(failed);
    }
}
