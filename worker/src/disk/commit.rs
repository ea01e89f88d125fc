//! A PUT from its first byte to its final name. Readers see the old file or the whole new one.
//!
//! New content goes to a file without a name (O_TMPFILE), which vanishes by itself when the
//! process dies; it is linked in place when it is whole. To replace a file it is linked under a
//! [temporary name](crate::disk::temporary) first, then renamed. Such names serve filesystems
//! without O_TMPFILE too. The last step acts on the folder that was opened and found to be on the
//! device, not on its path. Disk threads only.
//!
//! What a failing call does; "refused" is an answer with the status of its error, one log line
//! with the path, the call and the error, the old file as it was, no temporary name, no folder
//! that was made for it:
//!
//! | for | call | its failure |
//! |---|---|---|
//! | PUT | openat2, mkdirat | refused |
//! | | fallocate | `ENOSPC` and `EDQUOT`: refused; else the space is not reserved |
//! | | pwrite, pread, sync_file_range | refused; in place the old content may be overwritten in part |
//! | | close of a duplicate (only where the filesystem says something then) | refused |
//! | | fdatasync, before the name | refused |
//! | | symlinkat, linkat, renameat | refused; linkat: `EEXIST` means that a file is replaced |
//! | | fsync of folders, syncfs, read-only by then, after the name | 500; the new file is there, on disk or not |
//! | | unlinkat of a temporary name | none: it is swept when the device is opened next |
//! | DELETE | openat2, unlinkat | refused |
//! | | fsync of the folder, syncfs | 500; the name is gone, on disk or not |
//! | usage | statvfs, and all calls for its file | one log line when the trouble changes; the numbers stay |
//! | sweep | all | one log line for the folder, none for a name; tried again when the device is opened next |
//!
//! fchmod is not called: the mode is given when the file is made. futimens, before a shared fsync: its
//! failure means syncfs.

use std::ffi::CStr;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::Mode;
use nix::unistd::UnlinkatFlags;

use crate::disk::device::Device;
use crate::disk::device_dir::DeviceDir;
use crate::disk::disk_fd::DiskFd;
use crate::disk::failed::{Failed, InCall};
use crate::disk::flush::Flush;
use crate::disk::folders::{FOLDER, Made, parent, with_folders};
use crate::disk::on_disk::OnDisk;
use crate::disk::open;
use crate::disk::path::DevPath;
use crate::disk::recent_folder;
use crate::disk::temporary::Temporary;
use crate::sys::disk::{linkat, openat, renameat, unlinkat};
use crate::sys::file::{BENEATH, link_file, open_below, rename_new};

/// A file being received.
#[derive(Debug)]
pub struct Incoming {
    // Dropped in this order: folders go when they are empty.
    place: Place,
    file: DiskFd,
    /// The one that it goes to, as long as nobody waits.
    folder: Option<Arc<DiskFd>>,
    made: Made,
}

#[derive(Debug)]
enum Place {
    /// No name yet.
    Anonymous,
    /// A temporary name.
    Named(Temporary),
    /// The final name: a Content-Range PUT into a file that is there.
    Final,
}

impl Incoming {
    /// Starts a new file for `path`. Folders below the device are made as needed.
    pub fn create(
        on: &OnDisk,
        device: &Device,
        path: &DevPath,
        flush: &Flush<'_>,
    ) -> Result<Incoming, Failed> {
        let dir = device.dir(on).in_call("open")?;
        let mut made = Made::default();
        let (file, place, folder) = with_folders(on, &dir, path, &mut made, || {
            let open = || open_folder(on, device, &dir, path, flush.folder_flags());
            if dir.has_anonymous_files() {
                match create_anonymous(on, &dir, path, flush, open) {
                    Err(e) if lacks_anonymous_files(&e) => dir.set_anonymous_files(false),
                    created => {
                        let (file, folder) = created?;
                        return Ok((file, Place::Anonymous, Some(folder)));
                    }
                }
            }
            let folder = open()?;
            let (name, file) = create_named(on, &dir, folder, path)?;
            Ok((file, Place::Named(name), None))
        })?;
        dir.note_open(on);
        Ok(Incoming { place, file, folder, made })
    }

    /// Its turn is over, and the next one may be long in coming: one descriptor must do.
    pub fn rest(&mut self) {
        self.folder = None;
    }

    /// Opens the file that is there under the final name, to be written in place. `ENOENT`: there
    /// is none.
    pub fn in_place(on: &OnDisk, device: &Device, path: &DevPath) -> Result<Incoming, Failed> {
        let dir = device.dir(on).in_call("open")?;
        let flags = libc::O_RDWR | libc::O_NONBLOCK | libc::O_NOCTTY;
        let file = open::inside(on, device, &dir, path.relative(), flags, 0).in_call("openat2")?;
        if file.stat(on).in_call("fstat")?.st_mode & libc::S_IFMT != libc::S_IFREG {
            return Err(Errno::EACCES).in_call("openat2");
        }
        Ok(Incoming { place: Place::Final, file, folder: None, made: Made::default() })
    }

