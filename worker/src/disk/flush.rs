//! When what was stored or removed is on the disk: the setting `fsync`.
//!
//! `file`: the file, then its name, then the folders in which there are new names, each PUT for
//! itself. `batch`: what finishes on one filesystem while it is flushed shares the next flush. A name
//! must not be on the disk before what it names is: a power cut would leave an empty or torn file
//! where the old one was. With `file` fdatasync comes before the name.
//!
//! With `batch`, where the [journal] keeps things in order, the data is written out first and not
//! flushed. After the name, one of those who share changes a time of its folder and has fsync(2) make
//! that safe, which commits the journal with all that was done before: sizes, folders and names of
//! all of them. It is one commit and writes nobody else's data. syncfs(2) does, and on ext4 commits
//! up to twice: before and after it writes data. It is what remains for who has written a file in
//! place and has no folder. Elsewhere fdatasync comes before the name, and a syncfs that all share
//! after it.
//!
//! Without a journal (ext2, ext4 made so) a power cut may cost a name whatever was flushed.
//! Disk threads only.

use std::cell::{OnceCell, RefCell};
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, LazyLock};

use nix::errno::Errno;
use nix::sys::statfs::fstatfs;
use nix::sys::statvfs::{FsFlags, fstatvfs};
use nix::sys::time::TimeSpec;

use crate::disk::device_dir::DeviceDir;
use crate::disk::disk_fd::DiskFd;
use crate::disk::failed::{Failed, InCall};
use crate::disk::folders::FOLDER;
use crate::disk::journal;
use crate::disk::lane::{Coming, Lane};
use crate::disk::on_disk::OnDisk;
use crate::disk::pool::Progress;
use crate::spec::Fsync;
use crate::sys::disk::{self, fdatasync, fsync, syncfs};
use crate::sys::file::{self, BENEATH, open_below};

/// How one operation sees to it that what it did lasts.
#[derive(Debug)]
pub struct Flush<'a> {
    mode: Fsync,
    progress: &'a Progress,
    /// The filesystem may hold back an error until a file is closed.
    errors_on_close: bool,
    /// See [`journal::keeps_order`].
    ordered: OnceCell<bool>,
    /// The content is on its way, and the name comes next.
    coming: RefCell<Option<Coming>>,
}

