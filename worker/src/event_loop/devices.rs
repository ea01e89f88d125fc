//! What a worker does about its devices at each tick: the stall clocks, and who is answered because
//! of them; the directory descriptors, which are opened anew while in use and let go soon after,
//! so that a device can be unmounted and another disk mounted in its place.

use std::sync::Arc;

use crate::clients::conn::{Conn, State};
use crate::disk::device::Device;
use crate::disk::device_dir::DeviceDir;
use crate::disk::devices::InVain;
use crate::disk::harmless;
use crate::event_loop::Worker;
use crate::spec::{DeviceKey, WorkerId};

/// How long usage waits for its first numbers.
const URGENT_MS: u64 = 250;

impl Worker {
    /// Looks after all devices that this worker has to do with.
    pub(super) fn watch_devices(&mut self) {
        self.list_docroots();
        if !self.drain.is_on() {
            self.devices.look_at_usage(self.clock.now());
        }
        self.devices.try_inherited_stalls();
        for waiting in self.devices.read_stall_clocks(self.settings.stall_timeout, &self.clock) {
            match waiting {
                InVain::All(pool) => self.answer_for_stalled(pool),
                InVain::Some(clients) => self.take_back_from(&clients),
            }
        }
        self.answer_urgent();
        // One that could not be opened is asked for again.
        self.dirs.forget_askers(|key| self.devices.is_busy(key));
        for key in self.dirs.in_use() {
            self.watch_dir(key);
        }
    }

    fn watch_dir(&mut self, key: DeviceKey) {
        let busy = self.devices.is_busy(key);
        if !busy && self.dirs.give_up_unused(key, self.clock.now()) {
            self.devices.get(key).retire_dir();
            self.devices.let_dirs_go(key);
        } else if self.devices.get(key).wants_refresh() {
            self.refresh(key);
        } else if !busy {
            self.devices.let_dirs_go(key);
        }
    }

    /// Takes back the connections of threads that have been stuck for long on a device that works
    /// otherwise.
    fn take_back_from(&mut self, clients: &[usize]) {
        let is_one = |conn: &Conn| match &conn.state {
            State::Lent(loan) => clients.contains(&Arc::as_ptr(loan).addr()),
            _ => false,
        };
        for key in self.conns.keys_where(is_one) {
            self.take_back(key);
        }
    }

    /// Usage without numbers is answered before a tracker takes the whole node for dead.
    fn answer_urgent(&mut self) {
        if !self.loans.are_urgent() {
            return;
        }
        let urgent = self.conns.iter().filter_map(|(key, conn)| match &conn.state {
            State::Lent(loan) if loan.urgent => Some((key, loan.since)),
            _ => None,
        });
        let (late, young): (Vec<_>, Vec<_>) =
            urgent.partition(|(_, since)| self.clock.now().saturating_sub(*since) >= URGENT_MS);
        self.loans.set_urgent(!young.is_empty());
        late.into_iter().for_each(|(key, _)| self.take_back(key));
    }

    /// The device's directory is of use now.
    pub(super) fn note_use(&mut self, device: DeviceKey) {
        if self.devices.is_listed(device) {
            self.dirs.note_use(device, self.clock.now());
        }
    }

    fn refresh(&mut self, key: DeviceKey) {
        let owner = self.devices.owner(key);
        match owner == self.id {
            true => self.devices.refresh(key),
            false => self.neighbours.ask_for_dir(owner, key),
        }
    }

    /// Without the device's directory nothing can be read inline: the owner's disk thread opens it,
    /// others ask the owner for a copy. Once a second at most.
    pub(super) fn want_dir(&mut self, key: DeviceKey) {
        let owner = self.devices.owner(key);
        // A request for one of ours goes to a disk thread, which opens it.
        if owner != self.id
            && self.devices.is_listed(key)
            && self.dirs.may_ask(key, self.clock.now())
        {
            self.neighbours.ask_for_dir(owner, key);
        }
    }

    /// Sends directories that have been opened to the workers that wait for them.
    pub(super) fn share_dirs(&mut self) {
        let is_open =
            |key| self.devices.at_hand(key).is_some_and(|device| dir_to_share(device).is_some());
        for key in self.dirs.asked_for(is_open) {
            for worker in self.dirs.take_askers(key) {
                self.share_dir(key, worker);
            }
        }
    }

    /// Sends a device's directory to a worker that asked, or once it is open.
    pub(super) fn share_dir(&mut self, key: DeviceKey, to: WorkerId) {
        if !self.devices.has_site(key.site) || !self.devices.is_listed(key) {
            return;
        }
        let device = self.devices.get(key);
        if device.wants_refresh() {
            self.refresh(key);
        }
        let Some(dir) = dir_to_share(&device) else {
            return self.dirs.note_asker(key, to);
        };
        self.dirs.note_use(key, self.clock.now());
        let fd = dir.traits.inline_reads.then(|| harmless::to_send(&dir));
        self.neighbours.send_dir(to, key, fd, dir.traits);
    }
}

/// A directory in which something has been opened, or nothing will be in a loop.
fn dir_to_share(device: &Device) -> Option<Arc<DeviceDir>> {
    device.dir_at_hand().filter(|dir| dir.is_tried() || !dir.traits.inline_reads)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::SocketAddr;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use std::time::Duration;

    use super::*;
    use crate::control::Channel;
    use crate::disk::device_dir::Traits;
    use crate::disk::disk_fd::DiskFd;
    use crate::disk::on_disk::OnDisk;
    use crate::disk::path::DevPath;
    use crate::scoreboard::DeviceState;
    use crate::spec::{Service, SiteId};

    const KEY: DeviceKey = DeviceKey { site: SiteId(0), devid: 1 };

    const TRAITS: Traits = Traits { inline_reads: true, updates_atime: true, sends_unlocked: true };

    fn opened(dir: &std::path::Path) -> DiskFd {
        OnDisk::in_test();
        DiskFd::new(std::fs::File::open(dir).unwrap().into())
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
        while !worker.devices.has_answered(KEY) {
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
        worker.devices.get(KEY).adopt_dir(opened(&dev), TRAITS);
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
        assert!(worker.devices.get(KEY).dir_at_hand().is_none());
    }

    #[test]
    fn usage_of_a_stalled_device_is_not_read_from_the_page_cache() {
        let (docroot, _master, mut worker) = owner_of_stalled(true);
        let dev = docroot.path().join("dev1");
        std::fs::write(dev.join("usage"), "an old look").unwrap();
        worker.devices.get(KEY).adopt_dir(opened(&dev), TRAITS);
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
