//! What a worker does about its devices at each tick: the stall clock, the numbers on the
//! scoreboard, and the directory descriptors, which are opened anew while in use and let go soon
//! after, so that a device can be unmounted and another disk mounted in its place.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::clients::conn::{Conn, State};
use crate::disk::busy;
use crate::disk::device::Device;
use crate::disk::device_dir::DeviceDir;
use crate::disk::harmless;
use crate::disk::mounts::Number;
use crate::disk::pool::Pool;
use crate::disk::stall::{self, Evidence};
use crate::disk::work::{REFRESH, Released, Task, Work};
use crate::event_loop::Worker;
use crate::scoreboard::{DeviceSlot, DeviceState};
use crate::spec::{DeviceKey, WorkerId};

/// How often the devices are gone through for those whose usage is to be looked at.
const LOOK_ROUND_MS: u64 = 500;
/// A disk's own counters are looked at while something has taken so long.
const LOOK_AT_DISK: Duration = Duration::from_millis(200);
/// Looks further apart than this do not belong together.
const LOOK_PAUSE_MS: u64 = 1500;
/// How long usage waits for its first numbers.
const URGENT_MS: u64 = 250;
/// A directory that has been of no use for so long is let go.
const UNUSED_MS: u64 = 1000;

impl Worker {
    /// Looks after all devices that this worker has to do with.
    pub(crate) fn watch_devices(&mut self) {
        self.list_docroots();
        self.look_at_devices();
        self.look_at_inherited_stalls();
        self.read_stall_clocks();
        self.answer_urgent();
        // One that could not be opened is asked for again.
        self.asked.retain(|key, _| self.pools.get(key).is_some_and(|pool| pool.in_flight() > 0));
        let used: Vec<(DeviceKey, u64)> = self.used.iter().map(|(k, t)| (*k, *t)).collect();
        for (key, at) in used {
            let busy = self.pools.get(&key).is_some_and(|pool| pool.in_flight() > 0);
            if !busy && self.clock.now().saturating_sub(at) >= UNUSED_MS {
                self.used.remove(&key);
                self.device(key).retire_dir();
                self.let_dirs_go(key);
            } else if self.device(key).wants_refresh() {
                self.refresh(key);
            } else if !busy {
                self.let_dirs_go(key);
            }
        }
    }

    /// Has a disk thread close the directories that are of no use any more.
    fn let_dirs_go(&mut self, key: DeviceKey) {
        let device = self.device(key);
        if device.has_retired() {
            self.in_background(&device, Task::Release(Released::Dirs));
        }
    }

    /// The stall clock of each pool of threads: DESIGN.md, "Stall clock".
    fn read_stall_clocks(&mut self) {
        let timeout = self.settings.stall_timeout;
        let keys: Vec<DeviceKey> = self.pools.keys().copied().collect();
        self.lives.begin_round();
        for key in keys {
            let Some(pool) = self.pools.get(&key) else { continue };
            let (mut evidence, stuck) = pool.evidence(stall::stuck_age(timeout));
            let slot = self.board.device(key);
            let waiting = evidence.oldest.max(evidence.oldest_pace).unwrap_or_default();
            if waiting >= LOOK_AT_DISK {
                let disk = slot.and_then(|slot| slot.disk());
                let life = disk.and_then(|disk| self.lives.of(disk, self.clock.now()));
                evidence.since_disk = life.map(|life| life.since_alive());
                evidence.since_move = life.map(|life| life.since_move());
            }
            pool.set_spare(evidence.spare_threads(stuck, timeout));
            let (in_flight, answered) = (pool.in_flight(), pool.has_answered());
            let old = match evidence.oldest {
                Some(oldest) if oldest >= stall::give_up_age(timeout) => {
                    pool.clients_of_old(stall::give_up_age(timeout))
                }
                _ => Vec::new(),
            };
            let stalled = evidence.is_stalled(timeout);
            if let Some(slot) = slot.filter(|slot| slot.owner() == self.id) {
                self.publish(slot, &evidence, in_flight);
                if answered || slot.state() != DeviceState::Stalled {
                    self.judge(key, slot, stalled, waiting);
                }
                if let Some(dir) = self.devices.get(&key).and_then(|device| device.dir_at_hand()) {
                    let inline = dir.traits.inline_reads;
                    slot.inline_reads.store(if inline { 1 } else { 2 }, Relaxed);
                    slot.closed.store(dir.closed().0, Relaxed);
                }
            }
            if in_flight > 0 && (stalled || self.is_stalled(key)) {
                self.answer_for_stalled(key);
            } else if !old.is_empty() {
                self.take_back_from(&old);
            }
        }
    }

