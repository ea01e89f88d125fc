//! Whether the workers' loops go round, as their heartbeats tell. A worker that stands still is
//! told of, once, and not killed: it may be stopped for a debugger. Only when it is to drain must
//! it go on, or it is killed: nothing waits for ever for a process that was stopped.
//!
//! One that has ended, but for a thread that waits for a dead disk, is left behind: the kernel
//! reports its end only when the disk answers, perhaps never. Its first thread is a zombie by
//! then, and no thread of it will run another instruction of ours.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rmogstored_worker::scoreboard::{DeviceSlot, Faults};
use rmogstored_worker::spec::{DeviceKey, WorkerId};

use super::Supervisor;
use super::children::Life;
use super::device_health::{Change, Facts, Trouble};
use super::policy::{Action, Exit};
use crate::report::events::Event as Told;
use crate::report::live::age_ms;

/// How long a process without a heartbeat is taken to be alive without a look: one that goes has
/// none any more, and goes round a few times a second until then.
const MISSED: Duration = Duration::from_millis(300);
/// Loops go round once a second when there is nothing to do, and more often otherwise.
const STUCK: Duration = Duration::from_secs(5);

/// How long a stopped worker that is to drain may stay stopped after SIGCONT.
const ROUSED_WITHIN: Duration = Duration::from_secs(2);

/// The processes that were told to go on, and when first.
pub(super) type Roused = BTreeMap<i32, Instant>;

impl Supervisor {
    /// Tells of workers that stand still, and of those that move again.
    pub(super) fn look_for_stuck_workers(&mut self, now: Instant) {
        let children = self.policy.children().iter();
        let ages: Vec<(WorkerId, i32, Duration)> = children
            .filter_map(|(id, child)| Some((id, child.life.pid()?, self.age(id, child.life, now)?)))
            .collect();
        let with_process: BTreeSet<WorkerId> = ages.iter().map(|(id, ..)| *id).collect();
        self.stuck.retain(|id| with_process.contains(id));
        for (id, pid, age) in ages {
            let age_ms = age.as_millis() as u64;
            if age >= STUCK && self.stuck.insert(id) {
                log::error!("worker {id} (PID {pid}) stands still: no heartbeat for {age_ms} ms");
                self.events.tell(&Told::WorkerStuck { worker: id.0, pid, age_ms });
            } else if age < STUCK && self.stuck.remove(&id) {
                log::info!("worker {id} (PID {pid}) moves again");
                self.events.tell(&Told::WorkerAlive { worker: id.0, pid });
            }
        }
    }

    /// Tells of devices with which something is wrong, or not any more.
    pub(super) fn look_at_devices(&mut self) {
        let now = (Instant::now(), SystemTime::now());
        for (key, slot) in self.board.devices().into_iter().filter(|(key, _)| key.devid != 0) {
            let facts = Facts::of(&self.board, slot);
            for change in self.device_health.look(key, facts, now) {
                self.tell_of_device(key, slot, change);
            }
            slot.failing.store(self.device_health.is_failing(key), Relaxed);
        }
    }

    /// The owner writes the log of stalls and mounts.
    fn tell_of_device(&mut self, key: DeviceKey, slot: &DeviceSlot, change: Change) {
        let docroot = self.plan.devices.docroot(key.site);
        let (name, path) = (key.to_string(), docroot.join(key.to_string()));
        let (path, docroot) = (path.display(), docroot.display().to_string());
        let event = match change {
            // Between two processes of one worker, or at rest: the workers' events tell.
            Change::Has(Trouble::Unowned) | Change::Had(Trouble::Unowned) => return,
            Change::Has(Trouble::Unmounted) => Told::DeviceUnmounted { device: name, docroot },
            Change::Has(Trouble::Stalled) => Told::DeviceStalled { device: name, docroot },
            Change::Has(Trouble::Failing) => {
                let Faults { read_errors, write_errors, .. } = slot.faults.counts();
                log::error!(
                    "{path} is failing: its disk had many errors within a minute, {read_errors} of \
                     reads and {write_errors} of writes so far; it is served all the same"
                );
                Told::DeviceFailing { device: name, docroot }
            }
            Change::Has(Trouble::ReadOnly) => {
                log::error!("{path} is mounted read-only: nothing can be stored or removed there");
                Told::DeviceReadOnly { device: name, docroot }
            }
            Change::Has(Trouble::Full) => {
                log::warn!("{path} is full");
                Told::DeviceFull { device: name, docroot }
            }
            Change::Had(trouble) => {
                let from = trouble.name();
                if !matches!(trouble, Trouble::Stalled | Trouble::Unmounted) {
                    log::info!("{path} is not {from} any more");
                }
                Told::DeviceRecovered { device: name, docroot, from }
            }
        };
        self.events.tell(&event);
    }

