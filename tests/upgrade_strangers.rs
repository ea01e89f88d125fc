//! `rmogstored upgrade` signals nobody but the master of a node, whatever a file or socket says; and
//! what names a stranger stands in no upgrade's way.

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, SystemTime};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::chain::{Chain, is_gone};
use crate::harness::{Node, Setup, binary, until};

/// A process that would be ended by a signal that is not meant for it. Dropping it ends it.
struct Stranger(Child);

impl Stranger {
    fn new() -> Stranger {
        Stranger::running(Path::new("/bin/sleep"))
    }

    fn running(program: &Path) -> Stranger {
        Stranger(Command::new(program).arg("100").spawn().unwrap())
    }

    /// With another name for its executable.
    fn called(folder: &Path, name: &str) -> Stranger {
        let program = folder.join(name);
        // By another process: what this one has open for writing cannot be executed.
        assert!(Command::new("cp").arg("/bin/sleep").arg(&program).status().unwrap().success());
        Stranger::running(&program)
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.0.id().cast_signed())
    }

    fn was_left_alone(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn upgrade(node: &Path) -> Output {
    Command::new(binary()).arg("upgrade").arg(node).stdin(Stdio::null()).output().unwrap()
}

/// The command fails, says this, and says nothing of having begun.
fn refused(node: &Path, why: &str) {
    let output = upgrade(node);
    let [said, told] = [&output.stderr, &output.stdout].map(|text| String::from_utf8_lossy(text));
    assert_eq!(output.status.code(), Some(1), "{said}{told}");
    assert!(said.starts_with("E: ") && said.contains(why), "{why} is not in {said}");
    assert_eq!(told, "");
}

fn noted(folder: &Path, content: impl ToString) -> std::path::PathBuf {
    let path = folder.join("noted");
    fs::write(&path, format!("{}\n", content.to_string())).unwrap();
    path
}

#[test]
fn stale_pid_file_with_a_stranger_s_number_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut stranger = Stranger::new();
    refused(&noted(folder.path(), stranger.pid()), "is no node, but \"sleep\"");
    assert!(stranger.was_left_alone());
}

#[test]
fn pid_file_without_the_number_of_a_process_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (content, why) in [
        ("", "holds no PID"),
        ("nonsense", "something else than a PID"),
        ("-1", "something else than a PID"),
        ("0", "something else than a PID"),
        ("1 2", "something else than a PID"),
        ("2147483647", "does not run"),
    ] {
        refused(&noted(folder.path(), content), why);
    }
    refused(folder.path(), "directory");
    refused(&folder.path().join("nothing"), "there is no such socket or file");
    refused(Path::new("/dev/null"), "holds no PID");
}

/// A signal to it would be one to the whole process, which is this test.
#[test]
fn number_of_a_thread_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    thread::spawn(move || refused(&noted(&path, nix::unistd::gettid()), "a thread"))
        .join()
        .unwrap();
}

/// A worker does not do what a master would, and a command of the same executable dies.
#[test]
fn workers_and_commands_are_no_masters() {
    let node = Node::start();
    let folder = tempfile::tempdir().unwrap();
    for worker in node.workers() {
        refused(&noted(folder.path(), worker), "is no node's master");
    }
    let mut command = Command::new(binary());
    command.args(["status", "--follow"]).arg(node.docroot().join("status.sock"));
    let mut command = Stranger(command.stdout(Stdio::null()).spawn().unwrap());
    refused(&noted(folder.path(), command.pid()), "is no node's master");
    assert!(command.was_left_alone());
}

