//! Options and files into a [`Config`], or every reason why not. Reads the files and looks at
//! the docroots; binds, forks and changes nothing.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rmogstored_worker::spec::{LogTarget, Settings};

use super::parse::{self, Key};
use super::problem::{Origin, Problem};
use super::values::{self, Server};
use super::written::{Check, Found, Options, absolute};
use super::{Config, Workers};
use crate::privileges::Identity;

/// Far more than any configuration file has.
const LARGEST_FILE: u64 = 1 << 20;
const NO_RELATIVE: &str = "relative paths are incompatible with --daemonize and SIGUSR2 upgrades";

/// A configuration that holds, with what the operator should know about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Warnings only.
    pub warnings: Vec<Problem>,
}

/// Reads the files and checks everything. On failure all problems, warnings among them.
pub fn load(options: &Options) -> Result<Loaded, Vec<Problem>> {
    let (entries, problems) = parse::last_of_each(&options.entries);
    let options = &Options { entries, ..options.clone() };
    let mut check = Check { options, files: Vec::new(), problems };
    for name in &options.repeated {
        check.warn(format!("--{name} is given again"), Some(Origin::CommandLine));
    }
    check.read_files();
    let config = check.config();
    let problems = check.problems;
    match config {
        Some(config) if !problems.iter().any(Problem::is_error) => {
            Ok(Loaded { config, warnings: problems })
        }
        _ => Err(problems),
    }
}

