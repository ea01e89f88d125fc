//! The n-th call on a disk fails, for each n, each kind of request, and each setting of `fsync`:
//! the right answer, the old file as it was, nothing left behind, one line in the log.

/// Requests in this thread.
mod rig;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};

use self::rig::{Rig, Told};
use crate::disk::journal::ASSUMED;
use crate::spec::Fsync;
use crate::sys::disk::faults::Fault;

const ERRORS: [Errno; 4] = [Errno::EIO, Errno::ENOSPC, Errno::EROFS, Errno::EDQUOT];
/// More than two windows of writeback.
const LARGE: usize = (17 << 20) + 5;
const OLD: &[u8] = b"0123456789";

/// A kind of request.
struct Kind {
    name: &'static str,
    path: &'static str,
    headers: String,
    body: Vec<u8>,
    /// What is there before.
    old: Option<&'static [u8]>,
    /// And after.
    new: Option<Vec<u8>>,
    /// Bytes of the old file that a failure may leave changed.
    in_place: bool,
}

/// Calls that come when the name is given or gone.
const AT_LAST: [&str; 6] = ["fsync", "syncfs", "fstat", "fstatfs", "futimens", "openat2"];

/// A device's folder: each name with its content; folders have none.
type Tree = BTreeMap<String, Option<Vec<u8>>>;

const NEW: &str = "/dev1/new/folder/file";
const KEPT: &str = "/dev1/kept/file";

