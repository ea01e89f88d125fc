//! The loop of one worker: waits, finds out what each event means for a connection, and acts on
//! what the connection waits for next. This thread never touches a disk and never blocks.
//!
//! | module | holds |
//! |---|---|
//! | `advance` | moving one connection on, acting on what it waits for |
//! | `requests`, `lines` | what a peer has sent: HTTP requests, sidechannel lines |
//! | `serve`, `cached`, `commands` | a request, what the page cache has for it, a line: answered, lent to a disk thread, handed over |
//! | `discard`, `lend`, `loans`, `hand_over` | unwanted bodies; to a disk thread and back; to another worker |
//! | `accept`, `adopt`, `parcels` | new connections, theirs and others' into the loop and out of it; what other workers send |
//! | `from_master`, `drain`, `leaving` | what the master and signals say; leaving, and when what of it is due |
//! | `to_master` | what the sidechannel asks of the whole node, on its way to the master |
//! | `tick`, `devices`, `docroots` | what is done by the clock: deadlines, devices, which devices there are |
//! | `tracing` | requests that are noted for the access log and the log of slow operations |
//! | `schedule`, `yielding` | who goes on without an event; when the loop lets the disk threads run first |

mod accept;
mod adopt;
mod advance;
mod cached;
mod commands;
mod devices;
mod discard;
mod docroots;
mod drain;
mod from_master;
mod hand_over;
mod leaving;
mod lend;
mod lines;
mod loans;
mod parcels;
mod requests;
mod schedule;
mod serve;
mod tick;
mod to_master;
mod tracing;
mod yielding;

pub use tick::odd_usage_interval;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::Signal;

use crate::clients::balance::Balance;
use crate::clients::heirs::Heirs;
use crate::clients::inbox::Inbox;
use crate::clients::listeners::Listeners;
use crate::clients::neighbours::Neighbours;
use crate::clients::table::Table;
use crate::clients::timers::Timers;
use crate::clients::watchers::Watchers;
use crate::clock::Clock;
use crate::control::{Channel, Up};
use crate::disk::busy_monitor::BusyMonitor;
use crate::disk::completions::Done;
use crate::disk::devices::Devices;
use crate::disk::dirs_in_use::DirsInUse;
use crate::disk::hot_files::OpenFiles;
use crate::disk::listings::Listings;
use crate::disk::operation::Outcome;
use crate::disk::work::Context;
use crate::disk::{faults, shortage};
use crate::event_loop::leaving::Drain;
use crate::event_loop::loans::Loans;
use crate::event_loop::schedule::Schedule;
use crate::event_loop::tick::usage_interval;
use crate::event_loop::to_master::ToMaster;
use crate::event_loop::tracing::Tracing;
use crate::scoreboard::{Scoreboard, WorkerSlot, WorkerState};
use crate::sidechannel::fsck::FsckQueues;
use crate::spec::{Settings, WorkerId, WorkerSpec};
use crate::sys::signal::Signals;

const WAKER: usize = 0;
const CONTROL: usize = 1;
const INBOX: usize = 2;
const SIGNALS: usize = 3;
/// Token of what tells of changes of docroots.
const DOCROOTS: usize = 4;
/// Token of the first listener.
const FIRST_LISTENER: usize = 16;
/// Token of the first connection; listeners are far fewer.
pub(crate) const FIRST_CONN: usize = 4096;

/// Read buffer of the loop; connections borrow it one at a time.
const READ_BUFFER: usize = 16 * 1024;
/// Descriptors that there is room for from the start; the kernel takes 8 bytes for each.
const MOST_ROOM: u64 = 16 * 1024;

/// A worker at work: its parts, which know nothing of each other. Only the modules of this folder
/// know all of them.
pub(crate) struct Worker {
    id: WorkerId,
    board: Scoreboard,
    /// Its own slot there.
    slot: &'static WorkerSlot,
    settings: Settings,
    /// What disk threads share with the loop.
    context: Arc<Context>,
    clock: Clock,
    schedule: Schedule,
    drain: Drain,
    tracing: Tracing,
    /// Writes the log to another file.
    reopen_log: fn(OwnedFd),

    // The way in and out.
    poll: Poll,
    signals: Signals,
    control: Channel,
    /// For the master, when the channel takes it.
    to_master: ToMaster,
    listeners: Listeners,
    inbox: Inbox,
    /// The way into it, for what this worker leaves behind, once the master has sent that.
    way_back: Option<OwnedFd>,
    neighbours: Neighbours,
    balance: Balance,
    heirs: Heirs,

    // Clients.
    conns: Table,
    timers: Timers,
    loans: Loans,
    watchers: Watchers,
    fsck: FsckQueues,
    /// Answers of the connection being served.
    out: Vec<u8>,
    /// What is being read of a connection.
    scratch: Vec<u8>,

    // Disks.
    devices: Devices,
    dirs: DirsInUse,
    listings: Listings,
    files: OpenFiles,
    busy: BusyMonitor,
    /// Outcomes being looked at.
    done: Vec<Done>,
}

/// Grows the table of descriptors at once: once there are threads the kernel waits for all
/// processors before it goes on with a larger one (`synchronize_rcu` below `expand_files`), in
/// whichever thread opens the file that no longer fits.
fn make_room_for_descriptors(most: u64) {
    let last = most.min(MOST_ROOM).saturating_sub(1) as i32;
    if let Ok(null) = io::pipe()
        && let Err(e) = fcntl(&null.0, FcntlArg::F_DUPFD_CLOEXEC(last)).and_then(nix::unistd::close)
    {
        log::debug!("the table of descriptors stays small: {e}");
    }
}

