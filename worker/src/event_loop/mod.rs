//! The loop of one worker: waits, finds out what each event means for a connection, and acts on
//! what the connection waits for next. This thread never touches a disk and never blocks.
//!
//! | module | holds |
//! |---|---|
//! | `advance` | moving one connection on, acting on what it waits for |
//! | `requests`, `lines` | what a peer has sent: HTTP requests, sidechannel lines |
//! | `serve`, `obey` | a request, a line: answered, read from the page cache, lent to a disk thread, handed over |
//! | `discard`, `lend`, `transfer` | unwanted bodies; to a disk thread and back; to another worker |
//! | `accept`, `drain` | new connections; leaving |
//! | `tick`, `devices`, `docroots` | what is done by the clock: deadlines, devices, which devices there are |
//! | `measure` | what one worker measures for all: how busy the disks are |
//! | `give_way` | when the loop lets the disk threads run first |

mod accept;
mod advance;
mod devices;
mod discard;
mod docroots;
mod drain;
mod give_way;
mod lend;
mod lines;
mod measure;
mod obey;
mod requests;
mod serve;
mod tick;
mod transfer;
mod unsaid;

pub use tick::odd_usage_interval;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token, Waker};
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::Signal;

use crate::clients::balance::Balance;
use crate::clients::conn::{Conn, State};
use crate::clients::inbox::{self, MOST_INPUT, Parcel};
use crate::clients::listeners::Listeners;
use crate::clients::neighbours::Neighbours;
use crate::clients::table::Table;
use crate::clients::timers::{Timers, Wait};
use crate::clock::Clock;
use crate::control::{Channel, Down, Up};
use crate::disk::completions::{Completions, Done};
use crate::disk::device::Device;
use crate::disk::disk_fd::DiskFd;
use crate::disk::hot_files::OpenFiles;
use crate::disk::operation::{Host, Outcome};
use crate::disk::pool::Pool;
use crate::disk::work::{Context, Work};
use crate::event_loop::devices::Lives;
use crate::event_loop::drain::Drain;
use crate::event_loop::give_way::GiveWay;
use crate::event_loop::measure::Clerk;
use crate::event_loop::tick::usage_interval;
use crate::event_loop::unsaid::Unsaid;
use crate::scoreboard::{Scoreboard, WorkerSlot, WorkerState};
use crate::sidechannel::fsck::FsckQueue;
use crate::spec::{DeviceKey, Service, Settings, Site, SiteId, WorkerId, WorkerSpec};
use crate::sys::signal::Signals;
use crate::sys::socket;

const WAKER: usize = 0;
const CONTROL: usize = 1;
const INBOX: usize = 2;
const SIGNALS: usize = 3;
/// Token of the output of `MOG_IOSTAT_CMD`.
pub(crate) const IOSTAT: usize = 4;
/// Token of what tells of changes of docroots.
pub(crate) const DOCROOTS: usize = 5;
/// Token of the first listener.
const FIRST_LISTENER: usize = 16;
/// Token of the first connection; listeners are far fewer.
pub(crate) const FIRST_CONN: usize = 4096;

/// Read buffer of the loop; connections borrow it one at a time.
const READ_BUFFER: usize = 16 * 1024;
/// Descriptors that there is room for from the start; the kernel takes 8 bytes for each.
const MOST_ROOM: u64 = 16 * 1024;
/// Parcels taken from the inbox before other events get their turn.
const PARCELS: usize = 64;

