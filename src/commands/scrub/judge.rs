//! What is wrong with a file, by what the file system says of it.

use std::fs::{File, Metadata};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::signal::kill;
use nix::sys::stat::{FileStat, SFlag, fstat, fstatat};
use nix::unistd::{Gid, Pid, Uid, User, Whence, getgrouplist, lseek};

/// Names that changed later than this are not judged by their size or place: a client, the node or
/// a tool may be in the middle of something.
pub const SETTLED: Duration = Duration::from_secs(60);
/// A temporary name that is older belongs to nobody, whatever process has its number now.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// Whom the node's workers run as: the owner of the `usage` file, which they write; where there is
/// none, the owner of the device's folder.
#[derive(Debug)]
pub struct Reader {
    user: Uid,
    groups: Vec<Gid>,
}

impl Reader {
    /// Of a device.
    pub fn of(device: BorrowedFd<'_>) -> nix::Result<Reader> {
        let facts = fstatat(device, "usage", AtFlags::AT_SYMLINK_NOFOLLOW);
        let facts = facts.or_else(|_| fstat(device))?;
        let (user, group) = (Uid::from_raw(facts.st_uid), Gid::from_raw(facts.st_gid));
        let named = User::from_uid(user).ok().flatten();
        let name = named.and_then(|user| std::ffi::CString::new(user.name).ok());
        let groups = name.and_then(|name| getgrouplist(&name, group).ok());
        Ok(Reader { user, groups: groups.unwrap_or_else(|| vec![group]) })
    }

    /// Whether a permission (`0o4`: read, `0o1`: enter) is granted by owner, group or others.
    pub fn may(&self, permission: u32, facts: &FileStat) -> bool {
        if self.user.is_root() {
            return true;
        }
        let shift = match () {
            () if facts.st_uid == self.user.as_raw() => 6,
            () if self.groups.contains(&Gid::from_raw(facts.st_gid)) => 3,
            () => 0,
        };
        facts.st_mode >> shift & permission == permission
    }

    /// The user's number.
    pub fn user(&self) -> u32 {
        self.user.as_raw()
    }
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// Anything else, in words.
    Other(&'static str),
}

/// The type in what stat(2) says.
pub fn type_of(facts: &FileStat) -> Type {
    match SFlag::from_bits_truncate(facts.st_mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFREG => Type::File,
        SFlag::S_IFDIR => Type::Folder,
        SFlag::S_IFLNK => Type::Other("a symbolic link"),
        SFlag::S_IFIFO => Type::Other("a FIFO"),
        SFlag::S_IFSOCK => Type::Other("a socket"),
        SFlag::S_IFBLK => Type::Other("a block device"),
        SFlag::S_IFCHR => Type::Other("a character device"),
        _ => Type::Other("of no known type"),
    }
}

/// Whether a file's content has been left alone for [`SETTLED`]. A time in the future is not now.
pub fn is_settled(facts: &FileStat) -> bool {
    age(facts.st_mtime).is_none_or(|age| age >= SETTLED)
}

/// Whether a temporary name will never become a file: its maker is gone, or it is a day old.
pub fn is_left_over(facts: &FileStat, maker: Option<i32>) -> bool {
    let gone = |pid: i32| kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH);
    let old = age(facts.st_mtime).is_some_and(|age| age >= ABANDONED);
    is_settled(facts) && (old || maker.is_none_or(gone))
}

/// The first part of a file that was never written. Compressed, inlined and delayed content has
/// been written, and file systems that cannot tell say that there is none.
pub fn hole(file: &File, size: u64) -> Option<u64> {
    let at = lseek(file.as_fd(), 0, Whence::SeekHole).ok()?;
    u64::try_from(at).ok().filter(|at| *at < size)
}

/// Whether it is the same file, and unchanged.
pub fn is_unchanged(before: &Metadata, after: &FileStat) -> bool {
    before.ino() == after.st_ino
        && before.dev() == after.st_dev
        && before.size() == after.st_size.max(0).cast_unsigned()
        && (before.mtime(), before.mtime_nsec()) == (after.st_mtime, after.st_mtime_nsec)
        && (before.ctime(), before.ctime_nsec()) == (after.st_ctime, after.st_ctime_nsec)
}

fn age(seconds: i64) -> Option<Duration> {
    let time = UNIX_EPOCH + Duration::from_secs(seconds.max(0).cast_unsigned());
    SystemTime::now().duration_since(time).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    fn facts(mode: u32, uid: u32, gid: u32) -> FileStat {
        let scratch = tempfile::tempfile().unwrap();
        let mut facts = fstat(&scratch).unwrap();
        (facts.st_mode, facts.st_uid, facts.st_gid) = (mode, uid, gid);
        facts
    }

    #[test]
    fn the_first_of_owner_group_and_others_that_fits_decides() {
        let groups = vec![Gid::from_raw(20), Gid::from_raw(21)];
        let reader = Reader { user: Uid::from_raw(10), groups };
        for (mode, uid, gid, may) in [
            (0o600, 10, 99, true),
            (0o077, 10, 20, false),
            (0o040, 99, 21, true),
            (0o404, 99, 21, false),
            (0o004, 99, 99, true),
            (0o440, 99, 99, false),
        ] {
            assert_eq!(reader.may(0o4, &facts(mode, uid, gid)), may, "{mode:o} {uid} {gid}");
        }
        let root = Reader { user: Uid::from_raw(0), groups: Vec::new() };
        assert!(root.may(0o4, &facts(0, 99, 99)));
    }

    #[test]
    fn holes_are_found_wherever_they_are() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[1; 100], 0).unwrap();
        assert_eq!(hole(&file, 100), None);
        let block = 1 << 20;
        file.write_all_at(&[1; 100], 2 * block).unwrap();
        let found = hole(&file, 2 * block + 100);
        assert!(found.is_some_and(|at| at < 2 * block), "{found:?}");
        let all = tempfile::tempfile().unwrap();
        all.set_len(5000).unwrap();
        assert_eq!(hole(&all, 5000), Some(0));
    }

    #[test]
    fn young_names_and_those_of_living_makers_are_not_left_over() {
        let mut facts = facts(0o600, 0, 0);
        let own = Some(std::process::id().cast_signed());
        let gone = Some(i32::MAX);
        assert!(!is_left_over(&facts, gone));
        facts.st_mtime -= 100;
        assert!(is_left_over(&facts, gone));
        assert!(is_left_over(&facts, None));
        assert!(!is_left_over(&facts, own));
        facts.st_mtime -= 25 * 3600;
        assert!(is_left_over(&facts, own));
        facts.st_mtime += 1000 * 3600;
        assert!(is_settled(&facts), "the clock was wrong once");
    }
}
