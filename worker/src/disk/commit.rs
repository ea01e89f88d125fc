//! A PUT from its first byte to its final name. Readers see the old file or the whole new one.
//!
//! New content goes to a file without a name (O_TMPFILE), which vanishes by itself when the
//! process dies; it is linked in place when it is whole. To replace a file it is linked under a
//! name in the device's own folder for temporary names first, then renamed: a kill between the
//! two leaves that name behind, not one in a FID folder, and the next owner sweeps it. The same
//! folder serves filesystems without O_TMPFILE. Disk threads only.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::LazyLock;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, renameat, renameat2};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{Pid, UnlinkatFlags, linkat, unlinkat};

use crate::disk::device::{Device, DeviceDir};
use crate::disk::errands;
use crate::disk::on_disk::{DiskFd, OnDisk};
use crate::disk::open;
use crate::disk::path::DevPath;
use crate::sys::file::{BENEATH, link_file, open_below};

/// Folder for temporary names below the device's directory. The underscore keeps it out of reach
/// of requests, whose paths may not have one.
const TEMPORARY: &CStr = c".rmogstored_tmp";
/// A temporary name whose process cannot be told dead goes at this age.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);
/// Attempts when folders are removed by others while we make them.
const ATTEMPTS: usize = 3;

static NEXT: AtomicU64 = AtomicU64::new(0);
/// Before this no temporary name was made by this process.
static BEGUN: LazyLock<SystemTime> = LazyLock::new(SystemTime::now);

/// A file being received.
#[derive(Debug)]
pub struct Incoming {
    file: DiskFd,
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// No name yet.
    Anonymous,
    /// A name in the folder for temporary names; removed unless the commit takes it.
    Named(Option<(std::sync::Arc<DeviceDir>, CString)>),
    /// The final name: a Content-Range PUT.
    Final,
}

impl Incoming {
    /// Starts a new file for `path`. Folders below the device are made as needed.
    pub fn create(on: &OnDisk, device: &Device, path: &DevPath) -> io::Result<Incoming> {
        let dir = device.dir(on)?;
        if dir.anonymous_files.load(Relaxed) {
            match with_folders(on, &dir, path, || anonymous(on, device, &dir, path)) {
                Err(e) if lacks_anonymous_files(&e) => dir.anonymous_files.store(false, Relaxed),
                made => {
                    dir.note_open(on);
                    return made.map(|file| Incoming { file, place: Place::Anonymous });
                }
            }
        }
        with_folders(on, &dir, path, || folder_exists(on, device, &dir, path))?;
        let (file, name) = create_temporary(on, &dir)?;
        Ok(Incoming { file, place: Place::Named(Some((dir, name))) })
    }

    /// Opens the file under its final name, made if missing, not cut. `new`: `EEXIST` where there
    /// is one.
    pub fn in_place(
        on: &OnDisk,
        device: &Device,
        path: &DevPath,
        new: bool,
    ) -> io::Result<Incoming> {
        let dir = device.dir(on)?;
        let exclusive = if new { libc::O_EXCL } else { 0 };
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_NONBLOCK | libc::O_NOCTTY | exclusive;
        let open = || open::inside(on, device, &dir, path.relative(), flags, 0o666);
        let file = with_folders(on, &dir, path, open)?;
        if file.stat(on)?.st_mode & libc::S_IFMT != libc::S_IFREG {
            return Err(Errno::EACCES.into());
        }
        Ok(Incoming { file, place: Place::Final })
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
    /// when a file has been written in place.
    pub fn commit<G>(
        mut self,
        on: &OnDisk,
        device: &Device,
        path: &DevPath,
        replacing: impl Fn() -> G,
    ) -> io::Result<()> {
        let dir = device.dir(on)?;
        match &mut self.place {
            Place::Final => {
                replacing();
                Ok(())
            }
            Place::Anonymous => {
                let file = self.file.get(on);
                let link = || link_file(file, dir.get(on), path.relative());
                match with_folders(on, &dir, path, link) {
                    Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                        let name = temporary_name();
                        in_temporary(on, &dir, || link_file(file, dir.get(on), &name))?;
                        let _guard = replacing();
                        rename(on, &dir, &name, path)
                    }
                    done => done,
                }
            }
            Place::Named(named) => {
                let Some((dir, name)) = named.take() else { return Ok(()) };
                let _guard = replacing();
                rename(on, &dir, &name, path)
            }
        }
    }
}