/// A worker at work.
pub(crate) struct Worker {
    pub(crate) id: WorkerId,
    pub(crate) board: Scoreboard,
    pub(crate) slot: &'static WorkerSlot,
    pub(crate) settings: Settings,
    pub(crate) sites: Vec<Site>,
    pub(crate) listeners: Listeners,
    pub(crate) balance: Balance,
    pub(crate) neighbours: Neighbours,
    pub(crate) conns: Table,
    pub(crate) timers: Timers,
    pub(crate) context: Arc<Context>,
    pub(crate) devices: BTreeMap<DeviceKey, Arc<Device>>,
    pub(crate) pools: BTreeMap<DeviceKey, Pool<Work>>,
    /// When docroots were last listed, and what was found.
    pub(crate) listed: u64,
    pub(crate) told: BTreeMap<SiteId, BTreeSet<u32>>,
    /// Something is lent that is answered soon, whatever its disk does.
    pub(crate) urgent: bool,
    /// Signs of life of the disks themselves.
    pub(crate) lives: Lives,
    /// When a device's directory was last of use, on the loop's clock.
    pub(crate) used: BTreeMap<DeviceKey, u64>,
    /// When a device's directory was last asked for.
    pub(crate) wanted: BTreeMap<DeviceKey, u64>,
    /// Workers that asked for a directory of ours which is being opened.
    pub(crate) asked: BTreeMap<DeviceKey, Vec<WorkerId>>,
    /// Connections that have needed a disk thread of this worker since the last tick.
    pub(crate) rooted: HashSet<usize>,
    /// Files that stay open for a while.
    pub(crate) files: OpenFiles,
    pub(crate) drain: Option<Drain>,
    /// fsck's digests, by device.
    pub(crate) fsck: BTreeMap<DeviceKey, FsckQueue>,
    /// Connections that watch.
    pub(crate) watchers: Vec<usize>,
    pub(crate) clerk: Clerk,
    /// How often usage files are written.
    pub(crate) usage_interval: Duration,
    /// When the devices were last gone through for that.
    pub(crate) looked: u64,
    /// The loop's clock.
    pub(crate) clock: Clock,
    /// The effective user: whose files mincore(2) speaks the truth about.
    pub(crate) user: u32,
    /// Answers of the connection being served.
    pub(crate) out: Vec<u8>,
    pub(crate) scratch: Vec<u8>,
    /// Connections that go on after the others have had their turn.
    pub(crate) again: Vec<usize>,
    pub(crate) control: Channel,
    pub(crate) unsaid: Unsaid,
    poll: Poll,
    inbox: OwnedFd,
    signals: Signals,
    pub(crate) next_tick: u64,
    parcel: Vec<u8>,
    done: Vec<Done>,
    inbox_waits: bool,
    pub(crate) give_way: GiveWay,
    pub(crate) next_group: u64,
    pub(crate) next_reading: u64,
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

impl Worker {
    /// Sets up everything but the listeners.
    pub(crate) fn new(spec: WorkerSpec) -> io::Result<Worker> {
        let poll = Poll::new()?;
        let signals = Signals::new(&[Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGINT])?;
        let waker = Waker::new(poll.registry(), Token(WAKER))?;
        for (fd, token) in [
            (spec.control.as_fd(), CONTROL),
            (spec.inbox.as_fd(), INBOX),
            (signals.as_fd(), SIGNALS),
        ] {
            let mut source = SourceFd(&fd.as_raw_fd());
            poll.registry().register(&mut source, Token(token), Interest::READABLE)?;
        }
        let slot = spec.board.worker(spec.id);
        let host = Host {
            board: spec.board,
            slot,
            draining: AtomicBool::new(false),
            fsync: spec.settings.fsync,
            epoll: socket::duplicate(poll.registry())?,
        };
        let (completions, docroots) = (Completions::new(waker), OnceLock::new());
        let context = Context { host, completions, docroots };
        // Where a sandbox does not tell the limit it is taken for the usual one.
        let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
        let most = descriptors.min(spec.settings.maxconns as u64);
        make_room_for_descriptors(most);
        Ok(Worker {
            id: spec.id,
            board: spec.board,
            slot,
            settings: spec.settings,
            sites: spec.sites,
            listeners: Listeners::new(spec.listeners, FIRST_LISTENER),
            balance: Balance::new(most),
            neighbours: Neighbours::new(spec.id, spec.board, spec.peers),
            conns: Table::default(),
            timers: Timers::default(),
            context: Arc::new(context),
            devices: BTreeMap::new(),
            pools: BTreeMap::new(),
            listed: 0,
            told: BTreeMap::new(),
            urgent: false,
            lives: Lives::default(),
            used: BTreeMap::new(),
            wanted: BTreeMap::new(),
            asked: BTreeMap::new(),
            rooted: HashSet::new(),
            files: OpenFiles::new(descriptors),
            drain: None,
            fsck: BTreeMap::new(),
            watchers: Vec::new(),
            clerk: Clerk::new(),
            usage_interval: usage_interval(),
            looked: 0,
            give_way: GiveWay::default(),
            next_group: 0,
            next_reading: 0,
            clock: Clock::start()?,
            user: nix::unistd::geteuid().as_raw(),
            out: Vec::new(),
            scratch: vec![0; READ_BUFFER],
            again: Vec::new(),
            control: spec.control,
            unsaid: Unsaid::default(),
            poll,
            inbox: spec.inbox,
            signals,
            next_tick: 0,
            // Zeroed by the kernel page by page: what no parcel needs takes no memory.
            parcel: vec![0; MOST_INPUT + 64],
            done: Vec::new(),
            inbox_waits: false,
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
            if self.clock.now() >= self.next_tick {
                self.tick();
            }
            self.give_way.at_end_of_round(self.clock.now());
        }
        self.stop_measuring();
        Ok(())
    }

    pub(crate) fn registry(&self) -> &Registry {
        self.poll.registry()
    }

    fn wait(&mut self, events: &mut Events) -> io::Result<()> {
        let busy = !self.again.is_empty() || self.inbox_waits;
        let ahead = if busy { 0 } else { self.next_tick.saturating_sub(self.clock.now()) };
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
            INBOX => self.inbox_waits = true,
            SIGNALS => self.take_signals(),
            IOSTAT => self.read_iostat(),
            DOCROOTS => self.heed_docroots(),
            token if token >= FIRST_CONN => {
                let key = token - FIRST_CONN;
                let Some(conn) = self.conns.get_mut(key) else { return };
                conn.readable |= event.is_readable() || event.is_read_closed();
                conn.writable |= event.is_writable();
                conn.ended |= event.is_read_closed();
                if conn.readable && conn.is_lent() {
                    conn.socket.set_wanted(true);
                }
                self.advance(key);
            }
            listener => _ = self.accept(listener - FIRST_LISTENER),
        }
    }

