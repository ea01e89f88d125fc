//! `rmogstored scrub`: every file of some devices is read from the disk, and what is damaged,
//! misplaced or left over is told.
//!
//! | module | holds |
//! |---|---|
//! | `device` | one device, in a thread of its own |
//! | `walk` | the order of its names, and going on behind a position |
//! | `examine` | one name: looked at, read, looked at again |
//! | `place`, `judge` | what a name says; what the file system says |
//! | `read` | from the disk, past the page cache |
//! | `pace`, `neighbours` | `--rate`; giving way to others |
//! | `control`, `node` | when to wait and to stop; what a running node says |
//! | `target` | which device |
//! | `state` | the state file |
//! | `finding`, `report`, `progress` | what is told, where, and bars |

mod control;
mod device;
mod examine;
mod finding;
mod judge;
mod neighbours;
mod node;
mod pace;
mod place;
mod progress;
mod read;
mod report;
mod state;
mod target;
mod walk;

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};

use crate::cli::Scrub;
use control::{Control, Stop};
use device::{End, Shared};
use finding::{Finding, Kind, Summary, Totals};
use node::{Health, Look};
use progress::Progress;
use report::Report;
use state::State;
use target::Target;

/// Exit statuses; 128 and the signal's number when one ended it.
const FOUND: u8 = 1;
const USAGE: u8 = 2;
const INCOMPLETE: u8 = 3;
/// How often the state is saved, and the node asked.
const SAVE: Duration = Duration::from_millis(500);
const ASK: Duration = Duration::from_secs(2);
/// Between two looks whether anything is to be done.
const LOOK: Duration = Duration::from_millis(100);
/// How long a thread that is in a read may take to stop; one that hangs is left to the kernel.
const GRACE: Duration = Duration::from_secs(3);

/// Scrubs devices, and tells how that ended.
pub fn run(order: Scrub) -> ExitCode {
    let (stop, begun) = (Stop::default(), Instant::now());
    let prepared = targets(&order).map_err(|e| (USAGE, e)).and_then(|targets| {
        watch_signals(&stop).map_err(|e| (INCOMPLETE, e.to_string()))?;
        Run::prepare(&order, targets, &stop).map_err(|e| (INCOMPLETE, e))
    });
    match prepared {
        Ok(scrub) => scrub.run(begun).into(),
        Err((status, sentence)) => {
            let _ = writeln!(io::stderr(), "E: {sentence}");
            status.into()
        }
    }
}

/// The devices, each of them once.
fn targets(order: &Scrub) -> Result<Vec<Target>, String> {
    let targets: Vec<Target> =
        order.devices.iter().map(|it| Target::new(it)).collect::<Result<_, _>>()?;
    for (at, target) in targets.iter().enumerate() {
        if targets[..at].iter().any(|other| other.absolute == target.absolute) {
            return Err(format!("{}: given twice", target.path.display()));
        }
    }
    Ok(targets)
}

/// All threads' signals are waited for by one. The second one ends the command at once.
fn watch_signals(stop: &Stop) -> io::Result<()> {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    signals.thread_block()?;
    let stop = Arc::clone(stop);
    let wait = move || {
        while let Ok(signal) = signals.wait() {
            if stop.swap(signal as i32, Relaxed) > 0 {
                std::process::exit(128 + signal as i32);
            }
        }
    };
    thread::Builder::new().name("signals".into()).spawn(wait).map(|_| ())
}

struct Run {
    targets: Vec<(Target, Control)>,
    shared: Arc<Shared>,
    stop: Stop,
    socket: Option<std::path::PathBuf>,
}

/// What came of the devices.
#[derive(Default)]
struct Ends {
    finished: usize,
    skipped: u64,
    deaf: bool,
}

impl Run {
    fn prepare(order: &Scrub, targets: Vec<Target>, stop: &Stop) -> Result<Run, String> {
        let progress = Progress::new();
        let shown = |file: &Path, e: &io::Error| format!("{}: {}", file.display(), target::text(e));
        let state = State::load(order.since_state.clone()).and_then(|state| {
            state.save()?; // So that a place where it cannot be is found before the work is done.
            Ok(state)
        });
        let name = order.since_state.as_deref().unwrap_or(Path::new(""));
        let shared = Shared {
            state: state.map_err(|e| shown(name, &e))?,
            report: Report::new(order.device_list, progress.clone()),
            progress,
            rate: order.rate.map(|rate| rate.0),
        };
        let control = |target| (target, Control::new(Arc::clone(stop), order.patience));
        let run = Run {
            targets: targets.into_iter().map(control).collect(),
            shared: Arc::new(shared),
            stop: Arc::clone(stop),
            socket: order.status_socket.clone(),
        };
        if let Some(socket) = &run.socket {
            run.ask_first(socket).map_err(|e| shown(socket, &e))?;
        }
        Ok(run)
    }

    /// Asks the node before any device is touched. One that is stalled now is not waited for.
    fn ask_first(&self, socket: &Path) -> io::Result<()> {
        let look = Look::at(socket)?;
        for (target, control) in &self.targets {
            match look.of(&target.path) {
                Some(health) => control.note(health),
                None => {
                    let sentence = "the node at that status socket does not serve it";
                    self.shared.report.complain(&format!("{}: {sentence}", target.path.display()));
                }
            }
        }
        Ok(())
    }