impl Check<'_> {
    fn read_files(&mut self) {
        for path in &self.options.files {
            match read_file(path) {
                Ok(content) => {
                    let (entries, problems) = parse::file(path, &content);
                    self.files.push((path.clone(), entries));
                    self.problems.extend(problems);
                }
                Err(e) => {
                    let text = format!("config={}: {e}", path.display());
                    self.error(text, Some(Origin::CommandLine));
                }
            }
        }
    }

    fn config(&mut self) -> Option<Config> {
        let sites = if self.options.multi { self.several_sites() } else { self.one_site() };
        self.note_ignored();
        let config = Config {
            sites,
            workers: self.workers(),
            settings: self.settings(),
            pidfile: self.pidfile(),
            log: self.log(),
            identity: self.identity(),
            upgrade_timeout: self
                .single(Key::UpgradeTimeout, values::positive_duration)
                .unwrap_or(Duration::from_secs(60)),
            daemonize: self.daemonize(),
            status_fd: self.single(Key::StatusFd, values::descriptor),
            status_socket: self.single(Key::StatusSocket, values::socket_path).map(absolute),
            status_listen: self.single(Key::Statuslisten, values::address),
        };
        self.refuse_shared_addresses(&config.sites, config.status_listen);
        if config.daemonize {
            self.refuse_relative_paths();
        }
        Some(config)
    }

    fn settings(&mut self) -> Settings {
        let seconds = Duration::from_secs;
        let mut positive =
            |key, default| self.single(key, values::positive_duration).unwrap_or(seconds(default));
        let header_timeout = positive(Key::HeaderTimeout, 60);
        let body_timeout = positive(Key::BodyTimeout, 60);
        let stall_timeout = positive(Key::StallTimeout, 5);
        let idle_timeout = self.single(Key::IdleTimeout, values::duration);
        let drain_timeout = self.single(Key::DrainTimeout, values::duration);
        let fsync = self.single(Key::Fsync, values::fsync).unwrap_or_default();
        let (accesslog, slow_log) = self.logs();
        let mut number = |key, most, default| {
            self.single(key, |text| values::number(text, 1..=most)).unwrap_or(default)
        };
        Settings {
            maxconns: number(Key::Maxconns, 10_000_000, 10_000),
            header_timeout,
            body_timeout,
            idle_timeout: idle_timeout.unwrap_or(Duration::ZERO),
            stall_timeout,
            drain_timeout: drain_timeout.unwrap_or(seconds(3600)),
            aio_threads: number(Key::AioThreads, 100, 10),
            max_queue: number(Key::MaxQueue, 1_000_000, 1024),
            fsync,
            accesslog,
            slow_log,
        }
    }

    fn workers(&mut self) -> Workers {
        let ours = self.found(Key::Workers, values::workers);
        let compatible = self.found(Key::WorkerProcesses, values::worker_processes);
        if let (Some(a), Some(b)) = (&ours, &compatible)
            && a.value != b.value
        {
            let text = format!(
                "workers = {} contradicts worker_processes = {} ({})",
                a.written, b.written, b.origin
            );
            self.error(text, Some(a.origin.clone()));
        }
        ours.or(compatible).map_or(Workers::Device, |found| found.value)
    }

    fn identity(&mut self) -> Option<Identity> {
        let group = self.found(Key::Group, values::name);
        let Some(user) = self.found(Key::User, values::name) else {
            if let Some(Found { written, origin, .. }) = group {
                self.error(format!("group = {written} needs user"), Some(origin));
            }
            return None;
        };
        let group = group.as_ref().map(|group| group.value.as_str());
        Identity::find(&user.value, group).map_err(|text| self.error(text, Some(user.origin))).ok()
    }

    fn daemonize(&mut self) -> bool {
        self.single(Key::Daemonize, values::lone_switch).unwrap_or(false)
    }

    fn pidfile(&mut self) -> Option<PathBuf> {
        let Found { value, origin, .. } = self.same_path(Key::Pidfile)?;
        let path = absolute(value);
        if !path.parent().is_some_and(Path::is_dir) {
            let text = format!("pidfile={}: its folder does not exist", path.display());
            self.error(text, Some(origin));
        } else if path.is_dir() {
            self.error(format!("pidfile={} is a folder", path.display()), Some(origin));
        }
        Some(path)
    }

    fn note_ignored(&mut self) {
        for entry in self.written(Key::Serverbin) {
            self.warn(format!("serverbin = {} ignored", entry.value), Some(entry.origin));
        }
    }

    pub(super) fn note_internal_http(&mut self) {
        for entry in self.written(Key::Server) {
            if values::server(&entry.value) == Ok(Server::Http) {
                let text = "using internal HTTP for 'server = perlbal' instead";
                self.warn(text, Some(entry.origin));
            }
        }
    }

    // Relative paths: the daemon's working folder is `/`, and its successor's too.

    fn refuse_relative_paths(&mut self) {
        let before = self.problems.len();
        for file in &self.options.files {
            self.refuse_relative("config", file, Origin::CommandLine);
        }
        for key in [Key::Docroot, Key::Pidfile, Key::StatusSocket, Key::Logfile] {
            for entry in self.written(key) {
                self.refuse_relative(key.name(), Path::new(&entry.value), entry.origin);
            }
        }
        for entry in self.nearest(Key::Accesslog) {
            if let Ok(Some(LogTarget::File(path))) = values::log_target(&entry.value) {
                self.refuse_relative(Key::Accesslog.name(), &path, entry.origin);
            }
        }
        let search = self.options.search_path.clone().unwrap_or_default();
        let mut elements = search.as_bytes().split(|b| *b == b':');
        if !search.is_empty() && elements.any(|element| !element.starts_with(b"/")) {
            let text = format!("PATH environment contains relative path: {}", search.display());
            self.error(text, None);
        }
        if self.problems.len() > before {
            self.error(NO_RELATIVE, None);
        }
    }

    fn refuse_relative(&mut self, name: &str, path: &Path, origin: Origin) {
        if path.is_relative() {
            let text = format!("{name}={} must use an absolute path", path.display());
            self.error(text, Some(origin));
        }
    }
}

/// A device or a pipe without end would be read for ever.
fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?.take(LARGEST_FILE + 1).read_to_end(&mut content)?;
    if content.len() as u64 > LARGEST_FILE {
        return Err(io::Error::other("more than 1 MiB is no configuration"));
    }
    Ok(content)
}

#[cfg(test)]
mod tests;