    /// Buries the workers that have ended but cannot be waited for.
    pub(super) fn leave_behind_the_dead(&mut self, now: Instant) -> Vec<Action> {
        let children = self.policy.children().iter();
        let silent = children.filter_map(|(id, child)| {
            let heartbeat = age_ms(self.board.worker(id).heartbeat.load(Relaxed))?;
            let pid = child.life.pid().filter(|_| heartbeat >= MISSED.as_millis() as u64)?;
            Some((id, pid, how_it_ended(pid)?))
        });
        let dead: Vec<(WorkerId, i32, Exit)> = silent.collect();
        let bury = |(id, pid, exit)| {
            log::error!("worker {id} (PID {pid}) has a thread in a dead disk: it is left behind");
            self.bury(id, pid, exit, now)
        };
        dead.into_iter().flat_map(bury).collect()
    }

    /// Lets workers go on that were stopped and are to drain; those that are stopped again and
    /// again, or held by a debugger, are killed.
    pub(super) fn rouse_the_stopped(&mut self, now: Instant) -> Vec<Action> {
        let children = self.policy.children().iter();
        let draining = children.filter(|(_, child)| matches!(child.life, Life::Draining { .. }));
        let stopped: Vec<(WorkerId, i32)> = draining
            .filter_map(|(id, child)| Some((id, child.life.pid()?)))
            .filter(|(_, pid)| is_stopped(*pid))
            .collect();
        self.roused.retain(|pid, _| self.policy.children().by_pid(*pid).is_some());
        let mut actions = Vec::new();
        for (id, pid) in stopped {
            match self.roused.get(&pid) {
                Some(since) if now - *since >= ROUSED_WITHIN => {
                    log::warn!("worker {id} (PID {pid}) stays stopped");
                    actions.push(Action::Kill(id));
                }
                known => {
                    if known.is_none() {
                        log::warn!("worker {id} (PID {pid}) is stopped and is to drain: SIGCONT");
                        self.roused.insert(pid, now);
                    }
                    // Not reaped, so the number is its own.
                    let _ = kill(Pid::from_raw(pid), Signal::SIGCONT);
                }
            }
        }
        actions
    }

    /// The time since a worker's loop last went round; `None` before it began.
    fn age(&self, id: WorkerId, life: Life, now: Instant) -> Option<Duration> {
        let heartbeat = age_ms(self.board.worker(id).heartbeat.load(Relaxed));
        let heartbeat = heartbeat.map(Duration::from_millis);
        match life {
            Life::Running { since, .. } => Some(heartbeat.unwrap_or(now - since)),
            Life::Draining { .. } => heartbeat,
            Life::Due { .. } | Life::Starting { .. } => None,
        }
    }
}

/// How a process ended whose first thread is a zombie: proc_pid_stat(5). `None`: it lives.
fn how_it_ended(pid: i32) -> Option<Exit> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    end_in(&stat)
}

/// By a signal, or by a debugger: proc_pid_stat(5).
fn is_stopped(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| state_in(&stat).is_some_and(|state| ["T", "t"].contains(&state)))
}

fn state_in(stat: &str) -> Option<&str> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().next()
}

/// The command, in parentheses, may hold anything; the status is the last field.
fn end_in(stat: &str) -> Option<Exit> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    if fields.next()? != "Z" {
        return None;
    }
    let status: i32 = fields.next_back()?.parse().ok()?;
    Some(match status & 0x7f {
        0 => Exit::Status(status >> 8),
        signal => Exit::Signal(signal),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_is_what_follows_the_command() {
        assert_eq!(state_in("7 (a) T b) t 1 7"), Some("t"));
        assert_eq!(state_in(""), None);
    }

    #[test]
    fn the_end_of_a_zombie_is_read_from_its_last_field() {
        assert_eq!(end_in("7 (a) Z b) Z 1 7 7 0"), Some(Exit::Status(0)));
        assert_eq!(end_in("7 (w) Z 1 7 7 9"), Some(Exit::Signal(9)));
        assert_eq!(end_in("7 (w) Z 1 7 7 768"), Some(Exit::Status(3)));
        assert_eq!(end_in("7 (w) Z) S 1 7 7 9"), None);
        assert_eq!(end_in(""), None);
    }
}
