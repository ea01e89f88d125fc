//! `MD5` and `SHA-1`: PROTOCOL.md section 3.

use std::cell::RefCell;
use std::fmt::Write as _;

use log::Level;
use sha1::{Digest as _, Sha1};

use crate::disk::disk_fd::DiskFd;
use crate::disk::faults::Access;
use crate::disk::loan::Style;
use crate::disk::md5::Md5;
use crate::disk::open;
use crate::disk::operation::{Operation, Turn, Turned};
use crate::disk::path::DevPath;
use crate::ids::DeviceKey;
use crate::sidechannel::line::Kind;
use crate::sidechannel::size::is_missing;
use crate::sys::priority;

/// One read from the disk: small enough to be hashed while it is in the processor's nearer caches
/// (588 MB/s of a file in the page cache; 475 with 256 KiB).
const BUFFER: usize = 64 * 1024;
/// After so many bytes a disk thread looks whether others wait for it.
const SLICE: u64 = 16 * 1024 * 1024;

thread_local! {
    static THREAD_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A digest being computed.
#[derive(Debug)]
pub struct Digest {
    path: DevPath,
    kind: Kind,
    /// Asked for by fsck, which can wait.
    fsck: bool,
    file: Option<DiskFd>,
    offset: u64,
    hasher: Hasher,
}

#[derive(Debug)]
enum Hasher {
    Md5(Md5),
    Sha1(Sha1),
}

impl Operation for Digest {
    fn path(&self) -> &DevPath {
        &self.path
    }

    fn style(&self, device: DeviceKey) -> Style {
        Style::Line(device)
    }

    fn is_long(&self) -> bool {
        true
    }

    fn run(mut self: Box<Self>, turn: &Turn<'_>) -> Turned {
        let _low = self.fsck.then(priority::lower);
        if self.file.is_none() {
            turn.progress.touch();
            let opened = turn.device.dir(turn.on).and_then(|dir| {
                open::for_reading(turn.on, turn.device, &dir, self.path.relative())
            });
            match opened {
                Ok(file) => self.file = Some(file),
                Err(e) if is_missing(&e) => return self.say(turn, "-1"),
                Err(e) => return self.fail(turn, &e),
            }
        }
        let hashed = THREAD_BUFFER.with_borrow_mut(|buffer| {
            if buffer.is_empty() {
                *buffer = vec![0; BUFFER];
            }
            self.hash(turn, buffer)
        });
        match hashed {
            Ok(false) => Turned::Again(self),
            Ok(true) => {
                let hex = self.hasher.hex();
                self.say(turn, &hex)
            }
            Err(e) => self.fail(turn, &e),
        }
    }
}

impl Digest {
    /// A digest to be computed in a disk thread.
    pub fn new(path: DevPath, kind: Kind, fsck: bool) -> Digest {
        Digest { path, kind, fsck, file: None, offset: 0, hasher: Hasher::new(kind) }
    }

    /// Reads a slice; true at the end of the file.
    fn hash(&mut self, turn: &Turn<'_>, buffer: &mut [u8]) -> std::io::Result<bool> {
        let Some(file) = &self.file else { return Ok(true) };
        let end = self.offset + SLICE;
        while self.offset < end {
            if turn.is_lost() {
                return Ok(true);
            }
            turn.progress.touch();
            let n = file.read_at(turn.on, buffer, self.offset)?;
            if n == 0 {
                return Ok(true);
            }
            self.hasher.update(&buffer[..n]);
            self.offset += n as u64;
        }
        Ok(false)
    }

    fn say(&self, turn: &Turn<'_>, digest: &str) -> Turned {
        let line = format!("{} {}={digest}\r\n", self.path.as_str(), self.kind.name());
        Turned::Over(turn.answer(line.into_bytes(), true))
    }

    fn fail(&self, turn: &Turn<'_>, error: &std::io::Error) -> Turned {
        let (path, offset) = (self.path.as_str(), self.offset);
        if error.raw_os_error() != Some(libc::EISDIR) {
            let line = format_args!("{} {path}: read at {offset}: {error}", self.kind.name());
            turn.note_fault(Access::Read, Level::Error, error.raw_os_error(), line);
        }
        let line = format!("ERR read {path} at {offset} failed\r\n");
        Turned::Over(turn.answer(line.into_bytes(), true))
    }
}

impl Hasher {
    fn new(kind: Kind) -> Hasher {
        match kind {
            Kind::Md5 => Hasher::Md5(Md5::new()),
            Kind::Sha1 => Hasher::Sha1(Sha1::new()),
        }
    }

    fn update(&mut self, data: &[u8]) {
        match self {
            Hasher::Md5(md5) => md5.update(data),
            Hasher::Sha1(sha1) => sha1.update(data),
        }
    }

    fn hex(&mut self) -> String {
        match self {
            Hasher::Md5(md5) => hex(&std::mem::take(md5).finish()),
            Hasher::Sha1(sha1) => hex(&sha1.finalize_reset()),
        }
    }
}

/// The digest of something that is in memory.
pub fn of_bytes(kind: Kind, data: &[u8]) -> String {
    let mut hasher = Hasher::new(kind);
    hasher.update(data);
    hasher.hex()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_the_standards() {
        assert_eq!(of_bytes(Kind::Md5, b"abc"), "900150983cd24fb0d6963f7d28e17f72");
        assert_eq!(of_bytes(Kind::Sha1, b"abc"), "a9993e364706816aba3e25717850c26c9cd0d89d");
    }
}
