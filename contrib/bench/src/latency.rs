//! How long answers take: at full load, and at a steady rate beside large transfers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::contest::{Arena, Contestant, Entrant, Sample};
use crate::corpus::{HUGE, SMALL};
use crate::failure::{Failure, Outcome};
use crate::load::{Load, Style, Tally};
use crate::stats::percentile;
use crate::sys::come_first;
use crate::work::{Fetch, Store};

const SMALL_GETS: Fetch = Fetch { set: SMALL, devices: 1, head: false, close: false };
const BIG_GETS: Fetch = Fetch { set: HUGE, devices: 1, head: false, close: false };
/// A slice must have enough answers for its worst ones to mean something: it is so many times
/// as long as another case's.
const LONGER: u32 = 6;
/// Small GETs come so far apart.
const EVERY: Duration = Duration::from_millis(2);
/// Large transfers of each kind.
const TRANSFERS: usize = 4;
/// From their begin until they are under way.
const UNDER_WAY: Duration = Duration::from_millis(100);

/// A closed loop, as much as it can be.
pub struct Full<'a> {
    arena: &'a Arena,
    entrant: &'a Entrant,
    load: Load<'a>,
    latencies: Vec<u64>,
    count: u64,
}

/// An open loop beside large transfers.
pub struct Steady<'a> {
    arena: &'a Arena,
    entrant: &'a Entrant,
    small: Load<'a>,
    gets: Load<'a>,
    puts: Load<'a>,
    latencies: Vec<u64>,
}

impl<'a> Full<'a> {
    /// Over so many connections.
    pub fn new(arena: &'a Arena, entrant: &'a Entrant, connections: usize) -> Outcome<Full<'a>> {
        let load = Load::new(&arena.corpus, entrant.server.http, connections, Style::default())?;
        Ok(Full { arena, entrant, load, latencies: Vec::new(), count: connections as u64 * 32 })
    }

    fn measure(&mut self) -> Outcome<Sample> {
        self.latencies.clear();
        let tree = self.entrant.server.tree();
        let (before, begun) = (tree.clocks()?, Instant::now());
        let tally = self.load.run(&SMALL_GETS, 0, self.count, Some(&mut self.latencies))?;
        let wall = begun.elapsed();
        let cpu = tree.spent_since(&before)?;
        sample(&mut self.latencies, 0.999, tally, cpu, wall)
    }
}

impl Contestant for Full<'_> {
    fn name(&self) -> &'static str {
        self.entrant.plan.name
    }

    fn warm_up(&mut self) -> Outcome<()> {
        let sample = self.slice(false)?;
        let slice = (self.arena.slice * LONGER).as_nanos() as f64;
        self.count = (sample.units as f64 * slice / sample.wall_ns as f64).ceil() as u64;
        self.latencies.reserve(self.count as usize);
        Ok(())
    }

    fn slice(&mut self, _: bool) -> Outcome<Sample> {
        self.measure().map_err(|failure| self.entrant.blame(failure))
    }
}

impl<'a> Steady<'a> {
    /// Small GETs over so many connections.
    pub fn new(arena: &'a Arena, entrant: &'a Entrant, connections: usize) -> Outcome<Steady<'a>> {
        let open = |connections, modest| {
            let style = Style { modest, ..Style::default() };
            Load::new(&arena.corpus, entrant.server.http, connections, style)
        };
        let (small, gets, puts) =
            (open(connections, false)?, open(TRANSFERS, true)?, open(TRANSFERS, true)?);
        Ok(Steady { arena, entrant, small, gets, puts, latencies: Vec::new() })
    }

    fn measure(&mut self) -> Outcome<Sample> {
        self.latencies.clear();
        let slice = self.arena.slice * LONGER;
        let count = (slice.as_nanos() / EVERY.as_nanos()) as u64;
        let store = Store::new(HUGE.size, 1);
        let first = self.entrant.next.get();
        // Far more than are stored in a slice.
        self.arena.corpus.make_folders(first, 1000)?;
        self.arena.scratch.settle()?;
        let stop = AtomicBool::new(false);
        let tree = self.entrant.server.tree();
        let (before, begun) = (tree.clocks()?, Instant::now());
        let (gets, puts) = (&mut self.gets, &mut self.puts);
        let (small, latencies) = (&mut self.small, &mut self.latencies);
        let (paced, tallies) = thread::scope(|scope| {
            let gets = scope.spawn(|| gets.run_until(&BIG_GETS, 0, &stop));
            let puts = scope.spawn(|| puts.run_until(&store, first, &stop));
            let paced = pace(small, count, latencies);
            stop.store(true, Ordering::Relaxed);
            (paced, [gets.join(), puts.join()])
        });
        let wall = begun.elapsed();
        let cpu = tree.spent_since(&before)?;
        paced?;
        let [_, stored] = tallies.map(|tally| {
            tally.unwrap_or_else(|_| Err(Failure::new("the thread of large transfers panicked")))
        });
        let stored = stored?.units;
        self.arena.corpus.compare(first, stored, HUGE.size, TRANSFERS)?;
        self.arena.corpus.remove(first, 1000)?;
        self.entrant.next.set(first + 1000);
        self.arena.scratch.settle()?;
        let tally = Tally { units: count, bytes: count * SMALL.size as u64 };
        sample(&mut self.latencies, 0.99, tally, cpu, wall)
    }
}

impl Contestant for Steady<'_> {
    fn name(&self) -> &'static str {
        self.entrant.plan.name
    }

    fn warm_up(&mut self) -> Outcome<()> {
        self.slice(false).map(drop)
    }

    fn slice(&mut self, _: bool) -> Outcome<Sample> {
        self.measure().map_err(|failure| self.entrant.blame(failure))
    }
}

/// The small GETs, before anything else that runs on the load's processor: what their answers
/// wait for is the server, not us.
fn pace(load: &mut Load, count: u64, latencies: &mut Vec<u64>) -> Outcome<()> {
    thread::sleep(UNDER_WAY);
    // Without the right to it they are slower for all servers alike.
    let first = come_first(true).is_ok();
    let paced = load.run_paced(&SMALL_GETS, EVERY, count, latencies);
    if first {
        come_first(false)?;
    }
    paced
}

fn sample(
    latencies: &mut [u64],
    share: f64,
    tally: Tally,
    cpu: Duration,
    wall: Duration,
) -> Outcome<Sample> {
    latencies.sort_unstable();
    let worst = percentile(latencies, share).ok_or_else(|| Failure::new("no answers"))?;
    Ok(Sample {
        value: worst as f64 / 1000.0,
        units: tally.units,
        bytes: tally.bytes,
        cpu_ns: cpu.as_nanos() as u64,
        wall_ns: wall.as_nanos() as u64,
    })
}
