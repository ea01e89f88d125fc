//! Those who take turns in a case, and what a turn of each is: a short slice of load, and the
//! processor time that it cost.

use std::cell::Cell;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::cases::{Case, Kind, Unit};
use crate::corpus::{Corpus, MISSING, SMALL, Set};
use crate::failure::{Context, Failure, Outcome};
use crate::load::{Load, Style, Tally};
use crate::scratch::Scratch;
use crate::servers::{Plan, Server, Settings};
use crate::work::{Digests, Fetch, Miss, Sizes, Store, Work, WrongDigest};

/// In between the last round's slices some of the files that were stored are compared.
const COMPARED: usize = 16;
/// Each server's PUTs have so many numbers of their own.
const NUMBERS: u64 = 100_000_000;
/// Connections that every server is set up for.
const CONNECTIONS: usize = 50_000;

/// What all contestants share.
pub struct Arena {
    /// The files' folder.
    pub scratch: Rc<Scratch>,
    /// The files.
    pub corpus: Corpus,
    /// The folder that holds the devices.
    pub docroot: PathBuf,
    /// How long a slice is to last.
    pub slice: Duration,
}

/// A server that is up during the whole run.
pub struct Entrant {
    /// How it was started.
    pub plan: Plan,
    /// With what.
    pub settings: Settings,
    /// It.
    pub server: Server,
    /// The number that its next PUT has. No two entrants use the same ones.
    pub next: Cell<u64>,
}

/// What a slice gave.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Sample {
    /// In the case's unit.
    pub value: f64,
    /// Requests, or pairs of them.
    pub units: u64,
    /// Bytes of bodies.
    pub bytes: u64,
    /// Processor time in nanoseconds.
    pub cpu_ns: u64,
    /// Elapsed nanoseconds.
    pub wall_ns: u64,
}

/// Somebody who takes turns.
pub trait Contestant {
    /// Its name in the table.
    fn name(&self) -> &'static str;
    /// Once, before the first round: does it work, and how much is a slice?
    fn warm_up(&mut self) -> Outcome<()>;
    /// A turn. After the last one everything is checked.
    fn slice(&mut self, last: bool) -> Outcome<Sample>;
}

/// A server under a closed loop.
pub struct Loaded<'a> {
    arena: &'a Arena,
    entrant: &'a Entrant,
    name: &'static str,
    unit: Unit,
    load: Load<'a>,
    work: Box<dyn Work>,
    /// Bytes of the files that it stores.
    stores: Option<usize>,
    deletes: bool,
    count: u64,
    least: u64,
}

impl Arena {
    /// Fills a docroot of this name with files.
    pub fn new(
        scratch: &Rc<Scratch>,
        name: &str,
        devices: u64,
        sets: &[Set],
        slice: Duration,
    ) -> Outcome<Arena> {
        let docroot = scratch.top().join(name);
        let corpus = Corpus::create(&docroot, devices, sets)?;
        scratch.settle()?;
        Ok(Arena { scratch: Rc::clone(scratch), corpus, docroot, slice })
    }
}

impl Sample {
    /// Of a turn that cost processor time.
    pub fn of_cpu(unit: Unit, tally: Tally, cpu: Duration, wall: Duration) -> Sample {
        let nanos = cpu.as_nanos() as f64;
        let value = match unit {
            Unit::MillisPerGb => nanos * 1e3 / tally.bytes as f64,
            _ => nanos / 1e3 / tally.units as f64,
        };
        Sample {
            value,
            units: tally.units,
            bytes: tally.bytes,
            cpu_ns: cpu.as_nanos() as u64,
            wall_ns: wall.as_nanos() as u64,
        }
    }

    /// How much of its processor the server had in use.
    pub fn share(&self) -> f64 {
        self.cpu_ns as f64 / self.wall_ns as f64
    }
}

impl<'a> Loaded<'a> {
    /// `None` when the case is nothing for this server.
    pub fn new(
        arena: &'a Arena,
        entrant: &'a Entrant,
        case: &Case,
        name: &'static str,
    ) -> Outcome<Option<Loaded<'a>>> {
        let corpus = &arena.corpus;
        let Some(work) = work(case.kind, corpus) else { return Ok(None) };
        let sidechannel = matches!(case.kind, Kind::Size | Kind::Digest(_));
        let Server { http, mgmt, .. } = entrant.server;
        let node_only = sidechannel || matches!(case.kind, Kind::PutDigest(_));
        if node_only && !entrant.plan.kind.is_storage_node() {
            return Ok(None);
        }
        let Some(address) = (if sidechannel { mgmt } else { Some(http) }) else { return Ok(None) };
        let style = Style { reconnect: matches!(case.kind, Kind::GetOnce(_)), ..Style::default() };
        let stores = match case.kind {
            Kind::Put(size) | Kind::PutDigest(size) | Kind::PutDelete(size) => Some(size),
            _ => None,
        };
        Ok(Some(Loaded {
            arena,
            entrant,
            name,
            unit: case.unit,
            load: Load::new(corpus, address, case.connections, style)?,
            work,
            stores,
            deletes: matches!(case.kind, Kind::PutDelete(_)),
            count: 0,
            least: case.connections as u64,
        }))
    }

    /// Runs so many units, and cleans up behind them.
    fn measure(&mut self, count: u64, compared: usize) -> Outcome<Sample> {
        let first = self.entrant.next.get();
        if self.stores.is_some() {
            self.arena.corpus.make_folders(first, count)?;
            self.arena.scratch.settle()?;
        }
        let tree = self.entrant.server.tree();
        let (before, begun) = (tree.clocks()?, Instant::now());
        let tally = self.load.run(&*self.work, first, count, None)?;
        let wall = begun.elapsed();
        let cpu = tree.spent_since(&before)?;
        if let Some(size) = self.stores {
            self.clean_up(first, count, size, compared)?;
        }
        Ok(Sample::of_cpu(self.unit, tally, cpu, wall))
    }

    fn clean_up(&self, first: u64, count: u64, size: usize, compared: usize) -> Outcome<()> {
        let corpus = &self.arena.corpus;
        if self.deletes {
            corpus.absent(first, count)?;
        } else {
            corpus.compare(first, count, size, compared)?;
        }
        corpus.remove(first, count)?;
        self.entrant.next.set((first + count).next_multiple_of(1000));
        self.arena.scratch.settle()
    }
}