    fn publish(&self, slot: &DeviceSlot, evidence: &Evidence, in_flight: usize) {
        let oldest = evidence.oldest.map(|age| age.as_millis() as u64);
        slot.in_flight.store(in_flight as u32, Relaxed);
        slot.oldest_ms.store(oldest.unwrap_or_default(), Relaxed);
        let began = oldest.map_or(0, |age| self.clock.monotonic().saturating_sub(age).max(1));
        slot.oldest_began.store(began, Relaxed);
    }

    /// Takes back the connections of threads that have been stuck for long on a device that works
    /// otherwise.
    fn take_back_from(&mut self, clients: &[usize]) {
        let is_one = |conn: &Conn| match &conn.state {
            State::Lent(loan) => clients.contains(&Arc::as_ptr(loan).addr()),
            _ => false,
        };
        let keys = self.conns.iter().filter(|(_, conn)| is_one(conn)).map(|(key, _)| key);
        for key in keys.collect::<Vec<_>>() {
            self.take_back(key);
        }
    }

    /// Usage without numbers is answered before a tracker takes the whole node for dead.
    fn answer_urgent(&mut self) {
        if !self.urgent {
            return;
        }
        let urgent = self.conns.iter().filter_map(|(key, conn)| match &conn.state {
            State::Lent(loan) if loan.urgent => Some((key, loan.since)),
            _ => None,
        });
        let (late, young): (Vec<_>, Vec<_>) =
            urgent.partition(|(_, since)| self.clock.now().saturating_sub(*since) >= URGENT_MS);
        self.urgent = !young.is_empty();
        late.into_iter().for_each(|(key, _)| self.take_back(key));
    }

    pub(crate) fn is_stalled(&self, key: DeviceKey) -> bool {
        self.board.device(key).is_some_and(|slot| slot.state() == DeviceState::Stalled)
    }

    /// A worker that takes over a stalled device knows nothing of the disk: the mark stays until
    /// an operation of its own has come back, so that its clients do not wait to find out again.
    fn look_at_inherited_stalls(&mut self) {
        for (key, slot) in self.board.devices() {
            let untried = |pool: &Pool<Work>| pool.in_flight() == 0 && !pool.has_answered();
            if slot.owner() == self.id
                && slot.state() == DeviceState::Stalled
                && self.pools.get(&key).is_none_or(untried)
            {
                let device = self.device(key);
                self.in_background(&device, Task::Refresh);
            }
        }
    }

    /// Has a thread look at each device of this worker whose turn it is: PROTOCOL.md section 4.
    fn look_at_devices(&mut self) {
        if self.clock.now().saturating_sub(self.looked) < LOOK_ROUND_MS && self.looked != 0 {
            return;
        }
        self.looked = self.clock.now().max(1);
        for (key, slot) in self.board.devices() {
            let known = self.sites.get(usize::from(key.site.0)).is_some_and(|site| site.usage);
            if slot.owner() != self.id || !known || self.drain.is_some() {
                continue;
            }
            let device = self.device(key);
            let write = device.file_is_due(self.usage_interval);
            let due = write || device.changed.load(Relaxed) && device.look_is_due(REFRESH);
            if device.usage && due && !device.looking.swap(true, Relaxed) {
                device.changed.store(false, Relaxed);
                self.in_background(&device, Task::Look { write });
            }
        }
    }

    fn refresh(&mut self, key: DeviceKey) {
        let owner = self.owner(key);
        if owner == self.id {
            let device = self.device(key);
            let idle = self.pools.get(&key).is_none_or(|pool| pool.in_flight() == 0);
            if idle {
                self.in_background(&device, Task::Refresh);
            }
        } else {
            self.neighbours.ask_for_dir(owner, key);
        }
    }

    /// Sends directories that have been opened to the workers that wait for them.
    pub(crate) fn share_dirs(&mut self) {
        if self.asked.is_empty() {
            return;
        }
        let is_open = |device: &Arc<Device>| dir_to_share(device).is_some();
        let keys = self.asked.keys().copied();
        let open: Vec<_> = keys.filter(|key| self.devices.get(key).is_some_and(is_open)).collect();
        for key in open {
            for worker in self.asked.remove(&key).unwrap_or_default() {
                self.share_dir(key, worker);
            }
        }
    }

