//! Checked paths: what a peer may name, on which device it lies, and what to open there.
//!
//! PROTOCOL.md 2.1 gives the rules; HTTP and the sidechannel share them.

use std::ffi::CStr;
use std::fmt;
use std::num::NonZeroU32;

use crate::ids::{DeviceKey, SiteId};

/// The number in `devN`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DevId(NonZeroU32);

/// A path that has passed the checks, stored inline and padded with NULs, so that system calls can use it as it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct DevPath {
    bytes: [u8; ROOM],
    len: u8,
    /// Where the part below the device's directory starts; equal to `len` when there is none.
    below: u8,
    /// Where the last name starts.
    name: u8,
    device: Option<DevId>,
}

/// Why a path was refused; where several hold, the first of this list is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathError {
    /// It does not start with `/`.
    NotAbsolute,
    /// It has a byte other than `A-Z a-z 0-9 / . -`.
    BadByte,
    /// It has `..` in it, wherever that is.
    Dots,
    /// It is over the length limit.
    TooLong,
}

/// Longest path that is not a FID path: `/dev16777215/0/000/000/0123456789.fid`.
const ORDINARY_MAX: usize = 37;
/// Longest FID, in digits: what 64 bits can need.
const FID_DIGITS_MAX: usize = 20;
/// The longest FID path of all (47 bytes) and its NUL.
const ROOM: usize = ORDINARY_MAX - 10 + FID_DIGITS_MAX + 1;
/// Where hashes start; any odd number would do.
const HASH_SEED: u64 = 0x517c_c1b7_2722_0a95;

impl DevId {
    /// The largest number a tracker's database can hold.
    pub const MAX: u32 = 16_777_215;

    /// Takes 1 to [`DevId::MAX`].
    pub fn new(number: u32) -> Option<Self> {
        NonZeroU32::new(number).filter(|n| n.get() <= Self::MAX).map(Self)
    }

    /// Takes a folder's name, `devN`; N has no leading zero.
    pub fn from_component(name: &[u8]) -> Option<Self> {
        let digits = name.strip_prefix(b"dev")?;
        if digits.len() > 8 || digits.first() == Some(&b'0') || !all_digits(digits) {
            return None;
        }
        Self::new(digits.iter().fold(0, |n, digit| n * 10 + u32::from(digit - b'0')))
    }

