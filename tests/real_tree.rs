//! Real input: a directory tree of this machine goes into the node, comes back, and goes.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use crate::harness::{Client, Node, Setup, content_md5, fid_path, pattern, skipped};
use crate::nginx::{self, Nginx};

/// Where a tree of enough files is looked for.
const PLACES: [&str; 4] = ["/usr/share/doc", "/usr/include", "/usr/share", "/usr/lib"];
const ENOUGH: usize = 3000;
const TOO_MANY: usize = 5000;
/// Longer files are cut to this.
const LONGEST: usize = 1024 * 1024;
/// Past so many bytes in all, files are cut to a few.
const BUDGET: usize = 150 * 1024 * 1024;
const CUT: usize = 2048;
const CONNECTIONS: usize = 16;
const DEVICES: usize = 4;

/// The tree, read once for all tests.
static TREE: LazyLock<Vec<Stored>> = LazyLock::new(tree);

/// One file and where it goes.
struct Stored {
    path: String,
    content: Vec<u8>,
}

#[test]
fn a_real_tree_goes_through_workers_per_device() {
    through_the_node("device");
}

#[test]
fn a_real_tree_goes_through_workers_per_cpu() {
    through_the_node("cpu");
}

#[test]
fn a_real_tree_goes_through_one_worker() {
    through_the_node("1");
}

#[test]
fn a_real_tree_goes_through_nginx_over_many_connections() {
    if !Path::new(nginx::BINARY).exists() {
        return skipped("no nginx here");
    }
    let node = Setup::new().devices(DEVICES).start();
    let nginx = Nginx::start(&node);
    round_trip(nginx.address, &node);
}

fn through_the_node(workers: &str) {
    let node = Setup::new().devices(DEVICES).workers(workers).start();
    round_trip(node.http(), &node);
    assert!(node.all_events("worker_exited").is_empty());
}

/// Stores all, reads all, deletes half. Each step has connections of its own.
fn round_trip(address: SocketAddr, node: &Node) {
    over_connections(address, 0, |client, stored| stored.store(client));
    assert_eq!(files_of(node), TREE.iter().map(|stored| stored.path.clone()).collect());
    over_connections(address, 5, |client, stored| stored.read_back(client));
    let is_doomed = |stored: &Stored| stored.content.len() % 2 == 1 || stored.content.is_empty();
    over_connections(address, 9, |client, stored| {
        if is_doomed(stored) {
            stored.delete(client);
        }
    });
    let left = TREE.iter().filter(|stored| !is_doomed(stored));
    assert_eq!(files_of(node), left.map(|stored| stored.path.clone()).collect());
    over_connections(address, 2, |client, stored| {
        let wanted = if is_doomed(stored) { 404 } else { 200 };
        assert_eq!(client.head(&stored.path).status, wanted, "{}", stored.path);
    });
}

/// Spreads the files over 16 connections, each of which meets every device.
fn over_connections(address: SocketAddr, shift: usize, act: impl Fn(&mut Client, &Stored) + Sync) {
    let one_connection = |number: usize| {
        let mut client = Client::connect(address);
        let mine = TREE.iter().skip((number + shift) % CONNECTIONS).step_by(CONNECTIONS);
        mine.for_each(|stored| act(&mut client, stored));
    };
    std::thread::scope(|scope| {
        for number in 0..CONNECTIONS {
            let one_connection = &one_connection;
            scope.spawn(move || one_connection(number));
        }
    });
}

impl Stored {
    fn new(number: usize, content: Vec<u8>) -> Stored {
        // So that the files of a connection, every 16th, are not all on one device.
        let device = 1 + (number + number / CONNECTIONS) % DEVICES;
        Stored { path: fid_path(device as u32, number as u64 + 1), content }
    }

    fn store(&self, client: &mut Client) {
        let digest = format!("Content-MD5: {}\r\n", content_md5(&self.content));
        client.put_with(&self.path, &digest, &self.content).expect_and(201, "keep-alive");
    }