impl Contestant for Loaded<'_> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn warm_up(&mut self) -> Outcome<()> {
        let words = |failure| self.entrant.blame(failure);
        let mut count = self.least;
        // The last run is a whole slice: the kernel has found by then how much of a large answer
        // it may send before it has to wait, and the rate is what it will be.
        for last in [false, true] {
            loop {
                let sample = self.measure(count, COMPARED).map_err(words)?;
                let took = Duration::from_nanos(sample.wall_ns);
                let share = self.arena.slice.as_secs_f64() / took.as_secs_f64();
                let fitting = (count as f64 * share).ceil() as u64;
                let enough = took * 3 > self.arena.slice;
                count = fitting.min(count * 8).max(self.least);
                if enough || last {
                    break;
                }
            }
        }
        self.count = count;
        Ok(())
    }

    fn slice(&mut self, last: bool) -> Outcome<Sample> {
        let compared = if last { 1 } else { COMPARED };
        let measured = self.measure(self.count, compared);
        measured.map_err(|failure| self.entrant.blame(failure))
    }
}

impl Entrant {
    /// Starts a server. `index` sets it apart from the others of the arena.
    pub fn start(arena: &Arena, plan: Plan, workers: usize, index: usize) -> Outcome<Entrant> {
        let folder = arena.scratch.top().join(format!("server{index}"));
        let settings =
            Settings { docroot: arena.docroot.clone(), folder, workers, connections: CONNECTIONS };
        let server = plan.start(&settings)?;
        let next = Cell::new((index as u64 + 1) * NUMBERS);
        Ok(Entrant { plan, settings, server, next })
    }

    /// An upload whose digest is not that of its body must leave nothing behind.
    pub fn refuses_wrong_digest(&self, arena: &Arena) -> Outcome<()> {
        let number = self.next.get();
        arena.corpus.make_folders(number, 1)?;
        let mut load = Load::new(&arena.corpus, self.server.http, 1, Style::default())?;
        let refused = load.run(&WrongDigest, number, 1, None);
        refused.map_err(|failure| self.blame(failure))?;
        arena.corpus.absent(number, 1)?;
        arena.corpus.remove(number, 1)
    }

    /// Names the server, and what it said.
    pub fn blame(&self, failure: Failure) -> Failure {
        let said = self.server.last_words();
        let said = if said.is_empty() { said } else { format!("\n{said}") };
        Failure::new(format!("{}: {failure}{said}", self.plan.name))
    }
}

fn work(kind: Kind, corpus: &Corpus) -> Option<Box<dyn Work>> {
    let devices = corpus.devices();
    Some(match kind {
        Kind::Get(set) => Box::new(Fetch { set, devices, head: false, close: false }),
        Kind::Head(set) => Box::new(Fetch { set, devices, head: true, close: false }),
        Kind::GetOnce(set) => Box::new(Fetch { set, devices, head: false, close: true }),
        Kind::Miss => Box::new(Miss(MISSING)),
        Kind::Put(size) => Box::new(Store::new(size, devices)),
        Kind::PutDigest(size) => Box::new(Store::new(size, devices).with_digest(corpus)),
        Kind::PutDelete(size) => Box::new(Store::new(size, devices).and_delete()),
        Kind::Size => Box::new(Sizes(SMALL)),
        Kind::Digest(set) => Box::new(Digests::new(set, corpus)),
        Kind::Idle | Kind::Steady | Kind::Full => return None,
    })
}

/// Before anything is measured: every file of every size, compared whole.
pub fn check_files(arena: &Arena, entrant: &Entrant, sets: &[Set]) -> Outcome<()> {
    for &set in sets {
        let style = Style { thorough: true, ..Style::default() };
        let connections = set.count.min(8) as usize;
        let mut load = Load::new(&arena.corpus, entrant.server.http, connections, style)?;
        let devices = arena.corpus.devices();
        let work = Fetch { set, devices, head: false, close: false };
        let checked = load.run(&work, 0, set.count, None).context("checking");
        checked.map_err(|failure| entrant.blame(failure))?;
    }
    Ok(())
}