impl Incoming {
    /// As [`Incoming::commit`], but what has the name already keeps it: `EEXIST`.
    pub fn commit_new(self, on: &OnDisk, device: &Device, path: &DevPath) -> io::Result<()> {
        let dir = device.dir(on)?;
        match &self.place {
            Place::Final | Place::Named(None) => Ok(()),
            Place::Anonymous => with_folders(on, &dir, path, || {
                link_file(self.file.get(on), dir.get(on), path.relative())
            }),
            // The temporary name, if it is left, goes with `self`.
            Place::Named(Some((dir, name))) => {
                with_folders(on, dir, path, || name_if_free(on, dir, name, path))
            }
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Place::Named(named) = &mut self.place
            && let Some((dir, name)) = named.take()
        {
            errands::run(move |on| {
                let _ = unlinkat(dir.get(on), name.as_c_str(), UnlinkatFlags::NoRemoveDir);
            });
        }
    }
}

/// Makes a file in the folder for temporary names. Its name is relative to the device's directory.
fn create_temporary(on: &OnDisk, dir: &DeviceDir) -> io::Result<(DiskFd, CString)> {
    let name = temporary_name();
    let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
    let make = || open_below(dir.get(on), &name, flags, 0o666, BENEATH);
    let file = DiskFd::new(in_temporary(on, dir, make)?);
    dir.note_open(on);
    Ok((file, name))
}

/// Copies all of `from` into `to` at `offset`; `before_each` is called before each piece.
pub fn copy_into(
    on: &OnDisk,
    from: &DiskFd,
    to: &DiskFd,
    offset: u64,
    mut before_each: impl FnMut(),
) -> io::Result<()> {
    let mut buffer = vec![0; 256 * 1024];
    let mut done = 0;
    loop {
        before_each();
        let n = from.read_at(on, &mut buffer, done)?;
        if n == 0 {
            return Ok(());
        }
        to.write_all_at(on, &buffer[..n], offset + done)?;
        done += n as u64;
    }
}

/// Removes temporary names that dead processes left. Cheap where there are none.
pub fn sweep(on: &OnDisk, dir: &DeviceDir, device: &Path) {
    let flags = libc::O_RDONLY | libc::O_DIRECTORY;
    let Ok(folder) = open_below(dir.get(on), TEMPORARY, flags, 0, BENEATH) else { return };
    match sweep_folder(folder) {
        Ok(0) => {}
        Ok(n) => log::info!("{}: removed {n} abandoned temporary files", device.display()),
        Err(e) => log::warn!("{}: cannot sweep temporary files: {e}", device.display()),
    }
}

fn sweep_folder(folder: OwnedFd) -> io::Result<usize> {
    let mut dir = Dir::from_fd(folder)?;
    let names: Vec<CString> =
        dir.iter().filter_map(Result::ok).map(|entry| entry.file_name().to_owned()).collect();
    let mut removed = 0;
    for name in names.iter().filter(|name| name.to_bytes() != b"." && name.to_bytes() != b"..") {
        if is_abandoned(dir.as_fd(), name)
            && unlinkat(dir.as_fd(), name.as_c_str(), UnlinkatFlags::NoRemoveDir).is_ok()
        {
            removed += 1;
        }
    }
    Ok(removed)
}

/// A name is `PID.NUMBER`: abandoned when that process is gone, or the file is very old. One with
/// our own number is ours, unless it is older than we are.
fn is_abandoned(dir: BorrowedFd<'_>, name: &CStr) -> bool {
    let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
    let changed = nix::sys::stat::fstatat(dir, name, flags)
        .map(|facts| UNIX_EPOCH + Duration::from_secs(facts.st_ctime.max(0) as u64));
    let pid = name.to_str().ok().and_then(|name| name.split('.').next()?.parse().ok());
    let alive = pid.is_some_and(|pid: i32| match pid == std::process::id() as i32 {
        // Files' times are of whole seconds here, and a few milliseconds late.
        true => changed.is_ok_and(|changed| changed + Duration::from_secs(2) >= *BEGUN),
        false => nix::sys::signal::kill(Pid::from_raw(pid), None) != Err(Errno::ESRCH),
    });
    let age = changed.ok().and_then(|changed| changed.elapsed().ok());
    !alive || age.is_some_and(|age| age > ABANDONED)
}

fn anonymous(on: &OnDisk, device: &Device, dir: &DeviceDir, path: &DevPath) -> io::Result<DiskFd> {
    open::inside(on, device, dir, &parent(path), libc::O_TMPFILE | libc::O_RDWR, 0o666)
}

fn folder_exists(on: &OnDisk, device: &Device, dir: &DeviceDir, path: &DevPath) -> io::Result<()> {
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    open::inside(on, device, dir, &parent(path), flags, 0).map(|_| ())
}

/// EOPNOTSUPP from filesystems that lack it; EISDIR and EINVAL from those that never heard of it.
fn lacks_anonymous_files(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR | libc::EINVAL))
}

