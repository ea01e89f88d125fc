//! A device that is to be scrubbed.

use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use rmogstored_worker::disk::path::DevId;

use super::place;

/// A device to be scrubbed.
#[derive(Debug, Clone)]
pub struct Target {
    /// Its folder, as it was given.
    pub path: PathBuf,
    /// The same, whatever the working directory: its name in the state file.
    pub absolute: PathBuf,
    /// Its number.
    pub devid: DevId,
}

impl Target {
    /// Takes a path that ends in `devN`.
    pub fn new(path: &Path) -> Result<Target, String> {
        let shown = path.display();
        let devid = place::devid(path).ok_or(format!("{shown}: its name is not devN"))?;
        let absolute = std::path::absolute(path).map_err(|e| format!("{shown}: {e}"))?;
        Ok(Target { path: path.to_owned(), absolute, devid })
    }
}

/// An error without its number, which has a field of its own where it matters.
pub fn text(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => Errno::from_raw(number).desc().to_owned(),
        None => error.to_string(),
    }
}
