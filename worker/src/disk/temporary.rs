//! Names that a file has before its final one, and what killed processes leave of them.
//!
//! They are in a folder of the device's own, `.rmogstored_tmp`, as `PID.NUMBER`: what a kill
//! leaves is in one place, where the next owner sweeps it. Where something is mounted below the
//! device the file cannot be moved from there to its folder. Then the name is in that folder, as
//! `.rmogstored_tmp.PID.NUMBER`, and a symbolic link in the device's own, made first and removed
//! last, tells the sweeper of it. Disk threads only.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, readlinkat};
use nix::sys::stat::{Mode, fstatat};
use nix::unistd::{Pid, UnlinkatFlags};

use crate::disk::device::DeviceDir;
use crate::disk::errands;
use crate::disk::failed::{Failed, InCall};
use crate::disk::folders::FOLDER;
use crate::disk::on_disk::{DiskFd, OnDisk};
use crate::sys::disk::{mkdirat, symlinkat, unlinkat};
use crate::sys::file::{BENEATH, open_below};

/// Folder for temporary names below the device's directory. The underscore keeps it out of reach
/// of requests, whose paths may not have one.
const HERE: &str = ".rmogstored_tmp";
/// A temporary name whose process cannot be told dead goes at this age.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// The numbers of the names that this process has. Those of an earlier process with the same PID
/// are others: they begin with the time.
static IN_USE: LazyLock<Mutex<InUse>> = LazyLock::new(Mutex::default);

struct InUse {
    next: u64,
    numbers: BTreeSet<u64>,
}

impl Default for InUse {
    fn default() -> InUse {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        InUse { next: since.as_micros() as u64, numbers: BTreeSet::new() }
    }
}

/// A name for a file that is to get another one. It is removed with this, unless it was
/// [taken](Temporary::is_taken) by a rename.
#[derive(Debug)]
pub struct Temporary(Option<Name>);

#[derive(Debug)]
struct Name {
    number: u64,
    dir: Arc<DeviceDir>,
    /// The folder that it is in, if that is not the device's own for such names.
    beside: Option<DiskFd>,
    taken: bool,
}

