//! What openat2(2) does with RESOLVE_BENEATH, where it is missing or forbidden: the way is gone step
//! by step, no step follows a link by itself, and each folder on the way stays open, so that `..`
//! leads back to where it came from whatever is renamed meanwhile.

use std::ffi::{CStr, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::{Mode, fstat};

/// Links that are followed: path_resolution(7).
const MOST_LINKS: usize = 40;
const STEP: OFlag =
    OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// A walk below a folder.
struct Walk<'a> {
    start: BorrowedFd<'a>,
    /// The folders below `start` that the way has led through and is in.
    way: Vec<OwnedFd>,
    /// The names that are left, the next one last.
    left: Vec<Vec<u8>>,
    links: usize,
}

/// What is under a name.
enum Found {
    Opened(OwnedFd),
    /// A link, and where it leads to.
    Link(Vec<u8>),
}

/// Opens a file below `dir`. `EXDEV`: a link is absolute, or leads above `dir`.
pub(super) fn open(dir: BorrowedFd<'_>, path: &CStr, flags: i32, mode: u32) -> io::Result<OwnedFd> {
    let flags = OFlag::from_bits_retain(flags) | OFlag::O_CLOEXEC;
    let mode = Mode::from_bits_truncate(mode);
    let mut walk = Walk { start: dir, way: Vec::new(), left: Vec::new(), links: 0 };
    walk.go_by(path.to_bytes())?;
    while let Some(name) = walk.left.pop() {
        let is_last = walk.left.is_empty();
        match name.as_slice() {
            b"." => {}
            b".." => drop(walk.way.pop().ok_or(Errno::EXDEV)?),
            name if is_last => match open_last(walk.at(), name, flags, mode)? {
                Found::Opened(file) => return Ok(file),
                Found::Link(target) => walk.follow(&target)?,
            },
            name => match step(walk.at(), name)? {
                Found::Opened(folder) => walk.way.push(folder),
                Found::Link(target) => walk.follow(&target)?,
            },
        }
    }
    Ok(openat(walk.at(), ".", flags, mode)?)
}

impl Walk<'_> {
    fn at(&self) -> BorrowedFd<'_> {
        self.way.last().map_or(self.start, AsFd::as_fd)
    }

    fn follow(&mut self, target: &[u8]) -> nix::Result<()> {
        self.links += 1;
        match self.links > MOST_LINKS {
            true => Err(Errno::ELOOP),
            false => self.go_by(target),
        }
    }

    /// A slash at the end asks for a folder, as `.` does.
    fn go_by(&mut self, path: &[u8]) -> nix::Result<()> {
        match path {
            [] => return Err(Errno::ENOENT),
            [b'/', ..] => return Err(Errno::EXDEV),
            [.., b'/'] => self.left.push(b".".to_vec()),
            _ => {}
        }
        let names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
        self.left.extend(names.rev().map(<[u8]>::to_vec));
        Ok(())
    }
}

fn step(at: BorrowedFd<'_>, name: &[u8]) -> nix::Result<Found> {
    match openat(at, name, STEP, Mode::empty()) {
        Err(Errno::ENOTDIR) => link(at, name, Errno::ENOTDIR),
        opened => opened.map(Found::Opened),
    }
}

fn open_last(at: BorrowedFd<'_>, name: &[u8], flags: OFlag, mode: Mode) -> nix::Result<Found> {
    let opened = openat(at, name, flags | OFlag::O_NOFOLLOW, mode);
    match opened {
        _ if flags.contains(OFlag::O_NOFOLLOW) => opened.map(Found::Opened),
        Err(e @ (Errno::ELOOP | Errno::ENOTDIR)) => link(at, name, e),
        Ok(file) if flags.contains(OFlag::O_PATH) && is_link(&file)? => {
            Ok(Found::Link(readlinkat(&file, "")?.into_vec()))
        }
        opened => opened.map(Found::Opened),
    }
}

/// Where a link leads to; `else_` if it is none.
fn link(at: BorrowedFd<'_>, name: &[u8], else_: Errno) -> nix::Result<Found> {
    match readlinkat(at, OsStr::from_bytes(name)) {
        Ok(target) => Ok(Found::Link(target.into_vec())),
        Err(Errno::EINVAL) => Err(else_),
        Err(e) => Err(e),
    }
}

