//! Upgrades, reloads, replacements and retirements in great number, under connections of all
//! kinds that never reconnect. Short here; the long form has 500 connections and, over the three
//! kinds of workers, 1,000 upgrades, 300 reloads, 300 replaced workers and 100 of each of the others:
//!
//!     RMOGSTORED_LONG=1 cargo test --release --test tests upgrade_many:: -- --nocapture --test-threads=1

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::chain::{Chain, is_gone};
use crate::harness::{Client, Setup, skipped, until};
use crate::load::process;
use crate::upgrade_follow::{Faithful, Kept};

/// How much of it, for one kind of workers.
struct Amount {
    /// Sets of seven connections that are asked now and then, one of each kind.
    sets: usize,
    /// Connections that ask all the time.
    busy: usize,
    upgrades: usize,
    reloads: usize,
    replacements: usize,
    rests: usize,
    retirements: usize,
}

const SHORT: Amount =
    Amount { sets: 3, busy: 4, upgrades: 4, reloads: 3, replacements: 3, rests: 2, retirements: 2 };
const LONG: Amount = Amount {
    sets: 68,
    busy: 24,
    upgrades: 334,
    reloads: 100,
    replacements: 100,
    rests: 34,
    retirements: 100,
};

/// Those who must not notice anything.
struct Crowd {
    sets: Vec<Kept>,
    load: Faithful,
    turn: usize,
}

impl Crowd {
    fn of(chain: &Chain, amount: &Amount) -> Crowd {
        // At one time: a half-sent head is not waited for for ever.
        let sets = thread::scope(|scope| {
            let sets: Vec<_> =
                (0..amount.sets).map(|_| scope.spawn(|| Kept::of(&chain.node))).collect();
            sets.into_iter().map(|set| set.join().unwrap()).collect()
        });
        Crowd { sets, load: Faithful::start(&chain.node, amount.busy), turn: 0 }
    }

    /// Something has happened: a tenth of them is asked for something each time.
    fn goes_on(&mut self) {
        for _ in 0..self.sets.len().div_ceil(10) {
            self.turn = (self.turn + 1) % self.sets.len();
            self.sets[self.turn].go_on();
            self.sets[self.turn].begin();
        }
        self.load.is_well();
    }

    fn end(mut self) -> usize {
        self.sets.iter_mut().for_each(Kept::go_on);
        self.load.goes_on();
        self.load.end()
    }
}

/// Another program takes the executable's place, each time: one of two files with the same code.
struct Executables(usize);

impl Executables {
    fn of(chain: &Chain) -> Executables {
        for name in ["one", "two"] {
            fs::copy(chain.path("rmogstored"), chain.path(name)).unwrap();
        }
        Executables(0)
    }

    fn change(&mut self, chain: &Chain) {
        self.0 += 1;
        if self.0.is_multiple_of(2) {
            return; // the same again
        }
        let name = if self.0.is_multiple_of(4) { "one" } else { "two" };
        let fresh = chain.path("rmogstored.new");
        fs::hard_link(chain.path(name), &fresh).unwrap();
        fs::rename(&fresh, chain.path("rmogstored")).unwrap();
        if fresh.exists() {
            fs::remove_file(fresh).unwrap(); // two names of one file: rename(2) does nothing
        }
    }
}

fn workers_of(master: Pid) -> Vec<Pid> {
    process::children_of(master)
}

fn reload(chain: &Chain) {
    let old = workers_of(chain.master());
    let seen = chain.seen();
    kill(chain.master(), Signal::SIGHUP).unwrap();
    chain.node.event_after(seen, "reloaded");
    until("the old workers to go", || old.iter().all(|pid| is_gone(*pid)));
}

fn replace(chain: &Chain, round: usize) {
    let workers = workers_of(chain.master());
    let worker = workers[round % workers.len()];
    let seen = chain.seen();
    kill(worker, Signal::SIGQUIT).unwrap();
    chain.node.event_after(seen, "worker_started");
    assert!(is_gone(worker));
}

fn rest(chain: &Chain) {
    let master = chain.master();
    let seen = chain.seen();
    kill(master, Signal::SIGWINCH).unwrap();
    // Who has begun to ask keeps his worker; the others wait.
    chain.node.event_after(seen, "resting");
    kill(master, Signal::SIGHUP).unwrap();
    chain.node.event_after(seen, "reloaded");
}