/// Waits for what there is to read of these.
fn poll_for(sources: [(BorrowedFd<'_>, usize); 3]) -> io::Result<Poll> {
    let poll = Poll::new()?;
    for (fd, token) in sources {
        let mut source = SourceFd(&fd.as_raw_fd());
        poll.registry().register(&mut source, Token(token), Interest::READABLE)?;
    }
    Ok(poll)
}

impl Worker {
    /// Sets up everything but the listeners.
    pub(crate) fn new(spec: WorkerSpec) -> io::Result<Worker> {
        let signals = Signals::new(&[Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGINT])?;
        let poll = poll_for([
            (spec.control.as_fd(), CONTROL),
            (spec.inbox.as_fd(), INBOX),
            (signals.as_fd(), SIGNALS),
        ])?;
        let (board, fsync) = (spec.board, spec.settings.fsync);
        let context = Arc::new(Context::new(board, spec.id, fsync, poll.registry(), Token(WAKER))?);
        // Where a sandbox does not tell the limit it is taken for the usual one.
        let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
        let most = descriptors.min(spec.settings.maxconns as u64);
        make_room_for_descriptors(most);
        let slot = board.worker(spec.id);
        let tracing = Tracing::start(&spec.settings, spec.accesslog, (spec.id, slot))?;
        let threads = spec.settings.aio_threads;
        let devices = Devices::new(
            spec.id,
            board,
            spec.sites,
            Arc::clone(&context),
            threads,
            usage_interval(),
        );
        Ok(Worker {
            id: spec.id,
            board: spec.board,
            slot,
            settings: spec.settings,
            context,
            clock: Clock::start()?,
            schedule: Schedule::default(),
            drain: Drain::default(),
            tracing,
            reopen_log: spec.reopen_log,
            poll,
            signals,
            control: spec.control,
            to_master: ToMaster::default(),
            listeners: Listeners::new(spec.listeners, FIRST_LISTENER),
            inbox: Inbox::new(spec.inbox, descriptors),
            way_back: None,
            neighbours: Neighbours::new(spec.id, spec.board, spec.peers),
            balance: Balance::new(most),
            heirs: Heirs::default(),
            conns: Table::default(),
            timers: Timers::default(),
            loans: Loans::default(),
            watchers: Watchers::default(),
            fsck: FsckQueues::default(),
            out: Vec::new(),
            scratch: vec![0; READ_BUFFER],
            devices,
            dirs: DirsInUse::default(),
            listings: Listings::default(),
            files: OpenFiles::new(descriptors),
            busy: BusyMonitor::new(),
            done: Vec::new(),
        })
    }

    /// Serves until drained.
    pub(crate) fn run(&mut self) -> io::Result<()> {
        self.clock.look();
        self.listeners.watch(&self.poll)?;
        self.slot.heartbeat.store(self.clock.monotonic(), Relaxed);
        for (_, device) in self.board.devices() {
            if device.owner() == self.id {
                device.settle_changes();
            }
        }
        self.slot.set_state(WorkerState::Running);
        self.control.send(&Up::Ready, None)?;
        let mut events = Events::with_capacity(256);
        while !self.drained() {
            self.wait(&mut events)?;
            for event in &events {
                self.dispatch(event);
            }
            self.take_completions();
            self.share_dirs();
            self.take_parcels();
            self.continue_others();
            if self.schedule.tick_is_due(self.clock.now()) {
                self.tick();
            }
            self.schedule.end_round(self.clock.now());
        }
        self.busy.stop();
        faults::tell_last();
        shortage::tell_last();
        self.tracing.finish();
        Ok(())
    }

    fn wait(&mut self, events: &mut Events) -> io::Result<()> {
        let busy = self.schedule.has_some() || self.inbox.is_ready();
        let ahead = if busy { 0 } else { self.schedule.until_tick(self.clock.now()) };
        let timeout = Duration::from_millis(ahead);
        match self.poll.poll(events, Some(timeout)) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => events.clear(),
            result => result?,
        }
        if !events.is_empty() {
            self.slot.wakeups.fetch_add(1, Relaxed);
        }
        self.clock.look();
        Ok(())
    }

    fn dispatch(&mut self, event: &Event) {
        match event.token().0 {
            WAKER => {}
            CONTROL => self.take_messages(),
            INBOX => self.inbox.note_arrival(),
            SIGNALS => self.take_signals(),
            DOCROOTS => self.heed_docroots(),
            token if token >= FIRST_CONN => {
                let key = token - FIRST_CONN;
                let Some(conn) = self.conns.get_mut(key) else { return };
                let (readable, writable) = (event.is_readable(), event.is_writable());
                conn.note_event(readable, writable, event.is_read_closed());
                self.advance(key);
            }
            listener => _ = self.accept(listener - FIRST_LISTENER),
        }
    }

    fn take_completions(&mut self) {
        let mut done = std::mem::take(&mut self.done);
        self.context.take_outcomes(&mut done);
        for Done { client, outcome } in done.drain(..) {
            match (client, outcome) {
                (Some(client), outcome) => self.complete(client, outcome),
                (None, Outcome::Listed(site, devids)) => self.tell_devices(site, devids),
                (None, _) => {}
            }
        }
        self.done = done;
    }

    fn continue_others(&mut self) {
        for key in self.schedule.take() {
            self.advance(key);
        }
    }
}