fn is_link(file: &OwnedFd) -> nix::Result<bool> {
    Ok(fstat(file)?.st_mode & libc::S_IFMT == libc::S_IFLNK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::file::{BENEATH, open_below};
    use crate::sys::raw::openat2;
    use std::fs::{File, create_dir_all, write};
    use std::os::unix::fs::{MetadataExt, symlink};

    /// A folder with all that a way may lead through.
    fn folder() -> (tempfile::TempDir, File) {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        create_dir_all(at("in/a/b")).unwrap();
        write(at("in/a/b/file"), "x").unwrap();
        write(at("secret"), "x").unwrap();
        for (target, name) in [
            ("a", "link"),
            ("a/", "slash"),
            ("./a/../a/b", "around"),
            ("file", "a/b/near"),
            ("../../a/b/file", "a/b/back"),
            ("../secret", "out"),
            ("../in/a", "out_and_in"),
            ("/etc", "absolute"),
            ("none", "dangling"),
            ("self", "self"),
            ("twin", "other"),
            ("other", "twin"),
        ] {
            symlink(target, at("in").join(name)).unwrap();
        }
        let mut last = "a".to_owned();
        for number in 0..41 {
            symlink(&last, at(&format!("in/chain{number}"))).unwrap();
            last = format!("chain{number}");
        }
        let dir = File::open(at("in")).unwrap();
        (folder, dir)
    }

    /// Which file, or which error.
    fn outcome(opened: io::Result<OwnedFd>) -> Result<u64, Option<i32>> {
        let opened = opened.map_err(|e| e.raw_os_error())?;
        Ok(File::from(opened).metadata().unwrap().ino())
    }

    #[test]
    fn it_opens_and_refuses_what_openat2_does() {
        let (_folder, dir) = folder();
        if openat2(dir.as_fd(), c".", libc::O_PATH, 0, BENEATH).is_err() {
            println!("SKIPPED: no openat2 to compare with");
            return;
        }
        let folders = [
            "a",
            "link",
            "slash",
            "around",
            "out",
            "out_and_in",
            "absolute",
            "dangling",
            "self",
            "other",
            "chain39",
            "chain40",
            "none",
            "a/b/file",
            "",
            ".",
            "..",
            "a/..",
            "a/../..",
        ];
        let names = ["", "/", "/.", "/..", "/b", "/b/file", "/b/near", "/b/back", "/b/file/", "/x"];
        let kinds = [
            libc::O_RDONLY,
            libc::O_PATH,
            libc::O_PATH | libc::O_DIRECTORY,
            libc::O_RDONLY | libc::O_NOFOLLOW,
            libc::O_PATH | libc::O_NOFOLLOW,
            libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW,
            libc::O_RDWR,
        ];
        let mut compared = 0;
        for path in folders.iter().flat_map(|folder| names.map(|name| format!("{folder}{name}"))) {
            let name = std::ffi::CString::new(path.as_str()).unwrap();
            for flags in kinds {
                let theirs = outcome(open_below(dir.as_fd(), &name, flags, 0, BENEATH));
                let ours = outcome(open(dir.as_fd(), &name, flags, 0));
                assert_eq!(ours, theirs, "{path:?} with {flags:o}");
                compared += 1;
            }
        }
        assert!(compared > 1000);
    }

    #[test]
    fn new_names_are_made_where_there_is_none() {
        let (folder, dir) = folder();
        let make = |path| {
            let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
            open(dir.as_fd(), path, flags, 0o600).map(drop).map_err(|e| e.raw_os_error())
        };
        assert_eq!(make(c"around/new"), Ok(()));
        assert!(folder.path().join("in/a/b/new").is_file());
        for path in [c"a/b/new", c"a/b/near", c"dangling", c"out", c"a"] {
            assert_eq!(make(path), Err(Some(libc::EEXIST)), "{path:?}");
        }
        assert_eq!(make(c"out/new"), Err(Some(libc::EXDEV)));
        assert_eq!(make(c"none/new"), Err(Some(libc::ENOENT)));
    }

    #[test]
    fn a_file_without_a_name_is_made_behind_a_link_too() {
        let (folder, dir) = folder();
        match open(dir.as_fd(), c"link/b", libc::O_TMPFILE | libc::O_RDWR, 0o600) {
            Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                println!("SKIPPED: no O_TMPFILE");
            }
            made => drop(made.unwrap()),
        }
        assert_eq!(std::fs::read_dir(folder.path().join("in/a/b")).unwrap().count(), 3);
    }
}
