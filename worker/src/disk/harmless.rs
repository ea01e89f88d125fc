//! The calls on a device that a loop may make. Each says why it does not wait for a disk: by which
//! function of the kernel, on which filesystems. Nothing else gets at a [`DiskFd`] without being a
//! disk thread. The filesystems are those of [`Traits::inline_reads`]: ext4, XFS and btrfs; the
//! experiments are in tests/real_disk.
//!
//! All of it is for devices that are neither stalled nor suspect. That is asked first; what
//! follows then holds for the quarter of a second in which a disk that begins to hang is not yet
//! suspect.
//!
//! [`Traits::inline_reads`]: crate::disk::device_dir::Traits::inline_reads

use std::ffi::CStr;
use std::io;
use std::os::fd::BorrowedFd;

use nix::sys::stat::FileStat;

use crate::disk::device_dir::DeviceDir;
use crate::disk::disk_fd::DiskFd;
use crate::disk::open::READ;
use crate::sys::file::{self, CACHED, View, open_below, page_size};

/// Opens a file by its name, if the way to it is in memory.
///
/// `do_filp_open` with `LOOKUP_CACHED` walks the dentry cache under RCU and gives up (`EAGAIN`)
/// where it would have to ask the filesystem; it does not follow links that are not in memory. The
/// filesystem's own `open` of a regular file does no I/O: `ext4_file_open` (but for the first one
/// after a mount, which notes the mount's name in a journal transaction:
/// [`DeviceDir::is_tried`]), `xfs_file_open`, `btrfs_file_open`. That of a folder may
/// read it, so only names of FID files are asked for. What is mounted below is not entered
/// (`EXDEV`): it may be anything. Closing is [`close`].
///
/// `EPERM`: O_NOATIME was refused. Without it reading would change the inode, a journal
/// transaction, which waits for a hung disk.
pub fn open_cached(dir: &DeviceDir, path: &CStr) -> io::Result<DiskFd> {
    let quiet = if dir.traits().updates_atime { libc::O_NOATIME } else { 0 };
    open_below(dir.in_loop(), path, READ | quiet, 0, CACHED).map(DiskFd::new)
}

/// What the inode in memory says: `vfs_fstat`. `ext4_file_getattr`, `xfs_vn_getattr` and
/// `btrfs_getattr` copy fields; the last one takes a spin lock.
pub fn stat(file: &DiskFd) -> io::Result<FileStat> {
    file::stat(file.in_loop())
}

/// Whether every page from `offset` to `end` is in the page cache, though its read may still be
/// under way: `cachestat`, which walks the tree of pages and submits nothing. `None`: the kernel
/// does not tell.
pub fn is_cached(file: &DiskFd, offset: u64, end: u64) -> Option<bool> {
    let page = page_size();
    let start = offset / page * page;
    let pages = (end - start).div_ceil(page);
    file::pages_cached(file.in_loop(), start, pages * page).ok().map(|cached| cached >= pages)
}

/// Reads what is in the page cache: `preadv2` with RWF_NOWAIT.
///
/// For pages that are absent it submits a read (`page_cache_sync_ra`), and for a page that carries
/// the readahead mark it submits the pages behind (`page_cache_async_ra`), and submitting waits for
/// a tag of a disk that hangs (`blk_mq_get_tag`). So only ask for what [`is_cached`] has seen up
/// to the end of the file: then there is nothing to submit. A page whose read has not ended is
/// `EAGAIN` (`filemap_update_page`). XFS tries the inode's lock (`xfs_ilock_iocb`).
pub fn read(file: &DiskFd, into: &mut Vec<u8>, len: usize, offset: u64) -> io::Result<usize> {
    file::read_cached(file.in_loop(), into, len, offset)
}

/// A view of a file's pages: `mmap`, which reads nothing. With O_NOATIME no access time changes.
pub fn view(file: &DiskFd, len: u64) -> Option<View> {
    View::new(file.in_loop(), len)
}

/// Sends pages that a view has just shown to be resident, up to the end of the file for the same
/// reason as in [`read`]: `filemap_splice_read`, which takes no lock on ext4 and btrfs. Not on XFS:
/// `xfs_file_splice_read` takes the inode's lock, which a writer that waits for the disk holds.
pub fn send(to: BorrowedFd<'_>, file: &DiskFd, offset: u64, count: usize) -> io::Result<usize> {
    file::sendfile(to, file.in_loop(), offset, count)
}

/// Closes a file that has a name and whose device's directory is open: `__fput` then frees no
/// blocks and unmounts nothing. `is_current`: the file has not been rewritten, for `ext4_release_file`,
/// `xfs_file_release` and `btrfs_release_file` flush one that was cut and written anew. All else
/// is closed by a disk thread.
pub fn close(file: DiskFd, is_current: impl FnOnce(&FileStat) -> bool) -> Result<(), DiskFd> {
    match stat(&file) {
        Ok(facts) if facts.st_nlink > 0 && is_current(&facts) => {
            file.close_in_loop();
            Ok(())
        }
        _ => Err(file),
    }
}

/// Closes a file of which it is known that nobody has changed or removed it since it was opened,
/// a moment ago: see [`close`].
pub fn close_unchanged(file: DiskFd) {
    file.close_in_loop();
}

/// The descriptor of a directory, to be sent to another worker. `unix(7)`: the message holds the
/// open file, no filesystem is asked.
pub fn to_send(dir: &DeviceDir) -> BorrowedFd<'_> {
    dir.in_loop()
}
