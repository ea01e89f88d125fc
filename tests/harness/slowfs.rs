//! A filesystem in memory whose operations hang, crawl or fail on command: a disk that can be
//! broken and mended. An operation that hangs has been read by the filesystem and not been
//! answered, so that the kernel keeps its thread in uninterruptible sleep, SIGKILL or not.
//!
//! It runs in threads of the test. Tests must not touch its folder while it hangs.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow,
    WriteFlags,
};
use nix::mount::{MntFlags, umount2};

use super::{Node, Setup, skipped};

/// The ways in which devices are shared out over workers.
pub const MODES: [&str; 3] = ["device", "cpu", "1"];

/// Nothing is cached: each look at a name asks the filesystem.
const UNCACHED: Duration = Duration::ZERO;
/// What was looked at once is known.
const CACHED: Duration = Duration::from_secs(3600);
const BLOCK: u32 = 4096;
const BLOCKS: u64 = 1 << 20;

/// What an operation is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Names, facts, numbers, lists.
    Look,
    /// Content of files.
    Read,
    /// Anything that changes something.
    Change,
}

/// What becomes of operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// They are done.
    Work,
    /// They wait for another mode.
    Hang,
    /// They are done after so long.
    Crawl(Duration),
    /// They fail: EIO.
    Fail,
}

/// A mounted filesystem. Dropping it lets go whatever hangs, and unmounts it.
pub struct SlowFs {
    disk: Disk,
    mountpoint: PathBuf,
    session: Option<BackgroundSession>,
}

/// A node whose dev1 is such a filesystem; dev2 to dev4 are real folders.
pub struct Sick {
    /// Ends before the node, so that nothing of it hangs when it is told to go.
    pub disk: SlowFs,
    /// The node.
    pub node: Node,
    /// Its mode: one of [`MODES`].
    pub workers: &'static str,
}

impl Sick {
    /// Starts it with further arguments.
    pub fn start(workers: &'static str, args: &[&str]) -> Sick {
        let setup = Setup::new().devices(4).workers(workers);
        let setup = args.iter().fold(setup, |setup, arg| setup.arg(arg));
        let disk = SlowFs::mount(&setup.folder().join("dev1"));
        Sick { disk, node: setup.start(), workers }
    }
}

/// Runs a test once for each of [`MODES`], at the same time, or tells why not. When one fails the
/// others are still waited for.
pub fn in_each_mode(args: &[&str], test: impl Fn(&Sick) + Sync) {
    if !has_fuse() {
        return skipped("not root, or no /dev/fuse");
    }
    thread::scope(|scope| {
        for workers in MODES {
            let test = &test;
            scope.spawn(move || test(&Sick::start(workers, args)));
        }
    });
}

/// True where such a filesystem can be mounted.
pub fn has_fuse() -> bool {
    nix::unistd::geteuid().is_root()
        && std::fs::File::options().read(true).write(true).open("/dev/fuse").is_ok()
}

impl SlowFs {
    /// Mounts a new, empty one that works.
    pub fn mount(mountpoint: &Path) -> SlowFs {
        SlowFs::mount_with(mountpoint, UNCACHED)
    }

    /// As [`SlowFs::mount`], but the kernel keeps names and facts: what was looked at once is
    /// opened without a look.
    pub fn mount_cached(mountpoint: &Path) -> SlowFs {
        SlowFs::mount_with(mountpoint, CACHED)
    }

    fn mount_with(mountpoint: &Path, lifetime: Duration) -> SlowFs {
        let disk = Disk { state: Arc::new(Mutex::new(State::new())), lifetime };
        let session = fuser::spawn_mount(disk.clone(), mountpoint, &Config::default());
        let session = Some(session.expect("root mounts on a folder"));
        SlowFs { disk, mountpoint: mountpoint.to_owned(), session }
    }

    /// Sets what becomes of all operations from now on, and of those that hang.
    pub fn set(&self, mode: Mode) {
        self.set_only(&[Kind::Look, Kind::Read, Kind::Change], mode);
    }

    /// The same for some kinds only.
    pub fn set_only(&self, kinds: &[Kind], mode: Mode) {
        let held = {
            let mut state = self.disk.lock();
            kinds.iter().for_each(|kind| state.modes[*kind as usize] = mode);
            if mode == Mode::Hang {
                return;
            }
            let (go, stay) = std::mem::take(&mut state.held)
                .into_iter()
                .partition::<Vec<_>, _>(|(kind, _)| kinds.contains(kind));
            state.held = stay;
            go
        };
        held.into_iter().for_each(|(_, operation)| operation(mode == Mode::Fail));
    }

    /// How many operations hang now.
    pub fn held(&self) -> usize {
        self.disk.lock().held.len()
    }
}

