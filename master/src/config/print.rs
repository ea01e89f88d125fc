//! A [`Config`] written as a file that loads again, for `--check-config`.

use std::fmt::{self, Display, Write as _};
use std::time::Duration;

use rmogstored_worker::spec::{Service, Wanted};

use super::{Config, Key, SiteConfig, Workers};

/// One file per docroot, the node's settings in the first. The others make sense with
/// `--multi` only; each starts with a comment line that begins with `# docroot`.
impl Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        for (index, site) in self.sites.iter().enumerate() {
            if index > 0 {
                let number = index + 1;
                writeln!(text, "\n# docroot {number}: a file of its own, for --multi")?;
            }
            write_site(&mut text, site)?;
            if index == 0 {
                write_node(&mut text, self)?;
            }
        }
        f.write_str(&text)
    }
}

fn write_site(text: &mut String, site: &SiteConfig) -> fmt::Result {
    line(text, Key::Docroot, site.docroot.display())?;
    if site.require_mount {
        line(text, Key::RequireMount, "yes")?;
    }
    for listener in &site.listeners {
        let key = match listener.service {
            Service::Http => Key::Httplisten,
            Service::HttpGet => Key::Httpgetlisten,
            Service::Mgmt => Key::Mgmtlisten,
        };
        line(text, key, listener.address)?;
    }
    Ok(())
}

fn write_node(text: &mut String, config: &Config) -> fmt::Result {
    let settings = &config.settings;
    match config.workers {
        Workers::Device => line(text, Key::Workers, "device")?,
        Workers::Cpu => line(text, Key::Workers, "cpu")?,
        Workers::Count(count) => line(text, Key::Workers, count)?,
    }
    line(text, Key::Maxconns, settings.maxconns)?;
    line(text, Key::HeaderTimeout, seconds(settings.header_timeout))?;
    line(text, Key::BodyTimeout, seconds(settings.body_timeout))?;
    line(text, Key::IdleTimeout, seconds(settings.idle_timeout))?;
    line(text, Key::StallTimeout, seconds(settings.stall_timeout))?;
    line(text, Key::DrainTimeout, seconds(settings.drain_timeout))?;
    line(text, Key::AioThreads, settings.aio_threads)?;
    line(text, Key::MaxQueue, settings.max_queue)?;
    line(text, Key::Fsync, settings.fsync)?;
    if let Some(log) = &settings.accesslog {
        line(text, Key::Accesslog, &log.target)?;
        line(text, Key::AccesslogFormat, log.format)?;
        if log.only != Wanted::default() {
            line(text, Key::AccesslogOnly, log.only)?;
        }
    }
    let log = &config.log;
    line(text, Key::Loglevel, log.level.as_str().to_ascii_lowercase())?;
    line(text, Key::Logformat, if log.json { "json" } else { "text" })?;
    if let Some(path) = &log.file {
        line(text, Key::Logfile, path.display())?;
    }
    line(text, Key::SlowLog, seconds(settings.slow_log))?;
    line(text, Key::UpgradeTimeout, seconds(config.upgrade_timeout))?;
    if let Some(identity) = &config.identity {
        line(text, Key::User, &identity.user)?;
        line(text, Key::Group, &identity.group)?;
    }
    if config.daemonize {
        line(text, Key::Daemonize, 1)?;
    }
    if let Some(path) = &config.pidfile {
        line(text, Key::Pidfile, path.display())?;
    }
    if let Some(fd) = config.status_fd {
        line(text, Key::StatusFd, fd)?;
    }
    if let Some(path) = &config.status_socket {
        line(text, Key::StatusSocket, path.display())?;
    }
    if let Some(address) = config.status_listen {
        line(text, Key::Statuslisten, address)?;
    }
    Ok(())
}

fn line(text: &mut String, key: Key, value: impl Display) -> fmt::Result {
    writeln!(text, "{} = {value}", key.name())
}

fn seconds(duration: Duration) -> String {
    let text = format!("{}.{:09}", duration.as_secs(), duration.subsec_nanos());
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
