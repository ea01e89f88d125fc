//! Requests that are noted for the access log and the log of slow operations: where one begins,
//! what it is answered, where it is over. Where there are no such logs this costs a branch.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use crate::access::{self, AccessLog, slow};
use crate::event_loop::Worker;
use crate::event_loop::serve::Served;
use crate::http::head::Request;
use crate::scoreboard::WorkerSlot;
use crate::spec::{Settings, WorkerId};
use crate::trace::{Part, Trace};

/// The requests that are noted.
#[derive(Debug, Default)]
pub(super) struct Tracing {
    on: bool,
    log: Option<AccessLog>,
    slow: Duration,
    /// Those that are under way, by the connection's key.
    open: HashMap<usize, Arc<Trace>>,
}

impl Tracing {
    /// As the settings want it.
    pub(super) fn start(
        settings: &Settings,
        file: Option<Arc<File>>,
        worker: (WorkerId, &'static WorkerSlot),
    ) -> std::io::Result<Tracing> {
        let slow = settings.slow_log;
        let file = file.map(|file| file.try_clone()).transpose()?;
        let log = settings.accesslog.clone();
        let log = log.map(|log| AccessLog::start(log, file, slow, worker)).transpose()?;
        let on = log.is_some() || !slow.is_zero();
        Ok(Tracing { on, log, slow, open: HashMap::new() })
    }

    /// The log's file has been opened again.
    pub(super) fn reopen(&self, file: OwnedFd) {
        if let Some(log) = &self.log {
            log.reopen(file.into());
        }
    }

    /// Tells of lost lines when it is time.
    pub(super) fn tell(&mut self) {
        self.log.iter_mut().for_each(AccessLog::tell);
    }

    /// The worker ends.
    pub(super) fn finish(&mut self) {
        self.log.iter_mut().for_each(AccessLog::finish);
    }

    /// What a connection is in the middle of.
    pub(super) fn of(&self, key: usize) -> Option<&Arc<Trace>> {
        if self.on { self.open.get(&key) } else { None }
    }

    fn note(&mut self, trace: &Trace) {
        if slow::is_slow(trace, self.slow) {
            slow::tell(trace);
        }
        self.log.iter_mut().for_each(|log| log.note(trace));
    }
}

impl Worker {
    /// A request has come with this head. `None`: nobody wants to know.
    pub(super) fn begin_trace(
        &self,
        key: usize,
        head: &[u8],
        request: Option<&Request>,
    ) -> Option<Arc<Trace>> {
        if !self.tracing.on {
            return None;
        }
        let conn = &self.conns[key];
        let asked = access::asked(head, request, conn.site());
        Some(Arc::new(Trace::begin(asked, conn.peer())))
    }

    /// A request was served so, and has this answer, if any. One that goes on is given back: it
    /// belongs to the connection if that is still its own then.
    pub(super) fn trace_served(
        &mut self,
        trace: Option<Arc<Trace>>,
        served: &Served,
        answer_at: usize,
    ) -> Option<Arc<Trace>> {
        let trace = trace?;
        match served {
            Served::Answered(_) | Served::Refused => {
                trace.note_answer(&self.out[answer_at..]);
                trace.enter(Part::Loop);
                self.tracing.note(&trace);
                return None;
            }
            // Whoever gets it notes it.
            Served::Move(_) => return None,
            Served::Send(_) => trace.note_answer(&self.out[answer_at..]),
            Served::Discard(_) => trace.enter(Part::Peer),
            Served::Lend(..) => {}
        }
        Some(trace)
    }

    /// A connection is in the middle of a request.
    pub(super) fn keep_trace(&mut self, key: usize, trace: Option<Arc<Trace>>) {
        if let Some(trace) = trace {
            self.tracing.open.insert(key, trace);
        }
    }

    /// The worker's output is about to be sent. It is the answer to what the connection is in the
    /// middle of, or the head of that: `more`.
    pub(super) fn trace_output(&mut self, key: usize, more: bool) {
        let Some(trace) = self.tracing.of(key) else { return };
        trace.note_answer(&self.out);
        if !more {
            self.end_trace(key);
        }
    }

    /// The loop has sent so much of a file.
    pub(super) fn trace_sent(&self, key: usize, bytes: u64, now: Part) {
        if let Some(trace) = self.tracing.of(key) {
            trace.add_sent(bytes);
            trace.enter(now);
        }
    }

    /// What a connection was in the middle of is over.
    pub(super) fn end_trace(&mut self, key: usize) {
        if let Some(trace) = self.tracing.of(key) {
            trace.enter(Part::Loop);
            self.end_trace_of_thread(key);
        }
    }

    /// The same, at the time when its disk thread was done with it.
    pub(super) fn end_trace_of_thread(&mut self, key: usize) {
        if self.tracing.on
            && let Some(trace) = self.tracing.open.remove(&key)
        {
            self.tracing.note(&trace);
        }
    }
}
