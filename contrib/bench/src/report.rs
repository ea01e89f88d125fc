//! The table and the JSON document.

use std::fs;

use serde_json::{Value, json};

use crate::cases::{Goal, OURS};
use crate::failure::{Context, Outcome};
use crate::machine;
use crate::rounds::{Measured, Series, Verdict};
use crate::servers::{Plan, version};
use crate::stats::Spread;

/// Prints what a case gave.
pub fn print(measured: &Measured) {
    let case = measured.case;
    let rounds = measured.series.first().map_or(0, |series| series.samples.len());
    println!("\n{}: {}, {} ({rounds} rounds)", case.name, case.title, case.unit.name());
    println!("  {:<16}{:>10}  {:>8}  {:<16}{:>6}", "", "median", "ours/it", "quartiles", "core");
    for series in &measured.series {
        println!("  {}", row(measured, series).trim_end());
    }
    for &goal in case.goals {
        println!("  goal: {}", judged(measured, goal));
    }
}

/// Prints how much more everybody takes than one of them, and who takes too much.
pub fn print_scaling(measured: &Measured, reference: &'static str, most: f64) {
    println!("\n{}, {}, by '{reference}'", measured.case.title, measured.case.unit.name());
    println!("  {:<18}{:>10}{:>12}  {:>8}  quartiles", "", "median", "requests/s", "ratio");
    for Series { name, samples } in &measured.series {
        let value = measured.value(name).map_or_else(|| "-".to_owned(), number);
        let rates = samples.iter().map(|sample| sample.units as f64 * 1e9 / sample.wall_ns as f64);
        let rate = Spread::of(rates).map_or(0.0, |rates| rates.median);
        let Some(Spread { low, median, high }) = measured.ratio_of(name, reference) else {
            continue;
        };
        let verdict = if median <= most { "" } else { "  MISSED" };
        println!(
            "  {name:<18}{value:>10}{rate:>12.0}  {median:>8.3}  [{low:.3} {high:.3}]{verdict}"
        );
    }
    println!("  goal: all ≤ {most:.3} of '{reference}'");
}

/// Prints one line for each case.
pub fn summarize(all: &[Measured]) {
    println!("\nsummary");
    for measured in all {
        let value = measured.value(OURS).map_or_else(|| "-".to_owned(), number);
        let unit = measured.case.unit.name();
        println!("  {:<10} {value:>9} {unit}", measured.case.name);
        for &goal in measured.case.goals {
            println!("  {:<10}   {}", "", judged(measured, goal));
        }
    }
}

/// Writes down everything.
pub fn write_json(file: &str, all: &[Measured], about: Value) -> Outcome<()> {
    let cases: Vec<Value> = all.iter().map(case_json).collect();
    let document = json!({ "about": about, "cases": cases });
    let text = serde_json::to_string_pretty(&document).context("JSON")?;
    fs::write(file, text + "\n").context(format!("cannot write {file}"))
}

/// The machine, the versions, the settings of the run.
pub fn about(plans: &[&Plan], commit: Option<&str>, files: &str) -> Value {
    let servers = plans.iter().map(|plan| {
        let binary = plan.binary.display().to_string();
        (plan.name.to_owned(), json!({ "version": plan.version, "binary": binary }))
    });
    let servers: serde_json::Map<String, Value> = servers.collect();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    json!({
        "commit": commit,
        "processor": processor(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default()),
        "kernel": kernel.trim(),
        "openssl": version("openssl".as_ref(), "version"),
        "files": files,
        "free_page_reporting_put_off": machine::keeps_memory(),
        "congestion_control": machine::congestion_control(),
        "servers": servers,
    })
}

fn row(measured: &Measured, series: &Series) -> String {
    let median = Spread::of(series.samples.iter().map(|sample| sample.value));
    let median = median.map_or_else(|| "-".to_owned(), |spread| number(spread.median));
    let ratio = (series.name != OURS).then(|| measured.ratio(series.name)).flatten();
    let (ratio, quartiles) = match ratio {
        Some(Spread { low, median, high }) => {
            (format!("{median:.3}"), format!("[{low:.3} {high:.3}]"))
        }
        None => (String::new(), String::new()),
    };
    let shares = series.samples.iter().filter(|sample| sample.cpu_ns > 0);
    let core = Spread::of(shares.map(|sample| sample.share()));
    let core = core.map_or_else(String::new, |core| format!("{:.0} %", core.median * 100.0));
    format!("{:<16}{median:>10}  {ratio:>8}  {quartiles:<16}{core:>6}", series.name)
}

fn judged(measured: &Measured, goal: Goal) -> String {
    let verdict = match measured.verdict(goal) {
        Verdict::Met(found) => format!("{} met", number(found)),
        Verdict::Missed(found) => format!("{} MISSED", number(found)),
        Verdict::Absent => "not compared: absent".to_owned(),
    };
    let wanted = match goal {
        Goal::Of(name, most) => format!("≤ {most} of {name}"),
        Goal::OfBest(most) => format!("≤ {most} of the best peer"),
        Goal::AtMost(most) => format!("≤ {most}"),
    };
    format!("{wanted}: {verdict}")
}

fn case_json(measured: &Measured) -> Value {
    let case = measured.case;
    let goals = case.goals.iter().map(|&goal| judged(measured, goal));
    let ratios = measured.series.iter().filter(|series| series.name != OURS).filter_map(|series| {
        let Spread { low, median, high } = measured.ratio(series.name)?;
        Some((series.name.to_owned(), json!({ "low": low, "median": median, "high": high })))
    });
    json!({
        "name": case.name,
        "title": case.title,
        "unit": case.unit.name(),
        "connections": case.connections,
        "series": measured.series,
        "ratios": ratios.collect::<serde_json::Map<_, _>>(),
        "goals": goals.collect::<Vec<_>>(),
    })
}

/// Three digits or more.
fn number(value: f64) -> String {
    match value {
        _ if value >= 100.0 => format!("{value:.0}"),
        _ if value >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

fn processor(cpuinfo: &str) -> &str {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"));
    line.and_then(|line| line.split_once(':')).map_or("unknown", |(_, name)| name.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        assert_eq!(number(1234.56), "1235");
        assert_eq!(number(12.345), "12.3");
        assert_eq!(number(0.7512), "0.751");
    }

    #[test]
    fn processor_is_named() {
        assert_eq!(processor("processor : 0\nmodel name\t: Some CPU\n"), "Some CPU");
        assert_eq!(processor(""), "unknown");
    }
}
