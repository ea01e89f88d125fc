//! What is below the loop device: a filesystem with one file, whose content is the disk's, and
//! which does to each operation what the disk's conduct says. The thread that takes requests from
//! the kernel never waits: what is not answered at once is kept and answered later.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ffi::OsStr;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyWrite, Request, WriteFlags,
};

use super::conduct::{Conduct, EVERYTHING, Fate, Op};
use super::{Event, Image, Recording};
use crate::harness::DEADLINE;

/// The name of the one file.
pub const FILE: &str = "disk";
const NUMBER: INodeNo = INodeNo(2);
/// More than a loop device ever has under way.
const SIDE_BY_SIDE: u16 = 1024;
const LARGEST: u32 = 1 << 20;
const FOR_EVER: Duration = Duration::from_secs(1 << 30);

/// The disk itself, shared by who serves it and who commands it.
#[derive(Clone)]
pub struct Platter(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    image: Image,
    conduct: Conduct,
    held: Vec<Job>,
    later: BinaryHeap<Reverse<Later>>,
    recording: Option<Recording>,
    served: [u64; 3],
    failed: [u64; 3],
    flushes: u64,
    order: u64,
    over: bool,
}

/// One operation, and who is to be told.
struct Job {
    op: Op,
    bytes: Range<u64>,
    content: Vec<u8>,
    flush: u64,
    reply: Reply,
}

enum Reply {
    Read(ReplyData),
    Write(ReplyWrite),
    Flush(ReplyEmpty),
}

/// A job for another time; those for one time are done in their order.
struct Later {
    at: Instant,
    order: u64,
    job: Job,
}

impl Platter {
    /// With this content.
    pub fn new(image: Image) -> Platter {
        let state = State {
            image,
            conduct: Conduct::default(),
            held: Vec::new(),
            later: BinaryHeap::new(),
            recording: None,
            served: [0; 3],
            failed: [0; 3],
            flushes: 0,
            order: 0,
            over: false,
        };
        Platter(Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() }))
    }

    /// Changes how it behaves from now on.
    pub fn conduct(&self, change: impl FnOnce(&mut Conduct)) {
        change(&mut self.lock().conduct);
    }

    /// Lets those kinds go on, and does what of them has hung.
    pub fn release(&self, ops: &[Op]) {
        let mut state = self.lock();
        ops.iter().for_each(|op| state.conduct.hang(*op, false));
        let (go, stay) = std::mem::take(&mut state.held)
            .into_iter()
            .partition::<Vec<_>, _>(|job| ops.contains(&job.op));
        state.held = stay;
        for job in go {
            let fate = state.conduct.paced(job.op, &job.bytes, Instant::now());
            self.meet(&mut state, job, fate);
        }
    }

    /// A sound disk from now on.
    pub fn mend(&self) {
        self.lock().conduct.mend();
        self.release(&EVERYTHING);
    }

    /// As it is now.
    pub fn image(&self) -> Image {
        self.lock().image.clone()
    }

    /// Begins to record; what was recorded before is forgotten.
    pub fn record(&self) {
        let mut state = self.lock();
        state.recording = Some(Recording::new(state.image.clone()));
    }

    /// How much has been recorded: what is acknowledged to anybody now was on its way before.
    pub fn recorded(&self) -> usize {
        self.lock().recording.as_ref().map_or(0, |recording| recording.events().len())
    }

    /// The recording so far.
    pub fn recording(&self) -> Option<Recording> {
        self.lock().recording.clone()
    }

    /// How many operations of a kind hang.
    pub fn held(&self, op: Op) -> usize {
        self.lock().held(op)
    }

    /// How many operations of a kind were done.
    pub fn served(&self, op: Op) -> u64 {
        self.lock().served[op as usize]
    }

    /// How many operations of a kind have failed.
    pub fn failed(&self, op: Op) -> u64 {
        self.lock().failed[op as usize]
    }

    /// Waits until so many hang.
    pub fn wait_for_held(&self, op: Op, count: usize) {
        let (begun, mut state) = (Instant::now(), self.lock());
        while state.held(op) < count {
            let left = DEADLINE.saturating_sub(begun.elapsed());
            assert!(!left.is_zero(), "{} of {count} {op:?} hang", state.held(op));
            state = self.wait(state, left);
        }
    }

    /// Does the jobs that are for later, each in its time, until it is over.
    pub fn keep_time(&self) {
        let mut state = self.lock();
        while !state.over {
            let now = Instant::now();
            let due = state.later.peek().map(|Reverse(next)| next.at);
            match due {
                Some(at) if at <= now => {
                    let next = state.later.pop().expect("just seen").0;
                    state.finish(next.job, Ok(()));
                    self.0.changed.notify_all();
                }
                due => {
                    let patience = due.map_or(FOR_EVER, |at| at - now);
                    state = self.wait(state, patience);
                }
            }
        }
    }

    /// Lets go of whatever there is, and ends [`Platter::keep_time`].
    pub fn end(&self) {
        self.mend();
        let mut state = self.lock();
        while let Some(Reverse(next)) = state.later.pop() {
            state.finish(next.job, Ok(()));
        }
        state.over = true;
        self.0.changed.notify_all();
    }

    fn arrive(&self, op: Op, offset: u64, length: usize, content: Vec<u8>, reply: Reply) {
        let mut state = self.lock();
        let bytes = offset..offset + length as u64;
        let flush = if op == Op::Flush { state.flush_begins() } else { 0 };
        let fate = state.conduct.fate(op, &bytes, Instant::now());
        self.meet(&mut state, Job { op, bytes, content, flush, reply }, fate);
    }

    fn meet(&self, state: &mut State, job: Job, fate: Fate) {
        match fate {
            Fate::Hangs => state.held.push(job),
            Fate::Fails(errno) => state.finish(job, Err(Errno::from_i32(errno))),
            Fate::Done(at) if at <= Instant::now() || state.over => state.finish(job, Ok(())),
            Fate::Done(at) => {
                state.order += 1;
                let order = state.order;
                state.later.push(Reverse(Later { at, order, job }));
            }
        }
        self.0.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, time: Duration) -> MutexGuard<'a, State> {
        self.0.changed.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0
    }
}

