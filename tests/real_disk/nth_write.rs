//! 2.4: the n-th write of a disk fails while a node that flushes stores, changes or removes a file.
//! Whatever the answer: the disk, as it is in that moment, has the old file or the new one, and
//! after a 2xx the new one. A filesystem whose journal could not be written takes no more until it
//! is mounted again.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::thread;

use fuser::Errno;

use crate::harness::real_disk::{FsKind, Image, Op, RealDisk, RealSick, Which};
use crate::harness::{Client, content_md5, names_in, pattern, skipped, until};
use crate::load::descriptors_at_rest;

/// In MiB.
const SIZE: u64 = 512;
const OLD: usize = 50_000;

/// A request on the way to a file that is there, or is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    New,
    Replace,
    Large,
    Chunked,
    Range,
    InPlace,
    CheckedInPlace,
    Checked,
    Delete,
}

const FEW: [Wish; 4] = [Wish::New, Wish::Replace, Wish::InPlace, Wish::Delete];
const ALL: [Wish; 9] = [
    Wish::New,
    Wish::Replace,
    Wish::Large,
    Wish::Chunked,
    Wish::Range,
    Wish::InPlace,
    Wish::CheckedInPlace,
    Wish::Checked,
    Wish::Delete,
];

#[test]
fn each_write_fails_under_a_put_or_delete_that_is_flushed() {
    let long = std::env::var_os("RMOGSTORED_LONG").is_some();
    let (kinds, wishes, errors) = match long {
        true => (&[FsKind::Ext4, FsKind::Xfs][..], &ALL[..], &[Errno::EIO, Errno::ENOSPC][..]),
        false => (&[FsKind::Ext4][..], &FEW[..], &[Errno::EIO][..]),
    };
    for kind in kinds {
        if let Some(reason) = RealDisk::missing(*kind) {
            skipped(&reason);
            continue;
        }
        let disk = RealDisk::make(*kind, SIZE);
        disk.inside(|root| {
            fs::create_dir_all(root.join("0/000/000")).unwrap();
            fs::write(root.join("0/000/000/old"), pattern(OLD)).unwrap();
        });
        let image = disk.image();
        thread::scope(|scope| {
            for mode in ["--fsync=file", "--fsync=batch"] {
                let image = &image;
                scope.spawn(move || {
                    for wish in wishes {
                        for errno in errors {
                            each_write(*kind, image, mode, *wish, *errno);
                        }
                    }
                });
            }
        });
    }
}

fn each_write(kind: FsKind, image: &Image, mode: &str, wish: Wish, errno: Errno) {
    let mut statuses = Vec::new();
    for n in 1.. {
        let disk = RealDisk::of_image(kind, image.clone());
        let sick = RealSick::start_on(disk, "1", &[mode]);
        let mut client = sick.node.client();
        client.get("/dev1/0/000/000/old").expect(200);
        client.put("/dev1/0/000/000/other", "other").expect(201); // All is open that stays open.
        drop(client);
        let descriptors = descriptors_at_rest(&sick.node);
        sick.disk.fail(Op::Write, Which::Nth(n), errno);
        let mut client = sick.node.client();
        let status = wish.ask(&mut client);
        let left = sick.disk.image();
        let struck = sick.disk.failed(Op::Write) > 0;
        sick.disk.mend();
        drop(client);
        statuses.push(status);
        let what = format!("{} {mode} {wish:?} write {n}: {statuses:?}", kind.name());
        until(&format!("{what}: all to be closed"), || {
            descriptors_at_rest(&sick.node) <= descriptors
        });
        check_log(&sick, wish, status, &what);
        RealDisk::of_image(kind, left).inside(|root| wish.check(root, status, &what));
        if sick.node.client().put("/dev1/0/000/000/other", "again").status == 201 {
            nothing_left(&sick, wish, status, &what);
        }
        if !struck {
            assert!(matches!(status, 201 | 204) && n > 1, "{what}");
            println!("{what}, {errno:?}");
            return;
        }
    }
}

