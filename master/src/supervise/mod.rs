//! The master's loop: wait, ask the policy, act. One thread, no disk, no wait without a
//! deadline.
//!
//! | module | holds |
//! |---|---|
//! | [`policy`] | what to do about what happens: pure |
//! | [`children`] | the table of workers: pure |
//! | [`devices`] | devices by name, and who owns them |
//! | [`links`] | control channels and inboxes |
//! | [`plan`] | what a generation of workers serves |
//! | [`spawn`] | forking a worker |
//! | `act` | carrying out what the policy wants |
//! | `reload` | a new generation of workers beside the old one |
//! | `requests` | doing what was asked for over the status socket |
//! | `reopen` | log files, opened again |
//! | `successor_pipe` | what a successor says through its pipe |
//! | `signals` | obeying signals, and how a quit meets an upgrade |
//! | `upgrade` | a successor beside this process |
//! | `successor_stderr` | what a successor says on its standard error |
//! | `from_workers` | what workers say |
//! | `health` | workers that stand still |
//! | `monitor` | the monitor's process |
//! | `reap` | processes that have ended |
//! | `status` | filling in the status document |

mod act;
mod become_successor;
pub mod children;
pub(crate) mod counters;
pub(crate) mod device_health;
pub mod devices;
mod from_workers;
mod health;
mod heirs;
pub mod links;
mod monitor;
pub mod plan;
pub mod policy;
mod reap;
mod reload;
mod reopen;
mod requests;
mod signals;
pub mod spawn;
mod status;
mod successor_pipe;
mod successor_stderr;
mod upgrade;

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rmogstored_worker::control::Channel;
use rmogstored_worker::scoreboard::Scoreboard;
use rmogstored_worker::spec::{WorkerId, WorkerSpec};
use rmogstored_worker::sys::signal::Signals;
use rmogstored_worker::sys::title;

use crate::config::Config;
use crate::invocation::Invocation;
use crate::legacy::Legacy;
use crate::logs::Opener;
use crate::monitor::spec::Spec;
use crate::notify::Watchdog;
use crate::pidfile::Pidfile;
use crate::privileges::Identity;
use crate::report::events::{Event as Told, EventPipe};
use crate::report::status::StatusSocket;
use crate::successor::Origin;
use crate::{Listening, MasterError, OnReady, Reload, title as titles};
use counters::Counters;
use device_health::DeviceHealth;
use health::Roused;
use heirs::Shared;
use links::Links;
use monitor::Monitor;
use plan::Plan;
use policy::{Event, Phase, Policy};
use reload::Renewal;
use signals::{EarlyQuit, SIGNALS};
use upgrade::Upgrades;

/// How often the docroots are listed.
const LOOK_FOR_DEVICES: Duration = Duration::from_secs(2);
/// How often the scoreboard is searched for devices with which something is wrong.
const LOOK_FOR_STALLS: Duration = Duration::from_millis(500);
/// How soon a channel or pipe without room is tried again.
const RETRY: Duration = Duration::from_millis(100);

const SIGNALS_TOKEN: Token = Token(0);
const STATUS_TOKEN: Token = Token(1);
const FIRST_WORKER: usize = 2;
/// Readers of the status socket come after all worker slots.
const FIRST_READER: usize = 1 << 16;

/// How [`Supervisor::run`] ends.
#[derive(Debug)]
pub enum Outcome {
    /// In the master: the exit status.
    Finished(i32),
    /// In a new worker, with everything of the master and of its siblings closed.
    Worker(Box<WorkerSpec>, Option<Identity>),
    /// The same in a new monitor.
    Monitor(Box<Spec>, Option<Identity>),
}

/// The supervisor: what the master has while it runs.
pub struct Supervisor {
    poll: Poll,
    signals: Signals,
    policy: Policy,
    /// What the newest generation of workers serves.
    plan: Plan,
    /// While the generation before it is not yet replaced.
    renewal: Option<Renewal>,
    /// SIGHUP came at a moment when it could not be obeyed.
    reload_again: bool,
    upgrades: Upgrades,
    /// What this process succeeds to, as long as that lives.
    origin: Option<Origin>,
    links: Links,
    /// Connections in an upgrade.
    shared: Shared,
    counters: Counters,
    monitor: Monitor,
    /// The listeners as they were, for reports after they are closed.
    listening: Vec<Listening>,
    board: Scoreboard,
    events: EventPipe,
    status: Option<StatusSocket>,
    pidfile: Option<Pidfile>,
    paths: Paths,
    kit: Kit,
    device_health: DeviceHealth,
    stuck: BTreeSet<WorkerId>,
    roused: Roused,
    watchdog: Watchdog,
    failure: Option<MasterError>,
    /// Told to quit while the successor starts.
    early_quit: Option<EarlyQuit>,
    /// Who asked for the quit.
    asked_by: Option<String>,
    /// All is done, with this exit status.
    leaving: Option<i32>,
    began: Instant,
    next_look: Instant,
    next_stall_look: Instant,
    retry: bool,
    /// While log files are opened again.
    opener: Option<Opener>,
    /// A worker had more to say than was heard in one go.
    more_to_hear: bool,
}