    /// Sends a device's directory to a worker that asked, or once it is open.
    pub(crate) fn share_dir(&mut self, key: DeviceKey, to: WorkerId) {
        if usize::from(key.site.0) >= self.sites.len() || !self.is_listed(key) {
            return;
        }
        let device = self.device(key);
        if device.wants_refresh() {
            self.refresh(key);
        }
        let Some(dir) = dir_to_share(&device) else {
            let askers = self.asked.entry(key).or_default();
            if !askers.contains(&to) {
                askers.push(to);
            }
            return;
        };
        self.used.insert(key, self.clock.now());
        let fd = dir.traits.inline_reads.then(|| harmless::to_send(&dir));
        self.neighbours.send_dir(to, key, fd, dir.traits);
    }

    /// Marks a device stalled or well again. The only line in the log about it: the master tells
    /// those who read its events.
    fn judge(&self, key: DeviceKey, slot: &DeviceSlot, stalled: bool, oldest: Duration) {
        let name = || match self.sites.get(usize::from(key.site.0)) {
            Some(site) if key.devid != 0 => site.docroot.join(key.to_string()),
            Some(site) => site.docroot.clone(),
            None => key.to_string().into(),
        };
        match (slot.state(), stalled) {
            (DeviceState::Ok, true) => {
                slot.set_state(DeviceState::Stalled);
                let (name, seconds) = (name(), oldest.as_secs());
                log::error!(
                    "{} is stalled: a disk operation has taken {seconds} s",
                    name.display()
                );
            }
            (DeviceState::Stalled, false) => {
                slot.set_state(DeviceState::Ok);
                log::warn!("{} answers again", name().display());
            }
            _ => {}
        }
    }
}

/// A directory in which something has been opened, or nothing will be in a loop.
fn dir_to_share(device: &Device) -> Option<Arc<DeviceDir>> {
    device.dir_at_hand().filter(|dir| dir.is_tried() || !dir.traits.inline_reads)
}

/// Signs of life of the disks themselves, from /proc/diskstats. A disk lives while its counters
/// move at each look: a few writes of a journal, now and then, are no proof.
#[derive(Debug, Default)]
pub(crate) struct Lives {
    /// The counters of this round, once somebody has asked.
    round: Option<HashMap<Number, u64>>,
    disks: HashMap<Number, Life>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Life {
    completed: u64,
    /// Looks in a row at which it had moved.
    moves: u32,
    looked: u64,
    moved: u64,
    alive: u64,
}

/// So many looks in a row make a sign of life.
const MOVES: u32 = 3;

impl Lives {
    fn begin_round(&mut self) {
        self.round = None;
    }

    /// What is known of a disk's life; `None`: it has no counters.
    fn of(&mut self, disk: Number, now: u64) -> Option<Life> {
        let completed = *self.round.get_or_insert_with(busy::completed).get(&disk)?;
        let life = self.disks.entry(disk).or_default();
        life.look(completed, now);
        Some(*life)
    }
}

impl Life {
    fn look(&mut self, completed: u64, now: u64) {
        // Looks are taken while somebody waits only: what was seen long ago says nothing.
        if now.saturating_sub(self.looked) > LOOK_PAUSE_MS || self.looked == 0 {
            *self = Life { completed, moves: 0, looked: now.max(1), moved: 0, alive: now };
            return;
        }
        if now > self.looked {
            self.moves = if completed == self.completed { 0 } else { self.moves + 1 };
            (self.completed, self.looked) = (completed, now);
        }
        if self.moves > 0 {
            self.moved = now;
        }
        if self.moves >= MOVES {
            self.alive = now;
        }
    }

    /// Since it was last seen to live.
    fn since_alive(&self) -> Duration {
        Duration::from_millis(self.looked.saturating_sub(self.alive))
    }