fn check_log(sick: &RealSick, wish: Wish, status: u16, what: &str) {
    let line = format!("{} {}: ", wish.method(), wish.path());
    match status {
        201 | 204 => assert_eq!(sick.node.logged(&line), 0, "{what}"),
        500 | 507 => assert!(sick.node.logs(&line).contains("os error"), "{what}"),
        _ => panic!("{what}"),
    }
    assert!(sick.node.logged(&line) <= 1, "{what}");
}

/// On a disk that can still be written.
fn nothing_left(sick: &RealSick, wish: Wish, status: u16, what: &str) {
    let temporary = sick.dev1().join(".rmogstored_tmp");
    assert!(!temporary.exists() || names_in(&temporary).is_empty(), "{what}");
    let there = sick.node.client().get(wish.path()).status == 200;
    let made = wish.path().contains("/new/") && sick.dev1().join("0/000/000/new").exists();
    assert!(there || !made || status == 201, "{what}: a folder is left");
}

impl Wish {
    fn method(self) -> &'static str {
        if self == Wish::Delete { "DELETE" } else { "PUT" }
    }

    fn path(self) -> &'static str {
        match self {
            Wish::New | Wish::Large | Wish::Range => "/dev1/0/000/000/new/file",
            _ => "/dev1/0/000/000/old",
        }
    }

    fn body(self) -> Vec<u8> {
        let length = match self {
            Wish::Large => (17 << 20) + 5,
            Wish::Range | Wish::InPlace | Wish::CheckedInPlace => 20_000,
            _ => 30_000,
        };
        pattern(length + 1)[1..].to_vec()
    }

    fn ask(self, client: &mut Client) -> u16 {
        let (path, body) = (self.path(), self.body());
        let md5 = format!("Content-MD5: {}\r\n", content_md5(&body));
        let range = format!("Content-Range: bytes 10000-{}/*\r\n", 10_000 + body.len() - 1);
        let answer = match self {
            Wish::Delete => client.delete(path),
            Wish::Chunked => {
                let head = format!("{:x}\r\n", body.len());
                client.put_chunked(path, "", [head.as_bytes(), &body, b"\r\n0\r\n\r\n"].concat())
            }
            Wish::Range | Wish::InPlace => client.put_with(path, &range, body),
            Wish::CheckedInPlace => client.put_with(path, &(range + &md5), body),
            Wish::Checked => client.put_with(path, &md5, body),
            Wish::Large => {
                let length = body.len();
                client.send(format!("PUT {path} HTTP/1.1\r\nContent-Length: {length}\r\n\r\n"));
                client.try_send(body); // It may be answered before its end.
                client.answer()
            }
            Wish::New | Wish::Replace => client.put(path, body),
        };
        answer.status
    }

    /// What the file is afterwards, if all goes well.
    fn intended(self) -> Option<Vec<u8>> {
        let body = self.body();
        let mut old = match self {
            Wish::Delete => return None,
            Wish::Range => vec![0; 10_000],
            Wish::InPlace | Wish::CheckedInPlace => pattern(OLD),
            _ => return Some(body),
        };
        old.resize(old.len().max(10_000 + body.len()), 0);
        old[10_000..10_000 + body.len()].copy_from_slice(&body);
        Some(old)
    }

    fn check(self, root: &Path, status: u16, what: &str) {
        let path = root.join(self.path().trim_start_matches("/dev1/"));
        let found = match fs::read(&path) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => panic!("{what}: {error}"),
        };
        let new = self.intended();
        let old = self.path().ends_with("old").then(|| pattern(OLD));
        if status < 300 || found == new || found == old {
            let right = status >= 300 || found == new;
            return assert!(right, "{what}: {:?}", found.map(|found| found.len()));
        }
        let (Some(found), Some(old), Some(new)) = (found, old, new) else {
            panic!("{what}: neither the old file nor the new one");
        };
        let mixed = matches!(self, Wish::InPlace | Wish::CheckedInPlace)
            && found.len() == old.len()
            && (0..old.len()).all(|at| found[at] == old[at] || found[at] == new[at]);
        assert!(mixed, "{what}: torn, {} bytes", found.len());
    }
}