impl Drop for SlowFs {
    fn drop(&mut self) {
        self.set(Mode::Work);
        // Lazily: a node that still runs may have files open. An error would mean that the test
        // has unmounted it already.
        let _ = umount2(&self.mountpoint, MntFlags::MNT_DETACH);
        // Its thread ends with the last open file.
        drop(self.session.take());
    }
}

/// Gets true when the operation is to fail.
type Held = Box<dyn FnOnce(bool) + Send>;

#[derive(Clone)]
struct Disk {
    state: Arc<Mutex<State>>,
    /// How long the kernel may keep names and facts.
    lifetime: Duration,
}

struct State {
    modes: [Mode; 3],
    held: Vec<(Kind, Held)>,
    nodes: HashMap<u64, Inode>,
    last: u64,
}

struct Inode {
    entries: Option<BTreeMap<OsString, u64>>,
    content: Vec<u8>,
    mode: u16,
    changed: SystemTime,
}

impl Disk {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does an operation now, later, or never, and answers it.
    fn serve<T>(
        &self,
        kind: Kind,
        work: impl FnOnce(&mut State) -> Result<T, Errno> + Send + 'static,
        answer: impl FnOnce(Result<T, Errno>) + Send + 'static,
    ) {
        let disk = self.clone();
        let operation = move |fails: bool| {
            let done = if fails { Err(Errno::EIO) } else { work(&mut disk.lock()) };
            answer(done);
        };
        let mut state = self.lock();
        match state.modes[kind as usize] {
            Mode::Hang => state.held.push((kind, Box::new(operation))),
            Mode::Crawl(time) => {
                drop(state);
                thread::spawn(move || {
                    thread::sleep(time); // What the test is about; nothing is waited for.
                    operation(false);
                });
            }
            mode => {
                drop(state);
                operation(mode == Mode::Fail);
            }
        }
    }
}

impl State {
    fn new() -> State {
        let nodes = HashMap::from([(INodeNo::ROOT.0, Inode::folder(0o755))]);
        State { modes: [Mode::Work; 3], held: Vec::new(), nodes, last: INodeNo::ROOT.0 }
    }

    fn node(&mut self, number: INodeNo) -> Result<&mut Inode, Errno> {
        self.nodes.get_mut(&number.0).ok_or(Errno::ENOENT)
    }

    fn entries(&mut self, folder: INodeNo) -> Result<&mut BTreeMap<OsString, u64>, Errno> {
        self.node(folder)?.entries.as_mut().ok_or(Errno::ENOTDIR)
    }

    fn facts(&mut self, number: INodeNo) -> Result<FileAttr, Errno> {
        self.node(number).map(|node| node.facts(number))
    }

    fn find(&mut self, folder: INodeNo, name: &OsStr) -> Result<FileAttr, Errno> {
        let number = *self.entries(folder)?.get(name).ok_or(Errno::ENOENT)?;
        self.facts(INodeNo(number))
    }

    fn add(&mut self, folder: INodeNo, name: &OsStr, node: Inode) -> Result<FileAttr, Errno> {
        if self.entries(folder)?.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        self.last += 1;
        let number = self.last;
        self.nodes.insert(number, node);
        self.entries(folder)?.insert(name.to_owned(), number);
        self.facts(INodeNo(number))
    }

    /// The node stays, as for a file that is open; the test is short.
    fn remove(&mut self, folder: INodeNo, name: &OsStr) -> Result<u64, Errno> {
        self.entries(folder)?.remove(name).ok_or(Errno::ENOENT)
    }

    fn list(&mut self, folder: INodeNo) -> Result<Vec<(u64, FileType, OsString)>, Errno> {
        let entries = self.entries(folder)?.clone();
        let entry = |(name, number)| {
            let kind = self.nodes.get(&number).map_or(FileType::RegularFile, Inode::kind);
            (number, kind, name)
        };
        Ok(entries.into_iter().map(entry).collect())
    }
}

impl Inode {
    fn folder(mode: u16) -> Inode {
        Inode { entries: Some(BTreeMap::new()), ..Inode::file(mode) }
    }

    fn file(mode: u16) -> Inode {
        Inode { entries: None, content: Vec::new(), mode, changed: SystemTime::now() }
    }

    fn kind(&self) -> FileType {
        if self.entries.is_some() { FileType::Directory } else { FileType::RegularFile }
    }

