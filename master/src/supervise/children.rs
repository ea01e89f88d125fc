//! The table of children: one record per worker slot, its life one enum. No system calls.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rmogstored_worker::scoreboard::MAX_WORKERS;
use rmogstored_worker::spec::{DeviceKey, WorkerId};

/// What a worker is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Duty {
    /// One of the workers that share all devices.
    Shared(u16),
    /// The worker of one device.
    Device(DeviceKey),
}

/// One worker slot in use.
#[derive(Debug)]
pub struct Child {
    /// What it is there for.
    pub duty: Duty,
    /// The configuration it was made for; a reload begins a new one.
    pub generation: u32,
    /// Where it is in its life.
    pub life: Life,
    /// Deaths in a row without a healthy minute between them.
    pub failures: u32,
    /// How many of the last of them came at once.
    pub instant_deaths: u32,
    /// True once any process of this slot has been ready.
    pub was_ready: bool,
}

/// Where a child is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// No process; one is to be forked then.
    Due {
        /// When.
        at: Instant,
    },
    /// Forked, not accepting yet.
    Starting {
        /// Its process.
        pid: i32,
    },
    /// Accepts connections.
    Running {
        /// Its process.
        pid: i32,
        /// Since when.
        since: Instant,
    },
    /// Finishes what it has, then exits.
    Draining {
        /// Its process.
        pid: i32,
        /// When it is killed if it is still there; `None`: never.
        until: Option<Instant>,
        /// A new process takes its slot after it.
        replace: bool,
    },
}

/// All children.
#[derive(Debug, Default)]
pub struct Children(BTreeMap<WorkerId, Child>);

impl Children {
    /// Gives a duty the lowest free slot, to be forked at once. `None`: no slot is free.
    pub fn add(&mut self, duty: Duty, generation: u32, now: Instant) -> Option<WorkerId> {
        let id = (0..MAX_WORKERS as u16).map(WorkerId).find(|id| !self.0.contains_key(id))?;
        let life = Life::Due { at: now };
        let (failures, instant_deaths, was_ready) = (0, 0, false);
        let child = Child { duty, generation, life, failures, instant_deaths, was_ready };
        self.0.insert(id, child);
        Some(id)
    }

    /// Frees a slot.
    pub fn remove(&mut self, id: WorkerId) {
        self.0.remove(&id);
    }

    /// Forgets those that have no process.
    pub fn remove_processless(&mut self) {
        self.0.retain(|_, child| child.life.pid().is_some());
    }

    /// The child in a slot.
    pub fn child(&self, id: WorkerId) -> Option<&Child> {
        self.0.get(&id)
    }

    /// The child in a slot, to be changed.
    pub fn child_mut(&mut self, id: WorkerId) -> Option<&mut Child> {
        self.0.get_mut(&id)
    }

    /// All of them, in order of their slots.
    pub fn iter(&self) -> impl Iterator<Item = (WorkerId, &Child)> {
        self.0.iter().map(|(id, child)| (*id, child))
    }

    /// All of them, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (WorkerId, &mut Child)> {
        self.0.iter_mut().map(|(id, child)| (*id, child))
    }

    /// Those that have a process.
    pub fn with_process(&self) -> Vec<WorkerId> {
        self.iter().filter(|(_, child)| child.life.pid().is_some()).map(|(id, _)| id).collect()
    }

    /// The slot whose process this is.
    pub fn by_pid(&self, pid: i32) -> Option<WorkerId> {
        self.iter().find(|(_, child)| child.life.pid() == Some(pid)).map(|(id, _)| id)
    }

    /// The slot of a duty in a generation. One that drains and is not replaced has it no more.
    pub fn by_duty(&self, duty: Duty, generation: u32) -> Option<WorkerId> {
        let mut of = self.of(generation);
        of.find(|(_, c)| c.duty == duty && !c.life.is_leaving()).map(|(id, _)| id)
    }

    /// Those of a generation.
    pub fn of(&self, generation: u32) -> impl Iterator<Item = (WorkerId, &Child)> {
        self.iter().filter(move |(_, child)| child.generation == generation)
    }

    /// True when no slot is in use.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True when there are some of a generation, and each has been ready once.
    pub fn all_were_ready(&self, generation: u32) -> bool {
        let mut of = self.of(generation).filter(|(_, child)| !child.life.is_leaving()).peekable();
        of.peek().is_some() && of.all(|(_, child)| child.was_ready)
    }

    /// Those whose fork is due.
    pub fn due(&self, now: Instant) -> Vec<WorkerId> {
        let due = |life| matches!(life, Life::Due { at } if at <= now);
        self.iter().filter(|(_, child)| due(child.life)).map(|(id, _)| id).collect()
    }

    /// The next moment at which something is due.
    pub fn deadline(&self) -> Option<Instant> {
        self.0.values().filter_map(|child| child.life.deadline()).min()
    }
}