/// What the supervisor is given to work with.
pub(crate) struct Kit {
    pub on_ready: Option<OnReady>,
    pub reload: Reload,
    pub reopen_logs: fn(),
    pub reopen_log: fn(OwnedFd),
    pub invocation: Invocation,
    pub upgrade_timeout: Duration,
    /// What the predecessor knew, until the devices are listed.
    pub legacy: Option<Legacy>,
    /// The way to the predecessor, as long as there is one.
    pub predecessor: Option<Channel>,
}

/// Files that a successor takes over once it is ready, and any other node makes at once.
struct Paths {
    pidfile: Option<PathBuf>,
    status: Option<PathBuf>,
}

/// What the loop does next.
enum Step {
    Wait,
    Leave(i32),
    /// This process is now a worker.
    Become(WorkerId, Channel),
    /// This process is now the monitor, which hears of the master there.
    BecomeMonitor(UnixStream),
}

impl Supervisor {
    /// Opens what can fail before anything is forked. From here on signals are blocked.
    pub(crate) fn new(
        config: Config,
        plan: Plan,
        origin: Option<Origin>,
        kit: Kit,
    ) -> Result<Supervisor, MasterError> {
        let events = event_pipe(&config)?;
        let (board, counters) = counters::board().map_err(MasterError::system("mmap"))?;
        let poll = Poll::new().map_err(MasterError::system("epoll_create"))?;
        let signals = Signals::new(&SIGNALS).map_err(MasterError::system("signalfd"))?;
        let now = Instant::now();
        let generation = origin.map_or(1, |origin| origin.generation);
        let mut supervisor = Supervisor {
            policy: Policy::new(config.settings.drain_timeout, generation),
            listening: plan.listening(),
            plan,
            renewal: None,
            reload_again: false,
            upgrades: Upgrades::default(),
            origin,
            links: Links::default(),
            shared: Shared::default(),
            counters,
            monitor: Monitor::default(),
            device_health: DeviceHealth::default(),
            stuck: BTreeSet::new(),
            roused: Roused::default(),
            watchdog: Watchdog::new(now),
            failure: None,
            early_quit: None,
            asked_by: None,
            leaving: None,
            began: now,
            next_look: now,
            next_stall_look: now + LOOK_FOR_STALLS,
            retry: false,
            opener: None,
            more_to_hear: false,
            poll,
            signals,
            board,
            events,
            status: None,
            pidfile: None,
            paths: Paths { pidfile: config.pidfile, status: config.status_socket },
            kit,
        };
        supervisor
            .register(&supervisor.signals, SIGNALS_TOKEN, Interest::READABLE)
            .map_err(MasterError::system("epoll_ctl"))?;
        if let Some(predecessor) = &supervisor.kit.predecessor {
            supervisor
                .register(predecessor, upgrade::TOKEN, Interest::READABLE)
                .map_err(MasterError::system("epoll_ctl"))?;
        }
        if origin.is_none() {
            supervisor.take_paths().inspect_err(|_| supervisor.remove_paths())?;
        }
        Ok(supervisor)
    }

    /// Makes the pid file and the status socket. A successor does that when it is ready: until
    /// then they are its predecessor's, and nothing needs undoing if it fails.
    fn take_paths(&mut self) -> Result<(), MasterError> {
        if let Some(path) = self.paths.pidfile.take() {
            self.pidfile = Some(Pidfile::create(&path).map_err(MasterError::Pidfile)?);
        }
        if let Some(path) = self.paths.status.take() {
            let bind =
                if self.origin.is_some() { StatusSocket::take_over } else { StatusSocket::bind };
            let failed = |source| MasterError::StatusSocket { path: path.clone(), source };
            let socket = bind(&path).map_err(failed)?;
            self.register(socket.listener(), STATUS_TOKEN, Interest::READABLE).map_err(failed)?;
            self.status = Some(socket);
        }
        Ok(())
    }

    fn remove_paths(&self) {
        self.status.iter().for_each(StatusSocket::remove);
        self.pidfile.iter().for_each(Pidfile::remove);
    }

    /// Runs until the node has stopped, or until this process is a new worker.
    pub fn run(mut self) -> Result<Outcome, MasterError> {
        title::set(titles::MASTER);
        self.tell_listeners(&[]);
        let mut happened = Events::with_capacity(64);
        loop {
            match self.step(Instant::now()) {
                Step::Wait => self.wait(&mut happened).inspect_err(|_| self.remove_paths())?,
                Step::Leave(status) => return self.leave(status),
                Step::Become(id, control) => return Ok(self.into_worker(id, control)),
                Step::BecomeMonitor(link) => return Ok(self.into_monitor(link)),
            }
        }
    }

    fn register(&self, fd: &impl AsFd, token: Token, interest: Interest) -> io::Result<()> {
        let raw = fd.as_fd().as_raw_fd();
        self.poll.registry().register(&mut SourceFd(&raw), token, interest)
    }

