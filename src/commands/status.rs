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
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(e) => {
            let _ = writeln!(io::stderr(), "E: {}: {e}", socket.display());
            ExitCode::FAILURE
        }
    }
}

fn show_once(socket: &Path, json: bool) -> io::Result<()> {
    if json {
        return io::stdout().write_all(read_text(socket)?.as_bytes());
    }
    let (before, began) = (read(socket)?, Instant::now());
    std::thread::sleep(FIRST_INTERVAL);
    let text = table::of(&before, &read(socket)?, began.elapsed());
    io::stdout().write_all(text.as_bytes())
}

fn follow_node(socket: &Path, json: bool) -> io::Result<()> {
    let interrupts = interrupts().map_err(io::Error::other)?;
    if json {
        return follow_json(socket, &interrupts);
    }
    let terminal = io::stdout().is_terminal();
    if !terminal {
        return follow_table(socket, &interrupts, "");
    }
    io::stdout().write_all(ENTER.as_bytes())?;
    let followed = follow_table(socket, &interrupts, CLEAR);
    io::stdout().write_all(LEAVE.as_bytes())?;
    io::stdout().flush()?;
    followed
}

fn follow_json(socket: &Path, interrupts: &Receiver<()>) -> io::Result<()> {
    loop {
        io::stdout().write_all(read_text(socket)?.as_bytes())?;
        io::stdout().flush()?;
        if interrupts.recv_timeout(INTERVAL).is_ok() {
            return Ok(());
        }
    }
}

fn follow_table(socket: &Path, interrupts: &Receiver<()>, before_each: &str) -> io::Result<()> {
    let (mut before, mut looked) = (read(socket)?, Instant::now());
    let mut interval = FIRST_INTERVAL;
    while interrupts.recv_timeout(interval).is_err() {
        let (now, passed) = (read(socket)?, looked.elapsed());
        looked = Instant::now();
        let text = table::of(&before, &now, passed);
        io::stdout().write_all(format!("{before_each}{text}\n").as_bytes())?;
        io::stdout().flush()?;
        (before, interval) = (now, INTERVAL);
    }
    Ok(())
}