impl State {
    fn held(&self, op: Op) -> usize {
        self.held.iter().filter(|job| job.op == op).count()
    }

    fn flush_begins(&mut self) -> u64 {
        self.flushes += 1;
        self.note(Event::FlushBegins(self.flushes));
        self.flushes
    }

    fn note(&mut self, event: Event) {
        if let Some(recording) = &mut self.recording {
            recording.add(event);
        }
    }

    fn finish(&mut self, job: Job, result: Result<(), Errno>) {
        let counts = if result.is_ok() { &mut self.served } else { &mut self.failed };
        counts[job.op as usize] += 1;
        match (job.reply, result) {
            (Reply::Read(reply), Ok(())) => {
                let length = job.bytes.end - job.bytes.start;
                reply.data(&self.image.read(job.bytes.start, length as usize));
            }
            (Reply::Write(reply), Ok(())) => {
                self.image.write(job.bytes.start, &job.content);
                let written = job.content.len() as u32;
                if self.recording.is_some() {
                    let bytes = job.content.into();
                    self.note(Event::Write { offset: job.bytes.start, bytes });
                }
                reply.written(written);
            }
            (Reply::Flush(reply), Ok(())) => {
                self.note(Event::FlushEnds(job.flush));
                reply.ok();
            }
            (Reply::Read(reply), Err(errno)) => reply.error(errno),
            (Reply::Write(reply), Err(errno)) => reply.error(errno),
            (Reply::Flush(reply), Err(errno)) => reply.error(errno),
        }
    }

    fn facts(&self, number: INodeNo) -> FileAttr {
        let (kind, size) = match number {
            INodeNo::ROOT => (FileType::Directory, 0),
            _ => (FileType::RegularFile, self.image.size()),
        };
        let time = SystemTime::UNIX_EPOCH;
        FileAttr {
            ino: number,
            size,
            blocks: size / 512,
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm: 0o700,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

impl PartialEq for Later {
    fn eq(&self, other: &Later) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Later {}

impl PartialOrd for Later {
    fn partial_cmp(&self, other: &Later) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Later {
    fn cmp(&self, other: &Later) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

impl Filesystem for Platter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // The loop device's own requests are then all under way at once.
        let missing = |_| std::io::Error::other("FUSE without asynchronous direct I/O");
        config.add_capabilities(InitFlags::FUSE_ASYNC_DIO).map_err(missing)?;
        // An error is the nearest value that works, which these are not past.
        let _ = config.set_max_background(SIDE_BY_SIDE);
        let _ = config.set_congestion_threshold(SIDE_BY_SIDE);
        let _ = config.set_max_write(LARGEST);
        Ok(())
    }

    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name == FILE {
            true => reply.entry(&FOR_EVER, &self.lock().facts(NUMBER), Generation(0)),
            false => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FOR_EVER, &self.lock().facts(number));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let flags = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES;
        reply.opened(FileHandle(0), flags);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.arrive(Op::Read, offset, size as usize, Vec::new(), Reply::Read(reply));
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.arrive(Op::Write, offset, data.len(), data.to_vec(), Reply::Write(reply));
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok(); // A close, which keeps nothing safe.
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.arrive(Op::Flush, 0, 0, Vec::new(), Reply::Flush(reply));
    }
}
