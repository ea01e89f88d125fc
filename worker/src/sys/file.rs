//! Files: opens below a device's directory that cannot leave it, reads that cannot block,
//! sendfile, anonymous files that get their name last.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::sync::LazyLock;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, RenameFlags};
use nix::sys::stat::FileStat;
use nix::unistd::linkat;

pub use super::raw::{BENEATH, CACHED, SAME_MOUNT};

use super::disk::{fdatasync, may_begin, renameat2};
use super::doors::Door;
use super::raw::{cachestat, openat2, preadv2, sync_file_range};
use super::{beneath, check};

/// `EAGAIN` says that something was renamed or mounted, anywhere, while a link led through `..`:
/// openat2(2). So often it is tried again.
const ATTEMPTS: usize = 100;

/// openat2(2), close-on-exec added. `EXDEV`: a link leaves `dir`. `EAGAIN`: not cached, or the
/// kernel cannot tell. Without openat2 it goes step by step.
pub fn open_below(
    dir: BorrowedFd<'_>,
    path: &CStr,
    flags: i32,
    mode: u32,
    resolve: u64,
) -> io::Result<OwnedFd> {
    may_begin("openat2")?;
    let cached = resolve & libc::RESOLVE_CACHED != 0;
    if cached && !Door::ResolveCached.is_open() {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    if !Door::Openat2.is_open() {
        return beneath::open(dir, path, flags, mode);
    }
    let mut attempts = if cached { 1 } else { ATTEMPTS };
    loop {
        attempts = attempts.saturating_sub(1);
        match openat2(dir, path, flags, mode, resolve) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && attempts > 0 => {}
            opened => return opened,
        }
    }
}

