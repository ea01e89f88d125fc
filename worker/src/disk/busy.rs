//! How busy a disk is: which disk a device is on, and what share of the time it had something to
//! do. PROTOCOL.md section 3.1. Reads /proc and /sys only, which do not wait for disks.

use std::collections::HashMap;
use std::fs;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::clock;
use crate::disk::mounts::{self, Number};

/// The disk under a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    /// The mount source; the filesystem's type or `-` where there is none.
    pub source: String,
    /// The whole disk, as major and minor number; `None`: not a local disk.
    pub number: Option<Number>,
}

/// Looks up the disk under a descriptor of a device, whose st_dev this is.
pub fn disk_of(fd: BorrowedFd<'_>, st_dev: u64) -> Disk {
    let number = (nix::sys::stat::major(st_dev) as u32, nix::sys::stat::minor(st_dev) as u32);
    let mount = mounts::mount_of(fd, number);
    let source = match &mount {
        Some(mount) => mount.name(),
        None => mounts::kind_of(fd).unwrap_or("-").to_owned(),
    };
    let device = match number {
        // An anonymous number, as of btrfs and zfs: the mount source may be a disk.
        (0, _) => mount.and_then(|mount| block_number(&mount.node()?)),
        number => Some(number),
    };
    Disk { source, number: device.map(whole_disk) }
}

/// `None`: no block device, /dev/fuse for one.
fn block_number(node: &Path) -> Option<Number> {
    let facts = fs::metadata(node).ok().filter(|facts| facts.file_type().is_block_device())?;
    let rdev = facts.rdev();
    Some((nix::sys::stat::major(rdev) as u32, nix::sys::stat::minor(rdev) as u32))
}

/// A partition's disk; anything else is a disk itself.
fn whole_disk((major, minor): Number) -> Number {
    let node = format!("/sys/dev/block/{major}:{minor}");
    let parent = || {
        fs::metadata(format!("{node}/partition")).ok()?;
        let folder = fs::canonicalize(&node).ok()?;
        parse_number(&fs::read_to_string(folder.parent()?.join("dev")).ok()?)
    };
    parent().unwrap_or((major, minor))
}

fn parse_number(text: &str) -> Option<Number> {
    let (major, minor) = text.trim().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// How many requests each disk has completed, of whatever kind: it goes on while the disk lives.
/// Documentation/admin-guide/iostats.rst, fields 1, 5, 12 and 16.
pub fn completed() -> HashMap<Number, u64> {
    parse_completed(&fs::read_to_string("/proc/diskstats").unwrap_or_default()).collect()
}

fn parse_completed(text: &str) -> impl Iterator<Item = (Number, u64)> {
    text.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let number = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let numbers: Vec<u64> = fields.skip(1).map_while(|field| field.parse().ok()).collect();
        let kinds = [0, 4, 11, 15].iter().filter_map(|field| numbers.get(*field));
        Some((number, kinds.sum()))
    })
}

/// The names of block devices, for those who know them by name only.
pub fn names() -> HashMap<Number, String> {
    parse_diskstats(&fs::read_to_string("/proc/diskstats").unwrap_or_default())
        .map(|(number, name, _)| (number, name.to_owned()))
        .collect()
}

/// Major, minor, name and io_ticks of each line of /proc/diskstats:
/// Documentation/admin-guide/iostats.rst, field 10.
fn parse_diskstats(text: &str) -> impl Iterator<Item = (Number, &str, u32)> {
    text.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let number = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let name = fields.next()?;
        Some((number, name, fields.nth(9)?.parse::<u64>().ok()? as u32))
    })
}

/// The meter: remembers the last reading.
#[derive(Debug, Default)]
pub struct Meter {
    last: Option<(Instant, HashMap<Number, u32>)>,
}

