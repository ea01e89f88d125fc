//! Connections into the loop and out of it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::Ordering::Relaxed;

use mio::unix::SourceFd;
use mio::{Interest, Token};

use crate::clients::conn::{Conn, State};
use crate::clients::timers::Wait;
use crate::disk::work::{Released, Task};
use crate::event_loop::{FIRST_CONN, Worker};
use crate::spec::{Service, SiteId};

impl Worker {
    /// Takes a connection, new or from another worker, into the loop.
    pub(super) fn adopt(
        &mut self,
        fd: OwnedFd,
        peer: SocketAddr,
        service: Service,
        site: SiteId,
        input: Vec<u8>,
    ) {
        let begun = !input.is_empty();
        self.inbox.note_descriptor(fd.as_raw_fd());
        let key = self.conns.insert(Conn::new(fd, peer, service, site, input));
        if let Err(e) = self.watch_conn(key) {
            log::error!("cannot watch a connection from {peer}: {e}");
            self.conns.remove(key);
            return;
        }
        self.slot.connections.store(self.conns.len() as u32, Relaxed);
        self.timers.start(key, Wait::Idle, self.clock.now());
        if begun {
            self.advance(key);
        }
    }

    /// Closes a connection. One that a disk thread has is closed when it comes back.
    pub(super) fn close(&mut self, key: usize) {
        self.end_trace(key);
        if let Some(conn) = self.forget(key) {
            let (site, state) = conn.close();
            self.let_go(site, state);
            self.inbox.note_room();
            self.resume_listeners();
        }
    }

    /// Takes a connection out of the loop. Epoll follows the open file, not the number: it is
    /// deregistered by hand, for another process may hold it next.
    pub(super) fn forget(&mut self, key: usize) -> Option<Conn> {
        self.timers.stop(key);
        let conn = self.conns.remove(key)?;
        if matches!(conn.state(), State::Watching) {
            self.stop_watching(key);
        }
        // Its state may have been taken out already: the queue itself knows who is in it.
        self.leave_fsck(key);
        self.slot.connections.store(self.conns.len() as u32, Relaxed);
        Some(conn)
    }

    /// Deregisters a connection that will live on elsewhere.
    pub(super) fn unwatch(&self, conn: &Conn) {
        let _ = self.poll.registry().deregister(&mut SourceFd(&conn.fd().as_raw_fd()));
    }

    /// Asks for a connection's events: edge-triggered, both directions, once and for all.
    pub(super) fn watch_conn(&self, key: usize) -> io::Result<()> {
        let raw = self.conns[key].fd().as_raw_fd();
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut SourceFd(&raw), Token(FIRST_CONN + key), interest)
    }

    /// What a connection leaves behind is let go where waiting for the disk does no harm.
    pub(super) fn let_go(&mut self, site: SiteId, state: State) {
        match state {
            State::Sending(sending) => {
                let path = *sending.path();
                self.close_file(site, &path, sending.into_file());
            }
            State::Blocked(op, _) => {
                let device = self.devices.get(op.path().key(site));
                self.devices.in_background(&device, Task::Release(Released::Op(op)));
            }
            _ => {}
        }
    }
}
