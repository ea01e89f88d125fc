//! Everything that is up while the cases are measured: the files, and all servers.

use std::path::Path;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::Value;

use crate::args::Args;
use crate::cases::{BASELINE, Case, Kind, NGINX, OURS, PLAIN_PUT};
use crate::contest::{Arena, Contestant, Entrant, Loaded, check_files};
use crate::corpus::{HUGE, LARGE, MANY, MEDIUM, SMALL, Set};
use crate::cpu::{self, Favoured};
use crate::failure::{Failure, Outcome};
use crate::idle::Idle;
use crate::latency::{Full, Steady};
use crate::local::{OpenSsl, RawStat};
use crate::report;
use crate::rounds::{self, Measured};
use crate::scratch::{Scratch, Shape};
use crate::servers::{Kind as ServerKind, Plan, find, version};

const SETS: [Set; 4] = [SMALL, MEDIUM, LARGE, HUGE];
/// Enough for every connection that there can be.
const DESCRIPTORS: u64 = 200_000;
const SHAPE: Shape = Shape { size: 4 << 30, inodes: None };

/// The files and the servers. Those end before the files go.
pub struct Field {
    entrants: Vec<Entrant>,
    arena: Arena,
    _favoured: Favoured,
}

impl Field {
    /// Makes the files, starts the servers, and compares every file that they give.
    pub fn set_up(args: &Args) -> Outcome<Field> {
        raise_descriptors()?;
        let plans = plans(args)?;
        let scratch = Rc::new(Scratch::new(args.dir.as_deref(), SHAPE)?);
        cpu::take_places(args.share)?;
        let mut sets = SETS.to_vec();
        // They take longer to make than the other cases need.
        let cases = args.cases()?;
        if cases.iter().any(|case| matches!(case.kind, Kind::Get(set) if set == MANY)) {
            sets.push(MANY);
        }
        let arena = Arena::new(&scratch, "docroot", 1, &sets, args.slice())?;
        let mut field = Field { entrants: Vec::new(), arena, _favoured: Favoured::new() };
        for (index, plan) in plans.into_iter().enumerate() {
            let entrant = Entrant::start(&field.arena, plan, args.workers, index)?;
            field.entrants.push(entrant);
        }
        for entrant in &field.entrants {
            check_files(&field.arena, entrant, &sets)?;
        }
        Ok(field)
    }

    /// Runs the rounds of a case.
    pub fn measure(&self, case: &'static Case, args: &Args) -> Outcome<Measured> {
        let contestants = self.contestants(case, args.quick)?;
        // A server's memory does not depend on how fast the machine is just now.
        let most = match case.kind {
            Kind::Idle if args.quick => 2,
            Kind::Idle => 5,
            _ => usize::MAX,
        };
        rounds::run(case, contestants, args.rounds().min(most))
    }

    /// What the JSON document says of the run.
    pub fn about(&self, args: &Args) -> Value {
        let plans: Vec<&Plan> = self.entrants.iter().map(|entrant| &entrant.plan).collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut about = report::about(&plans, args.commit.as_deref(), self.arena.scratch.kind());
        about["unix_time"] = now.as_secs().into();
        about["slice_ms"] = (self.arena.slice.as_millis() as u64).into();
        about["workers"] = args.workers.into();
        about
    }