    /// The file, for writing and reading back.
    pub fn file(&self) -> &DiskFd {
        &self.file
    }

    /// Nobody can see it yet.
    pub fn is_new(&self) -> bool {
        !matches!(self.place, Place::Final)
    }

    /// Gives the file its final name. `replacing` is called before a file that is there loses
    /// its name to the new one, and what it returns is kept until that is done; it is called too
    /// when a file has been written in place. [`Flush::before`] comes first, with the connection
    /// still answerable.
    pub fn commit<G>(
        self,
        on: &OnDisk,
        device: &Device,
        path: &DevPath,
        flush: &Flush<'_>,
        replacing: impl Fn() -> G,
    ) -> Result<(), Failed> {
        if matches!(self.place, Place::Final) {
            drop(replacing());
            return flush.after_change(on, &self.file);
        }
        self.commit_or(on, device, path, flush, |incoming, dir, folder| {
            let (file, name) = (&incoming.file, final_name(path)?);
            let rename = |temporary: &Temporary| {
                let _guard = replacing();
                let (from, old) = temporary.place(on);
                renameat(from, old.as_c_str(), folder.get(on), name).in_call("renameat")
            };
            match &incoming.place {
                Place::Final => {}
                Place::Named(temporary) => rename(temporary)?,
                Place::Anonymous => match link_file(file.get(on), folder.get(on), name) {
                    Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                        let temporary = link_temporary(on, device, dir, file, path)?;
                        rename(&temporary)?;
                        temporary.is_taken();
                    }
                    linked => linked.in_call("linkat")?,
                },
            }
            Ok(true)
        })
        .map(drop)
    }

    /// The same for one that must not replace another. `Ok` gives it back when there is one.
    pub fn commit_new(
        self,
        on: &OnDisk,
        device: &Device,
        path: &DevPath,
        flush: &Flush<'_>,
    ) -> Result<Option<Incoming>, Failed> {
        self.commit_or(on, device, path, flush, |incoming, _, folder| {
            let name = final_name(path)?;
            let named = match &incoming.place {
                Place::Named(temporary) => rename_if_free(on, temporary, folder, name),
                Place::Anonymous | Place::Final => {
                    link_file(incoming.file.get(on), folder.get(on), name).in_call("linkat")
                }
            };
            match named {
                Err(e) if e.errno() == Some(libc::EEXIST) => Ok(false),
                named => named.map(|()| true),
            }
        })
    }

    /// Does the last step in the file's folder, and sees to it that it lasts. The step says
    /// whether it was done.
    fn commit_or(
        mut self,
        on: &OnDisk,
        device: &Device,
        path: &DevPath,
        flush: &Flush<'_>,
        step: impl Fn(&Incoming, &Arc<DeviceDir>, &DiskFd) -> Result<bool, Failed>,
    ) -> Result<Option<Incoming>, Failed> {
        let dir = device.dir(on).in_call("open")?;
        let (mut made, mut folder) = (std::mem::take(&mut self.made), self.folder.take());
        let named = with_folders(on, &dir, path, &mut made, || {
            let open = || {
                recent_folder::forget(on); // Whoever has it may come here again.
                open_folder(on, device, &dir, path, flush.folder_flags()).map(Arc::new)
            };
            let folder = folder.take().map_or_else(open, Ok)?;
            Ok(step(&self, &dir, &folder)?.then_some(folder))
        });
        self.made = made;
        let Some(folder) = named? else { return Ok(Some(self)) };
        let above = self.made.keep();
        if let Place::Named(temporary) = self.place {
            temporary.is_taken();
        }
        flush.after_put(on, &folder, &above).map(|()| None)
    }
}

/// Copies all of `from`, beginning at `start`, into `to` at `offset`; `before_each` is called
/// before each piece.
pub fn copy_into(
    on: &OnDisk,
    (from, start): (&DiskFd, u64),
    (to, offset): (&DiskFd, u64),
    mut before_each: impl FnMut(),
) -> Result<(), Failed> {
    let mut buffer = vec![0; 256 * 1024];
    let mut done = 0;
    loop {
        before_each();
        let n = from.read_at(on, &mut buffer, start + done).in_call("pread")?;
        if n == 0 {
            return Ok(());
        }
        to.write_all_at(on, &buffer[..n], offset + done).in_call("pwrite")?;
        done += n as u64;
    }
}

