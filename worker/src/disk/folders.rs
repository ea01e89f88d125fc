//! Folders that a PUT needs, and their end when it comes to nothing. Disk threads only.

use std::ffi::{CStr, CString};
use std::io;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::stat::Mode;
use nix::unistd::UnlinkatFlags;

use crate::disk::device::DeviceDir;
use crate::disk::errands;
use crate::disk::failed::{Failed, InCall};
use crate::disk::on_disk::OnDisk;
use crate::disk::path::DevPath;
use crate::sys::disk::{mkdirat, unlinkat};
use crate::sys::file::{BENEATH, open_below};

/// Attempts when folders are removed by others while we make them.
const ATTEMPTS: usize = 3;
/// How a folder is opened that names are made in.
pub const FOLDER: i32 = libc::O_PATH | libc::O_DIRECTORY;

/// The folders that one PUT has made. They go with it unless it says that they stay.
#[derive(Debug, Default)]
pub struct Made(Vec<(Arc<DeviceDir>, CString)>);

impl Made {
    /// They are needed from now on. Returns the folders in which there are new ones, the deepest
    /// first, as seen from the device's directory.
    pub fn keep(&mut self) -> Vec<(Arc<DeviceDir>, CString)> {
        let mut made = std::mem::take(&mut self.0);
        made.reverse();
        made.into_iter().map(|(dir, folder)| (dir, split(folder.to_bytes()).0)).collect()
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        let made = std::mem::take(&mut self.0);
        if !made.is_empty() {
            errands::run(move |on| {
                made.iter().rev().for_each(|(dir, folder)| remove(on, dir, folder));
            });
        }
    }
}

/// Tries `action` first, and makes the path's folders only when it fails for the lack of one.
pub fn with_folders<T>(
    on: &OnDisk,
    dir: &Arc<DeviceDir>,
    path: &DevPath,
    made: &mut Made,
    mut action: impl FnMut() -> Result<T, Failed>,
) -> Result<T, Failed> {
    for _ in 1..ATTEMPTS {
        match action() {
            Err(e) if e.errno() == Some(libc::ENOENT) => make(on, dir, path, made)?,
            done => return done,
        }
    }
    action()
}

/// The folder that the file goes to, seen from the device's directory.
pub fn parent(path: &DevPath) -> CString {
    match path.parent() {
        Some((folder, _)) if !folder.is_empty() => c_string(folder),
        _ => c".".to_owned(),
    }
}

/// Makes each folder above the file, below the device, which must exist itself. Each is opened
/// without following a link out of the device before the next is made in it.
fn make(on: &OnDisk, dir: &Arc<DeviceDir>, path: &DevPath, made: &mut Made) -> Result<(), Failed> {
    let folder = parent(path);
    let bytes = folder.to_bytes();
    let is_end = |end: &usize| *end == bytes.len() || bytes[*end] == b'/';
    for end in (1..=bytes.len()).filter(is_end) {
        let (above, name) = split(&bytes[..end]);
        if matches!(name.to_bytes(), b"" | b".") {
            continue; // `a//b`, `a/./b`
        }
        let above = open_below(dir.get(on), &above, FOLDER, 0, BENEATH).in_call("openat2")?;
        match mkdirat(&above, name.as_c_str(), Mode::from_bits_truncate(0o777)) {
            Ok(()) => made.0.push((Arc::clone(dir), c_string(&bytes[..end]))),
            Err(Errno::EEXIST) => {}
            Err(e) => return Err(e).in_call("mkdirat"),
        }
    }
    Ok(())
}

/// Others may have come to use it: then it is not empty, or they make it again.
fn remove(on: &OnDisk, dir: &DeviceDir, folder: &CStr) {
    let (above, name) = split(folder.to_bytes());
    let removed: io::Result<()> = open_below(dir.get(on), &above, FOLDER, 0, BENEATH)
        .and_then(|above| Ok(unlinkat(&above, name.as_c_str(), UnlinkatFlags::RemoveDir)?));
    match removed.map_err(|e| (e.raw_os_error(), e)) {
        Ok(()) | Err((Some(libc::ENOTEMPTY | libc::EEXIST | libc::ENOENT), _)) => {}
        Err((_, e)) => log::debug!("rmdir {}: {e}", folder.to_string_lossy()),
    }
}

fn split(path: &[u8]) -> (CString, CString) {
    let cut = path.iter().rposition(|&b| b == b'/');
    let above = cut.map_or(&b"."[..], |cut| &path[..cut]);
    let name = cut.map_or(path, |cut| &path[cut + 1..]);
    (c_string(if above.is_empty() { b"." } else { above }), c_string(name))
}

fn c_string(bytes: &[u8]) -> CString {
    CString::new(bytes).expect("a checked path has no NUL")
}
