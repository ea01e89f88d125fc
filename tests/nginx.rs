//! Debian's nginx in front of the node, as many clusters have it.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{Client, Node, fid_path, skipped, until_some};

/// Where Debian puts it.
pub const BINARY: &str = "/usr/sbin/nginx";
const FILES: usize = 400;

#[test]
fn a_real_tree_goes_through_nginx() {
    if !Path::new(BINARY).exists() {
        return skipped("no nginx here");
    }
    let files = real_files();
    let node = Node::start();
    let nginx = Nginx::start(&node);
    let mut client = Client::connect(nginx.address);
    for (fid, file) in files.iter().enumerate() {
        let content = fs::read(file).unwrap();
        let path = fid_path(1 + fid as u32 % 2, fid as u64);
        let answer = client.put(&path, &content);
        assert_eq!(answer.status, 201, "{}: {answer:?}", file.display());
    }
    for (fid, file) in files.iter().enumerate() {
        let content = fs::read(file).unwrap();
        let path = fid_path(1 + fid as u32 % 2, fid as u64);
        assert!(client.get(&path).expect(200).body == content, "{} differs", file.display());
        let length = content.len().to_string();
        assert_eq!(client.head(&path).header("Content-Length"), Some(length.as_str()));
        if content.len() > 100 {
            let part = client.get_with(&path, "Range: bytes=10-99\r\n").expect(206);
            assert!(part.body == content[10..100]);
        }
    }
    for fid in (0..files.len()).step_by(2) {
        let path = fid_path(1 + fid as u32 % 2, fid as u64);
        assert_eq!(client.delete(&path).status, 204);
        assert_eq!(client.head(&path).status, 404);
    }
    assert!(accepted(&node) < 20, "nginx could not keep its connections: {}", accepted(&node));
}

/// An nginx that proxies to a node, without cache. Dropping it ends it.
pub struct Nginx {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
    folder: tempfile::TempDir,
}

impl Nginx {
    /// Starts it in a folder of its own.
    pub fn start(node: &Node) -> Nginx {
        until_some("nginx to get a port of its own", || Nginx::try_start(node))
    }

    /// `None` when another process was faster to take the port that was free a moment ago.
    fn try_start(node: &Node) -> Option<Nginx> {
        let folder = tempfile::Builder::new().prefix("nginx-").tempdir().unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let config = folder.path().join("nginx.conf");
        fs::write(&config, configuration(folder.path(), address, node.http())).unwrap();
        let errors = fs::File::create(folder.path().join("stderr")).unwrap();
        let mut child = Command::new(BINARY)
            .arg("-c")
            .arg(&config)
            .args(["-e", "stderr", "-p"])
            .arg(folder.path())
            .stdin(Stdio::null())
            .stderr(errors)
            .spawn()
            .expect("nginx can be run");
        let up = until_some("nginx to listen or to end", || match child.try_wait() {
            Ok(None) => TcpStream::connect(address).is_ok().then_some(true),
            _ => Some(false),
        });
        if !up {
            eprintln!("{}", fs::read_to_string(folder.path().join("stderr")).unwrap_or_default());
        }
        up.then_some(Nginx { child, address, folder })
    }
}

impl Nginx {
    /// What it has complained of.
    pub fn errors(&self) -> String {
        fs::read_to_string(self.folder.path().join("stderr")).unwrap()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

fn configuration(folder: &Path, address: SocketAddr, upstream: SocketAddr) -> String {
    let user = if nix::unistd::geteuid().is_root() { "user root;" } else { "" };
    let folder = folder.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {folder}/{kind};\n"))
        .concat();
    format!(
        "daemon off; {user} worker_processes 1; pid {folder}/pid;\n\
         events {{ worker_connections 64; }}\n\
         http {{\n{temporary}access_log off; client_max_body_size 0; keepalive_requests 100000;\n\
         upstream node {{ server {upstream}; keepalive 4; keepalive_requests 100000; }}\n\
         server {{ listen {address};\n\
         location / {{ proxy_pass http://node; proxy_http_version 1.1;\n\
         proxy_set_header Connection \"\"; proxy_cache off; proxy_request_buffering off; }} }} }}\n"
    )
}

/// Files of the machine's own documentation, or of its libraries: large and small, text and not.
fn real_files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders: Vec<PathBuf> = ["/usr/share/doc", "/usr/lib", "/etc"].map(Into::into).into();
    folders.reverse();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(data) if data.is_dir() => folders.push(entry.path()),
                Ok(data) if data.is_file() && fs::File::open(entry.path()).is_ok() => {
                    files.push(entry.path());
                }
                _ => {}
            }
            if files.len() == FILES {
                return files;
            }
        }
    }
    files
}

fn accepted(node: &Node) -> u64 {
    let status = node.status();
    let workers = status["workers"].as_array().expect("a list");
    workers.iter().filter_map(|worker| worker["accepted"].as_u64()).sum()
}