    fn take_messages(&mut self) {
        loop {
            match self.control.receive::<Down>() {
                Ok(Some((message, fd))) => self.obey(message, fd),
                Ok(None) => return self.master_gone(),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                    log::error!("control channel: {e}");
                }
                Err(_) => return self.master_gone(),
            }
        }
    }

    fn obey(&mut self, message: Down, fd: Option<OwnedFd>) {
        match message {
            Down::Drain => self.begin_drain(),
            Down::AioThreads { threads } => self.set_threads(threads),
            Down::ReopenLogs => {}
            Down::Accept => self.accept_pending(),
            Down::Peer { worker } => {
                if let Some(inbox) = fd {
                    self.neighbours.add(WorkerId(worker), inbox);
                }
            }
        }
    }

    fn take_signals(&mut self) {
        while let Some(signal) = self.signals.next() {
            // An interrupt from the terminal reaches the master too, which decides.
            if signal != Signal::SIGINT {
                self.begin_drain();
            }
        }
    }

    fn take_completions(&mut self) {
        let mut done = std::mem::take(&mut self.done);
        self.context.completions.swap(&mut done);
        for Done { client, outcome } in done.drain(..) {
            match (client, outcome) {
                (Some(client), outcome) => self.complete(client, outcome),
                (None, Outcome::Listed(site, devids)) => self.tell_devices(site, devids),
                (None, _) => {}
            }
        }
        self.done = done;
    }

    fn take_parcels(&mut self) {
        if !self.inbox_waits {
            return;
        }
        let mut buffer = std::mem::take(&mut self.parcel);
        for _ in 0..PARCELS {
            match inbox::receive(self.inbox.as_fd(), &mut buffer) {
                Ok(Some(parcel)) => self.open_parcel(parcel),
                Ok(None) => {
                    self.inbox_waits = false;
                    self.slot.inbox_pending.store(0, Relaxed);
                    break;
                }
                Err(e) => log::error!("inbox: {e}"),
            }
        }
        self.parcel = buffer;
    }

    /// True when the inbox is empty after a last look. Needed before a worker may go.
    pub(crate) fn inbox_is_empty(&mut self) -> bool {
        self.inbox_waits = true;
        self.take_parcels();
        !self.inbox_waits
    }

