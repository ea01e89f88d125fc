//! What `rmogstored scrub` is told.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

/// A scrub as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[group(skip)]
pub struct Scrub {
    /// Megabytes (10^6 bytes) per second that are read of each device at most [default: no bound]
    #[arg(long, value_name = "MB/s", value_parser = rate)]
    pub rate: Option<Rate>,

    /// Keep the position in FILE, and go on there when the last pass was interrupted
    #[arg(long, value_name = "FILE")]
    pub since_state: Option<PathBuf>,

    /// Print `FID DEVID` of each bad copy instead of JSON lines
    #[arg(long)]
    pub device_list: bool,

    /// The --status-socket of the node that serves the devices: one that it calls stalled or
    /// unmounted is left alone
    #[arg(long, value_name = "PATH")]
    pub status_socket: Option<PathBuf>,

    /// Seconds that a device may be stalled, once it is being scrubbed, before it is given up
    /// [default: 60]
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = "60",
        hide_default_value = true,
        value_parser = seconds
    )]
    pub patience: Duration,

    /// The devices' folders, which are read at the same time
    #[arg(value_name = "DOCROOT/devN", required = true)]
    pub devices: Vec<PathBuf>,
}

/// Bytes per second, more than none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate(pub u64);

fn rate(text: &str) -> Result<Rate, String> {
    let number: f64 = text.parse().map_err(|_| "not a number")?;
    let bytes = (number * 1e6) as u64;
    let good = number.is_finite() && (1000..=1 << 50).contains(&bytes);
    if good { Ok(Rate(bytes)) } else { Err("not from 0.001 to 1000000000".to_owned()) }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|_| "not a number")?;
    Duration::try_from_secs_f64(number).map_err(|_| "not a number of seconds".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_is_in_megabytes() {
        assert_eq!(rate("1.5"), Ok(Rate(1_500_000)));
        for wrong in ["0", "-1", "x", "", "nan", "inf", "1e30"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn patience_may_be_none_but_not_less() {
        assert_eq!(seconds("0"), Ok(Duration::ZERO));
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        assert!(seconds("-1").is_err());
    }
}
