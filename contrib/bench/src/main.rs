//! Measures rmogstored beside other servers. README.md tells what the numbers mean.
//!
//! - [`field`]: what is up while we measure; [`sys`]: unsafe code
//! - [`cases`]: what is measured and what is aimed at; [`args`]: the command line
//! - [`servers`]: how each server is configured, started, ended; [`scratch`]: the file system
//! - [`corpus`]: the files; [`work`]: requests and expected answers; [`http`]: reading answers
//! - [`load`]: the closed loop; [`cpu`]: pinning, and what processes have cost
//! - [`contest`]: a slice of load; [`local`]: what is no server; [`rounds`]: taking turns
//! - [`idle`], [`latency`]: slices that are about something else than processor time
//! - [`machine`]: settings that are changed while we measure
//! - [`scaling`]: our daemon alone, with more of everything; [`holder`]: idle
//!   connections
//! - [`stats`], [`report`]: from values to a table; [`failure`]: what ends a run

mod args;
mod cases;
mod contest;
mod corpus;
mod cpu;
mod failure;
mod field;
mod holder;
mod http;
mod idle;
mod latency;
mod load;
mod local;
mod machine;
mod report;
mod rounds;
mod scaling;
mod scratch;
mod servers;
mod stats;
mod sys;
mod work;

use std::process::ExitCode;

use clap::Parser;

use args::Args;
use cases::CASES;
use failure::Outcome;

fn main() -> ExitCode {
    let args = Args::parse();
    if args.list {
        for case in CASES {
            println!("{:<10} {} ({})", case.name, case.title, case.unit.name());
        }
        return ExitCode::SUCCESS;
    }
    let outcome = match &args.hold {
        Some(what) => holder::hold(what),
        None => run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("rmogstored-bench: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Outcome<()> {
    failure::heed_signals()?;
    let _changed = machine::Changed::new(&args.congestion);
    if args.scaling {
        return scaling::run(args);
    }
    let cases = args.cases()?;
    let field = field::Field::set_up(args)?;
    let mut all = Vec::new();
    let mut outcome = Ok(());
    for case in cases {
        match field.measure(case, args) {
            Ok(measured) => {
                report::print(&measured);
                all.push(measured);
            }
            Err(failure) => {
                outcome = Err(failure); // What has been measured before it still counts.
                break;
            }
        }
    }
    if all.len() > 1 {
        report::summarize(&all);
    }
    if let Some(file) = &args.json {
        report::write_json(file, &all, field.about(args))?;
    }
    outcome
}
