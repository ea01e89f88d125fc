//! 2.4: power cuts. Everything that reaches a disk is recorded while clients store, replace, change
//! and remove files; then the disk is put together as cuts at many places would have left it, it is
//! mounted, and what is there is compared with what the node had acknowledged until then.
//!
//! The ordinary suite makes a few cuts. 500 for each setting on each filesystem:
//!
//!     RMOGSTORED_LONG=1 cargo test --test tests power_cuts:: -- --nocapture --test-threads=1
//!
//! `RMOGSTORED_TEST_DISKS=xfs,btrfs` chooses some of them.
//!
//! `RMOGSTORED_TEST_SEED` repeats the requests, the places of the cuts and the lots; in which order
//! the kernel writes is its own affair.
//!
//! With `fsync = off` nothing is promised before the filesystem is synced, which the test does all
//! the time. A file that has not been touched since must be as it was. Of the others what is older
//! or torn is counted.

/// What may be there after a cut.
mod ledger;
/// What clients do.
mod load;
/// The disk after a cut.
mod replay;

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Instant;

use self::ledger::{Fate, Promise, Story};
use self::replay::Replay;
use crate::harness::real_disk::{FsKind, RealDisk, RealSick, Recording};
use crate::harness::skipped;
use crate::load::Chance;

/// Of the disk, in MiB: XFS needs 300.
const SIZE: u64 = 512;

/// A filesystem, as it is called here, and how it is made.
#[derive(Clone, Copy)]
struct Disk {
    name: &'static str,
    kind: FsKind,
    options: &'static str,
}

const DISKS: [Disk; 4] = [
    Disk { name: "ext4", kind: FsKind::Ext4, options: "" },
    // Of a file its fsync writes less than a commit of the journal. Linux 6.18 cannot mount some of
    // what that leaves after a cut: `file` cannot hold here, `batch` does without.
    Disk { name: "ext4-fast", kind: FsKind::Ext4, options: "-O fast_commit" },
    Disk { name: "xfs", kind: FsKind::Xfs, options: "" },
    Disk { name: "btrfs", kind: FsKind::Btrfs, options: "" },
];

/// How much is done.
struct Amount {
    clients: u64,
    steps: usize,
    cuts: usize,
}

const SHORT: Amount = Amount { clients: 4, steps: 40, cuts: 20 };
const LONG: Amount = Amount { clients: 6, steps: 80, cuts: 500 };

#[test]
fn nothing_acknowledged_is_lost_with_fsync_of_files() {
    power_cuts("file");
}

#[test]
fn nothing_acknowledged_is_lost_with_shared_flushes() {
    power_cuts("batch");
}

#[test]
fn what_was_on_the_disk_stays_whole_without_fsync() {
    power_cuts("off");
}

fn power_cuts(mode: &str) {
    let amount = if std::env::var_os("RMOGSTORED_LONG").is_some() { LONG } else { SHORT };
    let chosen = std::env::var("RMOGSTORED_TEST_DISKS").ok();
    let is_chosen = |disk: &&Disk| {
        let is_named = |chosen: &String| chosen.split(',').any(|name| name == disk.name);
        (disk.name != "ext4-fast" || mode == "batch") && chosen.as_ref().is_none_or(is_named)
    };
    let seed = Chance::seed();
    for disk in DISKS.iter().filter(is_chosen) {
        match RealDisk::missing(disk.kind) {
            Some(reason) => skipped(&reason),
            None => cut_often(*disk, mode, &amount, seed),
        }
    }
}

/// Loads a node with a disk that is recorded, and cuts it.
fn cut_often(Disk { name, kind, options }: Disk, mode: &str, amount: &Amount, seed: u64) {
    let begun = Instant::now();
    let disk = RealDisk::make_with(kind, SIZE, options);
    disk.record();
    let sick = RealSick::start_on(disk, "1", &[&format!("--fsync={mode}")]);
    let work = || load::mixed(&sick, seed, amount.clients, amount.steps);
    let (stories, promise) = match mode {
        "off" => {
            let (stories, syncs) = load::synced(&sick, work);
            (stories, Promise::Synced(syncs))
        }
        _ => (work(), Promise::Acknowledged),
    };
    let recording = sick.disk.recording().expect("recorded");
    let loaded = begun.elapsed();
    let mut chance = Chance::new(seed);
    let cuts = places(&recording, amount.cuts, &mut chance);
    let (mut replay, mut fates, mut sum) = (Replay::new(&recording), BTreeMap::new(), (0, 0));
    for (number, cut) in cuts.iter().enumerate() {
        let (image, lost) = replay.cut(*cut, &mut chance);
        let what = format!("{name} {mode}, seed {seed}, cut {number} at {cut}");
        sum = (sum.0 + lost.loose, sum.1 + lost.lost);
        let complaints = RealDisk::of_image(kind, image)
            .inside(|root| judge_all(root, *cut, &stories, &promise, &mut fates));
        assert!(complaints.is_empty(), "{what}, {lost:?}: {}", complaints.join("\n"));
    }
    if mode == "off" {
        assert!(fates.len() > 1, "no cut has cost anything: is it one? {fates:?}");
    }
    let steps: usize = stories.iter().map(|story| story.steps.len()).sum();
    println!(
        "{name} {mode}: {steps} requests, {} events in {loaded:.1?}; {} cuts lost {} of {} loose writes; \
         files by cut: {fates:?}; {:.1?}",
        recording.events().len(),
        cuts.len(),
        sum.1,
        sum.0,
        begun.elapsed(),
    );
}

/// Where to cut: half of them right before or after a flush has ended, the others anywhere; each the
/// one of a few places at which most is loose.
fn places(recording: &Recording, count: usize, chance: &mut Chance) -> Vec<usize> {
    const DRAWN: usize = 4;
    let (boundaries, end) = (recording.boundaries(), recording.events().len());
    let mut place = |number: usize| match number % 2 {
        0 => boundaries[chance.below(boundaries.len())],
        _ => chance.below(end + 1),
    };
    let mut loosest = |number| {
        let drawn = (0..DRAWN).map(|_| place(number));
        drawn.max_by_key(|cut| recording.loose(*cut).len()).expect("some")
    };
    let mut places: Vec<_> = (0..count).map(&mut loosest).collect();
    places.sort_unstable();
    places
}

/// Looks at each file; what should not be.
fn judge_all(
    root: &Path,
    cut: usize,
    stories: &[Story],
    promise: &Promise,
    fates: &mut BTreeMap<String, usize>,
) -> Vec<String> {
    let mut judge = |story: &Story| {
        let found = match fs::read(root.join(story.path.trim_start_matches("/dev1/"))) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Some(format!("{}: {error}", story.path)),
        };
        let name = match story.judge(cut, promise, found.as_deref()) {
            Err(complaint) => return Some(complaint),
            Ok(Fate::Older) if found.is_none() => "missing".to_owned(),
            Ok(fate) => format!("{fate:?}").to_lowercase(),
        };
        *fates.entry(name).or_default() += 1;
        None
    };
    stories.iter().filter_map(&mut judge).collect()
}
