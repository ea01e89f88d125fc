//! How full a device is: the seven lines of PROTOCOL.md section 4. The owner looks, publishes the
//! numbers on the scoreboard and writes the file; requests are answered from the scoreboard alone.

use std::ffi::CStr;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, UNIX_EPOCH};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, renameat};
use nix::sys::stat::fstatat;
use nix::sys::statvfs::{FsFlags, Statvfs, fstatvfs};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::clock;
use crate::disk::device::Device;
use crate::disk::device_dir::DeviceDir;
use crate::disk::failed::is_shortage;
use crate::disk::on_disk::OnDisk;
use crate::scoreboard::DeviceSlot;
pub use crate::scoreboard::Usage;
use crate::sys::file::{BENEATH, open_below};

/// One name, so that kills leave one file at most; the underscore keeps it out of requests' reach.
const TEMPORARY: &CStr = c".usage_tmp";
/// A file under that name is what a killed process left when it is older.
const ABANDONED: Duration = Duration::from_secs(60);

/// Looks at a device and publishes the numbers; `write`: also into its `usage` file.
pub fn look(on: &OnDisk, device: &Device, slot: &DeviceSlot, write: bool) {
    let found = DeviceDir::open(on, device.path())
        .and_then(|dir| device.insist_on_mount(on, dir))
        .and_then(|dir| Ok((fstatvfs(dir.get(on))?, dir)));
    let (facts, dir) = match found {
        Ok(found) => found,
        Err(e) => {
            // Short of descriptors or memory: that says nothing about the device.
            let unmounted = e.raw_os_error() == Some(libc::ENOMEDIUM);
            if unmounted || !is_shortage(&e) {
                slot.forget_usage();
            }
            if unmounted {
                return; // Logged already.
            }
            return device.note_trouble(Some(&format!("cannot be looked at: {e}")));
        }
    };
    let disk = device.disk(on, &dir, write);
    let time = clock::unix_time().as_secs();
    let usage = Usage::from_facts(&facts, time, disk.source);
    slot.publish(&usage, disk.number);
    slot.inodes.store(facts.files(), Relaxed);
    slot.free_inodes.store(facts.files_available(), Relaxed);
    slot.read_only.store(facts.flags().contains(FsFlags::ST_RDONLY), Relaxed);
    if write {
        let written = write_file(on, &dir, &usage.text(device.path()));
        let trouble = written.err().map(|e| format!("cannot write its usage file: {e}"));
        device.note_trouble(trouble.as_deref());
    }
}

impl Usage {
    fn from_facts(facts: &Statvfs, time: u64, source: String) -> Usage {
        let kib = |blocks: u64| (u128::from(blocks) * facts.fragment_size() as u128 / 1024) as u64;
        // Filesystems that make inodes as they need them report 0 of 0: btrfs does.
        let no_inode = facts.files() > 0 && facts.files_available() == 0;
        let available = if no_inode { 0 } else { kib(facts.blocks_available()) };
        let used_blocks = facts.blocks().saturating_sub(facts.blocks_free());
        let used = kib(used_blocks).max(1);
        Usage { available, total: used + available, used, time, source }
    }

    /// Used, in per cent of the total, rounded up.
    pub fn per_cent(&self) -> u64 {
        (u128::from(self.used) * 100).div_ceil(u128::from(self.total.max(1))).min(100) as u64
    }

    /// The seven lines. `disk`: docroot and `/devN`.
    pub fn text(&self, disk: &Path) -> String {
        let mut text = String::with_capacity(192);
        let Usage { available, total, used, time, source } = self;
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "available: {available}\ndevice: {source}\ndisk: {}\ntime: {time}\ntotal: {total}\n\
             use: {}%\nused: {used}\n",
            disk.display(),
            self.per_cent()
        );
        text
    }
}

/// Writes `usage` on the device, atomically. `Ok(false)`: `chmod 000 usage` says not to.
fn write_file(on: &OnDisk, dir: &DeviceDir, text: &str) -> io::Result<bool> {
    let folder = dir.get(on);
    match fstatat(folder, "usage", AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(facts) if facts.st_mode & 0o777 == 0 => return Ok(false),
        Ok(_) | Err(Errno::ENOENT) => {}
        Err(e) => return Err(e.into()),
    }
    let Some(mut file) = create(folder)? else { return Ok(false) };
    let renamed = file
        .write_all(text.as_bytes())
        .and_then(|()| renameat(folder, TEMPORARY, folder, "usage").map_err(io::Error::from));
    if renamed.is_err() {
        let _ = unlinkat(folder, TEMPORARY, UnlinkatFlags::NoRemoveDir);
    }
    renamed.map(|()| true)
}

/// Makes the file under its temporary name. `None`: an owner of another generation is at it.
fn create(dir: BorrowedFd<'_>) -> io::Result<Option<File>> {
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL;
    let make = || open_below(dir, TEMPORARY, flags, 0o666, BENEATH).map(File::from);
    match make() {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            let facts = fstatat(dir, TEMPORARY, AtFlags::AT_SYMLINK_NOFOLLOW)?;
            let changed = UNIX_EPOCH + Duration::from_secs(facts.st_ctime.max(0) as u64);
            if changed.elapsed().is_ok_and(|age| age < ABANDONED) {
                return Ok(None);
            }
            unlinkat(dir, TEMPORARY, UnlinkatFlags::NoRemoveDir)?;
            make().map(Some)
        }
        made => made.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage() -> Usage {
        Usage {
            available: 1_234_567,
            total: 7_654_321,
            used: 6_419_754,
            time: 1_350_000_000,
            source: "/dev/sdb1".into(),
        }
    }

    #[test]
    fn text_is_that_of_the_protocol() {
        let expected = "available: 1234567\ndevice: /dev/sdb1\ndisk: /var/mogdata/dev1\n\
            time: 1350000000\ntotal: 7654321\nuse: 84%\nused: 6419754\n";
        assert_eq!(usage().text(Path::new("/var/mogdata/dev1")), expected);
    }

    #[test]
    fn use_is_rounded_up_and_never_over_100() {
        let with = |used, total| Usage { used, total, ..usage() }.per_cent();
        assert_eq!(with(1, 1000), 1);
        assert_eq!(with(990, 1000), 99);
        assert_eq!(with(991, 1000), 100);
        assert_eq!(with(1000, 1000), 100);
        assert_eq!(with(1, 0), 100);
        assert_eq!(with(u64::MAX, u64::MAX), 100);
    }
}
