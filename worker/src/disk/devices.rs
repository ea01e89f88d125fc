//! A worker's view of all devices: what each is like, the threads that work for it, the marks on
//! the scoreboard that say how it does. Nothing here waits for a disk.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::clock::Clock;
use crate::disk::device::Device;
use crate::disk::errands;
use crate::disk::liveness::Liveness;
use crate::disk::mounted::Guard;
use crate::disk::path::DevPath;
use crate::disk::pool::{Lack, Pool};
use crate::disk::stall::{self, Evidence};
use crate::disk::work::{Context, REFRESH, Released, Task, Work};
use crate::ids::{DeviceKey, SiteId, WorkerId};
use crate::scoreboard::{DeviceSlot, DeviceState, Scoreboard, Usage};
use crate::spec::Site;

/// How often the devices are gone through for those whose usage is to be looked at.
const LOOK_ROUND_MS: u64 = 500;
/// A disk's own counters are looked at while something has taken so long.
const LOOK_AT_DISK: Duration = Duration::from_millis(200);

/// The devices of all docroots.
#[derive(Debug)]
pub struct Devices {
    me: WorkerId,
    board: Scoreboard,
    sites: Vec<Site>,
    context: Arc<Context>,
    known: BTreeMap<DeviceKey, Arc<Device>>,
    pools: BTreeMap<DeviceKey, Pool<Work>>,
    /// Threads for each device.
    threads: usize,
    liveness: Liveness,
    /// How often usage files are written.
    usage_interval: Duration,
    /// When they were last gone through for that.
    looked: u64,
}

/// Whom a look at the stall clocks has found waiting in vain.
#[derive(Debug)]
pub enum InVain {
    /// Everybody who waits for these threads.
    All(DeviceKey),
    /// The clients that some threads have been stuck with for long, by the addresses of their
    /// loans.
    Some(Vec<usize>),
}

impl Devices {
    /// Of the docroots that a worker serves, with so many threads for each device.
    pub fn new(
        me: WorkerId,
        board: Scoreboard,
        sites: Vec<Site>,
        context: Arc<Context>,
        threads: usize,
        usage_interval: Duration,
    ) -> Devices {
        Devices {
            me,
            board,
            sites,
            context,
            known: BTreeMap::new(),
            pools: BTreeMap::new(),
            threads,
            liveness: Liveness::default(),
            usage_interval,
            looked: 0,
        }
    }

    /// The docroots.
    pub fn sites(&self) -> &[Site] {
        &self.sites
    }

    /// Whether this worker knows a docroot.
    pub fn has_site(&self, site: SiteId) -> bool {
        usize::from(site.0) < self.sites.len()
    }

    /// A device as this worker sees it. One that the master has not listed is not remembered:
    /// peers may name sixteen million.
    pub fn get(&mut self, key: DeviceKey) -> Arc<Device> {
        if let Some(device) = self.known.get(&key) {
            return Arc::clone(device);
        }
        let site = &self.sites[usize::from(key.site.0)];
        let guard = Guard::new(self.board.device(key), site.require_mount);
        let device = Arc::new(Device::new(key, &site.docroot, site.usage).guarded(guard));
        if self.is_listed(key) {
            self.known.insert(key, Arc::clone(&device));
        }
        device
    }

    /// A device that this worker has had to do with.
    pub fn at_hand(&self, key: DeviceKey) -> Option<&Device> {
        self.known.get(&key).map(Arc::as_ref)
    }

    /// Whether the master has seen the device's folder.
    pub fn is_listed(&self, key: DeviceKey) -> bool {
        self.board.device(key).is_some_and(|slot| slot.state() != DeviceState::Absent)
    }

    /// Whether its disk does not answer, as far as anybody knows.
    pub fn is_stalled(&self, key: DeviceKey) -> bool {
        self.board.device(key).is_some_and(|slot| slot.state() == DeviceState::Stalled)
    }

    /// Whether anything of a device may be looked for in the loop: not while its disk may be
    /// hanging, whatever is in memory. `now` is on the clock that all processes share.
    pub fn may_look(&self, key: DeviceKey, now: u64) -> bool {
        self.board
            .device(key)
            .is_some_and(|slot| slot.state() == DeviceState::Ok && !slot.is_suspect(now))
    }

