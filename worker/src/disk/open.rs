//! Opens below a device's directory: symbolic links may not lead out of it.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;

use crate::disk::device::{Device, DeviceDir};
use crate::disk::failed::{Failed, InCall};
use crate::disk::on_disk::{DiskFd, OnDisk};
use crate::sys::file::{BENEATH, open_below};

/// Never blocks on a FIFO or a device node, never becomes the controlling terminal.
pub(in crate::disk) const READ: i32 = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY;

/// Opens a file for reading.
pub fn for_reading(
    on: &OnDisk,
    device: &Device,
    dir: &DeviceDir,
    path: &CStr,
) -> io::Result<DiskFd> {
    let opened = match inside(on, device, dir, path, READ | libc::O_NOATIME, 0) {
        Err(e) if e.raw_os_error() == Some(libc::EPERM) => inside(on, device, dir, path, READ, 0),
        other => other,
    };
    opened.inspect(|_| dir.note_open(on))
}

/// openat2 below the device, for any flags. Absolute links that point into the device are
/// followed too, which the kernel alone would refuse.
pub fn inside(
    on: &OnDisk,
    device: &Device,
    dir: &DeviceDir,
    path: &CStr,
    flags: i32,
    mode: u32,
) -> io::Result<DiskFd> {
    let opened = match open_below(dir.get(on), path, flags, mode, BENEATH) {
        Err(e) if e.raw_os_error() == Some(libc::EXDEV) => {
            let resolved = resolve(on, device.path(), path).ok_or(e)?;
            open_below(dir.get(on), &resolved, flags, mode, BENEATH)
        }
        other => other,
    };
    opened.map(DiskFd::new)
}

/// `EISDIR` where a folder has the name, so that no file can get it.
pub fn refuse_folder(on: &OnDisk, device: &Device, dir: &DeviceDir, path: &CStr) -> io::Result<()> {
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW;
    match inside(on, device, dir, path, flags, 0) {
        Ok(_) => Err(Errno::EISDIR.into()),
        Err(_) => Ok(()),
    }
}

/// The time of the file that has the name, in seconds since 1970; `None`: there is none. `EISDIR`:
/// a folder.
pub fn modified(
    on: &OnDisk,
    device: &Device,
    dir: &DeviceDir,
    path: &CStr,
) -> Result<Option<i64>, Failed> {
    let file = match inside(on, device, dir, path, libc::O_PATH, 0) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {
            return Ok(None);
        }
        opened => opened.in_call("openat2")?,
    };
    let facts = file.stat(on).in_call("fstat")?;
    match facts.st_mode & libc::S_IFMT {
        libc::S_IFDIR => Err(Errno::EISDIR).in_call("openat2"),
        _ => Ok(Some(facts.st_mtime)),
    }
}

/// Where a path with absolute links really is, seen from the device; `None` when it is outside.
fn resolve(_: &OnDisk, device: &Path, path: &CStr) -> Option<CString> {
    let base = device.canonicalize().ok()?;
    let real = base.join(OsStr::from_bytes(path.to_bytes())).canonicalize().ok()?;
    let below = real.strip_prefix(&base).ok()?;
    CString::new(below.as_os_str().as_bytes()).ok().filter(|path| !path.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{DeviceKey, SiteId};
    use std::os::unix::fs::symlink;

    #[test]
    fn links_are_followed_inside_the_device_only() {
        let docroot = tempfile::tempdir().unwrap();
        let dev = docroot.path().join("dev1");
        std::fs::create_dir(&dev).unwrap();
        std::fs::write(dev.join("file"), "x").unwrap();
        std::fs::write(docroot.path().join("secret"), "x").unwrap();
        symlink("file", dev.join("near")).unwrap();
        symlink(dev.join("file"), dev.join("absolute")).unwrap();
        symlink("../secret", dev.join("out")).unwrap();
        symlink(docroot.path().join("secret"), dev.join("far")).unwrap();
        let device = Device::new(DeviceKey { site: SiteId(0), devid: 1 }, docroot.path(), false);
        let on = OnDisk::in_test();
        let dir = device.dir(&on).unwrap();
        for good in [c"file", c"near", c"absolute"] {
            for_reading(&on, &device, &dir, good).unwrap();
        }
        for bad in [c"out", c"far"] {
            let error = for_reading(&on, &device, &dir, bad).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EXDEV), "{bad:?}");
        }
    }

    #[test]
    fn fifo_does_not_hang_the_open() {
        let docroot = tempfile::tempdir().unwrap();
        let fifo = docroot.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let device = Device::new(DeviceKey { site: SiteId(0), devid: 0 }, docroot.path(), false);
        let on = OnDisk::in_test();
        let dir = device.dir(&on).unwrap();
        for_reading(&on, &device, &dir, c"fifo").unwrap();
    }
}