impl<'a> Flush<'a> {
    /// As the setting says, in this thread.
    pub fn new(mode: Fsync, progress: &'a Progress, errors_on_close: bool) -> Flush<'a> {
        Flush {
            mode,
            progress,
            errors_on_close,
            ordered: OnceCell::new(),
            coming: RefCell::default(),
        }
    }

    /// How the folder is opened in which a name is going to change.
    pub fn folder_flags(&self) -> i32 {
        match self.mode {
            Fsync::Off => FOLDER,
            Fsync::File | Fsync::Batch => libc::O_RDONLY | libc::O_DIRECTORY,
        }
    }

    /// Before the file gets its name: what must be known of its content, and be on the disk.
    pub fn before(&self, on: &OnDisk, file: &DiskFd) -> Result<(), Failed> {
        if self.errors_on_close {
            // Each close of a descriptor asks the filesystem, not the last one alone.
            let copy = file.get(on).try_clone_to_owned().in_call("dup")?;
            self.progress.touch();
            disk::close(copy).in_call("close")?;
        }
        match self.mode {
            Fsync::Off => Ok(()),
            Fsync::Batch => {
                let filesystem = file.stat(on).in_call("fstat")?.st_dev;
                if !self.is_ordered(on, file, filesystem) {
                    return self.flush_data(on, file);
                }
                self.coming.replace(Some(Lane::of(filesystem).announce()));
                self.progress.touch();
                let mut done = Ok(());
                // The kernel writes, in its own order: the more wait, the more share a flush.
                self.progress.stand_aside(&mut || done = file::write_out(file.get(on)));
                done.in_call("sync_file_range")
            }
            Fsync::File => self.flush_data(on, file),
        }
    }

    fn flush_data(&self, on: &OnDisk, file: &DiskFd) -> Result<(), Failed> {
        self.progress.touch();
        fdatasync(file.get(on)).in_call("fdatasync")
    }

    /// After it has got its name. `made`: the folders in which there are new folders.
    pub fn after_put(
        &self,
        on: &OnDisk,
        folder: &DiskFd,
        made: &[(Arc<DeviceDir>, CString)],
    ) -> Result<(), Failed> {
        match self.mode {
            Fsync::Off => Ok(()),
            Fsync::Batch => self.share(on, folder, true),
            Fsync::File => {
                self.progress.touch();
                fsync(folder.get(on)).in_call("fsync")?;
                for (dir, above) in made {
                    let flags = self.folder_flags();
                    let above = open_below(dir.get(on), above, flags, 0, BENEATH);
                    self.progress.touch();
                    fsync(above.in_call("openat2")?.as_fd()).in_call("fsync")?;
                }
                Ok(())
            }
        }
    }

    /// After a file has been written in place.
    pub fn after_change(&self, on: &OnDisk, file: &DiskFd) -> Result<(), Failed> {
        match self.mode {
            Fsync::Batch => self.share(on, file, false),
            Fsync::Off | Fsync::File => Ok(()),
        }
    }

    /// After a name is gone from a folder.
    pub fn after_delete(&self, on: &OnDisk, folder: &DiskFd) -> Result<(), Failed> {
        match self.mode {
            Fsync::Batch => self.share(on, folder, true),
            _ => self.after_put(on, folder, &[]),
        }
    }

    /// `is_folder`: of a file ext4 may write a part of the journal alone, where it has fast commits.
    fn share(&self, on: &OnDisk, file: &DiskFd, is_folder: bool) -> Result<(), Failed> {
        let filesystem = file.stat(on).in_call("fstat")?.st_dev;
        let (call, flush): (_, fn(BorrowedFd<'_>) -> nix::Result<()>) =
            match is_folder && self.is_ordered(on, file, filesystem) {
                true => ("fsync", commit_all),
                false => ("syncfs", sync_all),
            };
        self.progress.touch();
        let wait = |wait: &mut dyn FnMut()| self.progress.stand_aside(wait);
        let lane = Lane::of(filesystem);
        lane.pass(self.coming.take(), || flush(file.get(on)), wait).in_call(call)
    }

    /// The same answer for all that one operation does: a file and its folder are on one filesystem.
    /// What cannot be told stops nobody: then it is not, and what flushes it has the error too.
    fn is_ordered(&self, on: &OnDisk, file: &DiskFd, filesystem: u64) -> bool {
        *self.ordered.get_or_init(|| {
            let known = disk::may_begin("fstatfs").and_then(|()| fstatfs(file.get(on)));
            journal::keeps_order(known, filesystem)
        })
    }
}

/// Makes all safe that the journal has, whose newest part has this folder's time of access. Who may
/// not change that, as of a folder of another owner's, has all of the filesystem written.
fn commit_all(folder: BorrowedFd<'_>) -> nix::Result<()> {
    match disk::futimens(folder, &TimeSpec::UTIME_NOW, &TimeSpec::UTIME_OMIT) {
        Ok(()) => still_writable(folder, fsync(folder)),
        Err(_) => sync_all(folder),
    }
}

/// syncfs(2). Of a filesystem that has made itself read-only it says that there is nothing to write.
/// And before Linux 5.17 it keeps to itself what became of a journal: fsync tells.
fn sync_all(file: BorrowedFd<'_>) -> nix::Result<()> {
    still_writable(file, syncfs(file))?;
    if *SYNCFS_TELLS { Ok(()) } else { fsync(file) }
}

/// What a flush came to, whose 0 does not say enough: the filesystem may have made itself read-only,
/// because its journal could not be written, before it was asked.
fn still_writable(file: BorrowedFd<'_>, flushed: nix::Result<()>) -> nix::Result<()> {
    flushed?;
    match fstatvfs(file) {
        // A sandbox forbids to ask; fsync looks.
        Err(Errno::ENOSYS | Errno::EPERM) => fsync(file),
        Ok(facts) if facts.flags().contains(FsFlags::ST_RDONLY) => Err(Errno::EROFS),
        known => known.map(drop),
    }
}

static SYNCFS_TELLS: LazyLock<bool> = LazyLock::new(|| {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease");
    release.is_ok_and(|release| is_at_least(&release, (5, 17)))
});

/// Whether a kernel's release, as in `6.1.0-13-amd64`, is that version or a later one.
fn is_at_least(release: &str, version: (u32, u32)) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= version,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    use std::fs::File;

    #[test]
    fn versions_are_compared_as_numbers() {
        for release in ["5.17.0", "5.17-rc1", "6.1.0-13-amd64", "10.0"] {
            assert!(is_at_least(release, (5, 17)), "{release}");
        }
        for release in ["5.4.0", "5.16.20-x", "4.19", "", "x.y"] {
            assert!(!is_at_least(release, (5, 17)), "{release}");
        }
    }

    #[test]
    fn commit_has_something_new_of_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let folder = File::open(folder.path()).unwrap();
        let old = TimeSpec::new(1, 0);
        disk::futimens(&folder, &old, &old).unwrap();
        assert_eq!(commit_all(folder.as_fd()), Ok(()));
        let facts = nix::sys::stat::fstat(&folder).unwrap();
        assert!(facts.st_atime > 1 && facts.st_mtime == 1, "{facts:?}");
    }

    #[test]
    fn a_filesystem_that_became_read_only_has_not_been_synced() {
        let folder = tempfile::tempdir().unwrap();
        let private = |flags| {
            unshare(CloneFlags::CLONE_NEWNS)?;
            mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)
        };
        if let Err(e) = private(MsFlags::MS_REC | MsFlags::MS_PRIVATE) {
            return println!("SKIPPED: no mounts of our own: {e}");
        }
        let tmpfs = |flags| mount(Some("t"), folder.path(), Some("tmpfs"), flags, None::<&str>);
        tmpfs(MsFlags::empty()).unwrap();
        let file = File::open(folder.path()).unwrap();
        assert_eq!(sync_all(file.as_fd()), Ok(()));
        tmpfs(MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY).unwrap();
        assert_eq!(syncfs(&file), Ok(()), "it says nothing");
        assert_eq!(sync_all(file.as_fd()), Err(Errno::EROFS));
    }
}