/// An older version or another daemon holds no lock on its pid file. Its executable tells, and
/// that it is older than the file.
#[test]
fn another_daemon_without_a_lock_is_signalled_unless_the_number_was_used_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = Stranger::called(folder.path(), "cmogstored");
    let file = noted(folder.path(), daemon.pid());
    let long_ago = SystemTime::now() - Duration::from_secs(3600);
    fs::File::options().write(true).open(&file).unwrap().set_modified(long_ago).unwrap();
    refused(&file, "is younger than what names it");
    assert!(daemon.was_left_alone());
    let output = upgrade(&noted(folder.path(), daemon.pid()));
    assert!(String::from_utf8_lossy(&output.stdout).contains("is starting its successor"));
    until("the signal", || !daemon.was_left_alone());
}

#[test]
fn pid_file_that_was_overwritten_is_its_owner_s_still() {
    let chain = Chain::start(Setup::new());
    let (own, mut stranger) = (chain.node.pid(), Stranger::new());
    fs::write(chain.path("pid"), format!("{}\n", stranger.pid())).unwrap();
    refused(&chain.path("pid"), &format!("is the pid file of PID {own}"));
    assert!(stranger.was_left_alone());
    assert!(chain.node.all_events("upgrade_started").is_empty());
    fs::write(chain.path("pid"), format!("{own}\n")).unwrap();
    assert!(upgrade(&chain.path("pid")).status.success());
}

#[test]
fn stale_file_of_a_predecessor_does_not_stand_in_the_way() {
    let chain = Chain::start(Setup::new());
    let mut stranger = Stranger::new();
    for stale in [stranger.pid().to_string(), "1".to_owned(), String::new(), "x".to_owned()] {
        fs::write(chain.path("pid.oldbin"), format!("{stale}\n")).unwrap();
        chain.upgrade();
        assert!(!chain.path("pid.oldbin").exists());
    }
    fs::write(chain.path("pid.oldbin"), format!("{}\n", stranger.pid())).unwrap();
    assert!(upgrade(&chain.path("pid")).status.success());
    assert!(stranger.was_left_alone());
}

#[test]
fn file_of_a_predecessor_that_lives_does() {
    let chain = Chain::start(Setup::new());
    let other = Chain::start(Setup::new());
    fs::hard_link(other.path("pid"), chain.path("pid.oldbin")).unwrap();
    let failed = chain.failed_upgrade();
    let expected = format!("upgrade already running on PID:{}", other.node.pid());
    assert_eq!(failed["reason"], expected.as_str());
    fs::remove_file(chain.path("pid.oldbin")).unwrap();
}

/// Somebody writes a number into the file while the successor starts: it is no successor's.
#[test]
fn number_that_appears_amid_an_upgrade_does_not_send_the_old_master_away() {
    let chain = Chain::start(Setup::new().arg("--upgrade-timeout=1s"));
    let mut stranger = Stranger::new();
    chain.replace_by_script(&format!("echo {} > {{dir}}/pid\nexec sleep 60", stranger.pid()));
    let output = upgrade(&chain.path("pid"));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(chain.master(), chain.node.pid());
    chain.node.client().stays_open();
    assert!(stranger.was_left_alone());
}

/// What answers is this test; the process that it names is another one.
#[test]
fn socket_whose_document_names_another_process_is_refused() {
    let node = Node::start();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let mut stranger = Stranger::new();
    let mut document = node.status();
    document["pid"] = stranger.pid().as_raw().into();
    let answers = thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        client.write_all(document.to_string().as_bytes()).unwrap();
    });
    refused(&path, &format!("says that it is PID {}", stranger.pid()));
    answers.join().unwrap();
    assert!(stranger.was_left_alone());
}

/// Whoever is killed lets go of the lock, and the number is free to be somebody else's.
#[test]
fn pid_file_that_a_killed_node_left_is_refused_and_taken_over() {
    let mut chain = Chain::start(Setup::new());
    let killed = chain.node.pid();
    kill(killed, Signal::SIGKILL).unwrap();
    chain.node.wait_for_exit();
    until("its end", || is_gone(killed));
    refused(&chain.path("pid"), &format!("PID {killed} does not run"));
    refused(&chain.path("status.sock"), "nobody answers");
}
