//! Work of a disk thread: an operation with the connection's socket on the way there, an outcome on
//! the way back; and what no connection waits for.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use mio::{Registry, Token, Waker};

use crate::disk::completions::{Client, Completions, Done, Socket};
use crate::disk::device::Device;
use crate::disk::disk_fd::DiskFd;
use crate::disk::docroot;
use crate::disk::docroot_watch::DocrootWatch;
use crate::disk::loan::{Loan, Style};
use crate::disk::on_disk::OnDisk;
use crate::disk::operation::{Host, Op, Outcome, Turn, Turned};
use crate::disk::pool::{Job, Progress};
use crate::disk::usage;
use crate::ids::{DeviceKey, WorkerId};
use crate::scoreboard::Scoreboard;
use crate::spec::Fsync;
use crate::sys::priority;
use crate::trace::Part;

/// Usage numbers are refreshed by changes this often at most.
pub const REFRESH: Duration = Duration::from_secs(1);

/// Something that a disk thread does.
#[derive(Debug)]
pub enum Task {
    /// For a connection.
    Serve(Op),
    /// Opens the device's directory anew.
    Refresh,
    /// Looks how full the device is, and writes its usage file if asked to.
    Look {
        /// Not just the numbers in memory.
        write: bool,
    },
    /// Closes a descriptor whose last close may free blocks, or drops an unfinished operation.
    Release(Released),
}

/// What is let go in a disk thread.
#[derive(Debug)]
pub enum Released {
    /// A file.
    File(DiskFd),
    /// Directories of the device that nobody uses any more.
    Dirs,
    /// An operation whose connection is gone.
    Op(Op),
}

/// Lists a docroot, and tells the loop which devices there are.
pub fn list_docroot(on: &OnDisk, device: &Device, context: &Context) {
    // First: what is made after the listing is told of.
    if let Some(watch) = context.docroots.get() {
        watch.add(on, device.path());
    }
    let found = docroot::devices(device.path());
    let trouble = found.as_ref().err().map(|e| format!("cannot be listed: {e}"));
    device.note_trouble(trouble.as_deref());
    device.end_look();
    if let Ok(devids) = found {
        let outcome = Outcome::Listed(device.key().site, devids);
        context.completions.push(Done { client: None, outcome }, None);
    }
}

/// What all threads of a worker share.
#[derive(Debug)]
pub struct Context {
    /// What operations need of it.
    host: Host,
    /// The way back to the loop.
    completions: Completions,
    /// Changes of docroots' names, if this worker has docroots.
    docroots: OnceLock<DocrootWatch>,
}

impl Context {
    /// Of a worker whose loop waits in this epoll set, and is woken by this token of it.
    pub fn new(
        board: Scoreboard,
        worker: WorkerId,
        fsync: Fsync,
        registry: &Registry,
        waker: Token,
    ) -> io::Result<Context> {
        let host = Host::new(board, worker, fsync, registry)?;
        let completions = Completions::new(Waker::new(registry, waker)?);
        Ok(Context { host, completions, docroots: OnceLock::new() })
    }

    /// What operations need of the worker.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Loop: the outcomes that it has not seen yet, for the empty list `done`.
    pub fn take_outcomes(&self, done: &mut Vec<Done>) {
        self.completions.swap(done);
    }

    /// Loop: has docroots watched, from the first time on. `told`: does what is needed to hear of
    /// changes.
    pub fn watch_docroots(&self, told: impl FnOnce(&DocrootWatch)) {
        self.docroots.get_or_init(|| {
            let watch = DocrootWatch::start();
            told(&watch);
            watch
        });
    }

    /// Loop: whether names have changed in a docroot since this was asked last.
    pub fn docroots_have_changed(&self) -> bool {
        self.docroots.get().is_some_and(DocrootWatch::take)
    }
}

/// A task with all it needs, as it waits in a device's queue.
#[derive(Debug)]
pub struct Work {
    /// The connection's key in the loop, and who may speak on it; `None` when none waits.
    client: Option<Client>,
    /// The connection's socket, borrowed.
    socket: Option<Arc<Socket>>,
    /// Who is on the other side, for the log.
    peer: SocketAddr,
    /// Whether unread input of the connection waits in the loop.
    more_input: bool,
    device: Arc<Device>,
    context: Arc<Context>,
    /// The socket's token in the loop's epoll set.
    token: usize,
    task: Option<Task>,
}

/// A connection as a disk thread has it.
#[derive(Debug)]
pub struct Borrowed {
    /// Its key in the loop.
    pub key: usize,
    /// Its token there.
    pub token: usize,
    /// Its socket.
    pub socket: Arc<Socket>,
    /// Who is on the other side.
    pub peer: SocketAddr,
    /// Whether unread input waits in the loop.
    pub more_input: bool,
    /// Who may speak on it.
    pub loan: Arc<Loan>,
}

