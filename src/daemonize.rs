//! Detaching from the terminal. The command that the operator typed stays until the node serves,
//! passes on what it says meanwhile, and ends with the status that an init script wants: 0 once
//! it serves, 1 if it never will.

use std::fs::{File, OpenOptions};
use std::io::{self, PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::AsFd;
use std::process;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::waitpid;
use nix::unistd::{chdir, dup2_stderr, dup2_stdin, dup2_stdout, setsid};

use crate::logging;

const NULL: &str = "/dev/null";
const SERVES: u8 = b'R';

/// The daemon's way to the waiting command: one byte tells that it serves, the end of the pipe
/// that it never will. Only the master may hold it, see [`in_worker`].
static WAITING: Mutex<Option<PipeWriter>> = Mutex::new(None);

/// Returns in the daemon only: a session of its own without a terminal, in `/`, with standard
/// error going through the waiting command. Called while there is one thread.
pub fn detach() -> io::Result<()> {
    let null = null()?;
    let (errors, stderr) = pipe().map_err(named("pipe"))?;
    let (decision, ready) = pipe().map_err(named("pipe"))?;
    if let Some(child) = rmogstored_master::fork().map_err(named("fork"))? {
        drop((stderr, ready));
        waitpid(child, None)?;
        let serves = relay(errors, decision, &mut io::stderr())?;
        process::exit(if serves { 0 } else { 1 });
    }
    drop((errors, decision));
    setsid()?;
    // A session leader could get a terminal by opening one; its child cannot.
    if rmogstored_master::fork().map_err(named("fork"))?.is_some() {
        process::exit(0);
    }
    chdir("/")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&stderr)?;
    *waiting() = Some(ready);
    Ok(())
}

/// Lets the command return 0, and takes leave of its standard error. Nothing to do for a node
/// in the foreground.
pub fn dismiss() {
    let Some(mut ready) = waiting().take() else { return };
    // The command may have been interrupted; the node serves all the same.
    let _ = ready.write_all(&[SERVES]);
    logging::leave_stderr();
    if let Err(e) = null().and_then(|null| Ok(dup2_stderr(&null)?)) {
        log::warn!("standard error to /dev/null: {e}");
    }
}

/// Called in a forked worker, whose end says nothing about the node's.
pub fn in_worker() {
    waiting().take();
}

fn waiting() -> MutexGuard<'static, Option<PipeWriter>> {
    WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}

fn null() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(NULL).map_err(named(NULL))
}

/// The error, with what it is about.
fn named(what: &str) -> impl Fn(io::Error) -> io::Error {
    move |e| io::Error::new(e.kind(), format!("{what}: {e}"))
}

/// Passes on what the daemon says until its decision is known: true if it serves.
fn relay(
    mut errors: PipeReader,
    mut decision: PipeReader,
    out: &mut impl Write,
) -> io::Result<bool> {
    let mut talks = true;
    loop {
        let (said, decided) = wait(talks.then_some(&errors), &decision)?;
        if said {
            talks = pass_on(&mut errors, out)?;
        } else if decided {
            let mut byte = [0];
            return Ok(decision.read(&mut byte)? == 1 && byte[0] == SERVES);
        }
    }
}

/// Which of the two can be read.
fn wait(errors: Option<&PipeReader>, decision: &PipeReader) -> io::Result<(bool, bool)> {
    let mut asked = vec![PollFd::new(decision.as_fd(), PollFlags::POLLIN)];
    asked.extend(errors.map(|errors| PollFd::new(errors.as_fd(), PollFlags::POLLIN)));
    while let Err(errno) = poll(&mut asked, PollTimeout::NONE) {
        if errno != Errno::EINTR {
            return Err(errno.into());
        }
    }
    let readable = |index: usize| asked.get(index).and_then(PollFd::any).unwrap_or(false);
    Ok((readable(1), readable(0)))
}

/// False at the end of what there is.
fn pass_on(errors: &mut PipeReader, out: &mut impl Write) -> io::Result<bool> {
    let mut buffer = [0; 4096];
    let length = errors.read(&mut buffer)?;
    // The operator may have closed the terminal.
    let _ = out.write_all(&buffer[..length]);
    Ok(length > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    /// What the command answers when the daemon does this with its two pipes.
    fn relayed(daemon: impl FnOnce(PipeWriter, PipeWriter) + Send + 'static) -> (bool, String) {
        let (errors, stderr) = pipe().unwrap();
        let (decision, ready) = pipe().unwrap();
        let daemon = thread::spawn(move || daemon(stderr, ready));
        let mut out = Vec::new();
        let serves = relay(errors, decision, &mut out).unwrap();
        daemon.join().unwrap();
        (serves, String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_daemon_that_serves_is_left_alone_with_its_last_words_passed_on() {
        let (serves, said) = relayed(|mut stderr, mut ready| {
            stderr.write_all(b"one\ntwo\n").unwrap();
            ready.write_all(&[SERVES]).unwrap();
        });
        assert!(serves);
        assert_eq!(said, "one\ntwo\n");
    }

    #[test]
    fn a_daemon_that_ends_has_its_reason_passed_on() {
        let (serves, said) = relayed(|mut stderr, ready| {
            stderr.write_all(b"no such thing\n").unwrap();
            drop(ready);
        });
        assert!(!serves);
        assert_eq!(said, "no such thing\n");
    }

    #[test]
    fn a_decision_counts_though_standard_error_stays_open() {
        let (errors, mut stderr) = pipe().unwrap();
        let (decision, ready) = pipe().unwrap();
        stderr.write_all(b"late").unwrap();
        drop(ready);
        let mut out = Vec::new();
        assert!(!relay(errors, decision, &mut out).unwrap());
        assert_eq!(out, b"late");
        drop(stderr);
    }

    #[test]
    fn a_long_explanation_comes_through_whole() {
        let (serves, said) = relayed(|mut stderr, _ready| {
            stderr.write_all("x".repeat(300_000).as_bytes()).unwrap();
        });
        assert!(!serves);
        assert_eq!(said.len(), 300_000);
    }
}