/// Makes a file without a name, and has the folder that it goes to: the one that this thread has
/// stored in last, if that is the same and takes it. One that was removed does not: `ENOENT`.
fn create_anonymous(
    on: &OnDisk,
    dir: &Arc<DeviceDir>,
    path: &DevPath,
    flush: &Flush<'_>,
    open: impl Fn() -> Result<DiskFd, Failed>,
) -> Result<(DiskFd, Arc<DiskFd>), Failed> {
    let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
    let create = |folder: Arc<DiskFd>| {
        let file = openat(folder.get(on), c".", flags, Mode::from_bits_truncate(0o666));
        let file = file.map_err(|errno| if_removed(on, &folder, errno));
        file.map(|file| (DiskFd::new(file), folder)).in_call("openat")
    };
    // One that is to be flushed is opened each time: the kernel tells each descriptor of an error
    // once, fsync(2).
    if flush.folder_flags() != FOLDER {
        return create(Arc::new(open()?));
    }
    let folder = parent(path);
    if let Some(known) = recent_folder::known(dir, &folder)
        && let Ok(created) = create(known)
    {
        return Ok(created);
    }
    create(recent_folder::keep(on, dir, folder, open()?))
}

/// ext4 says EPERM in a folder that was removed since it was opened, as PUTs that fail do with the
/// folders that they have made.
fn if_removed(on: &OnDisk, folder: &DiskFd, errno: Errno) -> Errno {
    let is_gone = || folder.stat(on).is_ok_and(|stat| stat.st_nlink == 0);
    if errno == Errno::EPERM && is_gone() { Errno::ENOENT } else { errno }
}

/// Makes a file under a temporary name. What is mounted below the device has it in its own folder.
fn create_named(
    on: &OnDisk,
    dir: &Arc<DeviceDir>,
    folder: DiskFd,
    path: &DevPath,
) -> Result<(Temporary, DiskFd), Failed> {
    let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
    let make = |at: BorrowedFd<'_>, name: &CStr| {
        open_below(at, name, flags, 0o666, BENEATH).map(DiskFd::new).in_call("openat2")
    };
    let of = |fd| Ok(nix::sys::stat::fstat(fd)?.st_dev);
    let same = of(folder.get(on)).and_then(|here: u64| Ok(here == of(dir.get(on))?));
    match same.map_err(|e: Errno| e).in_call("fstat")? {
        true => Temporary::in_device(on, dir, make),
        false => Temporary::beside(on, dir, folder, &parent(path), make),
    }
}

/// Gives an anonymous file a temporary name, from which it can be renamed into its folder.
fn link_temporary(
    on: &OnDisk,
    device: &Device,
    dir: &Arc<DeviceDir>,
    file: &DiskFd,
    path: &DevPath,
) -> Result<Temporary, Failed> {
    let link =
        |at: BorrowedFd<'_>, name: &CStr| link_file(file.get(on), at, name).in_call("linkat");
    let linked = match Temporary::in_device(on, dir, link) {
        Err(e) if e.errno() == Some(libc::EXDEV) => {
            let folder = open_folder(on, device, dir, path, FOLDER)?;
            Temporary::beside(on, dir, folder, &parent(path), link)
        }
        linked => linked,
    };
    linked.map(|(temporary, ())| temporary)
}

fn open_folder(
    on: &OnDisk,
    device: &Device,
    dir: &DeviceDir,
    path: &DevPath,
    flags: i32,
) -> Result<DiskFd, Failed> {
    open::inside(on, device, dir, &parent(path), flags, 0).in_call("openat2")
}

fn final_name(path: &DevPath) -> Result<&CStr, Failed> {
    path.parent().map(|(_, name)| name).ok_or(Errno::EISDIR).in_call("linkat")
}

/// EOPNOTSUPP from filesystems that lack it; EISDIR and EINVAL from those that never heard of it.
fn lacks_anonymous_files(e: &Failed) -> bool {
    matches!(e.errno(), Some(libc::EOPNOTSUPP | libc::EISDIR | libc::EINVAL))
}

/// Renames a temporary name where nothing has the final one: by a rename that does not replace, or
/// by a second name where the filesystem has no such rename. `EEXIST`: something has it.
fn rename_if_free(
    on: &OnDisk,
    temporary: &Temporary,
    folder: &DiskFd,
    name: &CStr,
) -> Result<(), Failed> {
    let ((from, old), folder) = (temporary.place(on), folder.get(on));
    let old = old.as_c_str();
    match rename_new(from, old, folder, name) {
        Err(Errno::EINVAL | Errno::ENOSYS | Errno::EPERM) => {
            linkat(from, old, folder, name, AtFlags::empty()).in_call("linkat")?;
            let _ = unlinkat(from, old, UnlinkatFlags::NoRemoveDir); // Else it is swept.
            Ok(())
        }
        renamed => renamed.in_call("renameat2"),
    }
}

#[cfg(test)]
mod tests;
