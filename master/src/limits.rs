//! RLIMIT_NOFILE: the soft limit follows maxconns, as far as the hard limit lets it.

use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};

use crate::config::Config;

/// What a worker holds besides connections: standard streams, listeners, channels, inboxes.
const BESIDES: u64 = 64;

/// Descriptors that a disk thread may hold: the device, the file, a temporary, a folder.
const PER_DISK_THREAD: u64 = 4;

/// Raises the soft limit to what `config` needs, never past the hard limit, and logs a warning
/// when that is not enough: the node then lives with what it has. Workers inherit the limit.
pub fn raise_nofile(config: &Config) {
    match raise(needed(config)) {
        Ok(None) => {}
        Ok(Some(shortage)) => log::warn!(
            "maxconns = {} wants {} descriptors, RLIMIT_NOFILE allows {}: fewer connections at a time",
            config.settings.maxconns,
            shortage.needed,
            shortage.allowed
        ),
        Err(errno) => log::warn!("RLIMIT_NOFILE stays as it is: {}", errno.desc()),
    }
}

/// Too few descriptors are to be had.
#[derive(Debug, PartialEq, Eq)]
struct Shortage {
    needed: rlim_t,
    allowed: rlim_t,
}

/// A connection that is being answered holds its file too.
fn needed(config: &Config) -> rlim_t {
    let settings = &config.settings;
    let listeners = config.sites.iter().map(|site| site.listeners.len()).sum::<usize>();
    let disk = settings.aio_threads as rlim_t * PER_DISK_THREAD;
    2 * settings.maxconns as rlim_t + listeners as rlim_t + disk + BESIDES
}

fn raise(needed: rlim_t) -> nix::Result<Option<Shortage>> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let wanted = target(soft, hard, needed);
    if wanted != soft {
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard)?;
    }
    Ok((wanted < needed).then_some(Shortage { needed, allowed: wanted }))
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
    fn shortage_names_need_and_allowance() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(raise(1), Ok(None));
        if hard == libc::RLIM_INFINITY {
            println!("SKIPPED: the hard limit is infinite");
            return;
        }
        let meant = Shortage { needed: hard + 1, allowed: hard };
        assert_eq!(raise(hard + 1), Ok(Some(meant)));
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (hard, hard));
    }
}
