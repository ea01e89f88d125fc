//! Which processor runs what, and what a server's processes have cost.

use std::fs;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::time::{ClockId, clock_getcpuclockid};
use nix::unistd::{Pid, getpid};

use crate::failure::{Context, Failure, Outcome};

/// The servers' processor.
pub const SERVERS: usize = 0;
/// The load's processor.
pub const LOAD: usize = 1;
/// A server that has answered may still have work to do: so long it is looked at again and again.
const SETTLING: Duration = Duration::from_millis(2);
const MOST_LOOKS: usize = 6;
/// Less than this in [`SETTLING`] is a server at rest, whose timers tick.
const REST: Duration = Duration::from_micros(20);

/// Keeps the calling thread, and what it starts from now on, on one processor.
fn pin(cpu: usize) -> Outcome<()> {
    pin_to(&[cpu])
}

fn pin_to(cpus: &[usize]) -> Outcome<()> {
    let mut set = CpuSet::new();
    for &cpu in cpus {
        set.set(cpu).context("processor")?;
    }
    sched_setaffinity(Pid::from_raw(0), &set).context(format!("cannot move to processors {cpus:?}"))
}

/// Servers may run on the load's processor too.
static SHARED: AtomicBool = AtomicBool::new(false);

/// From now on servers and load have a processor each, or share both.
pub fn take_places(share: bool) -> Outcome<()> {
    SHARED.store(share, Relaxed);
    pin_to(if share { &[SERVERS, LOAD] } else { &[LOAD] })
}

/// Runs something with what it starts pinned to the servers' processor.
pub fn as_server<T>(start: impl FnOnce() -> T) -> Outcome<T> {
    if SHARED.load(Relaxed) {
        return Ok(start());
    }
    pin(SERVERS)?;
    let started = start();
    pin(LOAD)?;
    Ok(started)
}

/// Before everything else that the machine does, as far as the kernel lets us. Sessions have a
/// share of their own where the kernel groups processes so (sched(7), "The autogroup feature"):
/// the nice value of a process does not count between them.
const FIRST: &str = "-15";

/// Lets the session of a process come before others; gives back how it was. Without the right
/// to it, or without autogroups, nothing happens.
pub fn favour_session(pid: Pid) -> Option<String> {
    let file = format!("/proc/{pid}/autogroup");
    let before = fs::read_to_string(&file).ok()?;
    fs::write(&file, FIRST).ok()?;
    Some(before.rsplit_once("nice ")?.1.trim().to_owned())
}

/// Our own session, while this is there.
pub struct Favoured(Option<String>);

impl Favoured {
    /// Lets it come before others.
    pub fn new() -> Favoured {
        Favoured(favour_session(getpid()))
    }
}

impl Drop for Favoured {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = fs::write(format!("/proc/{}/autogroup", getpid()), before);
        }
    }
}

/// A server's first process and all that descend from it.
#[derive(Debug, Clone, Copy)]
pub struct Tree(pub Pid);

/// The processor time of each process of a tree.
#[derive(Debug)]
pub struct Clocks(Vec<(Pid, Duration)>);

impl Tree {
    /// Every process of it.
    pub fn processes(self) -> Outcome<Vec<Pid>> {
        let mut found = vec![self.0];
        let mut next = 0;
        while let Some(&pid) = found.get(next) {
            found.extend(children(pid)?);
            next += 1;
        }
        Ok(found)
    }

    /// What each has used so far, all its threads together.
    pub fn clocks(self) -> Outcome<Clocks> {
        let processes = self.processes()?.into_iter();
        let timed = processes.map(|pid| Ok((pid, used(pid)?)));
        timed.collect::<Outcome<_>>().map(Clocks)
    }

    /// What the tree has used since, once it is at rest.
    pub fn spent_since(self, before: &Clocks) -> Outcome<Duration> {
        let mut spent = before.spent(&self.clocks()?)?;
        for _ in 0..MOST_LOOKS {
            thread::sleep(SETTLING);
            let now = before.spent(&self.clocks()?)?;
            let more = now - spent;
            spent = now;
            if more < REST {
                break;
            }
        }
        Ok(spent)
    }

    /// Bytes of memory, those shared with others divided by how many share them.
    pub fn memory(self) -> Outcome<u64> {
        let mut sum = 0;
        for pid in self.processes()? {
            let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
                .context(format!("cannot read the memory of process {pid}"))?;
            sum += pss(&text).ok_or_else(|| Failure::new("smaps_rollup has no Pss"))?;
        }
        Ok(sum)
    }
}

impl Clocks {
    /// What was used from here until `after`. A process that ended meanwhile would take what it
    /// used with it.
    fn spent(&self, after: &Clocks) -> Outcome<Duration> {
        let mut sum: Duration = after.0.iter().map(|&(_, used)| used).sum();
        for &(pid, used) in &self.0 {
            if !after.0.iter().any(|&(other, _)| other == pid) {
                return Err(Failure::new(format!("process {pid} of a server has ended")));
            }
            sum = sum.saturating_sub(used);
        }
        Ok(sum)
    }
}

/// The processor time that a process has used, also one that has ended and was not waited for.
pub fn used(pid: Pid) -> Outcome<Duration> {
    let clock = clock_getcpuclockid(pid).context(format!("process {pid} has no clock"))?;
    now(clock)
}

/// What the calling thread has used.
pub fn used_by_this_thread() -> Outcome<Duration> {
    now(ClockId::CLOCK_THREAD_CPUTIME_ID)
}

fn now(clock: ClockId) -> Outcome<Duration> {
    Ok(Duration::from(clock.now().context("cannot read a clock")?))
}

fn children(pid: Pid) -> Outcome<Vec<Pid>> {
    let mut found = Vec::new();
    let gone = || format!("process {pid} of a server has ended");
    for thread in fs::read_dir(format!("/proc/{pid}/task")).context(gone())?.flatten() {
        // A thread may have ended since; it has no children then.
        let list = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        found.extend(list.split_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw));
    }
    Ok(found)
}

fn pss(smaps_rollup: &str) -> Option<u64> {
    let line = smaps_rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clocks(used: &[(i32, u64)]) -> Clocks {
        let clock = |&(pid, used)| (Pid::from_raw(pid), Duration::from_micros(used));
        Clocks(used.iter().map(clock).collect())
    }

    #[test]
    fn processes_are_summed_and_new_ones_count() {
        let (before, after) = (clocks(&[(1, 10), (2, 20)]), clocks(&[(1, 11), (2, 25), (3, 4)]));
        assert_eq!(before.spent(&after).unwrap(), Duration::from_micros(10));
    }

    #[test]
    fn process_that_ended_is_an_error() {
        assert!(clocks(&[(1, 10), (2, 20)]).spent(&clocks(&[(1, 11)])).is_err());
    }

    #[test]
    fn work_shows_on_the_clock() {
        let tree = Tree(getpid());
        let before = tree.clocks().unwrap();
        let begun = used_by_this_thread().unwrap();
        while used_by_this_thread().unwrap() - begun < Duration::from_millis(5) {}
        assert!(before.spent(&tree.clocks().unwrap()).unwrap() >= Duration::from_millis(5));
    }

    #[test]
    fn pss_is_found() {
        let text = "00400000-7fff [rollup]\nRss:      100 kB\nPss:       42 kB\nPss_Dirty: 7 kB\n";
        assert_eq!(pss(text), Some(42 * 1024));
        assert_eq!(pss("Rss: 1 kB\n"), None);
    }
}