    fn run(self, begun: Instant) -> u8 {
        let (sender, receiver) = channel();
        let mut ends = Ends::default();
        let mut pending = Vec::new();
        for (at, (_, control)) in self.targets.iter().enumerate() {
            match control.health().0 {
                Health::Fine => {
                    pending.push(at);
                    self.start(at, sender.clone());
                }
                sick => self.ended(at, End::from(control::Halt::Sick(sick)), &mut ends),
            }
        }
        drop(sender);
        self.keep_asking();
        self.supervise(&receiver, pending, &mut ends);
        self.sum_up(begun, &ends)
    }

    fn start(&self, at: usize, sender: Sender<(usize, End)>) {
        let (target, control) = self.targets[at].clone();
        let shared = Arc::clone(&self.shared);
        let scrub = {
            let sender = sender.clone();
            move || {
                let end = device::scrub(&target, &shared, &control);
                // The receiver is gone when nobody waits any more.
                let _ = sender.send((at, end));
            }
        };
        let started = thread::Builder::new().name(format!("scrub {at}")).spawn(scrub);
        if let Err(e) = started {
            let _ = sender.send((at, End::Skipped(format!("no thread for it: {e}"))));
        }
    }

    /// From a thread of its own, since a node may take its time to answer.
    fn keep_asking(&self) {
        let Some(socket) = self.socket.clone() else { return };
        let (targets, shared) = (self.targets.clone(), Arc::clone(&self.shared));
        let mut complained = false;
        let ask = move || loop {
            thread::sleep(ASK);
            match Look::at(&socket) {
                Ok(look) => targets.iter().for_each(|(target, control)| {
                    control.note(look.of(&target.path).unwrap_or(Health::Fine));
                }),
                // It may be starting afresh. What it said last holds until it answers.
                Err(e) if !complained => {
                    complained = true;
                    shared.report.complain(&format!("{}: {}", socket.display(), target::text(&e)));
                }
                Err(_) => {}
            }
        };
        if let Err(e) = thread::Builder::new().name("node".into()).spawn(ask) {
            self.shared.report.complain(&format!("the node is not asked again: {e}"));
        }
    }

    /// Saves the state from time to time until every thread has ended or hangs for good.
    fn supervise(&self, ended: &Receiver<(usize, End)>, mut pending: Vec<usize>, ends: &mut Ends) {
        let (mut saved, mut stopped) = (Instant::now(), None);
        while !pending.is_empty() {
            match ended.recv_timeout(LOOK) {
                Ok((at, end)) if pending.contains(&at) => {
                    pending.retain(|other| *other != at);
                    self.ended(at, end, ends);
                }
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            for at in pending.clone() {
                if self.targets[at].1.is_given_up() {
                    pending.retain(|other| *other != at);
                    self.ended(at, End::Skipped("it stalled and has not come back".into()), ends);
                }
            }
            if self.stop.load(Relaxed) != 0
                && stopped.get_or_insert_with(Instant::now).elapsed() > GRACE
            {
                break;
            }
            if saved.elapsed() >= SAVE {
                self.save();
                saved = Instant::now();
            }
        }
    }

    fn ended(&self, at: usize, end: End, ends: &mut Ends) {
        let target = &self.targets[at].0;
        match end {
            End::Finished => ends.finished += 1,
            End::Stopped => {}
            End::Skipped(why) => {
                ends.skipped += 1;
                let told = self.shared.report.tell(&skipped(target, why));
                ends.deaf |= told.is_err();
            }
            End::Unheard(sentence) => {
                ends.deaf = true;
                self.shared.report.complain(&sentence);
                // Whoever has the pipe's other end has gone: nobody works for nothing.
                let _ = self.stop.compare_exchange(0, -1, Relaxed, Relaxed);
            }
        }
    }

    fn save(&self) {
        if let Err(e) = self.shared.state.save() {
            self.shared.report.complain(&format!("the state file: {}", target::text(&e)));
        }
    }

    fn sum_up(&self, begun: Instant, ends: &Ends) -> u8 {
        self.save();
        let mut totals = Totals::default();
        for (target, _) in &self.targets {
            totals.add(&self.shared.state.totals(&target.absolute));
        }
        if ends.skipped > 0 {
            totals.found.insert(Kind::Skipped, ends.skipped);
        }
        let complete = ends.finished == self.targets.len();
        let summary = Summary::new(complete, begun.elapsed().as_secs_f64(), &totals);
        let told = self.shared.report.sum_up(&summary).is_ok() && !ends.deaf;
        match self.stop.load(Relaxed) {
            signal @ 1.. => 128 + signal as u8,
            _ if !told => INCOMPLETE,
            _ if !totals.is_clean() => FOUND,
            _ if !complete => INCOMPLETE,
            _ => 0,
        }
    }
}

fn skipped(target: &Target, why: String) -> Finding {
    Finding {
        kind: Kind::Skipped,
        path: target.path.display().to_string(),
        devid: target.devid.get(),
        fid: None,
        why,
        offset: None,
        errno: None,
        size: None,
        allocated: None,
    }
}
