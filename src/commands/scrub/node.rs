//! What a running node says of its devices: its status socket's document.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rmogstored_master::report::status::Document;

use crate::commands::read;

/// How a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Nothing is known against it.
    Fine,
    /// It does not answer.
    Stalled,
    /// It was a mount, and is a bare folder.
    Unmounted,
}

impl Health {
    /// The node's word for it.
    pub fn word(self) -> &'static str {
        match self {
            Health::Fine => "ok",
            Health::Stalled => "stalled",
            Health::Unmounted => "unmounted",
        }
    }
}

/// A look at a node.
pub struct Look(Document);

impl Look {
    /// Asks the node.
    pub fn at(socket: &Path) -> io::Result<Look> {
        read(socket).map(Look)
    }

    /// What it says of a device; `None`: it serves no such device.
    pub fn of(&self, device: &Path) -> Option<Health> {
        let name = device.file_name()?.to_str()?;
        let docroot = real(above(device));
        let status =
            self.0.devices.iter().find(|status| {
                status.device == name && real(Path::new(&status.docroot)) == docroot
            })?;
        Some(match status.state.as_str() {
            "stalled" => Health::Stalled,
            "unmounted" => Health::Unmounted,
            _ => Health::Fine,
        })
    }
}

fn above(device: &Path) -> &Path {
    let above = device.parent().filter(|above| !above.as_os_str().is_empty());
    above.unwrap_or(Path::new("."))
}

/// Only docroots, which are on no device.
fn real(docroot: &Path) -> PathBuf {
    fs::canonicalize(docroot).unwrap_or_else(|_| docroot.to_owned())
}