fn put(name: &'static str, path: &'static str, headers: &str, body: &[u8]) -> Kind {
    let headers = format!("PUT {path} HTTP/1.1\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
    let old = (path == KEPT).then_some(OLD);
    let (body, new) = (body.to_vec(), Some(body.to_vec()));
    Kind { name, path, headers, body, old, new, in_place: false }
}

fn chunked(name: &'static str, path: &'static str, headers: &str, body: &[u8]) -> Kind {
    let chunk =
        |piece: &[u8]| [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
    let mut coded: Vec<u8> = body.chunks(3000).flat_map(chunk).collect();
    coded.extend(b"0\r\n\r\n");
    let headers = format!("PUT {path} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n{headers}\r\n");
    Kind { headers, body: coded, ..put(name, path, "", body) }
}

/// Writes `abc` from the fifth byte on.
fn range(name: &'static str, path: &'static str, headers: &str) -> Kind {
    let old = if path == KEPT { OLD } else { b"\0\0\0\0" };
    let mut new = old.to_vec();
    new.resize(new.len().max(7), 0);
    new[4..7].copy_from_slice(b"abc");
    let headers = format!("Content-Range: bytes 4-6/*\r\n{headers}");
    Kind { new: Some(new), in_place: path == KEPT, ..put(name, path, &headers, b"abc") }
}

fn small_kinds() -> Vec<Kind> {
    let body: Vec<u8> = (0..9000u32).map(|at| (at % 251) as u8).collect();
    let md5 = "Content-MD5: kAFQmDzST7DWlj99KOF/cg==\r\n"; // Of "abc".
    let delete = format!("DELETE {KEPT} HTTP/1.1\r\n\r\n");
    vec![
        put("small", NEW, "", &body),
        put("empty", NEW, "", b""),
        put("replacing", KEPT, "", &body),
        put("create only", NEW, "If-None-Match: *\r\n", &body),
        chunked("chunked", NEW, "", &body),
        chunked("chunked, replacing", KEPT, "", &body),
        put("Content-MD5", NEW, md5, b"abc"),
        put("Content-MD5, replacing", KEPT, md5, b"abc"),
        range("range, new", NEW, ""),
        range("range, in place", KEPT, ""),
        range("range with Content-MD5, new", NEW, md5),
        range("range with Content-MD5, in place", KEPT, md5),
        Kind { name: "DELETE", headers: delete, new: None, ..put("", KEPT, "", b"") },
    ]
}

fn large_kinds() -> Vec<Kind> {
    let body: Vec<u8> = (0..LARGE as u32).map(|at| (at % 251) as u8).collect();
    vec![put("large", NEW, "", &body), put("large, replacing", KEPT, "", &body)]
}

#[test]
fn each_call_of_each_request_fails_once() {
    on_each_folder(|rig, mode| {
        for kind in small_kinds() {
            for errno in ERRORS {
                each_call(rig, mode, &kind, Fault::Error(errno), false);
            }
        }
    });
}

#[test]
fn from_each_call_on_all_fail() {
    on_each_folder(|rig, mode| {
        for kind in small_kinds() {
            each_call(rig, mode, &kind, Fault::Error(Errno::EIO), true);
        }
    });
}

#[test]
fn short_writes_are_gone_on_with() {
    on_each_folder(|rig, mode| {
        for kind in small_kinds() {
            each_call(rig, mode, &kind, Fault::Short, false);
            each_call(rig, mode, &kind, Fault::Short, true);
        }
    });
}

#[test]
fn each_call_of_a_large_put_fails_once() {
    apart();
    for (mode, errno) in [(Fsync::Off, Errno::ENOSPC), (Fsync::File, Errno::EIO)] {
        let rig = Rig::new(&in_memory().unwrap_or_else(std::env::temp_dir), mode, true);
        for kind in large_kinds() {
            each_call(&rig, mode, &kind, Fault::Error(errno), false);
        }
    }
}

/// On a real filesystem and on one in memory, whose errors come late; with O_TMPFILE and without.
fn on_each_folder(test: impl Fn(&Rig, Fsync)) {
    apart();
    for folder in in_memory().into_iter().chain([std::env::temp_dir()]) {
        let in_mode = |mode, anonymous| test(&Rig::new(&folder, mode, anonymous), mode);
        for mode in [Fsync::Off, Fsync::File] {
            in_mode(mode, true);
            in_mode(mode, false);
        }
        let _alone = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        in_mode(Fsync::Batch, true);
        in_mode(Fsync::Batch, false);
        // As if there were a journal that can be committed by one fsync.
        ASSUMED.set(true);
        in_mode(Fsync::Batch, true);
        ASSUMED.set(false);
    }
}

/// Who flushes together fails together.
static SHARED: Mutex<()> = Mutex::new(());

fn in_memory() -> Option<std::path::PathBuf> {
    Some(Path::new("/dev/shm").to_owned()).filter(|folder| tempfile::tempdir_in(folder).is_ok())
}

/// Gives this thread descriptors of its own, so that they can be counted.
fn apart() {
    unshare(CloneFlags::CLONE_FILES).unwrap();
}

/// Makes the first call fail, then the second, until there are no more.
fn each_call(rig: &Rig, mode: Fsync, kind: &Kind, fault: Fault, lasts: bool) {
    let mut calls = Vec::new();
    for n in 1.. {
        prepare(rig, kind);
        let (before, descriptors) = (tree(&rig.dev1()), descriptors());
        let told = rig.ask(&kind.headers, &kind.body, (n, fault, lasts));
        let what =
            format!("{}, fsync={mode:?}, {fault:?} from {n}, lasts={lasts}: {told:?}", kind.name);
        assert_eq!(self::descriptors(), descriptors, "{what}");
        let after = tree(&rig.dev1());
        match told.struck {
            None => {
                succeeded(kind, &told, &after, &what);
                assert!(n > 2, "{what}: no call is seen");
                return;
            }
            Some(call) => calls.push(call),
        }
        match fault {
            Fault::Short => succeeded(kind, &told, &after, &what),
            Fault::Error(errno) => {
                failed(mode, kind, errno, &told, lasts, (&before, &after), &what);
            }
        }
    }
    unreachable!("{calls:?}");
}

fn prepare(rig: &Rig, kind: &Kind) {
    for entry in fs::read_dir(rig.dev1()).unwrap() {
        fs::remove_dir_all(entry.unwrap().path()).unwrap();
    }
    if let Some(old) = kind.old {
        fs::create_dir(rig.dev1().join("kept")).unwrap();
        fs::write(rig.dev1().join("kept/file"), old).unwrap();
    }
}

fn succeeded(kind: &Kind, told: &Told, after: &Tree, what: &str) {
    let expected = if kind.new.is_some() { 201 } else { 204 };
    assert_eq!((told.status, &told.lines[..]), (expected, &[][..]), "{what}");
    assert!(*after == new_tree(kind), "{what}: {}", differs(after, &new_tree(kind)));
}

fn failed(
    mode: Fsync,
    kind: &Kind,
    errno: Errno,
    told: &Told,
    lasts: bool,
    (before, after): (&Tree, &Tree),
    what: &str,
) {
    let full = matches!(errno, Errno::ENOSPC | Errno::EDQUOT);
    let call = told.struck.unwrap_or_default();
    let harmless = call == "fallocate" && !full || ["fstatfs", "futimens"].contains(&call);
    if harmless && !lasts {
        return succeeded(kind, told, after, what); // It was an offer, or there is another way.
    }
    if call == "unlinkat" && told.status == 201 {
        return swept_later(kind, told, after, what); // Of a range that has been copied.
    }
    assert_eq!(told.status, if full { 507 } else { 500 }, "{what}");
    let mut lines = told.lines.iter().filter(|line| line.contains(kind.path));
    let line = lines.next().unwrap_or_else(|| panic!("{what}: no line"));
    assert!(
        line.contains(&std::io::Error::from(errno).to_string()) && lines.next().is_none(),
        "{what}"
    );
    assert!(lasts || line.contains(call), "{what}");
    let lasting = AT_LAST.contains(&call) && mode != Fsync::Off;
    if lasting && *after == new_tree(kind) {
        return; // It is there, on the disk or not.
    }
    let same = |(name, content): (&String, &Option<Vec<u8>>)| match before.get(name) {
        Some(old) => old == content || kind.in_place && is_mix(kind, content.as_deref()),
        // What the disk did not let us remove, the sweeper finds.
        None => lasts,
    };
    assert!(after.iter().all(same), "{what}: {}", differs(after, before));
    assert!(
        before.keys().all(|name| after.contains_key(name)),
        "{what}: {}",
        differs(after, before)
    );
}

/// All is done, and a temporary name is left.
fn swept_later(kind: &Kind, told: &Told, after: &Tree, what: &str) {
    let left = after.keys().filter(|name| name.starts_with(".rmogstored_tmp/")).count();
    let rest = after.clone().into_iter().filter(|(name, _)| !name.starts_with(".rmogstored_tmp/"));
    succeeded(kind, told, &rest.collect(), what);
    assert_eq!(left, 1, "{what}");
}

/// Each byte is the old one or the new one.
fn is_mix(kind: &Kind, content: Option<&[u8]>) -> bool {
    let (Some(old), Some(new), Some(content)) = (kind.old, &kind.new, content) else {
        return false;
    };
    content.len() == old.len()
        && content.iter().enumerate().all(|(at, byte)| *byte == old[at] || *byte == new[at])
}

fn new_tree(kind: &Kind) -> Tree {
    let path = kind.path.trim_start_matches("/dev1/");
    let folders = path.match_indices('/').map(|(at, _)| (path[..at].to_owned(), None));
    let file = kind.new.clone().map(|new| (path.to_owned(), Some(new)));
    folders.chain(file).collect()
}

/// All below a folder, but for the folder of temporary names when it is empty.
fn tree(folder: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(now) = folders.pop() {
        for entry in fs::read_dir(now).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(folder).unwrap().to_string_lossy().into_owned();
            let is_folder = path.is_dir();
            if name != ".rmogstored_tmp" {
                tree.insert(name, (!is_folder).then(|| fs::read(&path).unwrap_or_default()));
            }
            folders.extend(is_folder.then_some(path));
        }
    }
    tree
}

fn differs(found: &Tree, expected: &Tree) -> String {
    let names = |tree: &Tree| {
        let sizes =
            tree.iter().map(|(name, content)| (name.clone(), content.as_ref().map(Vec::len)));
        sizes.collect::<Vec<_>>()
    };
    format!("found {:?}, not {:?}", names(found), names(expected))
}

/// But for pipes: a thread keeps one for bodies, or gives it up with what is in it.
fn descriptors() -> usize {
    let all = fs::read_dir("/proc/thread-self/fd").unwrap();
    let links = all.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
    links.filter(|link| !link.to_string_lossy().starts_with("pipe:")).count()
}
