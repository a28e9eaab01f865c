//! What the operating system says of this process, and where findings go.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::Options;

/// How much the peak of resident memory may grow.
pub(crate) const MEMORY_LIMIT_KIB: u64 = 64 * 1024;

/// The peak of this process' resident memory.
pub(crate) fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// The calling thread, for [`thread_time`].
pub(crate) fn this_thread() -> io::Result<PathBuf> {
    Ok(PathBuf::from("/proc").join(std::fs::read_link("/proc/thread-self")?))
}

/// Processor time that a thread has used.
pub(crate) fn thread_time(thread: &std::path::Path) -> Duration {
    let text = std::fs::read_to_string(thread.join("schedstat")).unwrap_or_default();
    let nanoseconds = text.split_whitespace().next().and_then(|number| number.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or(0))
}

/// Keeps an input that showed something, and says where.
pub(crate) fn report(target: &str, index: u64, seed: u64, what: &str, input: &[u8]) -> io::Result<()> {
    let folder = Options::artifacts();
    std::fs::create_dir_all(&folder)?;
    let path = folder.join(format!("{target}-{seed}-{index}.bin"));
    std::fs::write(&path, input)?;
    eprintln!(
        "FOUND {target}: {what}\n  seed {seed}, input {index}, {} bytes: {}",
        input.len(),
        path.display()
    );
    Ok(())
}
