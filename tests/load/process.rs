//! What the kernel tells about a process of the node.

use std::fs;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Pid;

/// How many descriptors it has open, but for the watch on its docroot, which it has some time after
/// its start.
pub fn descriptors(pid: Pid) -> usize {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let is_watch = |link: &std::path::PathBuf| link.ends_with("anon_inode:inotify");
    let links = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
    links.filter(|link| !is_watch(link)).count()
}

/// How many of its threads work on disks.
pub fn disk_threads(pid: Pid) -> usize {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let names = threads.filter_map(|thread| fs::read_to_string(thread.path().join("comm")).ok());
    names.filter(|name| name.starts_with("disk")).count()
}

/// How often its first thread, the loop, went to sleep: once more each time that it was woken,
/// also when the kernel sent it back to sleep because another process had been faster.
pub fn sleeps(pid: Pid) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/task/{pid}/status"));
    let status = status.expect("a process of this user");
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.and_then(|number| number.trim().parse().ok()).expect("a number")
}

/// Bytes of memory that nobody else has: every page that it has written to, and unwritten ones
/// where no file is behind them. Pages of the executable itself do not count, so that a debug
/// build measures nearly as a release build does.
pub fn private_memory(pid: Pid) -> u64 {
    let maps = fs::read_to_string(format!("/proc/{pid}/smaps")).expect("a process of this user");
    let (mut kib, mut has_file) = (0, false);
    for line in maps.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        match words[..] {
            ["Private_Dirty:", size, "kB"] => kib += size.parse::<u64>().expect("a number"),
            ["Private_Clean:", size, "kB"] if !has_file => {
                kib += size.parse::<u64>().expect("a number");
            }
            // ADDRESSES PERMISSIONS OFFSET DEVICE INODE [PATH]
            [range, _, _, device, inode, ..] if range.contains('-') && device.contains(':') => {
                has_file = inode != "0";
            }
            _ => {}
        }
    }
    kib * 1024
}

/// Children that have ended and that nobody has waited for.
pub fn zombies_of(parent: Pid) -> Vec<String> {
    let children = children_of(parent).into_iter().map(|pid| pid.to_string());
    children.filter(|pid| is_zombie(&pid.as_str())).collect()
}

/// The children of a process.
pub fn children_of(parent: Pid) -> Vec<Pid> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
    let children = children.expect("the parent is there");
    children.split_whitespace().map(|pid| Pid::from_raw(pid.parse().expect("a pid"))).collect()
}

/// Lets this process, and those that it starts, have so many descriptors. False: it may not.
pub fn allow_descriptors(wanted: u64) -> bool {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a known resource");
    soft >= wanted || hard >= wanted && setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).is_ok()
}

fn is_zombie(pid: &&str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z")))
}

/// What all of its threads have used so far.
pub fn cpu_seconds(pid: Pid) -> f64 {
    // In nanoseconds, unlike the clock ticks of /proc/PID/stat; one file for each thread.
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let files = threads.filter_map(|t| fs::read_to_string(t.path().join("schedstat")).ok());
    let used = files.filter_map(|text| text.split(' ').next()?.parse::<f64>().ok());
    used.sum::<f64>() / 1e9
}