    fn open_parcel(&mut self, parcel: Parcel) {
        match parcel {
            Parcel::Connection { socket, service, site, input } => {
                self.slot.inbox_pending.fetch_sub(1, Relaxed);
                if usize::from(site.0) >= self.sites.len() {
                    return log::error!("inbox: a connection to docroot {}, unknown here", site.0);
                }
                let peer = socket::peer_address(socket.as_fd());
                self.adopt(socket, peer, service, site, input);
            }
            Parcel::WantDir { device, from } => self.share_dir(device, from),
            Parcel::Dir { device, fd, .. } if !self.knows(device) => {
                fd.into_iter().for_each(DiskFd::close_elsewhere);
            }
            Parcel::Dir { device, fd: None, .. } => self.device(device).shut(),
            Parcel::Dir { device, fd: Some(fd), traits } => {
                self.device(device).adopt_dir(fd, traits);
                self.note_use(device);
            }
        }
    }

    fn knows(&self, device: DeviceKey) -> bool {
        usize::from(device.site.0) < self.sites.len() && self.is_listed(device)
    }

    /// Takes a connection, new or from another worker, into the loop.
    pub(crate) fn adopt(
        &mut self,
        fd: OwnedFd,
        peer: SocketAddr,
        service: Service,
        site: SiteId,
        input: Vec<u8>,
    ) {
        let begun = !input.is_empty();
        let key = self.conns.insert(Conn::new(fd, peer, service, site, input));
        if let Err(e) = self.watch_conn(key) {
            log::error!("cannot watch a connection from {peer}: {e}");
            self.conns.remove(key);
            return;
        }
        self.slot.connections.store(self.conns.len() as u32, Relaxed);
        self.timers.start(key, Wait::Idle, self.clock.now());
        if begun {
            self.advance(key);
        }
    }

    /// Closes a connection. One that a disk thread has is closed when it comes back.
    pub(crate) fn close(&mut self, key: usize) {
        if let Some(conn) = self.forget(key) {
            let Conn { socket, site, state, .. } = conn;
            drop(socket);
            self.let_go(site, state);
            self.resume_listeners();
        }
    }

    /// Takes a connection out of the loop. Epoll follows the open file, not the number: it is
    /// deregistered by hand, for another process may hold it next.
    pub(crate) fn forget(&mut self, key: usize) -> Option<Conn> {
        self.timers.stop(key);
        let conn = self.conns.remove(key)?;
        if matches!(conn.state, State::Watching) {
            self.stop_watching(key);
        }
        // Its state may have been taken out already: the queue itself knows who is in it.
        self.leave_fsck(key);
        self.slot.connections.store(self.conns.len() as u32, Relaxed);
        Some(conn)
    }

    /// Deregisters a connection that will live on elsewhere.
    pub(crate) fn unwatch(&self, conn: &Conn) {
        let _ = self.poll.registry().deregister(&mut SourceFd(&conn.fd().as_raw_fd()));
    }

    /// Asks for a connection's events: edge-triggered, both directions, once and for all.
    pub(crate) fn watch_conn(&self, key: usize) -> io::Result<()> {
        let raw = self.conns[key].fd().as_raw_fd();
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.registry().register(&mut SourceFd(&raw), Token(FIRST_CONN + key), interest)
    }

    fn continue_others(&mut self) {
        for key in std::mem::take(&mut self.again) {
            self.advance(key);
        }
    }

    /// The pool of a device's disk threads, made when it is first needed. Devices that the master
    /// has not listed share the docroot's: else each name that a peer makes up would cost a thread.
    pub(crate) fn pool(&mut self, device: &Device) -> &Pool<Work> {
        let limit = self.settings.aio_threads;
        let key = self.pool_key(device.key);
        self.pools.entry(key).or_insert_with(|| Pool::new(format!("disk {key}"), limit))
    }

    /// Whose threads work for a device.
    pub(crate) fn pool_key(&self, device: DeviceKey) -> DeviceKey {
        let known = self.pools.contains_key(&device) || self.is_listed(device);
        if known { device } else { DeviceKey { devid: 0, ..device } }
    }

    /// The device's directory is of use now.
    pub(crate) fn note_use(&mut self, device: DeviceKey) {
        if self.is_listed(device) {
            self.used.insert(device, self.clock.now());
        }
    }
}