fn retire(chain: &Chain) {
    let folder = chain.path("dev3");
    let seen = chain.seen();
    fs::create_dir(&folder).unwrap();
    chain.node.event_after(seen, "worker_started");
    let seen = chain.seen();
    fs::remove_dir_all(&folder).unwrap();
    chain.node.event_after(seen, "worker_exited");
}

fn nobody_notices(workers: &str) {
    let long = std::env::var_os("RMOGSTORED_LONG").is_some();
    let amount = if long { LONG } else { SHORT };
    let needed = (amount.sets * 7 + amount.busy) as u64 + 300;
    assert!(process::allow_descriptors(needed), "{needed} descriptors");
    let chain = Chain::start(Setup::new().workers(workers));
    let mut crowd = Crowd::of(&chain, &amount);
    let mut executables = Executables::of(&chain);
    let begun = Instant::now();
    let mut many = |count: usize, what: &str, event: &mut dyn FnMut(usize)| {
        for round in 0..count {
            event(round);
            crowd.goes_on();
        }
        println!("{workers}: {count} {what}, {:.0?} so far", begun.elapsed());
    };
    many(amount.upgrades, "upgrades", &mut |_| {
        executables.change(&chain);
        chain.upgrade();
    });
    many(amount.reloads, "reloads", &mut |_| reload(&chain));
    many(amount.replacements, "replaced workers", &mut |round| replace(&chain, round));
    many(amount.rests, "rests", &mut |_| rest(&chain));
    if workers == "device" {
        many(amount.retirements, "retired devices", &mut |_| retire(&chain));
    }
    println!("{workers}: {} requests of those that ask all the time", crowd.end());
}

#[test]
fn nobody_notices_with_a_worker_for_each_device() {
    nobody_notices("device");
}

#[test]
fn nobody_notices_with_a_worker_for_each_processor() {
    nobody_notices("cpu");
}

#[test]
fn nobody_notices_with_one_worker() {
    nobody_notices("1");
}

/// Counts the memory of those in it, what the kernel has for them too: cgroups(7), memory.txt.
struct MemoryGroup(PathBuf);

impl MemoryGroup {
    fn new() -> Option<MemoryGroup> {
        let name = format!("/sys/fs/cgroup/memory/rmogstored-{}", std::process::id());
        fs::create_dir(&name).is_ok().then(|| MemoryGroup(name.into()))
    }

    /// A line of shell.
    fn enter(&self) -> String {
        format!("echo $$ > {}/cgroup.procs", self.0.display())
    }

    fn read(&self, file: &str) -> u64 {
        fs::read_to_string(self.0.join(file)).unwrap().trim().parse().unwrap()
    }

    fn in_use(&self) -> u64 {
        // From here on the most is noted anew.
        fs::write(self.0.join("memory.max_usage_in_bytes"), "0").unwrap();
        self.read("memory.usage_in_bytes")
    }

    fn at_most(&self) -> u64 {
        self.read("memory.max_usage_in_bytes")
    }

    fn remove(self) {
        until("the group to be empty", || fs::remove_dir(&self.0).is_ok());
    }
}

/// From the QUIT to the end of the old generation, and what both have of memory meanwhile.
#[test]
#[ignore = "compares times: .ci/run runs it alone"]
fn ten_thousand_idle_connections_follow_within_two_seconds() {
    const COUNT: usize = 10_000;
    if !process::allow_descriptors(COUNT as u64 + 300) {
        return skipped("so many descriptors are not allowed");
    }
    let mut setup = Setup::new().arg("--maxconns=20000").shell("ulimit -n 20000");
    let group = MemoryGroup::new();
    match &group {
        Some(group) => setup = setup.shell(&group.enter()),
        None => skipped("in part: no memory control group of version 1 can be made here"),
    }
    let chain = Chain::start(setup);
    let mut clients: Vec<_> = (0..COUNT).map(|_| chain.node.client()).collect();
    clients.iter_mut().step_by(10).for_each(Client::stays_open);
    let one = group.as_ref().map(MemoryGroup::in_use);
    let old = chain.master();
    let begun = Instant::now();
    chain.upgrade();
    let took = begun.elapsed();
    clients.iter_mut().for_each(Client::stays_open);
    println!("{took:.1?}");
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert!(is_gone(old));
    if let (Some(group), Some(one)) = (group, one) {
        drop(clients);
        let both = group.at_most();
        let ratio = both as f64 / one as f64;
        println!("{one} bytes in use, at most {both} with both generations: {ratio:.2}");
        assert!(ratio < 1.3, "{ratio:.2}");
        drop(chain);
        group.remove();
    }
}
