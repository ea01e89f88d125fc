//! What a connection costs that does nothing: memory of a server that was just started.

use std::thread;
use std::time::{Duration, Instant};

use crate::contest::{Arena, Contestant, Entrant, Sample};
use crate::corpus::SMALL;
use crate::failure::Outcome;
use crate::load::{Load, Style};
use crate::servers::{Server, Settings};
use crate::work::Fetch;

const WORK: Fetch = Fetch { set: SMALL, devices: 1, head: false, close: false };
/// Enough to have everything in place that a server keeps however many connections there are.
const WARM_UP: (usize, u64) = (32, 2000);
const SETTLING: Duration = Duration::from_millis(300);

/// A server that is started anew for each turn: what earlier connections have left behind would
/// be used again by idle ones.
pub struct Idle<'a> {
    arena: &'a Arena,
    entrant: &'a Entrant,
    settings: Settings,
    connections: usize,
}

impl<'a> Idle<'a> {
    /// With so many connections.
    pub fn new(arena: &'a Arena, entrant: &'a Entrant, connections: usize) -> Idle<'a> {
        let mut settings = entrant.settings.clone();
        settings.folder.push("idle");
        Idle { arena, entrant, settings, connections }
    }

    fn measure(&self, server: &Server) -> Outcome<Sample> {
        let (few, requests) = WARM_UP;
        let corpus = &self.arena.corpus;
        let begun = Instant::now();
        Load::new(corpus, server.http, few, Style::default())?.run(&WORK, 0, requests, None)?;
        thread::sleep(SETTLING);
        let before = server.tree().memory()?;
        let count = self.connections as u64;
        let mut load = Load::new(corpus, server.http, self.connections, Style::default())?;
        load.run(&WORK, 0, count, None)?;
        thread::sleep(SETTLING);
        let bytes = server.tree().memory()?.saturating_sub(before);
        let wall_ns = begun.elapsed().as_nanos() as u64;
        let value = bytes as f64 / count as f64;
        Ok(Sample { value, units: count, bytes, wall_ns, ..Sample::default() })
    }
}

impl Contestant for Idle<'_> {
    fn name(&self) -> &'static str {
        self.entrant.plan.name
    }

    fn warm_up(&mut self) -> Outcome<()> {
        Ok(())
    }

    fn slice(&mut self, _: bool) -> Outcome<Sample> {
        let server = self.entrant.plan.start(&self.settings)?;
        self.measure(&server).map_err(|failure| self.entrant.blame(failure))
    }
}
