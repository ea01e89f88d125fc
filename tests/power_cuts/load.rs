//! What clients do while the disk is recorded.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

use nix::unistd::syncfs;

use super::ledger::{Content, Step, Story};
use crate::harness::real_disk::{RealDisk, RealSick};
use crate::harness::{Client, content_md5, fid_path};
use crate::load::{Chance, Ends};

/// Files so far apart are in folders of their own.
const APART: u64 = 1000;
/// More than two windows of writeback.
const LARGE: usize = 17 << 20;

/// One client and its files.
struct Author<'a> {
    client: Client,
    disk: &'a RealDisk,
    chance: Chance,
    first: u64,
    versions: u64,
    stories: BTreeMap<u64, Story>,
}

/// How a body is sent.
#[derive(Clone, Copy)]
enum Manner {
    Plain,
    Chunked,
    Digest,
    /// From this byte on.
    Range(usize),
    /// The same, with a digest.
    CheckedRange(usize),
}

/// So many clients make so many steps each. The stories of their files.
pub fn mixed(sick: &RealSick, seed: u64, clients: u64, steps: usize) -> Vec<Story> {
    let write = |number: u64| {
        let mut author = Author {
            client: sick.node.client(),
            disk: &sick.disk,
            chance: Chance::new(seed.wrapping_add(number)),
            first: number * 100_000,
            versions: 0,
            stories: BTreeMap::new(),
        };
        (0..steps).for_each(|_| author.step());
        author.stories.into_values().collect::<Vec<_>>()
    };
    thread::scope(|scope| {
        let write = &write;
        let authors: Vec<_> = (0..clients).map(|n| scope.spawn(move || write(n))).collect();
        authors.into_iter().flat_map(|author| author.join().unwrap()).collect()
    })
}

/// Syncs the device again and again while `work` runs; where each began and ended.
pub fn synced<T>(sick: &RealSick, work: impl FnOnce() -> T) -> (T, Vec<(usize, usize)>) {
    const PAUSE: Duration = Duration::from_millis(40);
    let (over, device) = (AtomicBool::new(false), File::open(sick.dev1()).unwrap());
    thread::scope(|scope| {
        let syncs = scope.spawn(|| {
            let mut syncs = Vec::new();
            while !over.load(Relaxed) {
                let begun = sick.disk.recorded();
                syncfs(&device).unwrap();
                syncs.push((begun, sick.disk.recorded()));
                thread::sleep(PAUSE); // The pace.
            }
            syncs
        });
        let done = {
            let _end = Ends(&over);
            work()
        };
        (done, syncs.join().unwrap())
    })
}