    /// The number itself.
    pub fn get(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Display for DevId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl DevPath {
    /// Checks a path as a peer sent it; leading slashes collapse to one first.
    pub fn parse(raw: &[u8]) -> Result<Self, PathError> {
        let extra = raw.iter().take_while(|byte| **byte == b'/').count();
        let path = &raw[extra.checked_sub(1).ok_or(PathError::NotAbsolute)?..];
        let (mut dots, mut before) = (false, 0);
        for byte in path {
            if !PATH_BYTE[usize::from(*byte)] {
                return Err(PathError::BadByte);
            }
            dots |= *byte == b'.' && before == b'.';
            before = *byte;
        }
        if dots {
            return Err(PathError::Dots);
        }
        if path.len() > ROOM - 1 {
            return Err(PathError::TooLong);
        }
        let stored = Self::store(path);
        if path.len() > ORDINARY_MAX && !stored.is_fid() {
            return Err(PathError::TooLong);
        }
        Ok(stored)
    }

    /// The device that it lies on; `None` right under the docroot.
    pub fn device(&self) -> Option<DevId> {
        self.device
    }

    /// The device of a docroot that it lies on; that of the docroot itself right under it.
    pub fn key(&self, site: SiteId) -> DeviceKey {
        DeviceKey { site, devid: self.device.map_or(0, |device| device.get()) }
    }

    /// All of it, with one leading slash.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).expect("a checked path is ASCII")
    }

    /// What to open below the device's directory, or below the docroot when there is no device; `.` for that directory itself.
    pub fn relative(&self) -> &CStr {
        if self.tail().is_empty() {
            return c".";
        }
        CStr::from_bytes_until_nul(&self.bytes[usize::from(self.below)..])
            .expect("the last byte is always NUL")
    }

    /// [`DevPath::relative`] split into the folder (empty: the device's directory) and the file's name there.
    /// `None` when it names no file: it is empty, or ends in `/` or `/.`.
    pub fn parent(&self) -> Option<(&[u8], &CStr)> {
        let (below, name) = (usize::from(self.below), usize::from(self.name));
        if matches!(&self.as_bytes()[name..], b"" | b".") {
            return None;
        }
        let folder = trim_slashes(&self.bytes[below..name]);
        Some((folder, CStr::from_bytes_until_nul(&self.bytes[name..]).ok()?))
    }

    /// A hash of the file's name, the same for all spellings of its folder.
    pub fn name_hash(&self) -> u64 {
        self.last_name().iter().fold(HASH_SEED, |hash, byte| mix(hash, u64::from(*byte)))
    }

    /// A hash of all of it.
    pub fn hash(&self) -> u64 {
        let (words, _) = self.bytes.as_chunks::<8>();
        words.iter().fold(HASH_SEED, |hash, word| mix(hash, u64::from_ne_bytes(*word)))
    }

    /// Whether it is written as a folder.
    pub fn ends_with_slash(&self) -> bool {
        self.as_bytes().ends_with(b"/")
    }

    /// Whether it is `/`.
    pub fn is_root(&self) -> bool {
        self.len == 1
    }

    /// Whether it is `/devN/usage`, however written (`/./dev1//usage` names the same file).
    pub fn is_usage(&self) -> bool {
        self.device.is_some() && self.tail() == b"usage"
    }

    /// Whether it is a FID path: `/devN/b/mmm/ttt/fid.fid`, the folders being the FID's first digits.
    pub fn is_fid(&self) -> bool {
        let (tail, below) = (self.tail(), usize::from(self.below));
        let [b, b'/', m0, m1, m2, b'/', t0, t1, t2, b'/', file @ ..] = tail else { return false };
        let Some(fid) = file.strip_suffix(b".fid") else { return false };
        // One slash before and one behind the device, unlike `/./dev1//0`.
        let is_plain = || self.bytes[1] == b'd' && self.bytes[below - 2].is_ascii_digit();
        self.device.is_some()
            && is_plain()
            && (10..=FID_DIGITS_MAX).contains(&fid.len())
            && fid.starts_with(&[*b, *m0, *m1, *m2, *t0, *t1, *t2])
            && all_digits(fid)
    }

    /// Whether a PUT may go there (PROTOCOL.md 2.4).
    pub fn names_a_file_on_device(&self) -> bool {
        self.device.is_some() && self.parent().is_some()
    }

    fn store(path: &[u8]) -> Self {
        let (device, below) = locate(path);
        let slash = path[below..].iter().rposition(|byte| *byte == b'/');
        let name = slash.map_or(below, |slash| below + slash + 1);
        let mut bytes = [0; ROOM];
        bytes[..path.len()].copy_from_slice(path);
        Self { bytes, len: path.len() as u8, below: below as u8, name: name as u8, device }
    }

    fn last_name(&self) -> &[u8] {
        &self.as_bytes()[usize::from(self.name)..]
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    fn tail(&self) -> &[u8] {
        &self.as_bytes()[usize::from(self.below)..]
    }
}

impl fmt::Display for DevPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for DevPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DevPath({self})")
    }
}

/// For tables in which a collision costs a little time and nothing else.
fn mix(hash: u64, word: u64) -> u64 {
    let product = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    product ^ (product >> 32)
}

/// `A-Z a-z 0-9 / . -`.
static PATH_BYTE: [bool; 256] = path_bytes();

const fn path_bytes() -> [bool; 256] {
    let (mut table, mut byte) = ([false; 256], 0);
    while byte < 256 {
        let known = byte as u8;
        table[byte] = known.is_ascii_alphanumeric() || matches!(known, b'/' | b'.' | b'-');
        byte += 1;
    }
    table
}

fn all_digits(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(u8::is_ascii_digit)
}

fn trim_slashes(mut folder: &[u8]) -> &[u8] {
    while let [rest @ .., b'/'] = folder {
        folder = rest;
    }
    folder
}

/// The device and where the part below it starts; without a device, where the part below the docroot starts.
fn locate(path: &[u8]) -> (Option<DevId>, usize) {
    let start = skip_empty(path, 0);
    let len = path[start..].iter().take_while(|b| **b != b'/').count();
    match DevId::from_component(&path[start..start + len]) {
        Some(device) => (Some(device), skip_empty(path, start + len)),
        None => (None, start),
    }
}

/// Passes over components that lead nowhere else, `` and `.`: else `/./dev1/x` would escape its device's owner.
fn skip_empty(path: &[u8], mut at: usize) -> usize {
    loop {
        at += match &path[at..] {
            [b'/', ..] => 1,
            [b'.', b'/', ..] => 2,
            _ => return at,
        }
    }
}

#[cfg(test)]
mod tests;
