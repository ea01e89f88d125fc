use super::*;
use std::process::Command;

#[test]
fn process_that_waits_to_be_reaped_does_not_live() {
    let mut child = Command::new("sleep").arg("100").spawn().unwrap();
    let pid = child.id().cast_signed();
    assert!(lives(pid));
    child.kill().unwrap();
    let begun = std::time::Instant::now();
    while lives(pid) {
        assert!(begun.elapsed().as_secs() < 10, "a zombie counts as alive");
    }
    let there = nix::sys::signal::kill(Pid::from_raw(pid), None);
    assert_eq!(there, Ok(()), "it has been reaped already");
    child.wait().unwrap();
}

/// Writes the file and tries to take it.
fn over(old: &[u8]) -> (Result<Pidfile, String>, Vec<u8>, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pid");
    fs::write(&path, old).unwrap();
    let result = Pidfile::create(&path).map_err(|e| e.to_string());
    (result, fs::read(&path).unwrap(), dir)
}

fn ours() -> Vec<u8> {
    format!("{}\n", process::id()).into_bytes()
}

fn dead_pid() -> u32 {
    let mut child = Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    child.id()
}

#[test]
fn a_new_file_holds_our_pid_until_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pid");
    let pidfile = Pidfile::create(&path).unwrap();
    assert_eq!(fs::read(&path).unwrap(), ours());
    pidfile.remove();
    assert!(!path.exists());
    pidfile.remove();
}

#[test]
fn a_live_pid_is_left_untouched() {
    let mut child = Command::new("cat").stdin(process::Stdio::piped()).spawn().unwrap();
    let old = format!("{}\n", child.id());
    let (result, content, _dir) = over(old.as_bytes());
    let meant = format!("already running on PID: {}", child.id());
    assert_eq!(result.unwrap_err(), meant);
    assert_eq!(content, old.as_bytes());
    drop(child.stdin.take());
    child.wait().unwrap();
}

#[test]
fn a_live_process_of_another_user_counts_as_live() {
    assert_eq!(over(b"1").0.unwrap_err(), "already running on PID: 1");
}

#[test]
fn stale_and_empty_files_are_taken_over() {
    let stale = format!("{}\n", dead_pid());
    let own = String::from_utf8(ours()).unwrap();
    for old in ["", "\n", &stale, stale.trim(), &format!("{stale}   \n\n"), &own] {
        let (result, content, _dir) = over(old.as_bytes());
        assert!(result.is_ok(), "{old:?}: {result:?}");
        assert_eq!(content, ours());
    }
}

#[test]
fn a_file_that_is_no_pid_file_is_left_untouched() {
    for old in ["root:x:0:0", "0", "-1", "99999999999", "1 2", "\u{e9}"] {
        let (result, content, _dir) = over(old.as_bytes());
        assert!(result.unwrap_err().ends_with("holds something else than a PID"), "{old}");
        assert_eq!(content, old.as_bytes());
    }
}

#[test]
fn what_the_system_refuses_is_told_with_the_path() {
    let error = Pidfile::create(Path::new("/nonexistent/pid")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "pidfile=/nonexistent/pid: No such file or directory (os error 2)"
    );
}

#[test]
fn what_is_no_file_or_locked_is_told_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let told = |path: &Path| Pidfile::create(path).unwrap_err().to_string();
    assert_eq!(told(Path::new("/dev/null")), "pidfile=/dev/null: it is no regular file");
    let pipe = dir.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(told(&pipe).ends_with("it is no regular file"));
    let path = dir.path().join("pid");
    let _locked = open(&path).map_err(|e| e.to_string()).unwrap();
    assert!(told(&path).ends_with("another process is just writing it"));
}

#[test]
fn a_file_that_another_took_is_not_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pid");
    let pidfile = Pidfile::create(&path).unwrap();
    fs::write(&path, "1\n").unwrap();
    pidfile.remove();
    assert_eq!(fs::read(&path).unwrap(), b"1\n");
}

#[test]
fn a_copy_in_another_process_removes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pid");
    let pidfile = Pidfile::create(&path).unwrap();
    let is_aside = Cell::new(false);
    let pid = pidfile.pid + 1;
    let elsewhere = Pidfile { path: path.clone(), pid, is_aside, _locked: None };
    elsewhere.remove();
    drop(pidfile);
    assert!(path.exists());
}

#[test]
fn file_set_aside_comes_back_over_what_a_dead_successor_left() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pid");
    let pidfile = Pidfile::create(&path).unwrap();
    pidfile.set_aside().unwrap();
    assert!(!path.exists());
    assert_eq!(fs::read(aside(&path)).unwrap(), ours());
    fs::write(&path, format!("{}\n", dead_pid())).unwrap();
    pidfile.take_back();
    assert_eq!(fs::read(&path).unwrap(), ours());
    assert!(!aside(&path).exists());
    pidfile.take_back();
    assert!(path.exists(), "taken back twice");
}

#[test]
fn file_that_was_set_aside_is_removed_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pid");
    let pidfile = Pidfile::create(&path).unwrap();
    pidfile.set_aside().unwrap();
    fs::write(&path, "1\n").unwrap();
    pidfile.remove();
    assert!(path.exists());
    assert!(!aside(&path).exists());
}

#[test]
fn file_is_not_set_aside_over_that_of_a_live_node() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pid");
    let pidfile = Pidfile::create(&path).unwrap();
    // One that holds no lock: another program, which its name tells.
    let program = dir.path().join("cmogstored");
    Command::new("cp").arg("/bin/sleep").arg(&program).status().unwrap();
    let mut node = Command::new(program).arg("100").spawn().unwrap();
    fs::write(aside(&path), format!("{}\n", node.id())).unwrap();
    let refused = pidfile.set_aside().unwrap_err().to_string();
    assert_eq!(refused, format!("already running on PID: {}", node.id()));
    assert_eq!(fs::read(&path).unwrap(), ours());
    node.kill().unwrap();
    node.wait().unwrap();
    pidfile.set_aside().unwrap();
}

#[test]
fn file_is_set_aside_over_what_names_a_stranger() {
    for old in ["", "1\n", "x", "-1"] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let pidfile = Pidfile::create(&path).unwrap();
        fs::write(aside(&path), old).unwrap();
        pidfile.set_aside().unwrap();
        assert_eq!(fs::read(aside(&path)).unwrap(), ours(), "{old:?}");
    }
}
