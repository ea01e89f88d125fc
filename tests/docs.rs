//! What the documents tell people to type is typed, and what they link to is there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{Node, Setup, can_mount, skipped};

/// Programs that the documents name and that are not run here: each needs what no test has.
const NOT_RUN: [(&str, &str); 12] = [
    ("mogadm", "a tracker"),
    ("docker", "a container engine"),
    ("service", "the other daemon's package"),
    ("systemctl", "systemd as the first process"),
    ("systemd-sysusers", "the host's users; packaging:: tries the file"),
    ("apt-get", "Debian's packages"),
    ("cargo", "is what runs this test"),
    ("bash", "runs all tests"),
    ("install", "the host's folders; packaging:: tries the files"),
    ("umount", "mounts:: and device_states:: do"),
    ("chattr", "a filesystem with attributes"),
    ("UPDATE=1", "changes the source"),
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// README.md and all of contrib/doc.
fn documents() -> Vec<PathBuf> {
    let listed = fs::read_dir(root().join("contrib/doc")).unwrap();
    let mut all: Vec<PathBuf> = listed.map(|entry| entry.unwrap().path()).collect();
    all.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    all.push(root().join("README.md"));
    all.sort();
    all
}

/// The blocks of shell in a document.
fn blocks(document: &Path) -> Vec<String> {
    let (mut all, mut open) = (Vec::new(), false);
    for line in fs::read_to_string(document).unwrap().lines() {
        match line.trim_start() {
            "```sh" => {
                all.push(String::new());
                open = true;
            }
            "```" => open = false,
            line if open => *all.last_mut().unwrap() += &format!("{line}\n"),
            _ => {}
        }
    }
    all
}

/// Commands of a document, a line each; loops and continued lines are one.
fn commands(document: &Path) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    let mut more = false;
    for line in blocks(document).concat().lines().filter(|line| !line.trim().is_empty()) {
        if line.starts_with('#') {
            continue;
        }
        match all.last_mut().filter(|_| more) {
            Some(before) => *before += &format!("\n{line}"),
            None => all.push(line.to_owned()),
        }
        let whole = all.last().unwrap();
        more = line.ends_with('\\') || whole.contains("; do") && !whole.ends_with("done");
    }
    all
}

#[test]
fn links_lead_to_what_is_there() {
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("http") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => document.clone(),
                file => document.parent().unwrap().join(file),
            };
            assert!(target.exists(), "{}: {link}", document.display());
            if !anchor.is_empty() {
                let text = fs::read_to_string(&target).unwrap();
                let found = text.lines().filter(|line| line.starts_with('#')).any(|line| {
                    let title = line.trim_start_matches('#').trim().to_lowercase();
                    let kept = |c: &char| c.is_alphanumeric() || *c == ' ' || *c == '-';
                    title.chars().filter(kept).collect::<String>().replace(' ', "-") == anchor
                });
                assert!(found, "{}: {link}", document.display());
            }
        }
    }
}

