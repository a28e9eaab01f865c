//! The machine, and what processes take of it, from /proc.

use std::time::Duration;

use anyhow::Context as _;
use nix::time::ClockId;
use procfs::Current as _;
use procfs::process::{Process, Stat};

use crate::report::Machine;

/// What this machine is.
pub(crate) fn describe() -> anyhow::Result<Machine> {
    let memory = procfs::Meminfo::current().context("reading the machine's memory")?;
    let kernel = procfs::sys::kernel::Version::current().context("reading the kernel's version")?;
    Ok(Machine {
        cores: cores(),
        memory_bytes: memory.mem_total,
        kernel: format!("{}.{}.{}", kernel.major, kernel.minor, kernel.patch),
    })
}

/// The cores that this process may use.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// What a process has used.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    pub(crate) cpu_seconds: f64,
    pub(crate) rss_bytes: u64,
    pub(crate) peak_rss_bytes: u64,
}

/// What a process has used so far, its children that have ended and were waited for included.
pub(crate) fn usage(id: u32) -> anyhow::Result<Usage> {
    let process = Process::new(i32::try_from(id)?).with_context(|| format!("looking at process {id}"))?;
    let stat = process.stat().with_context(|| format!("looking at process {id}"))?;
    let status = process.status().with_context(|| format!("looking at process {id}"))?;
    let bytes = |kibibytes: Option<u64>| 1024 * kibibytes.unwrap_or_default();
    Ok(Usage {
        cpu_seconds: cpu_seconds(&stat),
        rss_bytes: bytes(status.vmrss),
        peak_rss_bytes: bytes(status.vmhwm),
    })
}

/// The processor time of a process and of all its children, those that have ended included.
pub(crate) fn cpu_seconds_with_children(id: u32) -> anyhow::Result<f64> {
    let id = i32::try_from(id)?;
    let own = Process::new(id).and_then(|process| process.stat());
    let mut seconds = cpu_seconds(&own.with_context(|| format!("looking at process {id}"))?);
    for process in procfs::process::all_processes().context("listing processes")? {
        // it may end in between
        let Ok(stat) = process.and_then(|process| process.stat()) else { continue };
        if stat.ppid == id {
            seconds += cpu_seconds(&stat);
        }
    }
    Ok(seconds)
}

/// The processor time of all processes that this one has started, that have ended and were waited for: all that each of
/// them has used, its start and its end included.
pub(crate) fn ended_children_cpu_seconds() -> anyhow::Result<f64> {
    let stat = Process::myself().and_then(|process| process.stat()).context("looking at this process")?;
    Ok(seconds(stat.cutime.saturating_add(stat.cstime).max(0).cast_unsigned()))
}

/// The processor time of this process, all threads; without its children.
pub(crate) fn own_cpu_seconds() -> anyhow::Result<f64> {
    clock_seconds(ClockId::CLOCK_PROCESS_CPUTIME_ID)
}

/// The processor time of the calling thread.
pub(crate) fn thread_cpu_seconds() -> anyhow::Result<f64> {
    clock_seconds(ClockId::CLOCK_THREAD_CPUTIME_ID)
}

/// Finer than /proc, which counts hundredths of a second.
fn clock_seconds(clock: ClockId) -> anyhow::Result<f64> {
    let time = nix::time::clock_gettime(clock).context("reading a processor clock")?;
    Ok(Duration::from(time).as_secs_f64())
}

fn cpu_seconds(stat: &Stat) -> f64 {
    let waited_for = stat.cutime.saturating_add(stat.cstime).max(0).cast_unsigned();
    seconds(stat.utime + stat.stime + waited_for)
}

#[allow(clippy::cast_precision_loss)] // times since a process' start, and 100
fn seconds(ticks: u64) -> f64 {
    ticks as f64 / procfs::ticks_per_second() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_works_uses_time_and_memory() {
        let before = own_cpu_seconds().unwrap();
        let mut sum = 0_u64;
        while own_cpu_seconds().unwrap() < before + 0.03 {
            sum = (0..100_000_u64).fold(sum, |sum, number| sum.wrapping_mul(31).wrapping_add(number));
        }
        assert_ne!(sum, 1);
        assert!(thread_cpu_seconds().unwrap() > 0.0);
        let usage = usage(std::process::id()).unwrap();
        assert!(usage.rss_bytes > 0 && usage.peak_rss_bytes >= usage.rss_bytes);
    }

    #[test]
    fn children_count() {
        let shell = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; sleep 60";
        let mut child = std::process::Command::new("sh").args(["-c", shell]).spawn().unwrap();
        let started = std::time::Instant::now();
        let of_children =
            || cpu_seconds_with_children(std::process::id()).unwrap() - own_cpu_seconds().unwrap();
        while of_children() < 0.05 {
            assert!(started.elapsed().as_secs() < 30, "the child's time is not counted");
            std::thread::yield_now();
        }
        let ended_before = ended_children_cpu_seconds().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(ended_children_cpu_seconds().unwrap() >= ended_before + 0.05);
    }

    #[test]
    fn the_machine_has_cores_and_memory() {
        let machine = describe().unwrap();
        assert!(machine.cores > 0 && machine.memory_bytes > 0 && machine.kernel.contains('.'));
    }
}
