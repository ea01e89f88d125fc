//! What a generation of workers serves: a configuration with its listeners open. A reload makes
//! a new plan beside the old one.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rmogstored_worker::spec::{AccessSettings, LogTarget, Service, Settings, Site, SiteId};

use super::devices::Devices;
use crate::config::{self, Config, SiteConfig};
use crate::inherit::Inherited;
use crate::listeners::{self, Bound, Opened, StatusListener};
use crate::privileges::Identity;
use crate::successor::Purpose;
use crate::{Listening, MasterError, logs};

/// The plan of one generation.
#[derive(Debug)]
pub struct Plan {
    /// Open, shared with the plan before where the address is the same.
    pub listeners: Vec<Bound>,
    /// Where the monitor answers.
    pub status: Option<StatusListener>,
    /// All docroots that this master ever served, by their numbers.
    pub sites: Vec<Site>,
    /// What workers act on.
    pub settings: Settings,
    /// The devices and who owns them.
    pub devices: Devices,
    /// Whom workers run as.
    pub identity: Option<Identity>,
    /// What the access log is written to, if that is a file.
    pub accesslog: Option<Arc<File>>,
    /// The file of the node's own log, if it has one.
    pub logfile: Option<PathBuf>,
}

impl Plan {
    /// The first plan of this process. Opens the listeners.
    pub fn first(config: &Config, inherited: Vec<Inherited>) -> Result<Plan, MasterError> {
        let sites = numbered(&config.sites, &[])?;
        let accesslog = open_accesslog(config)?;
        let opened = listeners::open(&sites, config.status_listen, inherited)?;
        Ok(Plan { accesslog, ..Plan::new(config, &sites, Vec::new(), opened) })
    }

    /// The plan after this one. A docroot keeps its number for ever: connections are handed from
    /// workers of one generation to those of another.
    pub fn next(&self, config: &Config) -> Result<Plan, MasterError> {
        let sites = numbered(&config.sites, &self.sites)?;
        let same = |log: &AccessSettings| Some(&log.target) == self.access_target();
        let accesslog = match &self.accesslog {
            Some(file) if config.settings.accesslog.as_ref().is_some_and(same) => {
                Some(Arc::clone(file))
            }
            _ => open_accesslog(config)?,
        };
        let (old, status) = (&self.listeners, self.status.as_ref());
        let opened = listeners::reopen(&sites, config.status_listen, old, status)?;
        let mut plan = Plan::new(config, &sites, self.sites.clone(), opened);
        plan.devices = plan.devices.after(&self.devices);
        plan.accesslog = accesslog;
        Ok(plan)
    }

    /// Where the access log goes, if there is one.
    pub fn access_target(&self) -> Option<&LogTarget> {
        self.settings.accesslog.as_ref().map(|log| &log.target)
    }

    /// The access log has been opened again; it may be another plan's.
    pub(super) fn use_access_file(&mut self, file: &Arc<File>, target: &LogTarget) {
        if self.access_target() == Some(target) {
            self.accesslog = Some(Arc::clone(file));
        }
    }

    /// The listeners, for reports.
    pub fn listening(&self) -> Vec<Listening> {
        self.listeners.iter().map(|bound| bound.listening.clone()).collect()
    }

    /// All sockets, what they are for, and the addresses as configured.
    pub(crate) fn all_listeners(
        &self,
    ) -> impl Iterator<Item = (BorrowedFd<'_>, Purpose, SocketAddr)> {
        let serving = self.listeners.iter().map(|Bound { listener, wanted, .. }| {
            (listener.fd.as_fd(), Purpose::Serve(listener.service), *wanted)
        });
        let status = self.status.iter();
        serving.chain(status.map(|s| (s.fd.as_fd(), Purpose::Status, s.wanted)))
    }

    fn new(
        config: &Config,
        sites: &[(SiteId, SiteConfig)],
        mut known: Vec<Site>,
        Opened { listeners, status }: Opened,
    ) -> Plan {
        for (id, site) in sites {
            let (docroot, usage) = (site.docroot.clone(), has_sidechannel(site));
            let site = Site { docroot, usage, require_mount: site.require_mount };
            match known.get_mut(usize::from(id.0)) {
                Some(known) => *known = site,
                None => known.push(site),
            }
        }
        let served: BTreeSet<SiteId> = sites.iter().map(|(id, _)| *id).collect();
        let all = (0..known.len()).map(|n| SiteId(n as u8));
        let retired = all.filter(|id| !served.contains(id)).collect();
        known.iter().for_each(|site| config::note_served(&site.docroot));
        let docroots = known.iter().map(|site| site.docroot.clone()).collect();
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Plan {
            devices: Devices::new(docroots, config.workers, cpus).without(retired),
            listeners,
            status,
            sites: known,
            settings: config.settings.clone(),
            identity: config.identity.clone(),
            accesslog: None,
            logfile: config.log.file.clone(),
        }
    }
}

/// The access log's file, if it is one.
fn open_accesslog(config: &Config) -> Result<Option<Arc<File>>, MasterError> {
    match config.settings.accesslog.as_ref().map(|log| &log.target) {
        Some(LogTarget::File(path)) => match logs::open(path) {
            Ok(file) => Ok(Some(Arc::new(file))),
            Err(source) => Err(MasterError::Log { path: path.clone(), source }),
        },
        _ => Ok(None),
    }
}

/// Each docroot with its number: the one that it has, or the next.
fn numbered(
    wanted: &[SiteConfig],
    known: &[Site],
) -> Result<Vec<(SiteId, SiteConfig)>, MasterError> {
    let mut next = known.len();
    let mut number = |docroot: &Path| {
        known.iter().position(|site| site.docroot == docroot).unwrap_or_else(|| {
            next += 1;
            next - 1
        })
    };
    let number = |site: &SiteConfig| {
        let number = u8::try_from(number(&site.docroot)).map_err(|_| MasterError::TooManySites)?;
        Ok((SiteId(number), site.clone()))
    };
    wanted.iter().map(number).collect()
}

/// Usage files are written where a mgmtlisten serves the docroot: PROTOCOL.md section 4.
fn has_sidechannel(site: &SiteConfig) -> bool {
    site.listeners.iter().any(|listener| listener.service == Service::Mgmt)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn config(docroots: &[&str]) -> Vec<SiteConfig> {
        let site = |docroot: &&str| SiteConfig {
            docroot: docroot.into(),
            require_mount: false,
            listeners: Vec::new(),
        };
        docroots.iter().map(site).collect()
    }

    fn site(docroot: &str) -> Site {
        Site { docroot: PathBuf::from(docroot), usage: false, require_mount: false }
    }

    fn numbers(wanted: &[&str], known: &[&str]) -> Vec<u8> {
        let known: Vec<Site> = known.iter().map(|docroot| site(docroot)).collect();
        numbered(&config(wanted), &known).unwrap().iter().map(|(id, _)| id.0).collect()
    }

    #[test]
    fn docroots_keep_their_numbers() {
        assert_eq!(numbers(&["/a", "/b"], &[]), [0, 1]);
        assert_eq!(numbers(&["/c", "/b", "/a"], &["/a", "/b"]), [2, 1, 0]);
        assert_eq!(numbers(&["/d", "/b", "/e"], &["/a", "/b", "/c"]), [3, 1, 4]);
    }

    #[test]
    fn numbers_that_run_out_are_an_error() {
        let many: Vec<String> = (0..256).map(|n| format!("/{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(numbers(&many, &[]).len(), 256);
        let known: Vec<Site> = many.iter().map(|docroot| site(docroot)).collect();
        assert!(numbered(&config(&["/new"]), &known).is_err());
    }
}
