//! The open loop: so many requests a second, whether or not the last one was answered.

use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Token};
use nix::sys::time::TimeSpec;
use nix::sys::timer::{Expiration, TimerSetTimeFlags};
use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};

use super::{Connection, Load, PATIENCE, Step, TICK};
use crate::failure::{Context, Failure, Outcome, go_on};
use crate::work::Work;

const TIMER: Token = Token(usize::MAX);

/// What of a run is under way.
struct Paced<'w> {
    work: &'w dyn Work,
    begun: Instant,
    every: Duration,
    count: u64,
    sent: u64,
    idle: Vec<usize>,
    latencies: &'w mut Vec<u64>,
}

impl Load<'_> {
    /// Asks `count` times, once `every` so often. Latencies are from the moment that a request
    /// was due, also when no connection was free then, in nanoseconds.
    pub fn run_paced(
        &mut self,
        work: &dyn Work,
        every: Duration,
        count: u64,
        latencies: &mut Vec<u64>,
    ) -> Outcome<()> {
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK)?;
        let interval = Expiration::Interval(TimeSpec::from_duration(every));
        timer.set(interval, TimerSetTimeFlags::empty()).context("timer")?;
        let fd = timer.as_fd().as_raw_fd();
        self.poll.registry().register(&mut SourceFd(&fd), TIMER, Interest::READABLE)?;
        let idle = (0..self.connections.len()).collect();
        let begun = Instant::now() + every;
        let mut run = Paced { work, begun, every, count, sent: 0, idle, latencies };
        let done = self.keep_pace(&mut run, &timer);
        self.poll.registry().deregister(&mut SourceFd(&fd))?;
        done
    }

    fn keep_pace(&mut self, run: &mut Paced, timer: &TimerFd) -> Outcome<()> {
        let mut events = Events::with_capacity(64);
        let wanted = run.latencies.len() + run.count as usize;
        let end = run.begun + run.every * run.count as u32 + PATIENCE;
        while run.latencies.len() < wanted {
            go_on()?;
            if Instant::now() > end {
                return Err(Failure::new("it does not keep up"));
            }
            self.poll_again(&mut events, TICK)?;
            for event in &events {
                match event.token() {
                    TIMER => timer.wait().map(drop).or_else(not_yet)?,
                    Token(index) => self.hear(index, event.is_readable(), run)?,
                }
            }
            self.ask_what_is_due(run)?;
        }
        Ok(())
    }

    fn hear(&mut self, index: usize, readable: bool, run: &mut Paced) -> Outcome<()> {
        let connection: &mut Connection = &mut self.connections[index];
        if connection.turn.is_none() || !readable {
            return Ok(());
        }
        let received = connection.receive(self.corpus, &mut self.buffer, self.style);
        let Step::Done { close } = received.map_err(|failure| connection.blame(failure))? else {
            return Ok(());
        };
        run.latencies.push(connection.begun.elapsed().as_nanos() as u64);
        connection.turn = None;
        run.idle.push(index);
        if close {
            self.connections[index].stream = self.connect(index)?;
        }
        Ok(())
    }

    fn ask_what_is_due(&mut self, run: &mut Paced) -> Outcome<()> {
        let now = Instant::now();
        while run.sent < run.count {
            let due = run.begun + run.every * run.sent as u32;
            if due > now {
                break;
            }
            let Some(index) = run.idle.pop() else { break };
            let connection = &mut self.connections[index];
            connection.prepare(run.work, run.sent, 0, false);
            connection.begun = due;
            connection.send(self.corpus, self.style.piece())?;
            run.sent += 1;
        }
        Ok(())
    }
}

fn not_yet(error: nix::Error) -> Outcome<()> {
    match error {
        nix::Error::EAGAIN => Ok(()),
        other => Err(other).context("timer"),
    }
}