impl Temporary {
    /// Has `make` give a file this name in the device's own folder.
    pub fn in_device<T>(
        on: &OnDisk,
        dir: &Arc<DeviceDir>,
        make: impl Fn(BorrowedFd<'_>, &CStr) -> Result<T, Failed>,
    ) -> Result<(Temporary, T), Failed> {
        let name = Name { number: number(), dir: Arc::clone(dir), beside: None, taken: false };
        Temporary(Some(name)).made(on, make)
    }

    /// Has `make` give a file this name in the folder that it is for, which is called `path` as
    /// seen from the device.
    pub fn beside<T>(
        on: &OnDisk,
        dir: &Arc<DeviceDir>,
        folder: DiskFd,
        path: &CStr,
        make: impl Fn(BorrowedFd<'_>, &CStr) -> Result<T, Failed>,
    ) -> Result<(Temporary, T), Failed> {
        let number = number();
        let name = Name { number, dir: Arc::clone(dir), beside: Some(folder), taken: false };
        let temporary = Temporary(Some(name));
        let place = [path.to_bytes(), b"/", name_beside(number).to_bytes()].concat();
        let place = CString::new(place).expect("no NUL in it");
        in_folder(on, dir, || {
            let note = name_in_device(number);
            symlinkat(place.as_c_str(), dir.get(on), note.as_c_str()).in_call("symlinkat")
        })?;
        temporary.made(on, make)
    }

    /// What a rename takes it from.
    pub fn place<'a>(&'a self, on: &'a OnDisk) -> (BorrowedFd<'a>, CString) {
        self.name().place(on)
    }

    /// A rename has given the file its final name.
    pub fn is_taken(mut self) {
        if let Some(name) = &mut self.0 {
            name.taken = true;
        }
    }

    fn made<T>(
        self,
        on: &OnDisk,
        make: impl Fn(BorrowedFd<'_>, &CStr) -> Result<T, Failed>,
    ) -> Result<(Temporary, T), Failed> {
        let (folder, name) = self.place(on);
        let made = in_folder(on, &self.name().dir, || make(folder, &name))?;
        Ok((self, made))
    }

    fn name(&self) -> &Name {
        self.0.as_ref().expect("only drop takes it")
    }
}

impl Name {
    fn place<'a>(&'a self, on: &'a OnDisk) -> (BorrowedFd<'a>, CString) {
        match &self.beside {
            None => (self.dir.get(on), name_in_device(self.number)),
            Some(folder) => (folder.get(on), name_beside(self.number)),
        }
    }

    fn remove(&self, on: &OnDisk) {
        let (folder, name) = self.place(on);
        let removed = match self.taken {
            true => Ok(()),
            false => unlinkat(folder, name.as_c_str(), UnlinkatFlags::NoRemoveDir),
        };
        // A name that stays keeps its note.
        if self.beside.is_some() && matches!(removed, Ok(()) | Err(Errno::ENOENT)) {
            let note = name_in_device(self.number);
            let _ = unlinkat(self.dir.get(on), note.as_c_str(), UnlinkatFlags::NoRemoveDir);
        }
        in_use().numbers.remove(&self.number);
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(name) = self.0.take() {
            errands::run(move |on| name.remove(on));
        }
    }
}

fn in_use() -> MutexGuard<'static, InUse> {
    IN_USE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn number() -> u64 {
    let mut in_use = in_use();
    in_use.next += 1;
    let number = in_use.next;
    in_use.numbers.insert(number);
    number
}

fn name_in_device(number: u64) -> CString {
    CString::new(format!("{HERE}/{}.{number}", std::process::id())).expect("no NUL in it")
}

fn name_beside(number: u64) -> CString {
    CString::new(format!("{HERE}.{}.{number}", std::process::id())).expect("no NUL in it")
}

/// Makes the device's folder for temporary names when it is missing.
fn in_folder<T>(
    on: &OnDisk,
    dir: &DeviceDir,
    action: impl Fn() -> Result<T, Failed>,
) -> Result<T, Failed> {
    match action() {
        Err(e) if e.errno() == Some(libc::ENOENT) => {
            match mkdirat(dir.get(on), HERE, Mode::S_IRWXU) {
                Ok(()) | Err(Errno::EEXIST) => action(),
                Err(e) => Err(e).in_call("mkdirat"),
            }
        }
        done => done,
    }
}

/// Removes temporary names that nobody uses. Cheap where there are none.
pub fn sweep(on: &OnDisk, dir: &DeviceDir, device: &Path) {
    let flags = libc::O_RDONLY | libc::O_DIRECTORY;
    let name = CString::new(HERE).expect("no NUL in it");
    let Ok(folder) = open_below(dir.get(on), &name, flags, 0, BENEATH) else { return };
    match sweep_folder(on, dir, folder) {
        Ok(0) => {}
        Ok(n) => log::info!("{}: removed {n} abandoned temporary files", device.display()),
        Err(e) => log::warn!("{}: cannot sweep temporary files: {e}", device.display()),
    }
}

fn sweep_folder(on: &OnDisk, dir: &DeviceDir, folder: OwnedFd) -> io::Result<usize> {
    let mut listing = Dir::from_fd(folder)?;
    let names: Vec<CString> =
        listing.iter().filter_map(Result::ok).map(|entry| entry.file_name().to_owned()).collect();
    let mut removed = 0;
    for name in names.iter().filter(|name| !matches!(name.to_bytes(), b"." | b"..")) {
        if is_abandoned(listing.as_fd(), name)
            && sweep_noted(on, dir, listing.as_fd(), name)
            && unlinkat(listing.as_fd(), name.as_c_str(), UnlinkatFlags::NoRemoveDir).is_ok()
        {
            removed += 1;
        }
    }
    Ok(removed)
}

/// If the name is a note of another one, removes that. False: it could not be, and the note stays.
fn sweep_noted(on: &OnDisk, dir: &DeviceDir, folder: BorrowedFd<'_>, name: &CStr) -> bool {
    let Ok(place) = readlinkat(folder, name) else { return true };
    let place = Path::new(&place);
    let expected = [HERE.as_bytes(), b".", name.to_bytes()].concat();
    let (Some(above), Some(last)) = (place.parent(), place.file_name()) else { return true };
    let Ok(above) = CString::new(above.as_os_str().as_bytes()) else { return true };
    if last.as_bytes() != expected {
        return true; // No note of ours: only the link itself goes.
    }
    let removed = open_below(dir.get(on), &above, FOLDER, 0, BENEATH)
        .and_then(|above| Ok(unlinkat(&above, last, UnlinkatFlags::NoRemoveDir)?));
    removed.is_ok_and(|()| true) || is_gone(dir.get(on), place)
}

fn is_gone(dir: BorrowedFd<'_>, place: &Path) -> bool {
    fstatat(dir, place, AtFlags::AT_SYMLINK_NOFOLLOW) == Err(Errno::ENOENT)
}

/// A name is `PID.NUMBER`: abandoned when that process is gone, or the file is very old. One with
/// our own PID is in use or abandoned, which we know.
fn is_abandoned(dir: BorrowedFd<'_>, name: &CStr) -> bool {
    let mut parts = name.to_str().unwrap_or_default().split('.');
    let pid = parts.next().and_then(|pid| pid.parse().ok());
    let number = parts.next().and_then(|number| number.parse().ok());
    let alive = match (pid, number) {
        (Some(pid), Some(number)) if pid == std::process::id() as i32 => {
            return !in_use().numbers.contains(&number);
        }
        (Some(pid), _) => nix::sys::signal::kill(Pid::from_raw(pid), None) != Err(Errno::ESRCH),
        _ => false,
    };
    let changed = fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)
        .map(|facts| UNIX_EPOCH + Duration::from_secs(facts.st_ctime.max(0) as u64));
    let age = changed.ok().and_then(|changed| changed.elapsed().ok());
    !alive || age.is_some_and(|age| age > ABANDONED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_beside_its_target_is_swept_by_its_note_only_when_nobody_uses_it() {
        let (on, device) = (OnDisk::in_test(), tempfile::tempdir().unwrap());
        let folder = device.path().join("0");
        std::fs::create_dir(&folder).unwrap();
        let dir = Arc::new(DeviceDir::open(&on, device.path()).unwrap());
        let open = || DiskFd::new(open_below(dir.get(&on), c"0", FOLDER, 0, BENEATH).unwrap());
        let make = |at: BorrowedFd<'_>, name: &CStr| {
            let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
            open_below(at, name, flags, 0o666, BENEATH).in_call("openat2")
        };
        let (used, _) = Temporary::beside(&on, &dir, open(), c"0", make).unwrap();
        let (mut killed, _) = Temporary::beside(&on, &dir, open(), c"0", make).unwrap();
        let name = killed.0.take().unwrap();
        in_use().numbers.remove(&name.number); // As if its process had died.
        drop(name);
        let count = |folder: &Path| std::fs::read_dir(folder).unwrap().count();
        let notes = device.path().join(HERE);
        assert_eq!((count(&folder), count(&notes)), (2, 2));
        sweep(&on, &dir, device.path());
        assert_eq!((count(&folder), count(&notes)), (1, 1));
        drop(used);
        assert_eq!((count(&folder), count(&notes)), (0, 0));
    }
}