impl Meter {
    /// Busy per cent times 100 of each disk since the last call; empty at the first.
    pub fn read(&mut self) -> HashMap<Number, u32> {
        self.advance(clock::instant(), &fs::read_to_string("/proc/diskstats").unwrap_or_default())
    }

    fn advance(&mut self, now: Instant, diskstats: &str) -> HashMap<Number, u32> {
        let ticks: HashMap<Number, u32> =
            parse_diskstats(diskstats).map(|(number, _, ticks)| (number, ticks)).collect();
        let busy = match &self.last {
            Some((then, before)) => shares(before, &ticks, now.saturating_duration_since(*then)),
            None => HashMap::new(),
        };
        self.last = Some((now, ticks));
        busy
    }
}

fn shares(
    before: &HashMap<Number, u32>,
    after: &HashMap<Number, u32>,
    elapsed: Duration,
) -> HashMap<Number, u32> {
    let millis = elapsed.as_secs_f64() * 1000.0;
    let share = |ticks: u32| (f64::from(ticks) / millis.max(1.0) * 10_000.0).round();
    after
        .iter()
        .filter_map(|(number, ticks)| {
            // The counter is 32 bits wide on some kernels and wraps.
            let busy = ticks.wrapping_sub(*before.get(number)?);
            Some((*number, share(busy).min(10_000.0) as u32))
        })
        .collect()
}

/// One line of `iostat -dx`: a device's name and its busy per cent times 100.
pub fn parse_iostat(line: &str) -> Option<(&str, u32)> {
    let mut fields = line.split_ascii_whitespace();
    let name = fields.next()?;
    let util: f64 = fields.next_back()?.replace(',', ".").parse().ok()?;
    (util >= 0.0).then(|| (name, (util * 100.0).round().min(10_000.0) as u32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn diskstats(ticks: u64) -> String {
        format!(
            "   8       0 sda 1 2 3 4 5 6 7 8 0 {ticks} 11 0 0 0 0 12 13\n\
                8       1 sda1 1 2 3 4 5 6 7 8 0 7 11\n garbage\n"
        )
    }

    #[test]
    fn busy_is_the_share_of_the_time_between_two_readings() {
        let mut meter = Meter::default();
        let start = Instant::now();
        assert!(meter.advance(start, &diskstats(1000)).is_empty());
        let half = meter.advance(start + Duration::from_secs(1), &diskstats(1500));
        assert_eq!(half[&(8, 0)], 5000);
        assert_eq!(half[&(8, 1)], 0);
        let over = meter.advance(start + Duration::from_secs(2), &diskstats(9000));
        assert_eq!(over[&(8, 0)], 10_000);
    }

    #[test]
    fn counter_may_wrap() {
        let mut meter = Meter::default();
        let start = Instant::now();
        meter.advance(start, &diskstats(u64::from(u32::MAX) - 99));
        let busy = meter.advance(start + Duration::from_secs(1), &diskstats(400));
        assert_eq!(busy[&(8, 0)], 5000);
    }

    #[test]
    fn iostat_lines_give_name_first_and_utilisation_last() {
        assert_eq!(parse_iostat("sda  1.0 2.0 3.5"), Some(("sda", 350)));
        assert_eq!(parse_iostat("dm-0 0,10 99,99"), Some(("dm-0", 9999)));
        assert_eq!(parse_iostat("sdb 1 100.03"), Some(("sdb", 10_000)));
        assert_eq!(parse_iostat("Device r/s %util"), None);
        assert_eq!(parse_iostat(""), None);
        assert_eq!(parse_iostat("sda"), None);
    }

    #[test]
    fn character_device_is_no_disk() {
        assert_eq!(block_number(Path::new("/dev/null")), None);
        assert_eq!(block_number(Path::new("/dev/none")), None);
    }

    #[test]
    fn root_filesystem_has_a_source() {
        let root = fs::File::open("/").unwrap();
        let number = root.metadata().unwrap().dev();
        assert!(!disk_of(root.as_fd(), number).source.is_empty());
    }
}
