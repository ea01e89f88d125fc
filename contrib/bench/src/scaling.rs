//! What more of everything costs: workers, devices, idle connections, files. Only our own daemon,
//! its processes pinned as ever; those that are compared run side by side.

use std::fs::File;
use std::rc::Rc;

use nix::sys::resource::{Resource, getrlimit};
use serde_json::{Value, json};

use crate::args::Args;
use crate::cases::{Case, FILES_ONES, IDLE_ONES, Kind, NGINX, PARTS, Unit};
use crate::contest::{Arena, Contestant, Entrant, Loaded};
use crate::corpus::{SMALL, Set};
use crate::cpu::{self, Favoured};
use crate::failure::{Context, Outcome, go_on};
use crate::field::{nginx, own, raise_descriptors};
use crate::holder::Held;
use crate::report;
use crate::rounds::{self, Measured};
use crate::scratch::{Scratch, Shape};
use crate::servers::Plan;

/// Two million files need as many inodes.
const SHAPE: Shape = Shape { size: 12 << 30, inodes: Some(2_300_000) };
const WORKERS: [(usize, &str); 4] =
    [(1, "1 worker"), (2, "2 workers"), (4, "4 workers"), (8, "8 workers")];
const DEVICES: [u64; 3] = [1, 8, 36];
/// By how much any number of workers may be behind the best one.
const MOST_OF_BEST: f64 = 1.1;
/// With so many, nginx shows what workers cost any server that shares one processor among them.
const NGINX_DEVICES: u64 = 8;
const BUSY: usize = 64;
const IDLE: [(usize, &str); 3] =
    [(0, "none idle"), (10_000, "10,000 idle"), (40_000, "40,000 idle")];
const ENOUGH_FOR_ALL: u64 = 45_000;
/// Busy connections may lose a twentieth of their requests by processor time.
const MOST_BESIDE_IDLE: f64 = 1.0 / 0.95;
/// A thousand of two million, each in another folder.
const SCATTERED: Set = Set { first: 0, apart: 1999, count: 1000, size: 4 << 10 };
const FILES: u64 = 2_000_000;
/// "Unchanged" with some room for scatter.
const MOST_WITH_MANY: f64 = 1.05;

static GET: [Case; 3] = [
    case("get4k-1", "GET 4 KiB, 1 device", Kind::Get(SMALL), 32),
    case("get4k-8", "GET 4 KiB, 8 devices", Kind::Get(SMALL), 32),
    case("get4k-36", "GET 4 KiB, 36 devices", Kind::Get(SMALL), 32),
];
static PUT: [Case; 3] = [
    case("put4k-1", "PUT 4 KiB, 1 device", Kind::Put(4 << 10), 32),
    case("put4k-8", "PUT 4 KiB, 8 devices", Kind::Put(4 << 10), 32),
    case("put4k-36", "PUT 4 KiB, 36 devices", Kind::Put(4 << 10), 32),
];
static NGINX_GET: Case = case("nginx-get4k", "nginx: GET 4 KiB", Kind::Get(SMALL), 32);
static NGINX_PUT: Case = case("nginx-put4k", "nginx: PUT 4 KiB", Kind::Put(4 << 10), 32);
static BESIDE_IDLE: Case = case("idle", "GET 4 KiB, 64 busy connections", Kind::Get(SMALL), BUSY);
static SMALL_CORPUS: Case = case("files", "GET 4 KiB, 1000 files of more", Kind::Get(SMALL), 32);
static SCATTERED_CORPUS: Case =
    case("files", "GET 4 KiB, 1000 files of more", Kind::Get(SCATTERED), 32);

/// Measures everything, prints it, and writes it down where that was asked for.
pub fn run(args: &Args) -> Outcome<()> {
    raise_descriptors()?;
    let plan = own("rmogstored", &args.rmogstored)?;
    let scratch = Rc::new(Scratch::new(args.dir.as_deref(), SHAPE)?);
    let _favoured = Favoured::new();
    cpu::take_places(args.share)?;
    let bench = Bench { args, plan, scratch };
    let mut all = Vec::new();
    let parts = args.parts()?;
    for (index, devices) in DEVICES.into_iter().enumerate() {
        if parts.contains(&PARTS[index]) {
            all.extend(bench.workers(&bench.plan, devices, [&GET[index], &PUT[index]])?);
        }
    }
    match nginx().filter(|_| parts.contains(&NGINX)) {
        Some(nginx) => {
            all.extend(bench.workers(&nginx, NGINX_DEVICES, [&NGINX_GET, &NGINX_PUT])?);
        }
        None if parts.contains(&NGINX) => eprintln!("absent: nginx"),
        None => {}
    }
    if parts.contains(&IDLE_ONES) {
        all.push(bench.idle_connections()?);
    }
    if parts.contains(&FILES_ONES) {
        all.push(bench.many_files()?);
    }
    match &args.json {
        Some(file) => report::write_json(file, &all, bench.about()),
        None => Ok(()),
    }
}

