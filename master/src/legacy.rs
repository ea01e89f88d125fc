//! What a successor is told of the devices by its predecessor, which it cannot find out as soon
//! as it serves, or at all: whether they were mounts, how full they were, which have stalled. It is
//! a JSON document in a sealed memfd(2), whose number [`VARIABLE`] holds.
//!
//! A successor that knows nothing of it loses nothing but that, and what cannot be understood is
//! left aside with one line in the log. Devices are matched by docroot and devid, for numbers of
//! docroots are each process's own.

use std::env;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{IntoRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::getppid;
use rmogstored_worker::scoreboard::{DeviceSlot, DeviceState, Faults, Scoreboard, Usage};
use rmogstored_worker::spec::SiteId;
use rmogstored_worker::sys::socket::adopt_inherited;
use serde::{Deserialize, Serialize};

use crate::sys::FIRST;
use crate::{inherit, sys};

/// The variable that holds the descriptor's number.
pub(crate) const VARIABLE: &str = "RMOGSTORED_LEGACY";
/// A field that goes or changes its meaning raises it.
const VERSION: u32 = 1;
/// Far more than the largest node has to tell.
const LARGEST: u64 = 16 << 20;

/// The document.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Legacy {
    version: u32,
    /// Whose it is.
    pid: i32,
    devices: Vec<Heirloom>,
}

/// What is known of one device.
#[derive(Debug, Serialize, Deserialize)]
struct Heirloom {
    docroot: String,
    devid: u32,
    mounted_on: Option<u64>,
    filesystem: u64,
    unmounted: bool,
    stalled: bool,
    usage: Option<Usage>,
    disk: Option<(u32, u32)>,
    #[serde(default)]
    failing: bool,
    #[serde(default)]
    faults: Faults,
}

/// The number that the environment announces.
pub(crate) fn announced() -> Option<RawFd> {
    let number = env::var(VARIABLE).ok()?.parse().ok()?;
    (number >= FIRST && inherit::announced()).then_some(number)
}

/// What this process's predecessor left. To be called before this process opens anything.
pub(crate) fn take() -> Option<Legacy> {
    env::var_os(VARIABLE)?;
    let number = announced().ok_or_else(|| io::Error::other("no descriptor is announced"));
    sys::forget_variable(VARIABLE);
    let legacy = number.and_then(read).inspect_err(|e| {
        log::warn!("what the predecessor knew of the devices cannot be read: {e}");
    });
    // Else it came through a program between that knows nothing of it.
    legacy.ok().filter(|legacy| legacy.pid == getppid().as_raw())
}

fn read(number: RawFd) -> io::Result<Legacy> {
    let closed = || io::Error::other(format!("descriptor {number} is not open"));
    let fd = adopt_inherited(number).ok_or_else(closed)?;
    // The number may be somebody else's: nothing of theirs is read or closed.
    let sealed = fcntl(&fd, FcntlArg::F_GET_SEALS).map(SealFlag::from_bits_truncate);
    if !sealed.is_ok_and(|seals| seals.contains(SealFlag::F_SEAL_WRITE)) {
        let _ = fd.into_raw_fd();
        return Err(io::Error::other(format!("descriptor {number} is no such document")));
    }
    let file = File::from(fd);
    let length = file.metadata()?.len();
    if length > LARGEST {
        return Err(io::Error::other(format!("{length} bytes are too many")));
    }
    let mut text = vec![0; length as usize];
    file.read_exact_at(&mut text, 0)?;
    parse(&text)
}

fn parse(text: &[u8]) -> io::Result<Legacy> {
    #[derive(Deserialize)]
    struct Head {
        version: u32,
    }
    match serde_json::from_slice::<Head>(text)?.version {
        VERSION => Ok(serde_json::from_slice(text)?),
        other => Err(io::Error::other(format!("its version is {other}, not {VERSION}"))),
    }
}