    /// Which worker owns a device. One that the master has not listed belongs to whoever owns the
    /// docroot.
    pub fn owner(&self, key: DeviceKey) -> WorkerId {
        let docroot = DeviceKey { devid: 0, ..key };
        let there = |key| self.board.device(key).filter(|s| s.state() != DeviceState::Absent);
        there(key).or_else(|| there(docroot)).map_or(self.me, |slot| slot.owner())
    }

    /// Whether a path names a usage file that is answered from memory or, with its device stalled,
    /// not at all: never from the page cache.
    pub fn has_usage(&self, site: SiteId, path: &DevPath) -> bool {
        path.is_usage() && self.sites[usize::from(site.0)].usage
    }

    /// The usage file's content, if the path names one and its device can be trusted to answer.
    pub fn usage_at_hand(&self, site: SiteId, path: &DevPath) -> Option<(Usage, String)> {
        if !self.has_usage(site, path) {
            return None;
        }
        let key = path.key(site);
        let slot = self.board.device(key).filter(|slot| slot.state() == DeviceState::Ok)?;
        let usage = slot.usage()?;
        let text = usage.text(&self.sites[usize::from(site.0)].docroot.join(key.to_string()));
        Some((usage, text))
    }

    /// Gives work to the device's threads. Work comes back when its queue is full or there is no
    /// thread.
    pub fn submit(&mut self, work: Work, max_queue: usize) -> Result<(), (Work, Lack)> {
        let (key, limit) = (self.pool_key(work.device()), self.threads);
        let pool = || Pool::new(format!("disk {key}"), limit);
        self.pools.entry(key).or_insert_with(pool).submit(work, max_queue)
    }

    /// Has a disk thread do something that no connection waits for.
    pub fn in_background(&mut self, device: &Arc<Device>, task: Task) {
        let work = Work::in_background(Arc::clone(device), Arc::clone(&self.context), task);
        // Never refused for the queue's length. Without threads it is not done: not here.
        if let Err((work, _)) = self.submit(work, usize::MAX) {
            errands::run(move |_| drop(work));
        }
    }

    /// Whose threads work for a device. Those that the master has not listed share the docroot's:
    /// else each name that a peer makes up would cost a thread.
    pub fn pool_key(&self, device: DeviceKey) -> DeviceKey {
        let known = self.pools.contains_key(&device) || self.is_listed(device);
        if known { device } else { DeviceKey { devid: 0, ..device } }
    }

    /// How many threads each device may have from now on.
    pub fn set_threads(&mut self, threads: usize) {
        self.threads = threads;
        self.pools.values().for_each(|pool| pool.set_limit(threads));
    }

    /// Whether anything is being done for a device.
    pub fn is_busy(&self, key: DeviceKey) -> bool {
        self.pools.get(&key).is_some_and(|pool| pool.in_flight() > 0)
    }

    /// Whether its threads have come back with anything yet.
    pub fn has_answered(&self, key: DeviceKey) -> bool {
        self.pools.get(&key).is_some_and(Pool::has_answered)
    }

    /// Whether nothing is being done for any.
    pub fn are_idle(&self) -> bool {
        self.pools.values().all(|pool| pool.in_flight() == 0)
    }

    /// Whether something is being done that will come back: what a stalled device holds was
    /// answered for, and may never.
    pub fn have_work(&self) -> bool {
        self.pools.keys().any(|key| self.is_busy(*key) && !self.is_stalled(*key))
    }

    /// Whether something is being done, and everywhere the oldest of it is at least so old.
    pub fn are_all_dead_for(&self, age: Duration) -> bool {
        let is_dead = |pool: &Pool<Work>| pool.oldest().is_some_and(|oldest| oldest >= age);
        let mut working = self.pools.values().filter(|pool| pool.in_flight() > 0).peekable();
        working.peek().is_some() && working.all(is_dead)
    }

    /// Has a disk thread close the directories of a device that are of no use any more.
    pub fn let_dirs_go(&mut self, key: DeviceKey) {
        let device = self.get(key);
        if device.has_retired() {
            self.in_background(&device, Task::Release(Released::Dirs));
        }
    }

    /// Opens a device's directory anew, unless its threads have something to do: then they do it
    /// on the way.
    pub fn refresh(&mut self, key: DeviceKey) {
        if !self.is_busy(key) {
            let device = self.get(key);
            self.in_background(&device, Task::Refresh);
        }
    }