/// Tries `action` first, and makes the path's folders only when it fails for the lack of one.
fn with_folders<T>(
    on: &OnDisk,
    dir: &DeviceDir,
    path: &DevPath,
    action: impl Fn() -> io::Result<T>,
) -> io::Result<T> {
    for _ in 1..ATTEMPTS {
        match action() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => make_folders(on, dir, path)?,
            done => return done,
        }
    }
    action()
}

/// Makes each folder above the file, below the device, which must exist itself. Each is opened
/// without following a link out of the device before the next is made in it.
fn make_folders(on: &OnDisk, dir: &DeviceDir, path: &DevPath) -> io::Result<()> {
    let folder = parent(path);
    let bytes = folder.to_bytes();
    // Of several slashes in a row, the first ends a name.
    let ends = (1..=bytes.len())
        .filter(|&end| bytes[end - 1] != b'/' && bytes.get(end).is_none_or(|next| *next == b'/'));
    for end in ends {
        let (above, name) = split(&bytes[..end]);
        let above = open_below(dir.get(on), &above, libc::O_PATH | libc::O_DIRECTORY, 0, BENEATH)?;
        match mkdirat(&above, name.as_c_str(), Mode::from_bits_truncate(0o777)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

fn split(path: &[u8]) -> (CString, CString) {
    let cut = path.iter().rposition(|&b| b == b'/');
    let above = cut.map_or(&b"."[..], |cut| &path[..cut]);
    let name = cut.map_or(path, |cut| &path[cut + 1..]);
    (c_string(if above.is_empty() { b"." } else { above }), c_string(name))
}

/// The folder that the file goes to, seen from the device's directory.
fn parent(path: &DevPath) -> CString {
    match path.parent() {
        Some((folder, _)) if !folder.is_empty() => c_string(folder),
        _ => c".".to_owned(),
    }
}

fn c_string(bytes: &[u8]) -> CString {
    CString::new(bytes).expect("a checked path has no NUL")
}

fn temporary_name() -> CString {
    LazyLock::force(&BEGUN);
    let number = NEXT.fetch_add(1, Relaxed);
    let folder = TEMPORARY.to_str().expect("a constant");
    CString::new(format!("{folder}/{}.{number}", std::process::id())).expect("no NUL in it")
}

/// Makes the folder for temporary names when it is missing.
fn in_temporary<T>(
    on: &OnDisk,
    dir: &DeviceDir,
    action: impl Fn() -> io::Result<T>,
) -> io::Result<T> {
    match action() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            match mkdirat(dir.get(on), TEMPORARY, Mode::S_IRWXU) {
                Ok(()) | Err(Errno::EEXIST) => action(),
                Err(e) => Err(e.into()),
            }
        }
        done => done,
    }
}

fn rename(on: &OnDisk, dir: &DeviceDir, name: &CStr, path: &DevPath) -> io::Result<()> {
    let renamed = with_folders(on, dir, path, || {
        renameat(dir.get(on), name, dir.get(on), path.relative()).map_err(io::Error::from)
    });
    if renamed.is_err() {
        let _ = unlinkat(dir.get(on), name, UnlinkatFlags::NoRemoveDir);
    }
    renamed
}

/// Some filesystems can do this by a rename, some by a second name.
fn name_if_free(on: &OnDisk, dir: &DeviceDir, name: &CStr, path: &DevPath) -> io::Result<()> {
    let (at, path) = (dir.get(on), path.relative());
    match renameat2(at, name, at, path, RenameFlags::RENAME_NOREPLACE) {
        Err(Errno::EINVAL | Errno::ENOSYS | Errno::EPERM) => {
            Ok(linkat(at, name, at, path, AtFlags::empty())?)
        }
        done => Ok(done?),
    }
}

/// Flags that other modules open folders with, to name files in them.
pub fn folder_flags() -> i32 {
    (OFlag::O_PATH | OFlag::O_DIRECTORY).bits()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{DeviceKey, SiteId};

    fn device() -> (tempfile::TempDir, Device) {
        let docroot = tempfile::tempdir().unwrap();
        std::fs::create_dir(docroot.path().join("dev1")).unwrap();
        let device = Device::new(DeviceKey { site: SiteId(0), devid: 1 }, docroot.path(), false);
        (docroot, device)
    }

    fn path() -> DevPath {
        DevPath::parse(b"/dev1/0/000/000/0000000001.fid").unwrap()
    }

    fn put(device: &Device, text: &str) {
        let on = OnDisk::in_test();
        let incoming = Incoming::create(&on, device, &path()).unwrap();
        incoming.file().write_all_at(&on, text.as_bytes(), 0).unwrap();
        incoming.commit(&on, device, &path(), || ()).unwrap();
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).into_iter().flatten();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn check_create_and_replace(anonymous: bool) {
        let (docroot, device) = device();
        device.dir(&OnDisk::in_test()).unwrap().anonymous_files.store(anonymous, Relaxed);
        let folder = docroot.path().join("dev1/0/000/000");
        put(&device, "old");
        let unfinished = Incoming::create(&OnDisk::in_test(), &device, &path()).unwrap();
        unfinished.file().write_all_at(&OnDisk::in_test(), b"never seen", 0).unwrap();
        drop(unfinished);
        assert_eq!(std::fs::read_to_string(folder.join("0000000001.fid")).unwrap(), "old");
        put(&device, "new");
        assert_eq!(std::fs::read_to_string(folder.join("0000000001.fid")).unwrap(), "new");
        assert_eq!(names(&folder), ["0000000001.fid"]);
        assert!(names(&docroot.path().join("dev1/.rmogstored_tmp")).is_empty());
    }

    #[test]
    fn file_appears_whole_and_replaces_the_old_one() {
        check_create_and_replace(true);
    }

    #[test]
    fn the_same_without_anonymous_files() {
        check_create_and_replace(false);
    }

    #[test]
    fn new_file_takes_no_name_that_is_taken() {
        for anonymous in [true, false] {
            let (docroot, device) = device();
            let on = OnDisk::in_test();
            device.dir(&on).unwrap().anonymous_files.store(anonymous, Relaxed);
            let put_new = |text: &[u8]| {
                let incoming = Incoming::create(&on, &device, &path()).unwrap();
                incoming.file().write_all_at(&on, text, 0).unwrap();
                incoming.commit_new(&on, &device, &path())
            };
            put_new(b"first").unwrap();
            assert_eq!(put_new(b"second").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
            let folder = docroot.path().join("dev1/0/000/000");
            assert_eq!(std::fs::read(folder.join("0000000001.fid")).unwrap(), b"first");
            assert_eq!(names(&folder), ["0000000001.fid"]);
            assert!(names(&docroot.path().join("dev1/.rmogstored_tmp")).is_empty());
        }
    }

    #[test]
    fn folder_removed_before_the_commit_is_made_again() {
        let (docroot, device) = device();
        let incoming = Incoming::create(&OnDisk::in_test(), &device, &path()).unwrap();
        std::fs::remove_dir_all(docroot.path().join("dev1/0")).unwrap();
        incoming.commit(&OnDisk::in_test(), &device, &path(), || ()).unwrap();
        assert!(docroot.path().join("dev1/0/000/000/0000000001.fid").is_file());
    }

    #[test]
    fn directory_under_the_final_name_stays() {
        let (docroot, device) = device();
        let name = docroot.path().join("dev1/0/000/000/0000000001.fid");
        std::fs::create_dir_all(&name).unwrap();
        let incoming = Incoming::create(&OnDisk::in_test(), &device, &path()).unwrap();
        let error = incoming.commit(&OnDisk::in_test(), &device, &path(), || ()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EISDIR));
        assert!(name.is_dir());
        assert!(names(&docroot.path().join("dev1/.rmogstored_tmp")).is_empty());
    }

    #[test]
    fn sweep_leaves_what_this_process_is_writing() {
        let (docroot, device) = device();
        let dir = device.dir(&OnDisk::in_test()).unwrap();
        dir.anonymous_files.store(false, Relaxed);
        let incoming = Incoming::create(&OnDisk::in_test(), &device, &path()).unwrap();
        sweep(&OnDisk::in_test(), &dir, device.path());
        incoming.commit(&OnDisk::in_test(), &device, &path(), || ()).unwrap();
        assert!(docroot.path().join("dev1/0/000/000/0000000001.fid").is_file());
    }

    #[test]
    fn sweep_removes_what_dead_processes_left_only() {
        let (docroot, device) = device();
        let folder = docroot.path().join("dev1/.rmogstored_tmp");
        std::fs::create_dir(&folder).unwrap();
        let parent = std::os::unix::process::parent_id();
        std::fs::write(folder.join(format!("{parent}.1")), "alive").unwrap();
        std::fs::write(folder.join("999999999.1"), "dead").unwrap();
        device.dir(&OnDisk::in_test()).unwrap();
        assert_eq!(names(&folder), [format!("{parent}.1")]);
    }
}