    fn facts(&self, number: INodeNo) -> FileAttr {
        let size = self.content.len() as u64;
        FileAttr {
            ino: number,
            size,
            blocks: size.div_ceil(512),
            atime: self.changed,
            mtime: self.changed,
            ctime: self.changed,
            crtime: self.changed,
            kind: self.kind(),
            perm: self.mode,
            nlink: if self.entries.is_some() { 2 } else { 1 },
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: BLOCK,
            flags: 0,
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> u32 {
        let (from, to) = (offset as usize, offset as usize + data.len());
        self.content.resize(self.content.len().max(to), 0);
        self.content[from..to].copy_from_slice(data);
        self.changed = SystemTime::now();
        data.len() as u32
    }
}

fn entry(lifetime: Duration, reply: ReplyEntry) -> impl FnOnce(Result<FileAttr, Errno>) {
    move |done| match done {
        Ok(facts) => reply.entry(&lifetime, &facts, Generation(0)),
        Err(errno) => reply.error(errno),
    }
}

fn attr(lifetime: Duration, reply: ReplyAttr) -> impl FnOnce(Result<FileAttr, Errno>) {
    move |done| match done {
        Ok(facts) => reply.attr(&lifetime, &facts),
        Err(errno) => reply.error(errno),
    }
}

fn empty<T>(reply: ReplyEmpty) -> impl FnOnce(Result<T, Errno>) {
    |done| match done {
        Ok(_) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

impl Filesystem for Disk {
    fn lookup(&self, _: &Request, folder: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.to_owned();
        self.serve(Kind::Look, move |state| state.find(folder, &name), entry(self.lifetime, reply));
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.serve(Kind::Look, move |state| state.facts(number), attr(self.lifetime, reply));
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let free = BLOCKS / 2;
        self.serve(
            Kind::Look,
            |_| Ok(()),
            move |done| match done {
                Ok(()) => reply.statfs(BLOCKS, free, free, BLOCKS, free, BLOCK, 255, BLOCK),
                Err(errno) => reply.error(errno),
            },
        );
    }

    fn readdir(
        &self,
        _: &Request,
        folder: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let list = move |state: &mut State| state.list(folder);
        self.serve(Kind::Look, list, move |done| match done {
            Ok(list) => {
                for (at, (number, kind, name)) in list.iter().enumerate().skip(offset as usize) {
                    if reply.add(INodeNo(*number), at as u64 + 1, *kind, name) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(errno) => reply.error(errno),
        });
    }

    fn open(&self, _: &Request, number: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let there = move |state: &mut State| state.facts(number);
        self.serve(Kind::Read, there, |done| match done {
            Ok(_) => reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO),
            Err(errno) => reply.error(errno),
        });
    }

    fn read(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let part = move |state: &mut State| {
            let content = &state.node(number)?.content;
            let from = content.len().min(offset as usize);
            let to = content.len().min(from + size as usize);
            Ok(content[from..to].to_vec())
        };
        self.serve(Kind::Read, part, |done| match done {
            Ok(part) => reply.data(&part),
            Err(errno) => reply.error(errno),
        });
    }

    fn setattr(
        &self,
        _: &Request,
        number: INodeNo,
        mode: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let change = move |state: &mut State| {
            let node = state.node(number)?;
            node.mode = mode.map_or(node.mode, |mode| (mode & 0o7777) as u16);
            size.inspect(|size| node.content.resize(*size as usize, 0));
            state.facts(number)
        };
        self.serve(Kind::Change, change, attr(self.lifetime, reply));
    }

    fn mkdir(
        &self,
        _: &Request,
        folder: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let (name, mode) = (name.to_owned(), (mode & !umask & 0o7777) as u16);
        let make = move |state: &mut State| state.add(folder, &name, Inode::folder(mode));
        self.serve(Kind::Change, make, entry(self.lifetime, reply));
    }

    fn create(
        &self,
        _: &Request,
        folder: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let (name, mode) = (name.to_owned(), (mode & !umask & 0o7777) as u16);
        let make = move |state: &mut State| state.add(folder, &name, Inode::file(mode));
        let lifetime = self.lifetime;
        self.serve(Kind::Change, make, move |done| match done {
            Ok(facts) => {
                let (handle, flags) = (FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
                reply.created(&lifetime, &facts, Generation(0), handle, flags);
            }
            Err(errno) => reply.error(errno),
        });
    }

    fn write(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let data = data.to_vec();
        let write = move |state: &mut State| Ok(state.node(number)?.write(offset, &data));
        self.serve(Kind::Change, write, |done| match done {
            Ok(written) => reply.written(written),
            Err(errno) => reply.error(errno),
        });
    }

    fn rename(
        &self,
        _: &Request,
        folder: INodeNo,
        name: &OsStr,
        new_folder: INodeNo,
        new_name: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (name, new_name) = (name.to_owned(), new_name.to_owned());
        let rename = move |state: &mut State| {
            let number = state.remove(folder, &name)?;
            state.entries(new_folder).map(|entries| entries.insert(new_name, number))
        };
        self.serve(Kind::Change, rename, empty(reply));
    }

    fn unlink(&self, _: &Request, folder: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        self.serve(Kind::Change, move |state| state.remove(folder, &name), empty(reply));
    }

    fn rmdir(&self, request: &Request, folder: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.unlink(request, folder, name, reply);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        self.serve(Kind::Look, |_| Ok(()), empty(reply));
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.serve(Kind::Change, |_| Ok(()), empty(reply));
    }
}
