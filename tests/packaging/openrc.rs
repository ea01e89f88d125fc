//! The OpenRC script's own functions, run by sh(1) with OpenRC's words stubbed out: whom it signals.

use std::fs;
use std::path::Path;
use std::process::{Child, Command};

use super::{contrib, scratch};
use crate::chain::{Chain, is_gone};
use crate::harness::{Setup, until};

/// What openrc-run(8) gives to a script.
const STUBS: &str = "ebegin() { :; }; eerror() { echo \"$*\" >&2; }; eend() { return \"$1\"; }\n";

fn service(folder: &Path, executable: &Path, action: &str) -> (bool, String) {
    let script = format!(
        "{STUBS}command={}; config=/dev/null; pidfile={}; upgrade_wait=10; command_user=\n. {}\n\
         checkconfig() {{ :; }}\n{action}",
        executable.display(),
        folder.join("pid").display(),
        contrib("openrc/rmogstored").display()
    );
    let output = Command::new("/bin/sh").args(["-c", &script]).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn stranger() -> Child {
    Command::new("sleep").arg("100").spawn().unwrap()
}

#[test]
fn strangers_are_not_signalled() {
    let folder = scratch();
    let mut stranger = stranger();
    let executable = Path::new("/usr/local/bin/rmogstored");
    for content in [stranger.id().to_string(), String::new(), "x".to_owned()] {
        fs::write(folder.path().join("pid"), format!("{content}\n")).unwrap();
        for action in ["reload", "upgrade"] {
            assert!(!service(folder.path(), executable, action).0, "{action}");
        }
    }
    let was_left_alone = stranger.try_wait().unwrap().is_none();
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    assert!(was_left_alone);
}

#[test]
fn node_is_reloaded_and_upgraded_past_a_stale_file() {
    let chain = Chain::start(Setup::new());
    let executable = chain.path("rmogstored");
    let run = |action: &str| service(chain.node.docroot(), &executable, action);
    assert_eq!(run("reload"), (true, String::new()));
    chain.node.event("reloaded");
    let mut stranger = stranger();
    fs::write(chain.path("pid.oldbin"), format!("{}\n", stranger.id())).unwrap();
    let old = chain.master();
    let upgraded = run("upgrade");
    let was_left_alone = stranger.try_wait().unwrap().is_none();
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    assert_eq!(upgraded, (true, String::new()));
    assert!(was_left_alone);
    until("the old one's end", || is_gone(old));
    chain.replace_by_script("exit 3");
    let (ok, said) = run("upgrade");
    assert!(!ok && said.contains("carries on"), "{said}");
    chain.node.client().stays_open();
}
