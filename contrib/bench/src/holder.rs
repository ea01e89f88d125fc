//! Idle connections, held by processes of their own: one process may not have descriptors for
//! all of them.

use std::io::{self, BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::corpus::{Corpus, SMALL};
use crate::failure::{Context, Failure, Outcome};
use crate::load::{Load, Style};
use crate::work::Fetch;

/// Connections of a process, all from an address of its own.
const EACH: usize = 10_000;
/// What it says once it has them.
const HELD: &str = "held";

/// Connections that have done a GET each and do nothing more, until this is dropped.
pub struct Held(Vec<Child>);

impl Held {
    /// Opens them.
    pub fn open(address: SocketAddr, count: usize) -> Outcome<Held> {
        let mut held = Held(Vec::new());
        for process in 0..count.div_ceil(EACH) {
            let many = EACH.min(count - process * EACH);
            let mut command = Command::new(std::env::current_exe()?);
            command.arg(format!("--hold={address},{many},{}", process + 1));
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            held.0.push(command.spawn().context("a process for idle connections")?);
        }
        for child in &mut held.0 {
            let mut line = String::new();
            let output = child.stdout.as_mut().ok_or_else(|| Failure::new("no pipe"))?;
            BufReader::new(output).read_line(&mut line)?;
            if line.trim() != HELD {
                return Err(Failure::new("the idle connections could not be opened"));
            }
        }
        Ok(held)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for child in &mut self.0 {
            drop(child.stdin.take());
            let _ = child.wait();
        }
    }
}

/// What such a process does: `ADDRESS,COUNT,SOURCE`. Ends with its standard input.
pub fn hold(what: &str) -> Outcome<()> {
    let mut parts = what.split(',');
    let mut part = || parts.next().ok_or_else(|| Failure::new("--hold wants ADDRESS,COUNT,SOURCE"));
    let address: SocketAddr = part()?.parse().context("address")?;
    let count: usize = part()?.parse().context("count")?;
    let source: u8 = part()?.parse().context("source")?;
    let corpus = Corpus::create(Path::new("/nonexistent"), 1, &[])?;
    let style = Style { source, ..Style::default() };
    let mut load = Load::new(&corpus, address, count, style)?;
    load.run(&Fetch { set: SMALL, devices: 1, head: true, close: false }, 0, count as u64, None)?;
    println!("{HELD}");
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