/// Appends up to `want` bytes from `offset`, all from the page cache: preadv2(2) with RWF_NOWAIT.
/// Returns how many came; fewer than asked for means the end of the file or a page that is not
/// there. `EAGAIN`: not even the first page is.
pub fn read_cached(
    file: BorrowedFd<'_>,
    into: &mut Vec<u8>,
    want: usize,
    offset: u64,
) -> io::Result<usize> {
    if !Door::Preadv2.is_open() {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    into.reserve(want);
    let spare = &mut into.spare_capacity_mut()[..want];
    let n = preadv2(file, spare, offset, libc::RWF_NOWAIT)?;
    grow(into, n);
    Ok(n)
}

#[expect(unsafe_code, reason = "the kernel filled the spare capacity")]
fn grow(buffer: &mut Vec<u8>, n: usize) {
    // SAFETY: `preadv2` initialised `n` bytes of the spare capacity, which is at least `n`.
    unsafe { buffer.set_len(buffer.len() + n) };
}

/// Moves file bytes to a socket: sendfile(2). 0: the file ends at `offset`.
#[expect(unsafe_code, reason = "sendfile")]
pub fn sendfile(
    socket: BorrowedFd<'_>,
    file: BorrowedFd<'_>,
    offset: u64,
    count: usize,
) -> io::Result<usize> {
    let mut offset = offset as libc::off_t;
    // SAFETY: `offset` outlives the call, which only reads and writes that integer.
    let n = unsafe { libc::sendfile(socket.as_raw_fd(), file.as_raw_fd(), &raw mut offset, count) };
    Ok(check(n as libc::c_long)? as usize)
}

/// fstat(2), without the C library's detour over newfstatat(2), which looks for a path first.
#[cfg(all(target_arch = "x86_64", target_pointer_width = "64"))]
#[expect(unsafe_code, reason = "fstat")]
pub fn stat(file: BorrowedFd<'_>) -> io::Result<FileStat> {
    let mut stat = MaybeUninit::<FileStat>::uninit();
    // SAFETY: the kernel's structure is the C library's here; it is filled when the call succeeds.
    unsafe {
        check(libc::syscall(libc::SYS_fstat, file.as_raw_fd(), stat.as_mut_ptr()))?;
        Ok(stat.assume_init())
    }
}

/// fstat(2).
#[cfg(not(all(target_arch = "x86_64", target_pointer_width = "64")))]
pub fn stat(file: BorrowedFd<'_>) -> io::Result<FileStat> {
    Ok(nix::sys::stat::fstat(file)?)
}

/// How many pages of a range are in the page cache, among them those whose read has not ended:
/// cachestat(2). It submits nothing. `ENOSYS`: there is no such call. `EPERM`: neither the caller's
/// own nor writable, since Linux 6.14.
pub fn pages_cached(file: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<u64> {
    match Door::Cachestat.is_open() {
        true => cachestat(file, offset, len),
        false => Err(Errno::ENOSYS.into()),
    }
}

/// Bytes of a page: sysconf(3).
#[expect(unsafe_code, reason = "sysconf")]
pub fn page_size() -> u64 {
    static SIZE: LazyLock<u64> = LazyLock::new(|| {
        // SAFETY: takes a number only.
        let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        u64::try_from(size).unwrap_or(4096)
    });
    *SIZE
}

/// A file's pages, mapped to be asked about, never to be touched.
#[derive(Debug)]
pub struct View {
    address: usize,
    len: usize,
}

impl View {
    /// The first `len` bytes of a file, rounded up to a page: mmap(2). `None`: nothing can be mapped.
    #[expect(unsafe_code, reason = "mmap")]
    pub fn new(file: BorrowedFd<'_>, len: u64) -> Option<View> {
        let len = usize::try_from(len).ok().filter(|len| *len > 0)?;
        let (protection, flags) = (libc::PROT_READ, libc::MAP_SHARED);
        // SAFETY: a fresh mapping at an address of the kernel's choice, never read or written.
        let address =
            unsafe { libc::mmap(ptr::null_mut(), len, protection, flags, file.as_raw_fd(), 0) };
        (address != libc::MAP_FAILED).then_some(View { address: address as usize, len })
    }

    /// True when every page of a part is in the page cache and up to date: mincore(2). At most
    /// 512 pages at a time; more is never there.
    ///
    /// The kernel calls all pages resident for a file that the caller neither owns nor may write,
    /// so ask only about files of one's own. Pages past a file that has shrunk are not there.
    #[expect(unsafe_code, reason = "mincore")]
    pub fn is_resident(&self, offset: u64, len: u64) -> bool {
        const MOST: usize = 513;
        let page = page_size();
        let start = offset / page * page;
        let pages = (offset + len - start).div_ceil(page) as usize;
        if pages > MOST || offset + len > self.len as u64 {
            return false;
        }
        let mut seen = [0u8; MOST];
        let address = (self.address + start as usize) as *mut libc::c_void;
        // SAFETY: the range lies in our mapping, `seen` has a byte for each of its pages.
        let result =
            unsafe { libc::mincore(address, (offset + len - start) as usize, seen.as_mut_ptr()) };
        result == 0 && seen[..pages].iter().all(|page| page & 1 == 1)
    }
}

impl Drop for View {
    #[expect(unsafe_code, reason = "munmap")]
    fn drop(&mut self) {
        // SAFETY: our own mapping, to which nothing refers.
        unsafe { libc::munmap(self.address as *mut libc::c_void, self.len) };
    }
}

/// Gives an anonymous file (O_TMPFILE) a name: linkat(2). `EEXIST`: the name is taken.
pub fn link_file(file: BorrowedFd<'_>, dir: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    may_begin("linkat")?;
    if !Door::Linkat.is_open() {
        return link_through_proc(file, dir, name);
    }
    match linkat(file, c"", dir, name, AtFlags::AT_EMPTY_PATH) {
        // Kernels before 6.10 say so to those without CAP_DAC_READ_SEARCH: open(2), O_TMPFILE.
        Err(Errno::ENOENT) => link_through_proc(file, dir, name),
        linked => Ok(linked?),
    }
}

fn link_through_proc(file: BorrowedFd<'_>, dir: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    let source = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(linkat(AT_FDCWD, source.as_str(), dir, name, AtFlags::AT_SYMLINK_FOLLOW)?)
}

/// Renames a file unless something has the new name: `EEXIST`. `ENOSYS`, and `EINVAL` from some
/// filesystems: there is no such rename.
pub fn rename_new(
    from: BorrowedFd<'_>,
    old: &CStr,
    folder: BorrowedFd<'_>,
    name: &CStr,
) -> nix::Result<()> {
    match Door::Renameat2.is_open() {
        true => renameat2(from, old, folder, name, RenameFlags::RENAME_NOREPLACE),
        false => Err(Errno::ENOSYS),
    }
}

/// Gives a file disk space for a range that is going to be written: fallocate(2). Its size stays:
/// it would be on the disk before the content is, and a power cut would leave a file of the right
/// length full of zeros. `EOPNOTSUPP`: the filesystem cannot. `ENOSPC`: there is not so much.
#[expect(unsafe_code, reason = "fallocate")]
pub fn reserve(file: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<()> {
    may_begin("fallocate")?;
    let (file, mode) = (file.as_raw_fd(), libc::FALLOC_FL_KEEP_SIZE);
    // SAFETY: takes integers only.
    let result = unsafe { libc::fallocate(file, mode, offset as i64, len as i64) };
    check(result.into()).map(|_| ())
}

/// Starts writing a range of dirty pages to the disk without waiting: sync_file_range(2).
pub fn start_writeback(file: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<()> {
    sync_range(file, offset, len, libc::SYNC_FILE_RANGE_WRITE)
}

/// Waits until a range whose writeback was started is on the disk.
pub fn wait_writeback(file: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<()> {
    sync_range(file, offset, len, libc::SYNC_FILE_RANGE_WAIT_BEFORE)
}

/// Writes all dirty pages to the disk and waits for that. It flushes neither the disk nor the journal.
pub fn write_out(file: BorrowedFd<'_>) -> io::Result<()> {
    let (before, after) = (libc::SYNC_FILE_RANGE_WAIT_BEFORE, libc::SYNC_FILE_RANGE_WAIT_AFTER);
    sync_range(file, 0, 0, before | libc::SYNC_FILE_RANGE_WRITE | after)
}

/// An error that it returns is told to nobody else: the call takes it off the file. Without
/// sync_file_range nothing is started, and who waits has the whole file written: fdatasync(2). A
/// sandbox that forbids that too leaves nothing to wait with; a file's own `fsync` setting says so
/// by an error.
fn sync_range(file: BorrowedFd<'_>, offset: u64, len: u64, flags: u32) -> io::Result<()> {
    may_begin("sync_file_range")?;
    match Door::SyncFileRange.is_open() {
        true => sync_file_range(file, offset, len, flags),
        false if flags == libc::SYNC_FILE_RANGE_WRITE => Ok(()),
        false => match fdatasync(file) {
            Err(Errno::ENOSYS | Errno::EPERM) => Ok(()),
            written => Ok(written?),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;

    fn folder() -> (tempfile::TempDir, File) {
        let folder = tempfile::tempdir().unwrap();
        let dir = File::open(folder.path()).unwrap();
        (folder, dir)
    }

    #[test]
    fn links_that_leave_the_folder_are_not_followed() {
        let (folder, dir) = folder();
        std::fs::write(folder.path().join("file"), "x").unwrap();
        std::os::unix::fs::symlink("file", folder.path().join("inside")).unwrap();
        std::os::unix::fs::symlink("../..", folder.path().join("outside")).unwrap();
        open_below(dir.as_fd(), c"inside", libc::O_RDONLY, 0, BENEATH).unwrap();
        let outside = open_below(dir.as_fd(), c"outside", libc::O_RDONLY, 0, BENEATH);
        assert_eq!(outside.unwrap_err().raw_os_error(), Some(libc::EXDEV));
    }

    #[test]
    fn renames_elsewhere_do_not_make_an_open_fail() {
        let (folder, dir) = folder();
        let name = |name: &str| folder.path().join(name);
        std::fs::create_dir(name("a")).unwrap();
        std::fs::write(name("file"), "x").unwrap();
        std::os::unix::fs::symlink("../file", name("a/link")).unwrap();
        let over = std::sync::atomic::AtomicBool::new(false);
        let failed = std::thread::scope(|scope| {
            scope.spawn(|| {
                std::fs::create_dir(name("b")).unwrap();
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    std::fs::rename(name("b"), name("c")).unwrap();
                    std::fs::rename(name("c"), name("b")).unwrap();
                }
            });
            let open = || open_below(dir.as_fd(), c"a/link", libc::O_RDONLY, 0, BENEATH);
            let failed = (0..20_000).find_map(|_| open().err());
            over.store(true, std::sync::atomic::Ordering::Relaxed);
            failed
        });
        assert!(failed.is_none(), "{failed:?}");
    }

    #[test]
    fn cached_read_appends_what_is_there_up_to_the_end() {
        let (folder, dir) = folder();
        std::fs::write(folder.path().join("file"), "0123456789").unwrap();
        let file = open_below(dir.as_fd(), c"file", libc::O_RDONLY, 0, BENEATH).unwrap();
        let mut text = b"head:".to_vec();
        assert_eq!(read_cached(file.as_fd(), &mut text, 100, 4).unwrap(), 6);
        assert_eq!(text, b"head:456789");
    }

    #[test]
    fn reserved_space_belongs_to_the_file_and_does_not_make_it_longer() {
        use std::os::unix::fs::MetadataExt;
        let (folder, _dir) = folder();
        let file = File::create_new(folder.path().join("file")).unwrap();
        match reserve(file.as_fd(), 0, 1 << 20) {
            Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => return,
            reserved => reserved.unwrap(),
        }
        let facts = file.metadata().unwrap();
        assert_eq!(facts.len(), 0);
        assert!(facts.blocks() * 512 >= 1 << 20);
    }

    #[test]
    fn fresh_file_is_resident_and_a_hole_is_not() {
        let (folder, _dir) = folder();
        let path = folder.path().join("file");
        std::fs::write(&path, vec![1; 100_000]).unwrap();
        let file = File::open(&path).unwrap();
        let view = View::new(file.as_fd(), 100_000).unwrap();
        assert!(view.is_resident(5000, 95_000));
        assert!(!view.is_resident(5000, 95_001));
        File::options().write(true).open(&path).unwrap().set_len(50_000).unwrap();
        assert!(!view.is_resident(5000, 95_000));
        let hole = File::create_new(folder.path().join("hole")).unwrap();
        hole.set_len(100_000).unwrap();
        let hole = File::open(folder.path().join("hole")).unwrap();
        assert!(!View::new(hole.as_fd(), 100_000).unwrap().is_resident(0, 100_000));
        assert!(View::new(hole.as_fd(), 0).is_none());
    }
}