impl Life {
    /// The process, if there is one.
    pub fn pid(self) -> Option<i32> {
        match self {
            Life::Due { .. } => None,
            Life::Starting { pid } | Life::Running { pid, .. } | Life::Draining { pid, .. } => {
                Some(pid)
            }
        }
    }

    /// On its way out, with no successor.
    pub fn is_leaving(self) -> bool {
        matches!(self, Life::Draining { replace: false, .. })
    }

    /// True when it has been ready for so long.
    pub fn ran_for(self, long: Duration, now: Instant) -> bool {
        matches!(self, Life::Running { since, .. } if now.duration_since(since) >= long)
    }

    /// One word for reports.
    pub fn name(self) -> &'static str {
        match self {
            Life::Due { .. } => "down",
            Life::Starting { .. } => "starting",
            Life::Running { .. } => "running",
            Life::Draining { .. } => "draining",
        }
    }

    fn deadline(self) -> Option<Instant> {
        match self {
            Life::Due { at } => Some(at),
            Life::Draining { until, .. } => until,
            Life::Starting { .. } | Life::Running { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(count: u16) -> (Children, Instant) {
        let now = Instant::now();
        let mut table = Children::default();
        for n in 0..count {
            assert_eq!(table.add(Duty::Shared(n), 1, now), Some(WorkerId(n)));
        }
        (table, now)
    }

    #[test]
    fn lowest_free_slot_is_used_again() {
        let (mut table, now) = table(3);
        table.remove(WorkerId(1));
        assert_eq!(table.add(Duty::Shared(9), 1, now), Some(WorkerId(1)));
        assert_eq!(table.add(Duty::Shared(10), 1, now), Some(WorkerId(3)));
    }

    #[test]
    fn full_table_refuses() {
        let (mut table, now) = table(MAX_WORKERS as u16);
        assert_eq!(table.add(Duty::Shared(0), 1, now), None);
    }

    #[test]
    fn process_is_found_by_its_id_until_it_is_gone() {
        let (mut table, now) = table(2);
        assert_eq!(table.by_pid(70), None);
        table.child_mut(WorkerId(1)).unwrap().life = Life::Starting { pid: 70 };
        assert_eq!(table.by_pid(70), Some(WorkerId(1)));
        assert_eq!(table.with_process(), [WorkerId(1)]);
        table.child_mut(WorkerId(1)).unwrap().life = Life::Due { at: now };
        assert_eq!(table.by_pid(70), None);
    }

    #[test]
    fn deadline_is_the_earliest_of_forks_and_drains() {
        let (mut table, now) = table(2);
        let [soon, later] = [1, 2].map(|secs| now + Duration::from_secs(secs));
        table.child_mut(WorkerId(0)).unwrap().life = Life::Due { at: later };
        let drain = Life::Draining { pid: 5, until: Some(soon), replace: false };
        table.child_mut(WorkerId(1)).unwrap().life = drain;
        assert_eq!(table.deadline(), Some(soon));
        assert!(table.due(soon).is_empty());
        assert_eq!(table.due(later), [WorkerId(0)]);
    }

    #[test]
    fn generations_have_the_same_duties_beside_each_other() {
        let (mut table, now) = table(2);
        assert_eq!(table.add(Duty::Shared(0), 2, now), Some(WorkerId(2)));
        assert_eq!(table.by_duty(Duty::Shared(0), 1), Some(WorkerId(0)));
        assert_eq!(table.by_duty(Duty::Shared(0), 2), Some(WorkerId(2)));
        assert_eq!(table.by_duty(Duty::Shared(1), 2), None);
        assert!(!table.all_were_ready(2));
        assert!(!table.all_were_ready(3), "there is none");
        table.child_mut(WorkerId(2)).unwrap().was_ready = true;
        assert!(table.all_were_ready(2));
        assert!(!table.all_were_ready(1));
    }

    #[test]
    fn leaving_child_has_its_duty_no_more() {
        let (mut table, _) = table(1);
        assert_eq!(table.by_duty(Duty::Shared(0), 1), Some(WorkerId(0)));
        let drain = |replace| Life::Draining { pid: 5, until: None, replace };
        table.child_mut(WorkerId(0)).unwrap().life = drain(true);
        assert_eq!(table.by_duty(Duty::Shared(0), 1), Some(WorkerId(0)));
        table.child_mut(WorkerId(0)).unwrap().life = drain(false);
        assert_eq!(table.by_duty(Duty::Shared(0), 1), None);
    }
}
