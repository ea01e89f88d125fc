//! What the master says, and signals.

use std::io;
use std::os::fd::OwnedFd;

use nix::sys::signal::Signal;

use crate::control::{Down, Log};
use crate::event_loop::Worker;
use crate::event_loop::leaving::Why;
use crate::spec::WorkerId;

impl Worker {
    pub(super) fn take_messages(&mut self) {
        let mut drain = None;
        let is_there = loop {
            match self.control.receive::<Down>() {
                Ok(Some((Down::Drain { shared }, way_back))) => {
                    self.way_back = way_back.or(self.way_back.take());
                    drain = Some(shared);
                }
                Ok(Some((message, fd))) => self.obey(message, fd),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break true,
                Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                    log::error!("control channel: {e}");
                }
                Ok(None) | Err(_) => break false,
            }
        };
        // With all that was said meanwhile of those who have the connections next.
        if let Some(shared) = drain {
            self.begin_drain(Why::Told { shared });
        }
        if !is_there {
            self.master_gone();
        }
    }

    fn obey(&mut self, message: Down, fd: Option<OwnedFd>) {
        match message {
            Down::Drain { .. } => {} // See the caller.
            Down::AioThreads { threads } => self.set_threads(threads),
            Down::ReopenLog { log } => match (log, fd) {
                (Log::Access, Some(file)) => self.tracing.reopen(file),
                (Log::Node, Some(file)) => (self.reopen_log)(file),
                (_, None) => {}
            },
            Down::Accept => self.accept_pending(),
            Down::Heir { heir, routes } => {
                if let Some(inbox) = fd {
                    self.heirs.add(heir, inbox, routes);
                    self.settle_answers();
                }
            }
            Down::NoHeir { heir } => {
                self.heirs.remove(heir);
                self.settle_answers();
            }
            Down::Peer { worker } => {
                if let Some(inbox) = fd {
                    self.neighbours.add(WorkerId(worker), inbox);
                }
            }
        }
    }

    pub(super) fn take_signals(&mut self) {
        while let Some(signal) = self.signals.next() {
            // An interrupt from the terminal reaches the master too, which decides.
            if signal != Signal::SIGINT {
                self.begin_drain(Why::Replaced);
            }
        }
    }
}