impl Legacy {
    /// What is known now. A docroot whose path is no text is left out.
    pub fn of<'a>(board: &Scoreboard, docroot: impl Fn(SiteId) -> &'a Path) -> Legacy {
        let heirloom = |(key, slot): (rmogstored_worker::spec::DeviceKey, &DeviceSlot)| {
            let docroot = docroot(key.site).to_str()?.to_owned();
            Some(Heirloom::of(docroot, key.devid, slot))
        };
        let devices = board.devices().into_iter().filter(|(key, _)| key.devid != 0);
        let devices = devices.filter_map(heirloom).collect();
        Legacy { version: VERSION, pid: std::process::id().cast_signed(), devices }
    }

    /// The document in a file of memory that nobody can change, close-on-exec.
    pub fn left(&self) -> io::Result<OwnedFd> {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let mut file = File::from(memfd_create("rmogstored-legacy", flags)?);
        file.write_all(&serde_json::to_vec(self)?)?;
        let fd = OwnedFd::from(file);
        fcntl(&fd, FcntlArg::F_ADD_SEALS(SealFlag::all()))?;
        Ok(fd)
    }

    /// Gives a device that has just been listed what was left for it.
    pub fn pass_on(&self, docroot: &Path, devid: u32, slot: &DeviceSlot) {
        let is_it = |left: &&Heirloom| left.devid == devid && Path::new(&left.docroot) == docroot;
        if let Some(left) = self.devices.iter().find(is_it) {
            left.pass_on(slot);
        }
    }

    /// The devices of this docroot have been found: one that comes later has another folder.
    pub fn settle(&mut self, docroot: &Path) {
        self.devices.retain(|left| Path::new(&left.docroot) != docroot);
    }
}

impl Heirloom {
    fn of(docroot: String, devid: u32, slot: &DeviceSlot) -> Heirloom {
        Heirloom {
            docroot,
            devid,
            mounted_on: slot.mount.on(),
            filesystem: slot.mount.filesystem(),
            unmounted: slot.mount.refused(),
            stalled: slot.state() == DeviceState::Stalled,
            usage: slot.usage(),
            disk: slot.disk(),
            failing: slot.failing.load(Relaxed),
            faults: slot.faults.counts(),
        }
    }

    fn pass_on(&self, slot: &DeviceSlot) {
        if let Some(on) = self.mounted_on {
            slot.mount.note(on, self.filesystem);
        }
        slot.mount.refuse(self.unmounted);
        if let Some(usage) = &self.usage {
            slot.publish(usage, self.disk);
        }
        slot.faults.add(&self.faults);
        slot.failing.store(self.failing, Relaxed);
        if self.stalled {
            slot.set_state(DeviceState::Stalled);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rmogstored_worker::spec::{DeviceKey, WorkerId};

    const KEY: DeviceKey = DeviceKey { site: SiteId(0), devid: 7 };

    fn known() -> Scoreboard {
        let board = Scoreboard::new().unwrap();
        let slot = board.list_device(KEY, WorkerId(0)).unwrap();
        slot.mount.note(5, 55);
        slot.mount.refuse(true);
        let source = "/dev/sdb1".to_owned();
        slot.publish(&Usage { available: 1, total: 3, used: 2, time: 4, source }, Some((8, 17)));
        slot.set_state(DeviceState::Stalled);
        board
    }

    #[test]
    fn what_is_left_is_passed_on_to_the_same_device_of_the_same_docroot() {
        let left = Legacy::of(&known(), |_| Path::new("/a")).left().unwrap();
        fcntl(&left, FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
        let legacy = read(left.into_raw_fd()).unwrap();
        let board = Scoreboard::new().unwrap();
        let key = DeviceKey { site: SiteId(3), devid: 7 };
        let slot = board.list_device(key, WorkerId(1)).unwrap();
        legacy.pass_on(Path::new("/b"), 7, slot);
        legacy.pass_on(Path::new("/a"), 8, slot);
        assert_eq!((slot.mount.on(), slot.usage()), (None, None));
        legacy.pass_on(Path::new("/a"), 7, slot);
        assert_eq!((slot.mount.on(), slot.mount.filesystem()), (Some(5), 55));
        assert!(slot.mount.refused() && slot.state() == DeviceState::Stalled);
        let usage = slot.usage().unwrap();
        assert_eq!(
            (usage.time, usage.source.as_str(), slot.disk()),
            (4, "/dev/sdb1", Some((8, 17)))
        );
    }

    #[test]
    fn another_version_and_another_s_descriptor_are_refused() {
        let error = parse(br#"{"version": 2, "news": []}"#).unwrap_err().to_string();
        assert_eq!(error, "its version is 2, not 1");
        assert!(parse(b"").is_err() && parse(b"{}").is_err());
        let (reader, _writer) = io::pipe().unwrap();
        fcntl(&reader, FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
        let number = OwnedFd::from(reader).into_raw_fd();
        assert!(read(number).unwrap_err().to_string().contains("no such document"));
        assert!(adopt_inherited(number).is_some(), "it was closed");
    }
}