    /// All that can be done now, without waiting.
    fn step(&mut self, now: Instant) -> Step {
        if !self.draining() && now >= self.next_look {
            self.next_look = now + LOOK_FOR_DEVICES;
            self.look_for_devices(now);
        }
        let look = now >= self.next_stall_look;
        if look {
            self.next_stall_look = now + LOOK_FOR_STALLS;
            self.look_at_devices();
            self.look_for_stuck_workers(now);
            self.tidy_after_predecessor(now);
        }
        self.take_opened_logs();
        self.watchdog.feed(now, self.stuck.is_empty());
        self.look_after_successor(now);
        if let Some(socket) = &mut self.status {
            socket.expire(now);
        }
        // The signals last: what a worker said before it exited has been heard by then.
        let mut actions = match self.failure {
            Some(_) if !self.draining() => self.policy.handle(Event::Quit, now),
            _ => self.policy.handle(Event::Tick, now),
        };
        actions.extend(self.watch_renewal(now));
        actions.extend(self.hear_workers(now));
        actions.extend(self.take_signals(now));
        actions.extend(self.quit_at_last(now));
        if look {
            actions.extend(self.leave_behind_the_dead(now));
            actions.extend(self.rouse_the_stopped(now));
        }
        let step = match self.carry_out(actions, now) {
            // What waits to be written is the master's to write.
            step @ Step::Become(..) => return step,
            step => self.after_the_unwanted(step),
        };
        if let Step::Wait = step
            && let Some(link) = self.look_after_monitor(now)
        {
            return Step::BecomeMonitor(link);
        }
        let told = self.events.push();
        let passed_on = self.pass_on_connections();
        self.retry = !self.links.flush() || !told || !passed_on;
        step
    }

    fn wait(&mut self, happened: &mut Events) -> Result<(), MasterError> {
        let now = Instant::now();
        let timeout = self.deadline(now).saturating_duration_since(now);
        match self.poll.poll(happened, Some(timeout)) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(()),
            other => other.map_err(MasterError::system("epoll_wait"))?,
        }
        // Signals and workers are asked each time round; only the status socket needs telling.
        for event in happened.iter() {
            match event.token() {
                STATUS_TOKEN => self.answer_status(),
                Token(reader @ FIRST_READER..) => self.resume_reader(reader),
                _ => {}
            }
        }
        Ok(())
    }

    fn deadline(&self, now: Instant) -> Instant {
        let own = if self.draining() { self.next_stall_look } else { self.next_look };
        let retry = (self.retry || self.shared.is_unfinished()).then_some(now + RETRY);
        let more = self.more_to_hear.then_some(now);
        let status = self.status.as_ref().and_then(StatusSocket::deadline);
        let others = [
            self.policy.deadline(),
            retry,
            more,
            status,
            self.watchdog.deadline(),
            self.upgrade_deadline(now),
            self.renewal_deadline(),
            self.monitor_deadline(now),
        ];
        others.into_iter().flatten().fold(own.min(self.next_stall_look), Instant::min)
    }

    /// What those serve that own the devices: a generation that is not settled may not be to be.
    fn settled_plan(&self) -> &Plan {
        match &self.renewal {
            Some(renewal) if self.policy.is_renewing() => &renewal.before,
            _ => &self.plan,
        }
    }

    fn draining(&self) -> bool {
        matches!(self.policy.phase(), Phase::Draining { .. })
    }

    /// Drops everything that belongs to the master or to other workers, before the worker's own
    /// first step. Nothing here can fail, and nothing dropped here touches the outside.
    fn into_worker(self, id: WorkerId, control: Channel) -> Outcome {
        let child = self.policy.children().child(id);
        let child = child.expect("the fork was for a child of the table");
        titles::of_worker(id, child.duty);
        let replaced = self.policy.is_renewing() && child.generation == self.policy.generation();
        let Supervisor { links, plan, renewal, board, kit, .. } = self;
        let plan = renewal.filter(|_| replaced).map_or(plan, |renewal| renewal.before);
        let Plan { listeners, sites, settings, identity, accesslog, .. } = plan;
        let (inbox, peers) =
            links.into_ends(id).expect("the slot had its inbox before its process was forked");
        let listeners = listeners.into_iter().map(|bound| bound.listener).collect();
        let reopen_log = kit.reopen_log;
        let spec = WorkerSpec {
            id,
            sites,
            listeners,
            settings,
            control,
            inbox,
            peers,
            board,
            accesslog,
            reopen_log,
        };
        Outcome::Worker(Box::new(spec), identity)
    }

    fn leave(mut self, status: i32) -> Result<Outcome, MasterError> {
        for left in self.policy.children().with_process() {
            log::error!("worker {left} cannot be killed; leaving it behind");
        }
        self.end_monitor();
        self.announce_successor();
        self.remove_paths();
        self.events.tell(&Told::Stopped);
        log::info!("stopped");
        self.failure.map_or(Ok(Outcome::Finished(status)), Err)
    }
}

fn event_pipe(config: &Config) -> Result<EventPipe, MasterError> {
    match config.status_fd {
        Some(number) => EventPipe::open(number).ok_or(MasterError::StatusFd(number)),
        None => Ok(EventPipe::default()),
    }
}
