//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use crate::cases::{CASES, Case, PARTS};
use crate::failure::{Failure, Outcome};

/// Measures rmogstored beside other servers: processor time by request, memory, latency.
#[derive(Debug, Parser)]
#[command(version, args_override_self = true)]
pub struct Args {
    /// The cases to measure, by name, separated by commas [default: all]; of --scaling:
    /// workers-1, workers-8, workers-36, nginx, idle, files
    #[arg(long, value_name = "CASE", value_delimiter = ',')]
    pub only: Vec<String>,

    /// Rounds of each case [default: 31, with --quick 6]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub rounds: Option<u32>,

    /// Fewer rounds and shorter slices: all cases in two minutes, with more scatter
    #[arg(long)]
    pub quick: bool,

    /// How long a server's turn lasts, in milliseconds [default: 150, with --quick 50; with
    /// --scaling 400 and 100]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub slice: Option<u32>,

    /// Instead of the cases: more workers, devices, idle connections and files, ours alone
    #[arg(long, conflicts_with_all = ["peers", "baseline"])]
    pub scaling: bool,

    /// Servers and load share both processors, instead of having one each
    #[arg(long)]
    pub share: bool,

    /// Whom to compare with, of nginx, nginx-cache, lighttpd, cmogstored [default: all there are]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub peers: Option<Vec<String>>,

    /// The executable to measure
    #[arg(long, value_name = "FILE", default_value = "target/release/rmogstored")]
    pub rmogstored: PathBuf,

    /// Another build of it, to compare with
    #[arg(long, value_name = "FILE")]
    pub baseline: Option<PathBuf>,

    /// Where cmogstored is
    #[arg(long, value_name = "FILE", default_value = "cmogstored")]
    pub cmogstored: PathBuf,

    /// Worker processes of each server
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub workers: usize,

    /// The TCP congestion control of all connections, as root; cubic is the kernel's default
    #[arg(long, value_name = "NAME", default_value = "cubic")]
    pub congestion: String,

    /// Put the files below this folder, instead of an ext4 of their own in memory
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,

    /// Write every value of every round to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<String>,

    /// List the cases and exit
    #[arg(long)]
    pub list: bool,

    /// Hold idle connections: ADDRESS,COUNT,SOURCE
    #[arg(long, value_name = "WHAT", hide = true)]
    pub hold: Option<String>,

    /// What the executable was built from, for the JSON document
    #[arg(long, value_name = "ID", hide = true)]
    pub commit: Option<String>,
}

impl Args {
    /// The cases asked for, those that write behind all others.
    pub fn cases(&self) -> Outcome<Vec<&'static Case>> {
        let known = |name: &&String| CASES.iter().any(|case| case.name == name.as_str());
        if let Some(unknown) = self.only.iter().find(|name| !known(name)) {
            return Err(Failure::new(format!("no case '{unknown}': see --list")));
        }
        let wanted =
            |case: &&Case| self.only.is_empty() || self.only.iter().any(|name| name == case.name);
        let mut cases: Vec<&Case> = CASES.iter().filter(wanted).collect();
        cases.sort_by_key(|case| case.kind.writes());
        Ok(cases)
    }

    /// The parts of --scaling asked for.
    pub fn parts(&self) -> Outcome<Vec<&'static str>> {
        if let Some(unknown) = self.only.iter().find(|name| !PARTS.contains(&name.as_str())) {
            return Err(Failure::new(format!("no part '{unknown}' of --scaling")));
        }
        let wanted =
            |part: &&str| self.only.is_empty() || self.only.iter().any(|name| name == *part);
        Ok(PARTS.into_iter().filter(wanted).collect())
    }

    /// Rounds of a case.
    pub fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 6 } else { 31 }) as usize
    }

    /// How long a turn lasts.
    pub fn slice(&self) -> Duration {
        let default = match (self.scaling, self.quick) {
            (false, false) => 150,
            (false, true) => 50,
            // Each process opens each device's directory anew after a pause of a second.
            (true, false) => 400,
            (true, true) => 100,
        };
        Duration::from_millis(self.slice.unwrap_or(default).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_sound() {
        <Args as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn cases_that_write_come_last() {
        let args = Args::parse_from(["bench", "--only=put4k,get4k"]);
        let names: Vec<_> = args.cases().unwrap().iter().map(|case| case.name).collect();
        assert_eq!(names, ["get4k", "put4k"]);
        assert!(Args::parse_from(["bench", "--only=get5k"]).cases().is_err());
    }
}