    fn read_back(&self, client: &mut Client) {
        let answer = client.get(&self.path).expect_and(200, "keep-alive");
        assert!(answer.body == self.content, "{} differs", self.path);
        let head = client.head(&self.path).expect_and(200, "keep-alive");
        let length = self.content.len();
        assert_eq!(head.header("Content-Length"), Some(length.to_string().as_str()));
        if length == 0 {
            client.get_with(&self.path, "Range: bytes=0-0\r\n").expect_and(416, "keep-alive");
            return;
        }
        let (third, last) = (length / 3, length - 1);
        self.read_range(client, &format!("{third}-{}", 2 * third), third, 2 * third);
        self.read_range(client, &format!("{}-", last - third), last - third, last);
        self.read_range(client, &format!("-{}", third + 1), last - third, last);
        self.read_range(client, &format!("0-{}", length + 9), 0, last);
    }

    fn read_range(&self, client: &mut Client, range: &str, first: usize, last: usize) {
        let answer = client.get_with(&self.path, &format!("Range: bytes={range}\r\n"));
        let total = self.content.len();
        // A suffix as long as the file may be answered as a whole: PROTOCOL.md section 2.3.
        if answer.status != 200 || last - first + 1 < total {
            assert_eq!(answer.status, 206, "{range} of {total}: {:?}", answer.line);
            let content_range = format!("bytes {first}-{last}/{total}");
            assert_eq!(answer.header("Content-Range"), Some(content_range.as_str()));
        }
        assert!(answer.body == self.content[first..=last], "{range} of {} differs", self.path);
    }

    fn delete(&self, client: &mut Client) {
        client.delete(&self.path).expect_and(204, "keep-alive");
        client.get(&self.path).expect_and(404, "keep-alive");
        client.head(&self.path).expect_and(404, "keep-alive");
        client.delete(&self.path).expect_and(404, "keep-alive");
    }
}

/// URL paths of all files below the devices. What the node itself keeps there does not count.
fn files_of(node: &Node) -> BTreeSet<String> {
    let below =
        |file: &PathBuf| format!("/{}", file.strip_prefix(node.docroot()).unwrap().display());
    let devices = (1..=DEVICES).map(|device| node.docroot().join(format!("dev{device}")));
    let files = devices.flat_map(|folder| files_below(&folder, usize::MAX));
    files.map(|file| below(&file)).filter(|path| !path.ends_with("/usage")).collect()
}

fn tree() -> Vec<Stored> {
    let mut files = Vec::new();
    for place in PLACES {
        let found = files_below(Path::new(place), TOO_MANY);
        if found.len() > files.len() {
            files = found;
        }
        if files.len() >= ENOUGH {
            println!("the tree is {place}");
            break;
        }
    }
    let mut total = 0;
    let mut contents: Vec<_> = files.iter().filter_map(|file| content(file, &mut total)).collect();
    if contents.len() < ENOUGH {
        println!("only {} files on this machine: the others are made up", contents.len());
        contents.extend((contents.len()..ENOUGH).map(|number| pattern(number * 7)));
    }
    contents.into_iter().enumerate().map(|(number, text)| Stored::new(number, text)).collect()
}

fn content(file: &Path, total: &mut usize) -> Option<Vec<u8>> {
    let most = if *total < BUDGET { LONGEST } else { CUT };
    let mut content = Vec::new();
    fs::File::open(file).ok()?.take(most as u64).read_to_end(&mut content).ok()?;
    *total += content.len();
    Some(content)
}

/// Regular files below a folder, at most so many, always in the same order. Links are not followed.
fn files_below(folder: &Path, most: usize) -> Vec<PathBuf> {
    let (mut files, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        let mut entries: Vec<_> = fs::read_dir(&folder).into_iter().flatten().flatten().collect();
        entries.sort_by_key(|entry| entry.file_name());
        for entry in entries {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(kind) if kind.is_file() && files.len() < most => files.push(entry.path()),
                _ => {}
            }
        }
    }
    files
}
