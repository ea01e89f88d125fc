//! 2.4: PUTs that end at one time share a flush.

use std::fs::File;
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::real_disk::{FsKind, Op, RealDisk, RealSick};
use crate::harness::{fid_path, skipped};

/// Of the disk. ext4's journal needs two, of which the second begins after the first, as the loop
/// device can do no write that is safe by itself.
const FLUSH: Duration = Duration::from_millis(5);
const CLIENTS: u64 = 64;
/// PUTs of each client; before that some more, while threads and folders are made.
const EACH: u64 = 40;
const BEFORE: u64 = 4;
const TRIES: u32 = 3;

/// What small PUTs of many clients at once came to.
struct Figures {
    /// Each second.
    rate: f64,
    /// 99 of 100 are answered within this time.
    p99: Duration,
    /// Half of them.
    median: Duration,
    /// And 99 of 100 within so many flushes of the disk.
    p99_flushes: u64,
    /// Of the disk, for each PUT.
    flushes: f64,
}

/// What the filesystem takes to make one new name safe while nothing else is going on, and how many
/// flushes of the disk that is.
struct Lone {
    time: Duration,
    flushes: u64,
}

fn small_puts(mode: &str) -> (Lone, Figures) {
    let args = [&format!("--fsync={mode}")[..]];
    let sick = RealSick::start(FsKind::Ext4, "1", &args, |_| ());
    sick.disk.flush_takes(FLUSH);
    let lone = lone_flush(&sick);
    let flushed = || sick.disk.served(Op::Flush);
    let measured: Vec<Vec<(Instant, Duration, u64)>> = thread::scope(|scope| {
        let client = |number| {
            let mut client = sick.node.client();
            let mut put = move |fid| {
                let (begun, before) = (Instant::now(), flushed());
                client.put(&fid_path(1, fid), [7; 4096]).expect(201);
                (begun, begun.elapsed(), flushed() - before)
            };
            let first = number * (BEFORE + EACH);
            scope.spawn(move || {
                (0..BEFORE).for_each(|number| _ = put(first + number));
                (BEFORE..BEFORE + EACH).map(|number| put(first + number)).collect()
            })
        };
        let clients: Vec<_> = (0..CLIENTS).map(client).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    (lone, Figures::of(measured.concat()))
}

impl Figures {
    fn of(measured: Vec<(Instant, Duration, u64)>) -> Figures {
        let begun = measured.iter().map(|(begun, ..)| *begun).min().expect("some");
        let ended = measured.iter().map(|(begun, took, _)| *begun + *took).max().expect("some");
        let count = measured.len();
        let mut times: Vec<_> = measured.iter().map(|(_, took, _)| *took).collect();
        let mut flushes: Vec<_> = measured.iter().map(|(.., flushes)| *flushes).collect();
        times.sort();
        flushes.sort_unstable();
        let rate = count as f64 / (ended - begun).as_secs_f64();
        let all = flushes.iter().sum::<u64>() as f64;
        Figures {
            rate,
            p99: times[count * 99 / 100],
            median: times[count / 2],
            p99_flushes: flushes[count * 99 / 100],
            // Each flush was seen by all that waited then.
            flushes: all / (count as f64 * CLIENTS as f64),
        }
    }
}

fn lone_flush(sick: &RealSick) -> Lone {
    const COUNT: u64 = 9;
    let before = sick.disk.served(Op::Flush);
    let one = |number| {
        let file = File::create(sick.dev1().join(format!("lone{number}"))).unwrap();
        let begun = Instant::now();
        file.sync_all().unwrap();
        begun.elapsed()
    };
    let mut times: Vec<_> = (0..COUNT).map(one).collect();
    times.sort();
    let flushes = (sick.disk.served(Op::Flush) - before) / COUNT;
    Lone { time: times[times.len() / 2], flushes }
}

#[test]
#[ignore = "compares times: .ci/run runs it apart"]
fn puts_that_end_together_share_a_flush() {
    if let Some(reason) = RealDisk::missing(FsKind::Ext4) {
        return skipped(&reason);
    }
    // What a busy machine adds is not held against it.
    let held = (0..TRIES).any(|_| flushes_are_shared());
    assert!(held, "in none of {TRIES} runs");
}

fn flushes_are_shared() -> bool {
    let ((_, file), (lone, batch)) = (small_puts("file"), small_puts("batch"));
    println!("a flush of the filesystem: {:?}, {} of the disk", lone.time, lone.flushes);
    for (mode, figures) in [("file", &file), ("batch", &batch)] {
        let Figures { rate, p99, median, p99_flushes, flushes } = figures;
        println!(
            "{mode}: {rate:.0}/s, median {median:?}, p99 {p99:?} and {p99_flushes} flushes, \
             {flushes:.3} flushes each"
        );
    }
    let in_lone = batch.p99.as_secs_f64() / lone.time.as_secs_f64();
    println!(
        "{:.1} times as many, p99 {in_lone:.2} flushes of the filesystem",
        batch.rate / file.rate
    );
    // A busy machine takes time from everybody, in which no flush is waited for.
    let waits_little = in_lone < 3.0 || batch.p99_flushes <= 3 * lone.flushes;
    batch.rate >= 5.0 * file.rate && waits_little
}
