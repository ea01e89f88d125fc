//! `rmogstored status`: what a node does, at a glance.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use super::{interrupts, read, read_text, table};

/// Between two looks: what happened between them is shown per second.
const INTERVAL: Duration = Duration::from_secs(1);
const FIRST_INTERVAL: Duration = Duration::from_millis(500);
/// The other screen, without a cursor, and back: xterm's private modes 1049 and 25.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Shows the node behind a status socket, once or until Ctrl-C.
pub fn run(socket: &Path, json: bool, follow: bool) -> ExitCode {
    let shown = if follow { follow_node(socket, json) } else { show_once(socket, json) };
    match shown {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read this has had enough.
        Err(Failure::Output(e)) if e.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = match failure {
                Failure::Node(e) => writeln!(io::stderr(), "E: {}: {e}", socket.display()),
                Failure::Output(e) => writeln!(io::stderr(), "E: standard output: {e}"),
            };
            ExitCode::FAILURE
        }
    }
}

/// What went wrong with which side.
enum Failure {
    Node(io::Error),
    Output(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Node(error)
    }
}

fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::Output)
}

fn show_once(socket: &Path, json: bool) -> Result<(), Failure> {
    if json {
        return print(&read_text(socket)?);
    }
    let (before, began) = (read(socket)?, Instant::now());
    std::thread::sleep(FIRST_INTERVAL);
    let text = table::of(&before, &read(socket)?, began.elapsed());
    print(&text)
}

fn follow_node(socket: &Path, json: bool) -> Result<(), Failure> {
    let interrupts = interrupts().map_err(io::Error::other)?;
    if json {
        return follow_json(socket, &interrupts);
    }
    let terminal = io::stdout().is_terminal();
    if !terminal {
        return follow_table(socket, &interrupts, "");
    }
    print(ENTER)?;
    let followed = follow_table(socket, &interrupts, CLEAR);
    print(LEAVE)?;
    followed
}

fn follow_json(socket: &Path, interrupts: &Receiver<()>) -> Result<(), Failure> {
    loop {
        print(&read_text(socket)?)?;
        if interrupts.recv_timeout(INTERVAL).is_ok() {
            return Ok(());
        }
    }
}

fn follow_table(
    socket: &Path,
    interrupts: &Receiver<()>,
    before_each: &str,
) -> Result<(), Failure> {
    let (mut before, mut looked) = (read(socket)?, Instant::now());
    let mut interval = FIRST_INTERVAL;
    while interrupts.recv_timeout(interval).is_err() {
        let (now, passed) = (read(socket)?, looked.elapsed());
        looked = Instant::now();
        let text = table::of(&before, &now, passed);
        print(&format!("{before_each}{text}\n"))?;
        (before, interval) = (now, INTERVAL);
    }
    Ok(())
}
