//! The operations of the filesystem, each done now, later, or never.

use std::ffi::OsStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use fuser::{
    Errno, FileAttr, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, LockOwner, OpenFlags,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use super::tree::{BLOCK, Inode, Tree};
use super::{Kind, Mode};

const BLOCKS: u64 = 1 << 20;

/// Gets true when the operation is to fail.
type Held = Box<dyn FnOnce(bool) + Send>;

/// A disk that can be broken. Its clones are the same one.
#[derive(Clone)]
pub(super) struct Disk {
    state: Arc<Mutex<State>>,
    /// How long the kernel may keep names and facts.
    lifetime: Duration,
}

struct State {
    modes: [Mode; 3],
    held: Vec<(Kind, Held)>,
    tree: Tree,
}

impl Disk {
    /// An empty one that works.
    pub(super) fn new(lifetime: Duration) -> Disk {
        let state = State { modes: [Mode::Work; 3], held: Vec::new(), tree: Tree::new() };
        Disk { state: Arc::new(Mutex::new(state)), lifetime }
    }

    /// Sets what becomes of some kinds of operations, and of those of them that hang.
    pub(super) fn set(&self, kinds: &[Kind], mode: Mode) {
        let held = {
            let mut state = self.lock();
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
    pub(super) fn held(&self) -> usize {
        self.lock().held.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does an operation now, later, or never, and answers it.
    fn serve<T>(
        &self,
        kind: Kind,
        work: impl FnOnce(&mut Tree) -> Result<T, Errno> + Send + 'static,
        answer: impl FnOnce(Result<T, Errno>) + Send + 'static,
    ) {
        let disk = self.clone();
        let operation = move |fails: bool| {
            let done = if fails { Err(Errno::EIO) } else { work(&mut disk.lock().tree) };
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
        self.serve(Kind::Look, move |tree| tree.find(folder, &name), entry(self.lifetime, reply));
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.serve(Kind::Look, move |tree| tree.facts(number), attr(self.lifetime, reply));
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
        let list = move |tree: &mut Tree| tree.list(folder);
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
        let there = move |tree: &mut Tree| tree.facts(number);
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
        let part = move |tree: &mut Tree| tree.read(number, offset as usize, size as usize);
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
        let change = move |tree: &mut Tree| tree.change(number, mode, size);
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
        let make = move |tree: &mut Tree| tree.add(folder, &name, Inode::folder(mode));
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
        let make = move |tree: &mut Tree| tree.add(folder, &name, Inode::file(mode));
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
        let write = move |tree: &mut Tree| tree.write(number, offset as usize, &data);
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
        let rename = move |tree: &mut Tree| tree.rename((folder, &name), (new_folder, new_name));
        self.serve(Kind::Change, rename, empty(reply));
    }

    fn unlink(&self, _: &Request, folder: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        self.serve(Kind::Change, move |tree| tree.remove(folder, &name), empty(reply));
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