    /// Since its counters moved at all.
    fn since_move(&self) -> Duration {
        Duration::from_millis(self.looked.saturating_sub(self.moved))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::SocketAddr;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::control::Channel;
    use crate::disk::device_dir::Traits;
    use crate::disk::disk_fd::DiskFd;
    use crate::disk::on_disk::OnDisk;
    use crate::disk::path::DevPath;
    use crate::spec::{Service, SiteId};

    const KEY: DeviceKey = DeviceKey { site: SiteId(0), devid: 1 };

    const TRAITS: Traits = Traits { inline_reads: true, updates_atime: true, sends_unlocked: true };

    fn opened(dir: &std::path::Path) -> DiskFd {
        OnDisk::in_test();
        DiskFd::new(std::fs::File::open(dir).unwrap().into())
    }

    #[test]
    fn disk_lives_while_its_counters_move_at_each_look() {
        let mut life = Life::default();
        let mut look = |completed, now| {
            life.look(completed, now);
            [life.since_alive(), life.since_move()].map(|age| age.as_millis())
        };
        assert_eq!(look(5, 1000), [0, 1000], "no move was seen yet");
        assert_eq!(look(6, 1250), [250, 0], "once may be a journal");
        assert_eq!(look(6, 1500), [500, 250]);
        look(7, 1750);
        look(8, 2000);
        assert_eq!(look(9, 2250), [0, 0]);
        assert_eq!(look(9, 2500), [250, 250]);
        assert_eq!(look(9, 9000), [0, 9000], "nobody has looked for long");
    }

    /// A worker that owns one device, which an earlier owner has marked.
    fn owner_of_stalled(usage: bool) -> (tempfile::TempDir, Channel, Worker) {
        OnDisk::in_test();
        let docroot = tempfile::tempdir().unwrap();
        std::fs::create_dir(docroot.path().join("dev1")).unwrap();
        let (spec, master) = crate::testing::spec(docroot.path(), usage);
        spec.board.list_device(KEY, WorkerId(0)).unwrap().set_state(DeviceState::Stalled);
        (docroot, master, Worker::new(spec).unwrap())
    }

    #[test]
    fn mark_of_an_earlier_owner_stays_until_the_disk_has_answered_us() {
        let (_docroot, _master, mut worker) = owner_of_stalled(false);
        let slot = worker.board.device(KEY).unwrap();
        worker.watch_devices();
        let begun = std::time::Instant::now();
        while !worker.pools[&KEY].has_answered() {
            assert_eq!(slot.state(), DeviceState::Stalled);
            assert!(begun.elapsed() < Duration::from_secs(10), "no disk thread has looked");
            std::thread::yield_now();
        }
        worker.watch_devices();
        assert_eq!(slot.state(), DeviceState::Ok);
    }

    #[test]
    fn directory_stays_while_a_file_that_is_kept_open_is_asked_for() {
        let (docroot, _master, mut worker) = owner_of_stalled(false);
        worker.board.device(KEY).unwrap().set_state(DeviceState::Ok);
        let dev = docroot.path().join("dev1");
        std::fs::create_dir_all(dev.join("0/000/000")).unwrap();
        std::fs::write(dev.join("0/000/000/0000000001.fid"), "hot").unwrap();
        worker.device(KEY).adopt_dir(opened(&dev), TRAITS);
        let path = DevPath::parse(b"/dev1/0/000/000/0000000001.fid").unwrap();
        for now in (0..3000).step_by(30) {
            worker.clock.set(now);
            assert!(worker.open_cached(KEY.site, &path).is_some(), "the disk is needed at {now}");
            // Just before the next request: ticks come at any time.
            worker.clock.set(now + 29);
            worker.watch_devices();
        }
        worker.clock.set(worker.clock.now() + 1000);
        worker.watch_devices();
        assert!(worker.device(KEY).dir_at_hand().is_none());
    }

    #[test]
    fn usage_of_a_stalled_device_is_not_read_from_the_page_cache() {
        let (docroot, _master, mut worker) = owner_of_stalled(true);
        let dev = docroot.path().join("dev1");
        std::fs::write(dev.join("usage"), "an old look").unwrap();
        worker.device(KEY).adopt_dir(opened(&dev), TRAITS);
        let (mut client, socket) = UnixStream::pair().unwrap();
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let request = b"GET /dev1/usage HTTP/1.1\r\nConnection: close\r\n\r\n".to_vec();
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        worker.adopt(OwnedFd::from(socket), peer, Service::Http, KEY.site, request);
        let mut line = [0; 12];
        client.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"HTTP/1.1 503");
    }
}