struct Bench<'a> {
    args: &'a Args,
    plan: Plan,
    scratch: Rc<Scratch>,
}

impl Bench<'_> {
    /// With this many devices: how much do more workers cost?
    fn workers(
        &self,
        plan: &Plan,
        devices: u64,
        cases: [&'static Case; 2],
    ) -> Outcome<[Measured; 2]> {
        let arena = self.arena(&format!("{}{devices}", plan.name), devices, SMALL)?;
        let start = |(index, &(workers, _))| Entrant::start(&arena, plan.clone(), workers, index);
        let nodes: Outcome<Vec<Entrant>> = WORKERS.iter().enumerate().map(start).collect();
        let nodes = nodes?;
        let measure = |case: &'static Case| -> Outcome<Measured> {
            let named =
                nodes.iter().zip(WORKERS).map(|(node, (_, name))| (&arena, node, case, name));
            let measured = self.measure(case, named)?;
            report::print_scaling(&measured, measured.best(), MOST_OF_BEST);
            Ok(measured)
        };
        Ok([measure(cases[0])?, measure(cases[1])?])
    }

    /// What do idle connections cost the busy ones?
    fn idle_connections(&self) -> Outcome<Measured> {
        let arena = self.arena("idle", 1, SMALL)?;
        // As many workers as have descriptors for all of them.
        let (descriptors, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
        let workers = if descriptors < ENOUGH_FOR_ALL { 4 } else { 1 };
        println!("\nbeside idle connections: {workers} worker(s)");
        let mut nodes = Vec::new();
        let mut held = Vec::new();
        for (index, (count, _)) in IDLE.into_iter().enumerate() {
            let node = self.start(&arena, workers, index)?;
            let opened = Held::open(node.server.http, count);
            held.push(opened.map_err(|failure| node.blame(failure))?);
            nodes.push(node);
        }
        let case = &BESIDE_IDLE;
        let named = nodes.iter().zip(IDLE).map(|(node, (_, name))| (&arena, node, case, name));
        let measured = self.measure(case, named)?;
        report::print_scaling(&measured, IDLE[0].1, MOST_BESIDE_IDLE);
        Ok(measured)
    }

    /// What do files cost that nobody asks for?
    fn many_files(&self) -> Outcome<Measured> {
        let few = self.arena("few", 1, SMALL)?;
        let scattered = self.arena("scattered", 1, SCATTERED)?;
        let many = self.arena("many", 1, SCATTERED)?;
        eprintln!("making {FILES} files");
        fill(&many)?;
        let reference = "1000, scattered";
        let arenas = [
            (&few, &SMALL_CORPUS, "1000 in a folder"),
            (&scattered, &SCATTERED_CORPUS, reference),
            (&many, &SCATTERED_CORPUS, "of 2,000,000"),
        ];
        let mut nodes = Vec::new();
        for (index, (arena, ..)) in arenas.into_iter().enumerate() {
            nodes.push(self.start(arena, 1, index)?);
        }
        let named = nodes.iter().zip(arenas);
        let named = named.map(|(node, (arena, case, name))| (arena, node, case, name));
        let measured = self.measure(&SCATTERED_CORPUS, named)?;
        report::print_scaling(&measured, reference, MOST_WITH_MANY);
        Ok(measured)
    }

    fn arena(&self, name: &str, devices: u64, set: Set) -> Outcome<Arena> {
        Arena::new(&self.scratch, name, devices, &[set], self.args.slice())
    }

    fn start(&self, arena: &Arena, workers: usize, index: usize) -> Outcome<Entrant> {
        Entrant::start(arena, self.plan.clone(), workers, index)
    }

    fn measure<'a>(
        &self,
        case: &'static Case,
        named: impl Iterator<Item = (&'a Arena, &'a Entrant, &'static Case, &'static str)>,
    ) -> Outcome<Measured> {
        let mut contestants: Vec<Box<dyn Contestant + 'a>> = Vec::new();
        for (arena, entrant, case, name) in named {
            if let Some(loaded) = Loaded::new(arena, entrant, case, name)? {
                contestants.push(Box::new(loaded));
            }
        }
        rounds::run(case, contestants, self.args.rounds())
    }

    fn about(&self) -> Value {
        let mut about =
            report::about(&[&self.plan], self.args.commit.as_deref(), self.scratch.kind());
        about["slice_ms"] = json!(self.args.slice().as_millis() as u64);
        about
    }
}

const fn case(name: &'static str, title: &'static str, kind: Kind, connections: usize) -> Case {
    Case { name, title, unit: Unit::MicrosEach, kind, connections, goals: &[] }
}

/// Empty files under all numbers that have none.
fn fill(arena: &Arena) -> Outcome<()> {
    for thousand in (0..FILES).step_by(1000) {
        go_on()?;
        arena.corpus.make_folders(thousand, 1000)?;
        for number in thousand..thousand + 1000 {
            let file = arena.corpus.file(number);
            let opened = File::options().create(true).append(true).open(&file);
            opened.context(format!("cannot make {}", file.display()))?;
        }
    }
    arena.scratch.settle()
}
