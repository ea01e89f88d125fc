//! RLIMIT_NOFILE: the soft limit follows maxconns, as far as the hard limit lets it.

use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};

use crate::config::Config;

/// What a worker holds besides connections: standard streams, listeners, channels, inboxes.
const BESIDES: u64 = 64;

/// Descriptors that a disk thread may hold: the device, the file, a temporary, a folder, and both
/// ends of a pipe.
const PER_DISK_THREAD: u64 = 6;

/// Raises the soft limit to what `config` may use, never past the hard limit, and logs a warning
/// when not even its connections fit: the node then lives with what it has. Workers inherit it.
pub fn raise_nofile(config: &Config) {
    let needed = needed(config);
    // A connection that is being answered may hold its file too.
    match raise(needed + config.settings.maxconns as rlim_t) {
        Ok(allowed) if allowed >= needed => {}
        Ok(allowed) => log::warn!(
            "maxconns = {} needs {needed} descriptors, RLIMIT_NOFILE allows {allowed}: \
             fewer connections at a time",
            config.settings.maxconns,
        ),
        Err(errno) => log::warn!("RLIMIT_NOFILE stays as it is: {}", errno.desc()),
    }
}

fn needed(config: &Config) -> rlim_t {
    let settings = &config.settings;
    let listeners = config.sites.iter().map(|site| site.listeners.len()).sum::<usize>();
    let disk = settings.aio_threads as rlim_t * PER_DISK_THREAD;
    settings.maxconns as rlim_t + listeners as rlim_t + disk + BESIDES
}

/// The soft limit that came of it.
fn raise(wanted: rlim_t) -> nix::Result<rlim_t> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let allowed = target(soft, hard, wanted);
    if allowed != soft {
        setrlimit(Resource::RLIMIT_NOFILE, allowed, hard)?;
    }
    Ok(allowed)
}

fn target(soft: rlim_t, hard: rlim_t, needed: rlim_t) -> rlim_t {
    soft.max(needed.min(hard))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn soft_limit_rises_to_the_need_and_no_further_than_the_hard_one() {
        assert_eq!(target(1024, 4096, 2000), 2000);
        assert_eq!(target(1024, 4096, 20_000), 4096);
        assert_eq!(target(1024, libc::RLIM_INFINITY, 20_000), 20_000);
    }

    #[test]
    fn soft_limit_is_never_lowered() {
        assert_eq!(target(1024, 4096, 20), 1024);
        assert_eq!(target(4096, 4096, 20_000), 4096);
    }

    #[test]
    fn the_process_gets_what_the_hard_limit_allows() {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(raise(1), Ok(soft));
        if hard == libc::RLIM_INFINITY {
            println!("SKIPPED: the hard limit is infinite");
            return;
        }
        assert_eq!(raise(hard + 1), Ok(hard));
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE), Ok((hard, hard)));
    }
}