impl Author<'_> {
    fn step(&mut self) {
        let size = [0, 100, 4096, 5000, 20_000][self.chance.below(5)];
        match self.chance.below(100) {
            0..28 => self.put_new(size, Manner::Plain),
            28..34 => self.put_new(size, Manner::Digest),
            34..40 => self.put_new(size, Manner::Range(self.versions as usize * 7)),
            40..46 => self.put_new(300_000 + size, Manner::Plain),
            46..54 => self.put_new(size, Manner::Chunked),
            54..56 => self.large(),
            56..70 => self.replace(size, Manner::Plain),
            70..74 => self.replace(size, Manner::Chunked),
            74..82 => self.write_into(false),
            82..88 => self.write_into(true),
            _ => self.delete(),
        }
    }

    fn put_new(&mut self, size: usize, manner: Manner) {
        // Some have a folder of their own.
        let apart = if self.chance.below(2) == 0 { 1 } else { APART };
        let last = self.stories.keys().next_back().unwrap_or(&self.first);
        let fid = last + apart;
        self.put(fid, size, manner);
    }

    /// Each client has one.
    fn large(&mut self) {
        let size = LARGE + self.chance.below(1 << 20);
        let manner = if self.chance.below(2) == 0 { Manner::Plain } else { Manner::Chunked };
        self.put(self.first, size, manner);
    }

    fn replace(&mut self, size: usize, manner: Manner) {
        match self.some_file() {
            Some((fid, _)) => self.put(fid, size, manner),
            None => self.put_new(size, manner),
        }
    }

    /// Within the file, over its end, or behind it.
    fn write_into(&mut self, checked: bool) {
        let Some((fid, old)) = self.some_file() else { return self.put_new(100, Manner::Plain) };
        let at = self.chance.below(old.len() + 3000);
        let size = 1 + self.chance.below(9000);
        let manner = if checked { Manner::CheckedRange(at) } else { Manner::Range(at) };
        self.put(fid, size, manner);
    }

    fn delete(&mut self) {
        let Some((fid, _)) = self.some_file() else { return self.put_new(100, Manner::Plain) };
        let path = fid_path(1, fid);
        self.tell(fid, None, false, |client| client.delete(&path).expect(204));
    }

    fn put(&mut self, fid: u64, size: usize, manner: Manner) {
        self.versions += 1;
        let (path, body) = (fid_path(1, fid), body(fid, self.versions, size.max(1)));
        let body = if size == 0 { Vec::new() } else { body };
        let md5 = format!("Content-MD5: {}\r\n", content_md5(&body));
        let range = |at: usize| format!("Content-Range: bytes {at}-{}/*\r\n", at + body.len() - 1);
        let old = self.stories.get(&fid).and_then(Story::now);
        let (headers, at) = match manner {
            Manner::Plain | Manner::Chunked => (String::new(), None),
            Manner::Digest => (md5, None),
            Manner::Range(_) | Manner::CheckedRange(_) if body.is_empty() => (md5, None),
            Manner::Range(at) => (range(at), Some(at)),
            Manner::CheckedRange(at) => (range(at) + &md5, Some(at)),
        };
        let after = match at {
            None => Arc::new(body.clone()),
            Some(at) => merged(old.as_ref(), at, &body),
        };
        let in_place = at.is_some() && old.is_some();
        self.tell(fid, Some(after), in_place, |client| match manner {
            Manner::Chunked => client.put_chunked(&path, "", chunks(&body)).expect(201),
            _ => client.put_with(&path, &headers, &body).expect(201),
        });
    }

    /// Does it, and writes down when.
    fn tell<T>(
        &mut self,
        fid: u64,
        after: Option<Content>,
        in_place: bool,
        ask: impl FnOnce(&mut Client) -> T,
    ) {
        let begun = self.disk.recorded();
        ask(&mut self.client);
        let acknowledged = Some(self.disk.recorded());
        let new = || Story { path: fid_path(1, fid), steps: Vec::new() };
        let story = self.stories.entry(fid).or_insert_with(new);
        story.steps.push(Step { begun, acknowledged, after, in_place });
    }

    /// A file that is there, and not the large one.
    fn some_file(&mut self) -> Option<(u64, Content)> {
        let there = |(fid, story): (&u64, &Story)| Some((*fid, story.now()?));
        let all: Vec<_> = self.stories.iter().skip_while(|(fid, _)| **fid == self.first).collect();
        let all: Vec<_> = all.into_iter().filter_map(there).collect();
        let chosen = self.chance.below(all.len());
        all.into_iter().nth(chosen)
    }
}

impl Story {
    fn now(&self) -> Option<Content> {
        self.steps.last()?.after.clone()
    }
}

/// Every 16 bytes say whose they are, which version, and where they belong.
fn body(fid: u64, version: u64, size: usize) -> Vec<u8> {
    let record = |at: usize| {
        let word = |n: u64| (n as u32).to_be_bytes();
        [*b"fid ", word(fid), word(version), word(at as u64)].concat()
    };
    let mut bytes: Vec<u8> = (0..size.div_ceil(16)).flat_map(record).collect();
    bytes.truncate(size);
    bytes
}

fn merged(old: Option<&Content>, at: usize, body: &[u8]) -> Content {
    let mut all = old.map_or_else(Vec::new, |old| old.to_vec());
    all.resize(all.len().max(at + body.len()), 0);
    all[at..at + body.len()].copy_from_slice(body);
    Arc::new(all)
}

fn chunks(body: &[u8]) -> Vec<u8> {
    let chunk =
        |piece: &[u8]| [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
    let mut coded: Vec<u8> = body.chunks(70_000).flat_map(chunk).collect();
    coded.extend(b"0\r\n\r\n");
    coded
}
