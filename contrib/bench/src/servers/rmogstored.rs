//! rmogstored, and daemons with the same command line.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{ChildStdout, Command, Stdio};

use serde::Deserialize;

use super::{Plan, Server, Settings, free_address, session};
use crate::failure::{Context, Failure, Outcome};

/// What of its status pipe is of use here.
#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event {
    Listening {
        service: String,
        address: SocketAddr,
    },
    Ready,
    #[serde(other)]
    Other,
}

pub fn start(plan: &Plan, settings: &Settings) -> Outcome<Server> {
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut command = command(plan, settings, nowhere, nowhere);
    // Its standard output is the status pipe.
    command.arg("--status-fd=1").stdout(Stdio::piped());
    let log = settings.folder.join("log");
    let mut server = Server::spawn(&mut command, log, nowhere)?;
    let output = server.child.stdout.take().ok_or_else(|| Failure::new("no status pipe"))?;
    let output = learn_ports(&mut server, output)?;
    // It stays open: the node would notice that nobody reads any more.
    server.child.stdout = Some(output);
    Ok(server)
}

pub fn start_on_chosen_ports(plan: &Plan, settings: &Settings) -> Outcome<Server> {
    let (http, mgmt) = (free_address()?, free_address()?);
    let mut command = command(plan, settings, http, mgmt);
    command.stdout(Stdio::null());
    let mut server = Server::spawn(&mut command, settings.folder.join("log"), http)?;
    server.mgmt = Some(mgmt);
    server.wait()?;
    Ok(server)
}

fn command(plan: &Plan, settings: &Settings, http: SocketAddr, mgmt: SocketAddr) -> Command {
    let mut command = session(&plan.binary);
    command
        .arg(format!("--docroot={}", settings.docroot.display()))
        .arg(format!("--httplisten={http}"))
        .arg(format!("--mgmtlisten={mgmt}"))
        .arg(format!("--maxconns={}", settings.connections))
        .arg(format!("--worker-processes={}", settings.workers))
        .args(&plan.words);
    command
}

/// The node ends its lines with `ready`, or itself.
fn learn_ports(server: &mut Server, output: ChildStdout) -> Outcome<ChildStdout> {
    let mut lines = BufReader::new(output);
    let mut line = String::new();
    loop {
        line.clear();
        if lines.read_line(&mut line)? == 0 {
            server.ended_by(std::time::Instant::now() + super::PATIENCE);
            return Err(Failure::new(format!("it ended: {}", server.last_words())));
        }
        match parse(&line)? {
            Event::Listening { service, address } if service == "http" => server.http = address,
            Event::Listening { service, address } if service == "mgmt" => {
                server.mgmt = Some(address);
            }
            Event::Ready => return Ok(lines.into_inner()),
            _ => {}
        }
    }
}

fn parse(line: &str) -> Outcome<Event> {
    serde_json::from_str(line).context(format!("status line '{}'", line.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_status_pipe() {
        let listening = r#"{"time":1,"event":"listening","service":"http","address":"127.0.0.1:7500","docroot":"/x"}"#;
        let address = "127.0.0.1:7500".parse().unwrap();
        let service = "http".to_owned();
        assert_eq!(parse(listening).unwrap(), Event::Listening { service, address });
        assert_eq!(parse("{\"event\":\"ready\",\"pid\":7}\n").unwrap(), Event::Ready);
        let other = r#"{"event":"worker_started","worker":0,"pid":8,"devices":["dev1"]}"#;
        assert_eq!(parse(other).unwrap(), Event::Other);
        assert!(parse("no JSON").is_err());
    }
}
