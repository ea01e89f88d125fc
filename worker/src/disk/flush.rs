//! When what was stored or removed is on the disk: the setting `fsync`.
//!
//! `file`: the file, then its name, then the folders in which there are new names, each PUT for
//! itself. `batch`: what finishes on one filesystem while a syncfs of it runs shares the next one.
//!
//! A name must not be on the disk before what it names is: a power cut would leave an empty or
//! torn file where the old one was. With `file` fdatasync comes before the name. With `batch` the
//! data is written out first and not flushed, on ext4 and XFS: when that has ended, the change that
//! makes the file as long as it is has entered the journal, before the one that gives the name
//! can, and both flush what was written before they are on the disk. Elsewhere fdatasync comes
//! first too. Disk threads only.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use nix::sys::statfs::{EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, fstatfs};

use crate::disk::device::DeviceDir;
use crate::disk::failed::{Failed, InCall};
use crate::disk::folders::FOLDER;
use crate::disk::on_disk::{DiskFd, OnDisk};
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
}

impl<'a> Flush<'a> {
    /// As the setting says, in this thread.
    pub fn new(mode: Fsync, progress: &'a Progress, errors_on_close: bool) -> Flush<'a> {
        Flush { mode, progress, errors_on_close }
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
        let file = file.get(on);
        if self.errors_on_close {
            // Each close of a descriptor asks the filesystem, not the last one alone.
            let copy = file.try_clone_to_owned().in_call("dup")?;
            self.progress.touch();
            disk::close(copy).in_call("close")?;
        }
        match self.mode {
            Fsync::Off => Ok(()),
            Fsync::Batch if orders_names_behind_data(file)? => {
                self.progress.touch();
                let mut done = Ok(());
                // The kernel writes, in its own order: the more wait, the more share a flush.
                self.progress.stand_aside(&mut || done = file::write_out(file));
                done.in_call("sync_file_range")
            }
            Fsync::File | Fsync::Batch => {
                self.progress.touch();
                fdatasync(file).in_call("fdatasync")
            }
        }
    }

    /// After it has got its name. `made`: the folders in which there are new folders.
    pub fn after_put(
        &self,
        on: &OnDisk,
        file: &DiskFd,
        folder: &DiskFd,
        made: &[(Arc<DeviceDir>, CString)],
    ) -> Result<(), Failed> {
        match self.mode {
            Fsync::Off => Ok(()),
            Fsync::Batch => self.share(on, file),
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
            Fsync::Batch => self.share(on, file),
            Fsync::Off | Fsync::File => Ok(()),
        }
    }

    /// After a name is gone from a folder.
    pub fn after_delete(&self, on: &OnDisk, folder: &DiskFd) -> Result<(), Failed> {
        match self.mode {
            Fsync::Batch => self.share(on, folder),
            _ => self.after_put(on, folder, folder, &[]),
        }
    }

    fn share(&self, on: &OnDisk, file: &DiskFd) -> Result<(), Failed> {
        let filesystem = file.stat(on).in_call("fstat")?.st_dev;
        self.progress.touch();
        let done = Lane::of(filesystem)
            .pass(|| syncfs(file.get(on)), |wait| self.progress.stand_aside(wait));
        done.in_call("syncfs")
    }
}

/// Filesystems whose journal has a file's new size before a name that is given later.
fn orders_names_behind_data(file: impl AsFd) -> Result<bool, Failed> {
    disk::may_begin("fstatfs").in_call("fstatfs")?;
    let kind = fstatfs(file).in_call("fstatfs")?.filesystem_type();
    Ok([EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC].contains(&kind))
}

/// Those who wait for one filesystem.
#[derive(Debug, Default)]
struct Lane {
    state: Mutex<Turns>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Turns {
    running: bool,
    /// Shared by all who come before it begins.
    next: Arc<Mutex<Option<nix::Result<()>>>>,
}

static LANES: Mutex<BTreeMap<u64, Arc<Lane>>> = Mutex::new(BTreeMap::new());

impl Lane {
    /// By the number of the filesystem; it says nothing of the filesystem but who waits.
    fn of(filesystem: u64) -> Arc<Lane> {
        let mut lanes = LANES.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.retain(|number, lane| *number == filesystem || Arc::strong_count(lane) > 1);
        Arc::clone(lanes.entry(filesystem).or_default())
    }

    /// Returns when a flush that began after this call has ended, and what it came to. One of
    /// those who wait does it for all. `wait` runs the wait for another's.
    fn pass(
        &self,
        flush: impl FnOnce() -> nix::Result<()>,
        wait: impl Fn(&mut dyn FnMut()),
    ) -> nix::Result<()> {
        let mine = Arc::clone(&self.lock().next);
        let outcome = || *mine.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let mut turns = self.lock();
            if let Some(outcome) = outcome() {
                return outcome;
            }
            if !turns.running {
                turns.running = true;
                turns.next = Arc::default();
                break;
            }
            drop(turns);
            wait(&mut || {
                let waits = |turns: &mut Turns| turns.running && outcome().is_none();
                drop(self.ended.wait_while(self.lock(), waits));
            });
        }
        let done = flush();
        *mine.lock().unwrap_or_else(PoisonError::into_inner) = Some(done);
        self.lock().running = false;
        self.ended.notify_all();
        done
    }

    fn lock(&self) -> MutexGuard<'_, Turns> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering::SeqCst;
    use std::sync::mpsc::channel;
    use std::thread;

    #[test]
    fn those_who_come_during_a_flush_share_the_next_and_its_outcome() {
        let (lane, count) = (Lane::default(), AtomicUsize::new(0));
        let (tell, begun) = channel();
        let (release, released) = channel::<()>();
        let waiting = AtomicUsize::new(0);
        thread::scope(|scope| {
            let lane = &lane;
            let first = scope.spawn(move || {
                let flush = || {
                    tell.send(()).unwrap();
                    released.recv().unwrap();
                    Ok(())
                };
                lane.pass(flush, |wait| wait())
            });
            begun.recv().unwrap();
            let others: Vec<_> = (0..8)
                .map(|_| {
                    let (count, waiting) = (&count, &waiting);
                    scope.spawn(move || {
                        let flush = || {
                            count.fetch_add(1, SeqCst);
                            Err(Errno::EIO)
                        };
                        lane.pass(flush, |wait| {
                            waiting.fetch_add(1, SeqCst);
                            wait();
                        })
                    })
                })
                .collect();
            while waiting.load(SeqCst) < 8 {
                thread::yield_now();
            }
            assert_eq!(count.load(SeqCst), 0);
            release.send(()).unwrap();
            assert_eq!(first.join().unwrap(), Ok(()));
            for other in others {
                assert_eq!(other.join().unwrap(), Err(Errno::EIO));
            }
        });
        assert_eq!(count.load(SeqCst), 1);
    }
}
