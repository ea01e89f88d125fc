//! Which devices there are, by the names in the docroots, and which worker owns which. Nothing
//! here opens, stats or lists anything below `devN`: a hung disk cannot hang it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rmogstored_worker::disk::docroot;
use rmogstored_worker::scoreboard::MAX_WORKERS;
use rmogstored_worker::spec::{DeviceKey, SiteId, WorkerId};

use super::children::Duty;
use crate::config::Workers;

/// Workers that a node wants at most; the other slots are for those that still drain.
const MOST_WORKERS: usize = MAX_WORKERS / 2;

/// The devices found last.
#[derive(Debug)]
pub struct Devices {
    docroots: Vec<PathBuf>,
    workers: Workers,
    cpus: usize,
    found: BTreeSet<DeviceKey>,
    /// Docroots whose devices are known: from the first look on their owners tell of changes.
    known: BTreeSet<SiteId>,
    /// Something was told since the last look.
    news: bool,
    /// Docroots that a reload took away; their numbers are not given again.
    retired: BTreeSet<SiteId>,
}

impl Devices {
    /// Nothing found yet. `cpus`: how many workers `workers = cpu` means.
    pub fn new(docroots: Vec<PathBuf>, workers: Workers, cpus: usize) -> Devices {
        let (found, known, news, retired) = Default::default();
        Devices { docroots, workers, cpus, found, known, news, retired }
    }

    /// The same, without the devices of these docroots.
    pub fn without(mut self, retired: BTreeSet<SiteId>) -> Devices {
        self.retired = retired;
        self
    }

    /// Starts with what was known of the docroots before a reload, which may be hanging by now.
    pub fn after(mut self, before: &Devices) -> Devices {
        let kept = |site: &SiteId| !self.retired.contains(site);
        self.known = before.known.iter().copied().filter(kept).collect();
        let found = before.found.iter().copied();
        self.found = found.filter(|key| self.known.contains(&key.site)).collect();
        self
    }

    /// Lists the docroots of which nothing is known yet, before there are workers to ask; true when
    /// the devices have changed since the last call.
    pub fn look(&mut self) -> bool {
        for (site, docroot) in (0..).map(SiteId).zip(self.docroots.clone()) {
            if self.retired.contains(&site) || !self.known.insert(site) {
                continue;
            }
            match docroot::devices(&docroot) {
                Ok(devids) => {
                    if devids.is_empty() {
                        let docroot = docroot.display();
                        log::warn!("{docroot} holds no devN: it serves nothing until it does");
                    }
                    self.hear(site, devids);
                }
                Err(e) => log::error!("cannot list {}: {e}", docroot.display()),
            }
        }
        std::mem::take(&mut self.news)
    }

    /// A docroot's owner has listed it.
    pub fn hear(&mut self, site: SiteId, devids: BTreeSet<u32>) {
        if self.retired.contains(&site) || usize::from(site.0) >= self.docroots.len() {
            return;
        }
        let others = self.found.iter().copied().filter(|key| key.site != site);
        let these = devids.into_iter().map(|devid| DeviceKey { site, devid });
        let found: BTreeSet<DeviceKey> = others.chain(these).collect();
        self.news |= found != self.found;
        self.found = found;
    }

    /// The duties that workers should have now.
    pub fn duties(&self) -> BTreeSet<Duty> {
        let shared = match self.workers {
            Workers::Count(count) => count,
            Workers::Cpu => self.cpus,
            Workers::Device if self.found.is_empty() => self.cpus,
            Workers::Device => {
                return self.found.iter().copied().map(Duty::Device).take(MOST_WORKERS).collect();
            }
        };
        (0..shared.clamp(1, MOST_WORKERS) as u16).map(Duty::Shared).collect()
    }

    /// Every device and docroot with its owner, given who has which of the wanted duties.
    pub fn owners(&self, workers: &[(WorkerId, Duty)]) -> Vec<(DeviceKey, WorkerId)> {
        if workers.is_empty() {
            return Vec::new();
        }
        let sites = (0..self.docroots.len()).map(|n| SiteId(n as u8));
        let docroots = sites.filter(|site| !self.retired.contains(site)).map(docroot_key);
        docroots.chain(self.found.iter().copied()).map(|key| (key, owner(key, workers))).collect()
    }

    /// True for a docroot that a reload took away.
    pub fn is_retired(&self, site: SiteId) -> bool {
        self.retired.contains(&site)
    }

    /// The folder that a device is in.
    pub fn docroot(&self, site: SiteId) -> &Path {
        self.docroots.get(usize::from(site.0)).map_or(Path::new(""), PathBuf::as_path)
    }
}

fn docroot_key(site: SiteId) -> DeviceKey {
    DeviceKey { site, devid: 0 }
}