impl Work {
    /// Work for a connection.
    pub fn for_connection(
        borrowed: Borrowed,
        device: Arc<Device>,
        context: Arc<Context>,
        op: Op,
    ) -> Work {
        let Borrowed { key, token, socket, peer, more_input, loan } = borrowed;
        let (client, socket) = (Some(Client { key, loan }), Some(socket));
        let task = Some(Task::Serve(op));
        Work { client, socket, peer, more_input, device, context, token, task }
    }

    /// Work that no connection waits for.
    pub fn in_background(device: Arc<Device>, context: Arc<Context>, task: Task) -> Work {
        let peer = SocketAddr::from(([0, 0, 0, 0], 0));
        let (client, socket, more_input) = (None, None, false);
        Work { client, socket, peer, more_input, device, context, token: 0, task: Some(task) }
    }

    /// The device that it is about.
    pub fn device(&self) -> DeviceKey {
        self.device.key()
    }

    /// Gives the operation back when no thread will run it.
    pub fn into_op(mut self) -> Option<Op> {
        match self.task.take()? {
            Task::Serve(op) => Some(op),
            _ => None,
        }
    }

    /// What no connection waits for.
    fn run_in_background(&self, on: &OnDisk, task: Task) {
        match task {
            Task::Serve(_) => {}
            Task::Refresh => {
                if let Err(e) = self.device.dir(on) {
                    log::debug!("{}: {e}", self.device.path().display());
                }
            }
            Task::Look { write } => {
                if let Some(slot) = self.context.host.device(self.device.key()) {
                    usage::look(on, &self.device, slot, write);
                }
                self.device.end_look();
            }
            Task::Release(released) => {
                drop(released);
                self.device.let_go(on);
            }
        }
    }

    fn turn(&self, on: &OnDisk, op: Op, progress: &Progress) -> Turned {
        let (Some(socket), Some(Client { loan, .. })) = (&self.socket, &self.client) else {
            return Turned::Over(Outcome::Broken);
        };
        if loan.is_taken() {
            progress.pass();
            return Turned::Over(Outcome::Finished);
        }
        progress.serve(Arc::as_ptr(loan).addr());
        let turn = Turn {
            socket: socket.as_fd(),
            peer: self.peer,
            device: &self.device,
            slot: self.context.host.device(self.device.key()),
            progress,
            on,
            loan,
            host: &self.context.host,
            more_input: self.more_input,
            token: self.token,
            muted: Cell::new(false),
        };
        turn.note_part(Part::Open);
        let turned = op.run(&turn);
        turn.note_part(match &turned {
            Turned::Again(_) => Part::Queue,
            Turned::Over(Outcome::Blocked { .. }) => Part::Peer,
            Turned::Over(_) => Part::Loop,
        });
        progress.serve(0);
        if turn.muted.get() {
            turn.set_interest(true);
        }
        turned
    }
}

impl Work {
    /// After a change, once a second at most, and after the answer: PROTOCOL.md section 2.4.
    fn refresh_usage(&self, on: &OnDisk) {
        if let Some(slot) = self.context.host.device(self.device.key())
            && self.device.has_usage()
        {
            match self.device.look_is_due(REFRESH) {
                true => usage::look(on, &self.device, slot, false),
                // The loop sees to it when the second is over.
                false => self.device.note_change(),
            }
        }
    }
}

impl Job for Work {
    fn run(mut self, on: &OnDisk, progress: &Progress) -> Option<Work> {
        let op = match self.task.take()? {
            Task::Serve(op) => op,
            task => {
                priority::take_long_turns(false);
                self.run_in_background(on, task);
                progress.rest();
                let done = Done { client: None, outcome: Outcome::Finished };
                self.context.completions.push(done, None);
                return None;
            }
        };
        let changes = op.changes();
        let for_http = matches!(op.style(self.device.key()), Style::Http(_));
        priority::take_long_turns(op.is_long());
        match self.turn(on, op, progress) {
            Turned::Again(op) => {
                self.task = Some(Task::Serve(op));
                Some(self)
            }
            Turned::Over(outcome) => {
                progress.rest();
                let mine = self.client.as_ref().is_none_or(|client| client.loan.finish());
                // One that was taken back has no outcome: what is left of it goes here.
                let client = self.client.take().filter(|_| mine);
                let outcome = if mine { outcome } else { Outcome::Finished };
                let quiet = for_http
                    && !self.more_input
                    && !self.context.host.is_leaving()
                    && outcome.leaves_nothing_to_do();
                let socket = self.socket.take().filter(|_| quiet);
                self.context.completions.push(Done { client, outcome }, socket);
                if changes {
                    progress.touch();
                    self.refresh_usage(on);
                }
                None
            }
        }
    }
}

impl Drop for Work {
    /// A panic in an operation must not leave its connection waiting for ever.
    fn drop(&mut self) {
        if let Some(client) = self.client.take()
            && std::thread::panicking()
            && client.loan.finish()
        {
            let outcome = Outcome::Broken;
            self.context.completions.push(Done { client: Some(client), outcome }, None);
        }
    }
}
