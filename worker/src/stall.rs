//! What a worker does about its devices at each tick: the stall clock, the numbers on the
//! scoreboard, and the directory descriptors, which are opened anew while in use and let go soon
//! after, so that a device can be unmounted and another disk mounted in its place.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::disk::device::Device;
use crate::disk::pool::Pool;
use crate::event_loop::Worker;
use crate::exchange::{Op, REFRESH, Work};
use crate::handover;
use crate::scoreboard::{DeviceSlot, DeviceState};
use crate::spec::{DeviceKey, WorkerId};

/// How often the devices are gone through for those whose usage is to be looked at.
const LOOK_ROUND_MS: u64 = 500;
/// A directory that has been of no use for so long is let go.
const UNUSED_MS: u64 = 1000;

impl Worker {
    /// Looks after all devices that this worker has to do with.
    pub(crate) fn watch_devices(&mut self) {
        self.look_at_devices();
        self.look_at_inherited_stalls();
        for (key, pool) in &self.pools {
            if let Some(slot) = self.board.device(*key)
                && slot.owner() == self.id
            {
                let oldest = pool.oldest().unwrap_or_default();
                slot.in_flight.store(pool.in_flight() as u32, Relaxed);
                slot.oldest_ms.store(oldest.as_millis() as u64, Relaxed);
                if pool.has_answered() || slot.state() != DeviceState::Stalled {
                    self.judge(*key, slot, oldest);
                }
                if let Some(dir) = self.devices.get(key).and_then(|device| device.dir_at_hand()) {
                    slot.inline_reads.store(if dir.inline_reads { 1 } else { 2 }, Relaxed);
                }
            }
        }
        // One that could not be opened is asked for again.
        self.asked.retain(|key, _| self.pools.get(key).is_some_and(|pool| pool.in_flight() > 0));
        let used: Vec<(DeviceKey, u64)> = self.used.iter().map(|(k, t)| (*k, *t)).collect();
        for (key, at) in used {
            let busy = self.pools.get(&key).is_some_and(|pool| pool.in_flight() > 0);
            if !busy && self.now.saturating_sub(at) >= UNUSED_MS {
                self.used.remove(&key);
                self.device(key).drop_dir();
            } else if self.device(key).wants_refresh() {
                self.refresh(key);
            }
        }
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
                self.in_background(&device, Op::Refresh);
            }
        }
    }

    /// Has a thread look at each device of this worker whose turn it is: PROTOCOL.md section 4.
    fn look_at_devices(&mut self) {
        if self.now.saturating_sub(self.looked) < LOOK_ROUND_MS && self.looked != 0 {
            return;
        }
        self.looked = self.now.max(1);
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
                self.in_background(&device, Op::Look { write });
            }
        }
    }

    fn refresh(&mut self, key: DeviceKey) {
        let owner = self.owner(key);
        if owner == self.id {
            let device = self.device(key);
            let idle = self.pools.get(&key).is_none_or(|pool| pool.in_flight() == 0);
            if idle {
                self.in_background(&device, Op::Refresh);
            }
        } else if let Some(inbox) = self.peers.get(&owner)
            && let Err(e) = handover::ask_for_dir(inbox.as_fd(), key, self.id)
        {
            log::debug!("{key}: cannot ask for its directory: {e}");
        }
    }

    /// Sends directories that have been opened to the workers that wait for them.
    pub(crate) fn share_dirs(&mut self) {
        if self.asked.is_empty() {
            return;
        }
        let is_open = |device: &Arc<Device>| device.dir_at_hand().is_some();
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
        let Some(dir) = device.dir_at_hand() else {
            let askers = self.asked.entry(key).or_default();
            if !askers.contains(&to) {
                askers.push(to);
            }
            return;
        };
        self.used.insert(key, self.now);
        if let Some(inbox) = self.peers.get(&to)
            && let Err(e) = handover::send_dir(
                inbox.as_fd(),
                key,
                dir.as_fd(),
                dir.inline_reads,
                dir.updates_atime,
            )
        {
            log::debug!("{key}: cannot send its directory to worker {to}: {e}");
        }
    }

    /// Marks a device stalled or well again. The only line in the log about it: the master tells
    /// those who read its events.
    fn judge(&self, key: DeviceKey, slot: &DeviceSlot, oldest: Duration) {
        let stalled = oldest >= self.settings.stall_timeout;
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

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::SocketAddr;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::control::Channel;
    use crate::disk::path::DevPath;
    use crate::spec::{Service, SiteId};

    const KEY: DeviceKey = DeviceKey { site: SiteId(0), devid: 1 };

    /// A worker that owns one device, which an earlier owner has marked.
    fn owner_of_stalled(usage: bool) -> (tempfile::TempDir, Channel, Worker) {
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
        std::fs::write(dev.join("file"), "hot").unwrap();
        worker.device(KEY).adopt_dir(std::fs::File::open(dev).unwrap().into(), true, false);
        let path = DevPath::parse(b"/dev1/file").unwrap();
        for now in (0..3000).step_by(30) {
            worker.now = now;
            assert!(worker.open_cached(KEY.site, &path).is_some(), "the disk is needed at {now}");
            // Just before the next request: ticks come at any time.
            worker.now += 29;
            worker.watch_devices();
        }
        worker.now += 1000;
        worker.watch_devices();
        assert!(worker.device(KEY).dir_at_hand().is_none());
    }

    #[test]
    fn usage_of_a_stalled_device_is_not_read_from_the_page_cache() {
        let (docroot, _master, mut worker) = owner_of_stalled(true);
        let dev = docroot.path().join("dev1");
        std::fs::write(dev.join("usage"), "an old look").unwrap();
        let dir = std::fs::File::open(dev).unwrap();
        worker.device(KEY).adopt_dir(dir.into(), true, false);
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
