//! 5: a disk that hangs in a flush, and those who wait for it because the node is told to flush.

use std::thread;
use std::time::{Duration, Instant};

use super::settle;
use crate::harness::real_disk::{FsKind, Op, RealSick, on_real_disks};
use crate::harness::{Client, fid_path, until};
use crate::load::descriptors_at_rest;

/// `stall_timeout` and a second.
const BOUND: Duration = Duration::from_secs(3);
/// What a busy machine may add.
const MARGIN: Duration = Duration::from_millis(700);
/// Each kind of request so many times.
const EACH: u64 = 8;
/// The files that are there before: a body with this letter.
const OLD: [u8; 6000] = [b'o'; 6000];
const NEW: [u8; 5000] = [b'n'; 5000];

/// What a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    New,
    Replace,
    InPlace,
    Delete,
}

const WISHES: [Wish; 4] = [Wish::New, Wish::Replace, Wish::InPlace, Wish::Delete];

#[test]
fn everybody_who_waits_for_a_file_to_be_flushed_has_an_answer() {
    flush_hangs("--fsync=file");
}

#[test]
fn everybody_who_shares_a_flush_has_an_answer() {
    flush_hangs("--fsync=batch");
}

fn flush_hangs(mode: &str) {
    on_real_disks(
        &[FsKind::Ext4, FsKind::Xfs],
        &["--stall-timeout=2", mode],
        |_| (),
        |sick| {
            settle(&sick.node);
            let all =
                || WISHES.iter().flat_map(|wish| (0..EACH).map(move |number| (*wish, number)));
            let mut client = sick.node.client();
            for (wish, number) in all().filter(|(wish, _)| *wish != Wish::New) {
                client.put(&wish.path(number), OLD).expect(201);
            }
            drop(client);
            let before = descriptors_at_rest(&sick.node);
            sick.disk.hang(&[Op::Flush]);
            let outcomes = thread::scope(|scope| {
                let _mended = sick.disk.mended_at_last();
                let ask = |(wish, number): (Wish, u64)| {
                    let client = sick.node.client();
                    scope.spawn(move || (wish, number, wish.outcome(number, client)))
                };
                let clients: Vec<_> = all().map(ask).collect();
                let outcomes = clients.into_iter().map(|client| client.join().unwrap());
                let outcomes: Vec<_> = outcomes.collect();
                assert!(sick.disk.held(Op::Flush) > 0, "nothing hangs");
                sick.node.client().get("/dev2/kept").expect(200);
                outcomes
            });
            let (longest, statuses) = summary(&outcomes);
            println!("{} {mode}: {statuses:?}, the last after {longest:?}", sick.name());
            assert!(longest < BOUND + MARGIN, "{}: {longest:?}", sick.name());
            sick.disk.mend();
            serves_again(sick);
            for (wish, number, (_, status)) in outcomes {
                wish.check(number, status, &mut sick.node.client());
            }
            until("no descriptor more", || {
                let now = descriptors_at_rest(&sick.node);
                now.iter().zip(&before).all(|(now, before)| now.1 <= before.1)
            });
        },
    );
}

fn serves_again(sick: &RealSick) {
    until("dev1 to serve", || sick.node.client().put("/dev1/kept", "again").status == 201);
    until("all to be done", || sick.node.status()["devices"][0]["in_flight"] == 0);
}

type Outcome = (Wish, u64, (Duration, Option<u16>));

fn summary(outcomes: &[Outcome]) -> (Duration, Vec<(Wish, Option<u16>)>) {
    let mut statuses: Vec<_> =
        outcomes.iter().map(|(wish, _, (_, status))| (*wish, *status)).collect();
    statuses.dedup();
    let times = outcomes.iter().map(|(_, _, (time, _))| *time);
    (times.max().unwrap_or_default(), statuses)
}

impl Wish {
    fn path(self, number: u64) -> String {
        fid_path(1, 10_000 * self as u64 + 1000 * (number % 3) + number)
    }

    /// How long it took to have an answer, or to be closed without one.
    fn outcome(self, number: u64, mut client: Client) -> (Duration, Option<u16>) {
        let (path, length) = (self.path(number), NEW.len());
        let put = |headers: &str| {
            let head = format!("PUT {path} HTTP/1.1\r\nContent-Length: {length}\r\n{headers}\r\n");
            [head.as_bytes(), &NEW].concat()
        };
        let begun = Instant::now();
        client.send(match self {
            Wish::New | Wish::Replace => put(""),
            Wish::InPlace => put(&format!("Content-Range: bytes 0-{}/*\r\n", length - 1)),
            Wish::Delete => format!("DELETE {path} HTTP/1.1\r\n\r\n").into_bytes(),
        });
        let line = client.line_or_end();
        let status = line.map(|line| line.split(' ').nth(1).unwrap().parse().unwrap());
        (begun.elapsed(), status)
    }

    /// Refused means that it has not happened, a close that it may have.
    fn check(self, number: u64, status: Option<u16>, client: &mut Client) {
        let answer = client.get(&self.path(number));
        let found = (answer.status == 200).then_some(answer.body);
        let old = (self != Wish::New).then(|| OLD.to_vec());
        let new = match self {
            Wish::New | Wish::Replace => Some(NEW.to_vec()),
            Wish::InPlace => Some([&NEW[..], &OLD[NEW.len()..]].concat()),
            Wish::Delete => None,
        };
        let right = match status {
            Some(503) => found == old,
            None => found == old || found == new,
            Some(201 | 204) => found == new,
            Some(_) => false,
        };
        assert!(right, "{self:?} {number}: {status:?}, {:?}", found.map(|found| found.len()));
    }
}