    /// A worker that takes over a stalled device knows nothing of the disk: the mark stays until
    /// an operation of its own has come back, so that its clients do not wait to find out again.
    pub fn try_inherited_stalls(&mut self) {
        let untried = |pool: &Pool<Work>| pool.in_flight() == 0 && !pool.has_answered();
        for (key, slot) in self.board.devices() {
            if slot.owner() == self.me
                && slot.state() == DeviceState::Stalled
                && self.pools.get(&key).is_none_or(untried)
            {
                let device = self.get(key);
                self.in_background(&device, Task::Refresh);
            }
        }
    }

    /// Has a thread look how full each device of this worker is whose turn it is: PROTOCOL.md
    /// section 4. `now` is the loop's clock.
    pub fn look_at_usage(&mut self, now: u64) {
        if now.saturating_sub(self.looked) < LOOK_ROUND_MS && self.looked != 0 {
            return;
        }
        self.looked = now.max(1);
        for (key, slot) in self.board.devices() {
            let known = self.sites.get(usize::from(key.site.0)).is_some_and(|site| site.usage);
            if slot.owner() != self.me || !known {
                continue;
            }
            let device = self.get(key);
            let write = device.file_is_due(self.usage_interval);
            let due = write || device.has_changed() && device.look_is_due(REFRESH);
            if device.has_usage() && due && device.begin_look() {
                self.in_background(&device, Task::Look { write });
            }
        }
    }

    /// Reads the stall clock of each pool of threads, says on the scoreboard how its device does,
    /// and returns who waits in vain: DESIGN.md, "Stall clock".
    pub(crate) fn read_stall_clocks(&mut self, timeout: Duration, clock: &Clock) -> Vec<InVain> {
        self.liveness.begin_round();
        let keys: Vec<DeviceKey> = self.pools.keys().copied().collect();
        keys.into_iter().filter_map(|key| self.read_stall_clock(key, timeout, clock)).collect()
    }

    fn read_stall_clock(
        &mut self,
        key: DeviceKey,
        timeout: Duration,
        clock: &Clock,
    ) -> Option<InVain> {
        let pool = self.pools.get(&key)?;
        let (mut evidence, stuck) = pool.evidence(stall::stuck_age(timeout));
        let slot = self.board.device(key);
        let waiting = evidence.oldest.max(evidence.oldest_pace).unwrap_or_default();
        if waiting >= LOOK_AT_DISK {
            let disk = slot.and_then(|slot| slot.disk());
            let life = disk.and_then(|disk| self.liveness.of(disk, clock.now()));
            evidence.since_disk = life.map(|life| life.since_alive());
            evidence.since_move = life.map(|life| life.since_move());
        }
        pool.set_spare(evidence.spare_threads(stuck, timeout));
        let in_flight = pool.in_flight();
        let stalled = evidence.is_stalled(timeout);
        let age = stall::give_up_age(timeout);
        let old = match evidence.oldest {
            Some(oldest) if oldest >= age => pool.clients_of_old(age),
            _ => Vec::new(),
        };
        if let Some(slot) = slot.filter(|slot| slot.owner() == self.me) {
            publish(slot, &evidence, in_flight, clock.monotonic());
            if pool.has_answered() || slot.state() != DeviceState::Stalled {
                self.judge(key, slot, stalled, waiting);
            }
            self.publish_traits(key, slot);
        }
        if in_flight > 0 && (stalled || self.is_stalled(key)) {
            return Some(InVain::All(key));
        }
        (!old.is_empty()).then_some(InVain::Some(old))
    }

    fn publish_traits(&self, key: DeviceKey, slot: &DeviceSlot) {
        if let Some(dir) = self.known.get(&key).and_then(|device| device.dir_at_hand()) {
            let inline = dir.traits().inline_reads;
            slot.inline_reads.store(if inline { 1 } else { 2 }, Relaxed);
            slot.closed.store(dir.closed().0, Relaxed);
        }
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
                slot.faults.count_stall();
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

fn publish(slot: &DeviceSlot, evidence: &Evidence, in_flight: usize, now: u64) {
    let oldest = evidence.oldest.map(|age| age.as_millis() as u64);
    slot.in_flight.store(in_flight as u32, Relaxed);
    slot.oldest_ms.store(oldest.unwrap_or_default(), Relaxed);
    let began = oldest.map_or(0, |age| now.saturating_sub(age).max(1));
    slot.oldest_began.store(began, Relaxed);
}

#[cfg(test)]
mod tests;