/// A device's own worker, else the workers in turn by devid. A docroot goes with the lowest
/// device of its site that has a worker, else with the first worker.
fn owner(key: DeviceKey, workers: &[(WorkerId, Duty)]) -> WorkerId {
    let own = |wanted: &dyn Fn(DeviceKey) -> bool| {
        let matching = workers.iter().filter_map(|&(id, duty)| match duty {
            Duty::Device(device) if wanted(device) => Some((device, id)),
            _ => None,
        });
        matching.min().map(|(_, id)| id)
    };
    let found = match key.devid {
        0 => own(&|device| device.site == key.site),
        _ => own(&|device| device == key),
    };
    found.unwrap_or_else(|| {
        let mut by_duty: Vec<_> = workers.iter().map(|&(id, duty)| (duty, id)).collect();
        by_duty.sort_unstable();
        by_duty[key.devid as usize % by_duty.len()].1
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(site: u8, devid: u32) -> DeviceKey {
        DeviceKey { site: SiteId(site), devid }
    }

    fn folder(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        folder
    }

    fn devices(folders: &[&tempfile::TempDir], workers: Workers) -> Devices {
        let docroots = folders.iter().map(|folder| folder.path().to_owned()).collect();
        let mut devices = Devices::new(docroots, workers, 2);
        devices.look();
        devices
    }

    fn numbered(devices: &Devices) -> Vec<(WorkerId, Duty)> {
        (0..).map(WorkerId).zip(devices.duties()).collect()
    }

    #[test]
    fn each_device_gets_a_worker_in_device_mode() {
        let folder = folder(&["dev10", "dev2", "lost+found"]);
        let devices = devices(&[&folder], Workers::Device);
        let duties: Vec<_> = devices.duties().into_iter().collect();
        assert_eq!(duties, [Duty::Device(key(0, 2)), Duty::Device(key(0, 10))]);
        let owners = devices.owners(&numbered(&devices));
        let (two, ten) = (WorkerId(0), WorkerId(1));
        assert_eq!(owners, [(key(0, 0), two), (key(0, 2), two), (key(0, 10), ten)]);
    }

    #[test]
    fn docroot_is_given_over_when_its_lowest_device_goes() {
        let folder = folder(&["dev1", "dev2"]);
        let mut devices = devices(&[&folder], Workers::Device);
        let workers = numbered(&devices);
        devices.hear(SiteId(0), BTreeSet::from([2]));
        assert!(devices.look());
        let owners = devices.owners(&workers[1..]);
        assert_eq!(owners, [(key(0, 0), WorkerId(1)), (key(0, 2), WorkerId(1))]);
    }

    #[test]
    fn node_without_devices_has_a_worker_for_each_cpu() {
        let folder = folder(&[]);
        let devices = devices(&[&folder], Workers::Device);
        assert_eq!(devices.duties(), BTreeSet::from([Duty::Shared(0), Duty::Shared(1)]));
        assert_eq!(devices.owners(&numbered(&devices)), [(key(0, 0), WorkerId(0))]);
    }

    #[test]
    fn shared_workers_own_devices_in_turn() {
        let folder = folder(&["dev1", "dev2", "dev3", "dev7"]);
        let devices = devices(&[&folder], Workers::Count(3));
        let owners = devices.owners(&numbered(&devices));
        let turn: Vec<_> = owners.iter().map(|(key, id)| (key.devid, id.0)).collect();
        assert_eq!(turn, [(0, 0), (1, 1), (2, 2), (3, 0), (7, 1)]);
    }

    #[test]
    fn site_without_devices_is_served_by_another_site_s_worker() {
        let (with, without) = (folder(&["dev5"]), folder(&[]));
        let devices = devices(&[&without, &with], Workers::Device);
        let owners = devices.owners(&numbered(&devices));
        let all = [key(0, 0), key(1, 0), key(1, 5)].map(|key| (key, WorkerId(0)));
        assert_eq!(owners, all);
    }

    #[test]
    fn docroot_is_listed_once_and_told_of_from_then_on() {
        let folder = folder(&["dev1"]);
        let mut devices = devices(&[&folder], Workers::Device);
        std::fs::create_dir(folder.path().join("dev2")).unwrap();
        assert!(!devices.look(), "the disk is left alone");
        devices.hear(SiteId(0), BTreeSet::from([1, 2]));
        assert!(devices.look() && !devices.look());
        assert_eq!(devices.duties().len(), 2);
        devices.hear(SiteId(7), BTreeSet::from([3]));
        assert!(!devices.look(), "a docroot that is none");
        let paths = vec![folder.path().to_owned(), PathBuf::from("/nowhere")];
        let next = Devices::new(paths, Workers::Device, 2).after(&devices);
        assert_eq!(next.duties().len(), 2);
    }

    #[test]
    fn devices_beyond_the_worker_slots_share_workers() {
        let mut devices = Devices::new(vec![PathBuf::from("/d")], Workers::Device, 2);
        devices.found = (1..=400).map(|devid| key(0, devid)).collect();
        let workers = numbered(&devices);
        assert_eq!(workers.len(), MOST_WORKERS);
        assert_eq!(devices.owners(&workers).len(), 401);
    }
}
