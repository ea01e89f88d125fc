//! Lines of the sidechannel in the loop, the stream to watchers, and the wait for a turn in
//! fsck's queue.

use crate::clients::conn::{Ending, Read, State};
use crate::disk::device::Device;
use crate::disk::operation::Op;
use crate::event_loop::Worker;
use crate::event_loop::advance::Next;
use crate::event_loop::commands::Heard;
use crate::event_loop::requests::{BATCH, Used};
use crate::sidechannel::line::{self, Line};
use crate::sidechannel::watch;
use crate::spec::SiteId;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

impl Worker {
    /// Obeys line after line of the sidechannel; answers pile up and are sent together.
    pub(super) fn lines(&mut self, key: usize, input: &[u8]) -> Used {
        let mut bytes = 0;
        let next = loop {
            let (line, len) = match line::split(&input[bytes..]) {
                Line::Whole(line, len) => (line, len),
                // In a drain who goes on and on has been answered enough, unless others go on.
                Line::Partial
                    if bytes > 0
                        && self.drain.has_lasted(self.clock.now())
                        && !self.lives_on(key) =>
                {
                    break self.finish_batch(key, Ending::Lingering);
                }
                Line::Partial => break self.after_batch(key, Next::Read, State::idle()),
                Line::TooLong => {
                    // What was answered before goes out, as far as it does, and to nobody else.
                    let _ = self.send_batch(key);
                    break Next::Close;
                }
            };
            let heard = self.do_command(key, line::parse(line));
            if !matches!(heard, Heard::Move(_)) {
                self.slot.requests.fetch_add(1, Relaxed);
            }
            let sent = match heard {
                Heard::Answered if self.out.len() < BATCH => {
                    bytes += len;
                    continue;
                }
                _ => self.send_batch(key),
            };
            if !matches!(sent, Next::Again) {
                // Earlier answers must go first: the line is read again when they are through.
                let answered = matches!(heard, Heard::Answered);
                bytes += if answered { len } else { 0 };
                break self.postpone_line(key, heard, sent);
            }
            bytes += if matches!(heard, Heard::Move(_)) { 0 } else { len };
            break match heard {
                Heard::Answered => self.postpone(key, Next::Later),
                Heard::Lend(device, op) => Next::Disk(device, op),
                Heard::Move(owner) => Next::HandOver(owner),
                Heard::Queue(device, op) => {
                    self.conns[key].enter(State::Queued(device, op));
                    Next::Untimed
                }
                Heard::Watch => {
                    self.start_watching(key);
                    Next::Again
                }
                Heard::End => {
                    self.conns[key].close_after_output(Ending::Lingering);
                    self.postpone(key, Next::Again)
                }
            };
        };
        Used { bytes, next }
    }

    /// A digest that has entered fsck's queue leaves it again.
    pub(super) fn postpone_line(&mut self, key: usize, heard: Heard, next: Next) -> Next {
        if matches!(&heard, Heard::Lend(_, op) | Heard::Queue(_, op) if op.is_long()) {
            self.leave_fsck(key);
        }
        self.postpone(key, next)
    }

    pub(super) fn start_watching(&mut self, key: usize) {
        self.conns[key].enter(State::Watching);
        self.watchers.add(key);
        self.slot.watchers.store(self.watchers.count() as u32, Relaxed);
        self.next_tick_soon();
    }

    pub(super) fn stop_watching(&mut self, key: usize) {
        self.watchers.remove(key);
        self.slot.watchers.store(self.watchers.count() as u32, Relaxed);
    }

    /// Sends each watcher its group; those that do not read are dropped.
    pub(super) fn send_groups(&mut self) {
        let sites = 0..self.devices.sites().len() as u8;
        let groups: Vec<Vec<u8>> =
            sites.map(|site| watch::group(self.board, SiteId(site))).collect();
        for key in self.watchers.keys() {
            let conn = &mut self.conns[key];
            let sent = conn.send(&groups[usize::from(conn.site().0)], false);
            if sent.is_err() || conn.unsent() > watch::MOST_PENDING {
                self.close(key);
            }
        }
    }

    /// A watcher has nothing more to say.
    pub(super) fn ignore_input(&mut self, key: usize) -> Next {
        let conn = &mut self.conns[key];
        conn.enter(State::Watching);
        drop(conn.take_input());
        match conn.read(&mut self.scratch) {
            Read::Some(_) => Next::Later,
            Read::Nothing => Next::Untimed,
            Read::End | Read::Broken => Next::Close,
        }
    }

    /// In fsck's queue: goes on when it is its turn, unless its client has gone.
    pub(super) fn wait_for_turn(&mut self, key: usize, device: Arc<Device>, op: Op) -> Next {
        let conn = &mut self.conns[key];
        let turn = self.fsck.is_turn_of(device.key(), key);
        if turn && !conn.has_ended() {
            return Next::Disk(device, op);
        }
        conn.enter(State::Queued(device, op));
        if conn.has_ended() { Next::Close } else { Next::Untimed }
    }
}