/// The first upload, in a folder with a README.md, against the quickstart's node. Where a comment
/// tells the answer, that is the answer.
#[test]
fn first_upload_of_the_readme_goes_as_it_says() {
    for tool in ["curl", "openssl"] {
        if Command::new(tool).arg("--help").output().is_err() {
            return skipped(&format!("no {tool} here"));
        }
    }
    let node = Node::start();
    let folder = tempfile::tempdir().unwrap();
    fs::copy(root().join("README.md"), folder.path().join("README.md")).unwrap();
    let found = blocks(&root().join("README.md"));
    let block = found.iter().find(|block| block.contains("NODE=http")).expect("an upload");
    let here = format!("NODE=http://{}", node.http());
    let mut before = String::new();
    let mut asked = 0;
    for line in block.lines() {
        let line = line.replace("NODE=http://127.0.0.1:7500", &here);
        let script = format!("{before}\n{line}");
        if line.contains("=$(") || line.starts_with("NODE=") || line.starts_with("FID=") {
            before = script;
            continue;
        }
        let mut shell = Command::new("bash");
        let output = shell.args(["-ec", &script]).current_dir(folder.path()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{line}: {output:?}");
        let expected = line.rsplit_once("  # ").map(|(_, comment)| &comment[..3]);
        if let Some(code) = expected.filter(|code| code.parse::<u16>().is_ok())
            && line.contains("-i")
        {
            assert!(said.contains(&format!("HTTP/1.1 {code}")), "{line}: {said}");
            asked += 1;
        }
    }
    assert!(asked >= 4, "{asked} answers were told");
}

/// A node as the documents have it: the usual paths, in mounts of its own.
fn usual_node() -> Node {
    let prepare = "mount -t tmpfs none /run\n\
        mkdir -p {dir}/etc {dir}/etc.work {dir}/var {dir}/var.work\n\
        mount -t overlay -o lowerdir=/etc,upperdir={dir}/etc,workdir={dir}/etc.work none /etc\n\
        mount -t overlay -o lowerdir=/var,upperdir={dir}/var,workdir={dir}/var.work none /var\n\
        mkdir -p /run/rmogstored /etc/mogstored /var/lib\n\
        for n in 1 2 3 7; do mkdir -p /var/mogdata/dev$n /srv/mogdata; done\n\
        cp {dir}/node.conf /etc/mogstored.conf";
    let setup = Setup::bare();
    fs::create_dir_all(setup.folder()).unwrap();
    let text = "docroot = /var/mogdata\nhttplisten = 127.0.0.1:0\nmgmtlisten = 127.0.0.1:0\n\
        pidfile = /run/rmogstored/rmogstored.pid\nstatus_socket = /run/rmogstored/status.sock\n";
    fs::write(setup.folder().join("node.conf"), text).unwrap();
    setup.mount(prepare).arg("--config=/etc/mogstored.conf").arg(crate::harness::STATUS_FD).start()
}

/// What a command of ours may end with. Those that serve, or go on until Ctrl-C, are ended: 124.
fn expected_of(command: &str) -> &'static [i32] {
    let serves = ["rmogstored --config", "rmogstored --multi", "rmogstored --docroot"];
    if command.contains("--follow") {
        &[124]
    } else if command.contains("--daemonize") || command.contains("--check-config") {
        &[0]
    } else if serves.iter().any(|begin| command.starts_with(begin)) {
        &[124]
    } else if command.contains("device --") {
        &[0, 1] // Nothing is wrong with the device here: it says so.
    } else {
        &[0]
    }
}

#[test]
fn commands_of_the_documents_do_what_they_say() {
    if !can_mount() {
        return skipped("mounting needs root");
    }
    let (mut run, mut left) = (0, Vec::new());
    for document in documents() {
        for command in commands(&document) {
            let program = command.split_whitespace().next().unwrap();
            if let Some((name, needs)) = NOT_RUN.iter().find(|(name, _)| *name == program) {
                left.push(format!("{name} ({needs})"));
                continue;
            }
            if program != "rmogstored" {
                continue; // Tried elsewhere: the first upload, and what install.md types.
            }
            let node = usual_node();
            // A second node takes other files, for these are the first one's.
            let others = "for f in a b; do mkdir -p /srv/$f/dev1; printf 'docroot = /srv/%s\\n\
                httplisten = 127.0.0.1:0\\n' $f >/etc/mogstored/$f.conf; done; \
                mkdir -p /srv/mogdata/dev1";
            // What serves beside the node has other paths; what it leaves behind is ended.
            let serves = expected_of(&command) == [124] || command.contains("--daemonize");
            let (before, after) = if serves && !command.contains("--follow") {
                let moved = "sed -i s,/run/rmogstored/,/run/second-, /etc/mogstored.conf";
                (
                    moved,
                    "if [ -e /run/second-rmogstored.pid ]; then \
                    kill -TERM $(cat /run/second-rmogstored.pid); fi",
                )
            } else if command.contains("upgrade") {
                ("true", "kill -TERM $(cat /run/rmogstored/rmogstored.pid)")
            } else {
                ("true", "true")
            };
            let binary = crate::harness::binary();
            let line = format!(
                "mount -t tmpfs none /srv; {others}; {before}; mkdir -p /tmp/docs.$$; cd /tmp/docs.$$; \
                 rmogstored() {{ timeout -s INT -k 5 3 {} \"$@\"; }}; code=0; {{ {command}\n}} 2>&1 || \
                 code=$?; {after}; cd /; rm -r /tmp/docs.$$; echo; echo \"status $code\"",
                binary.display()
            );
            let script = format!("bash -c '{}'", line.replace('\'', "'\\''"));
            let said = node.in_its_mounts(&script).unwrap_or_else(|e| panic!("{command}: {e}"));
            let code = said.lines().last().and_then(|line| line.strip_prefix("status "));
            let code: i32 = code.unwrap().parse().unwrap();
            assert!(expected_of(&command).contains(&code), "{command}: {code}: {said}");
            run += 1;
        }
    }
    left.sort();
    left.dedup();
    println!("{run} commands were run; not run here: {}", left.join(", "));
    assert!(run >= 15, "{run}");
}