    fn contestant<'a>(
        &'a self,
        entrant: &'a Entrant,
        case: &Case,
        quick: bool,
    ) -> Outcome<Option<Box<dyn Contestant + 'a>>> {
        let arena = &self.arena;
        Ok(match case.kind {
            Kind::Idle => {
                let connections = if quick { case.connections / 5 } else { case.connections };
                Some(Box::new(Idle::new(arena, entrant, connections)))
            }
            Kind::Full => Some(Box::new(Full::new(arena, entrant, case.connections)?)),
            Kind::Steady => Some(Box::new(Steady::new(arena, entrant, case.connections)?)),
            _ => {
                let loaded = Loaded::new(arena, entrant, case, entrant.plan.name)?;
                loaded.map(|loaded| Box::new(loaded) as Box<dyn Contestant>)
            }
        })
    }

    fn contestants(
        &self,
        case: &'static Case,
        quick: bool,
    ) -> Outcome<Vec<Box<dyn Contestant + '_>>> {
        let mut contestants: Vec<Box<dyn Contestant>> = Vec::new();
        for entrant in &self.entrants {
            if !entrant.plan.kind.takes_part(case.kind.writes()) {
                continue;
            }
            contestants.extend(self.contestant(entrant, case, quick)?);
        }
        if matches!(case.kind, Kind::Size) {
            contestants.push(Box::new(RawStat::new(&self.arena, SMALL)));
        }
        if let Kind::PutDigest(size) = case.kind {
            self.entrants[0].refuses_wrong_digest(&self.arena)?;
            let plain = Case { kind: Kind::Put(size), ..*case };
            let plain = Loaded::new(&self.arena, &self.entrants[0], &plain, PLAIN_PUT)?;
            contestants.extend(plain.map(|plain| Box::new(plain) as Box<dyn Contestant>));
        }
        if matches!(case.kind, Kind::Digest(_) | Kind::PutDigest(_)) {
            match find("openssl".as_ref()) {
                Some(binary) => {
                    contestants.push(Box::new(OpenSsl::new(&self.arena, binary, HUGE)?));
                }
                None => eprintln!("absent: openssl"),
            }
        }
        Ok(contestants)
    }
}

/// Whom there is to start: ours first.
fn plans(args: &Args) -> Outcome<Vec<Plan>> {
    let mut plans = vec![own(OURS, &args.rmogstored)?];
    if let Some(baseline) = &args.baseline {
        plans.push(own(BASELINE, baseline)?);
    }
    let peers = [
        (NGINX, ServerKind::Nginx, Path::new("nginx"), "-v"),
        ("nginx-cache", ServerKind::NginxCached, Path::new("nginx"), "-v"),
        ("lighttpd", ServerKind::Lighttpd, Path::new("lighttpd"), "-v"),
        ("cmogstored", ServerKind::Cmogstored, &args.cmogstored, "-V"),
    ];
    if let Some(wanted) = &args.peers {
        let known = |name: &&String| peers.iter().any(|peer| peer.0 == name.as_str());
        if let Some(unknown) = wanted.iter().find(|name| !known(name)) {
            return Err(Failure::new(format!("no peer '{unknown}'")));
        }
    }
    for (name, kind, program, option) in peers {
        let wanted = args.peers.as_ref();
        if wanted.is_some_and(|wanted| !wanted.iter().any(|wanted| wanted == name)) {
            continue;
        }
        match find(program) {
            Some(binary) => {
                let version = version(&binary, option);
                plans.push(Plan { name, kind, binary, version });
            }
            None => eprintln!("absent: {name}"),
        }
    }
    Ok(plans)
}

/// A build of ours.
pub fn own(name: &'static str, program: &Path) -> Outcome<Plan> {
    let binary =
        find(program).ok_or_else(|| Failure::new(format!("{} is not there", program.display())))?;
    let version = version(&binary, "-V");
    Ok(Plan { name, kind: ServerKind::Rmogstored, binary, version })
}

/// nginx as it is installed.
pub fn nginx() -> Option<Plan> {
    let binary = find(Path::new("nginx"))?;
    let version = version(&binary, "-v");
    Some(Plan { name: NGINX, kind: ServerKind::Nginx, binary, version })
}

/// As many descriptors as we may have; servers inherit it.
pub fn raise_descriptors() -> Outcome<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let more = hard.max(DESCRIPTORS);
    if setrlimit(Resource::RLIMIT_NOFILE, more, more).is_err() {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(())
}
