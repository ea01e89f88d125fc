//! The docroots and their listeners: what each file and the command line say about them.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rmogstored_worker::spec::Service;

use super::parse::Entry;
use super::parse::Key;
use super::problem::Origin;
use super::values::{self, Server};
use super::written::Check;
use super::written::{Found, absolute, of_key};
use super::{ListenerConfig, SiteConfig};

const DEFAULT_DOCROOT: &str = "/var/mogdata";
const DEFAULT_LISTENERS: [(Service, &str); 2] =
    [(Service::Http, "0.0.0.0:7500"), (Service::Mgmt, "0.0.0.0:7501")];

impl Check<'_> {
    pub(super) fn one_site(&mut self) -> Vec<SiteConfig> {
        if self.options.files.len() > 1 {
            self.error("several --config make sense with --multi only", Some(Origin::CommandLine));
            return Vec::new();
        }
        let docroot = self.same_path(Key::Docroot);
        let server = self.single(Key::Server, values::server).unwrap_or(Server::Http);
        let require_mount = self.single(Key::RequireMount, values::lone_switch).unwrap_or(false);
        self.note_internal_http();
        let mut listeners = Vec::new();
        for key in [Key::Httplisten, Key::Httpgetlisten, Key::Mgmtlisten] {
            listeners.extend(self.addresses(self.nearest(key)));
        }
        let written = [Key::Httplisten, Key::Httpgetlisten, Key::Mgmtlisten];
        if !written.iter().any(|key| !self.nearest(*key).is_empty()) {
            listeners.extend(default_listeners());
        }
        let docroot = match docroot {
            Some(Found { value, origin, .. }) => self.docroot(&value, Some(origin)),
            None => self.docroot(Path::new(DEFAULT_DOCROOT), None),
        };
        let place = self.files.first().map(|(path, _)| path.clone());
        let site = self.site(docroot, listeners, server, place);
        site.into_iter().map(|site| SiteConfig { require_mount, ..site }).collect()
    }

    pub(super) fn several_sites(&mut self) -> Vec<SiteConfig> {
        self.refuse_options_of_one_site();
        if self.options.files.is_empty() {
            self.error("--multi needs at least one --config", Some(Origin::CommandLine));
        }
        self.note_internal_http();
        let forced = self.option(Key::Server, values::server);
        let all_required = self.option(Key::RequireMount, values::lone_switch);
        let mut sites = Vec::new();
        let mut seen: HashMap<PathBuf, Origin> = HashMap::new();
        for (path, entries) in self.files.clone() {
            let server = self.in_file(&entries, Key::Server, values::server).map(|f| f.value);
            let required = self.in_file(&entries, Key::RequireMount, values::lone_switch);
            let mut listeners = Vec::new();
            for key in [Key::Httplisten, Key::Httpgetlisten, Key::Mgmtlisten] {
                listeners.extend(self.addresses(of_key(&entries, key)));
            }
            if listeners.is_empty() {
                self.error(format!("{}: no listener", path.display()), None);
                continue;
            }
            let Some(docroot) = self.in_file(&entries, Key::Docroot, values::path) else {
                if !entries.iter().any(|e| e.key == Key::Docroot) {
                    self.error(format!("{}: no docroot", path.display()), None);
                }
                continue;
            };
            let Found { value, written, origin } = docroot;
            let docroot = self.docroot(&value, Some(origin.clone()));
            let real = fs::canonicalize(&value).unwrap_or(value);
            if let Some(first) = seen.get(&real) {
                let text = format!("docroot={written} is already that of {first}");
                self.error(text, Some(origin.clone()));
            }
            seen.insert(real, origin);
            let server = forced.or(server).unwrap_or(Server::Http);
            let site = self.site(docroot, listeners, server, Some(path));
            let require_mount = all_required.or(required.map(|f| f.value)).unwrap_or(false);
            sites.extend(site.map(|site| SiteConfig { require_mount, ..site }));
        }
        sites
    }

    fn refuse_options_of_one_site(&mut self) {
        for key in [Key::Docroot, Key::Httplisten, Key::Mgmtlisten] {
            if self.options.entries.iter().any(|e| e.key == key) {
                let text = format!("--{} cannot be used with --multi", key.name());
                self.error(text, Some(Origin::CommandLine));
            }
        }
    }

    fn site(
        &mut self,
        docroot: Option<PathBuf>,
        mut listeners: Vec<ListenerConfig>,
        server: Server,
        place: Option<PathBuf>,
    ) -> Option<SiteConfig> {
        if server == Server::None {
            listeners.retain(|listener| listener.service == Service::Mgmt);
            if listeners.is_empty() {
                let place = place.map_or(String::new(), |p| format!("{}: ", p.display()));
                self.error(format!("{place}no listener: 'server = none' needs mgmtlisten"), None);
            }
        }
        Some(SiteConfig { docroot: docroot?, require_mount: false, listeners })
    }

    fn docroot(&mut self, path: &Path, origin: Option<Origin>) -> Option<PathBuf> {
        let shown = path.display();
        if is_served(path) {
            return Some(absolute(path.to_owned()));
        }
        match fs::metadata(path) {
            Ok(found) if found.is_dir() => match fs::read_dir(path) {
                Ok(_) => return Some(absolute(path.to_owned())),
                Err(e) => self.error(format!("docroot={shown} cannot be listed: {e}"), origin),
            },
            Ok(_) => self.error(format!("docroot={shown} is not a folder"), origin),
            Err(e) if e.kind() == ErrorKind::NotFound => {
                self.error(format!("docroot={shown} does not exist"), origin);
            }
            Err(e) => self.error(format!("docroot={shown}: {e}"), origin),
        }
        None
    }

    fn addresses(&mut self, entries: Vec<Entry>) -> Vec<ListenerConfig> {
        let mut listeners = Vec::new();
        for entry in entries {
            let service = match entry.key {
                Key::Httplisten => Service::Http,
                Key::Httpgetlisten => Service::HttpGet,
                _ => Service::Mgmt,
            };
            if let Some(found) = self.convert(&entry, values::address) {
                listeners.push(ListenerConfig { service, address: found.value });
            }
        }
        listeners
    }

    pub(super) fn refuse_shared_addresses(
        &mut self,
        sites: &[SiteConfig],
        status: Option<SocketAddr>,
    ) {
        let mut seen = Vec::new();
        let sites = sites.iter().flat_map(|site| &site.listeners).map(|listener| listener.address);
        for address in sites.chain(status) {
            if address.port() != 0 && seen.contains(&address) {
                let origin = self.address_origin(address);
                self.error(format!("{address} is given to more than one listener"), origin);
            }
            seen.push(address);
        }
    }

    /// The last place where that address was written.
    fn address_origin(&self, address: SocketAddr) -> Option<Origin> {
        let entries = self.files.iter().flat_map(|(_, entries)| entries);
        entries
            .chain(&self.options.entries)
            .rfind(|e| e.key.is_address() && values::address(&e.value) == Ok(address))
            .map(|entry| entry.origin.clone())
    }
}

fn default_listeners() -> impl Iterator<Item = ListenerConfig> {
    DEFAULT_LISTENERS.into_iter().filter_map(|(service, address)| {
        Some(ListenerConfig { service, address: values::address(address).ok()? })
    })
}

/// Docroots that this process serves.
static SERVED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// A docroot is served from now on: reloads take it for good without asking its disk, which may
/// hang by then, and the master with it.
pub fn note_served(docroot: &Path) {
    served().insert(docroot.to_owned());
}

fn is_served(path: &Path) -> bool {
    served().contains(&absolute(path.to_owned()))
}

fn served() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    SERVED.lock().unwrap_or_else(PoisonError::into_inner)
}
