//! What the tests share: the daemon, a raw client, waiting with a deadline.

mod chromium;
mod client;
mod daemon;
mod mounts;
pub mod real_disk;
mod setup;
mod slowfs;
mod wait;

pub use chromium::Chromium;
pub use client::{Answer, Client, narrow_connection};
pub use daemon::{Node, binary};
pub use mounts::{LoopDisk, disk_of, shell};
pub use setup::{Ended, INHERITED_FD, STATUS_FD, Setup, can_mount, has_python};
pub use slowfs::{Kind, MODES, Mode, Sick, SlowFs, has_fuse, in_each_mode};
pub use wait::{DEADLINE, Lines, until, until_some};

use md5::{Digest, Md5};

/// The URL path of a FID.
pub fn fid_path(device: u32, fid: u64) -> String {
    let name = format!("{fid:010}");
    format!("/dev{device}/{}/{}/{}/{name}.fid", &name[..1], &name[1..4], &name[4..7])
}

/// The value of a Content-MD5 header.
pub fn content_md5(body: impl AsRef<[u8]>) -> String {
    base64(&Md5::digest(body.as_ref()))
}

/// Bytes in which no two neighbourhoods look alike, so that a misplaced piece shows.
pub fn pattern(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..length).map(next).collect()
}

/// Tells why a test does nothing here.
pub fn skipped(reason: &str) {
    println!("SKIPPED: {reason}");
}

/// The folder's entries, sorted, folders below it not entered.
pub fn names_in(folder: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.expect("readable").file_name().to_string_lossy().into_owned()
    };
    let mut names: Vec<_> = entries.map(name).collect();
    names.sort();
    names
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, at| bits << 8 | u32::from(*group.get(at).unwrap_or(&0)));
        for at in 0..4 {
            let letter = BASE64[(bits >> (18 - 6 * at)) as usize & 63];
            text.push(if at <= group.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

#[test]
fn content_md5_of_nothing_is_the_known_one() {
    assert_eq!(content_md5(""), "1B2M2Y8AsgTpgAmY7PhCfg==");
}
