//! The grammar of single values, alike on the command line and in files. Pure: text to value,
//! or the operator's sentence.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use log::LevelFilter;
use rmogstored_worker::scoreboard::MAX_WORKERS;
use rmogstored_worker::spec::{Fsync, LogFormat, LogTarget, Wanted};

use super::Workers;

/// Longest duration that is taken, in seconds: some 30 years, far from any overflow.
const LONGEST: u64 = 1_000_000_000;

/// Which protocol the `server` setting asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// HTTP and sidechannel; what the old daemons call `perlbal`.
    Http,
    /// The sidechannel alone.
    None,
}

/// `IP:PORT`, `:PORT`, `PORT` or `[IPv6]:PORT`. Port 0 lets the kernel choose.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    let address = socket_address(text).ok_or_else(|| {
        let text = text.escape_debug();
        format!("'{text}' is not an address: write IP:PORT, :PORT, PORT or [IPv6]:PORT")
    })?;
    match address.ip() {
        IpAddr::V6(ip) if let Some(v4) = ip.to_ipv4_mapped() => {
            Err(format!("'{text}' is an IPv4 address: write {v4}:{}", address.port()))
        }
        ip if ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) => {
            Err(format!("'{text}' is the address of many: no connection can be made to it"))
        }
        _ => Ok(address),
    }
}

/// Seconds, with decimals if wanted, or with a suffix: `ms`, `s`, `m`, `h`.
pub fn duration(text: &str) -> Result<Duration, String> {
    scaled(text).ok_or_else(|| {
        let text = text.escape_debug();
        format!("'{text}' is not a duration: write seconds (60, 0.5), or 500ms, 60s, 10m, 1h")
    })
}

/// A [`duration`] for which zero would mean "at once", which serves nobody.
pub fn positive_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err(format!("'{text}' must be more than 0")),
        positive => Ok(positive),
    }
}

/// A decimal number in a range.
pub fn number(text: &str, range: RangeInclusive<usize>) -> Result<usize, String> {
    digits(text).filter(|n| range.contains(n)).ok_or_else(|| {
        let text = text.escape_debug();
        format!("'{text}' is not a number from {} to {}", range.start(), range.end())
    })
}

/// `device`, `cpu` or a number.
pub fn workers(text: &str) -> Result<Workers, String> {
    match text {
        "device" => Ok(Workers::Device),
        "cpu" => Ok(Workers::Cpu),
        _ => number(text, 1..=MAX_WORKERS).map(Workers::Count).map_err(|_| {
            format!("'{text}' is neither device, cpu nor a number from 1 to {MAX_WORKERS}")
        }),
    }
}

/// The compatible spelling: a number alone, where 0 asks the C daemon for a single process.
pub fn worker_processes(text: &str) -> Result<Workers, String> {
    number(text, 0..=MAX_WORKERS).map(|n| Workers::Count(n.max(1)))
}

/// A switch that was given a value.
pub fn switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "yes" | "on" | "true" => Ok(true),
        "0" | "no" | "off" | "false" => Ok(false),
        _ => Err(format!("'{text}' is neither 1 nor 0")),
    }
}

/// `off`, `file` or `batch`.
pub fn fsync(text: &str) -> Result<Fsync, String> {
    match text {
        "off" => Ok(Fsync::Off),
        "file" => Ok(Fsync::File),
        "batch" => Ok(Fsync::Batch),
        _ => Err(format!("'{text}' is none of off, file, batch")),
    }
}

/// `off`, `syslog` or a file.
pub fn log_target(text: &str) -> Result<Option<LogTarget>, String> {
    match text {
        "off" => Ok(None),
        "syslog" => Ok(Some(LogTarget::Syslog)),
        _ => path(text).map(|path| Some(LogTarget::File(path))),
    }
}

/// `combined` or `json`.
pub fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "combined" => Ok(LogFormat::Combined),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("'{text}' is neither combined nor json")),
    }
}

/// `error`, `warn`, `info` or `debug`.
pub fn log_level(text: &str) -> Result<LevelFilter, String> {
    match text {
        "error" => Ok(LevelFilter::Error),
        "warn" => Ok(LevelFilter::Warn),
        "info" => Ok(LevelFilter::Info),
        "debug" => Ok(LevelFilter::Debug),
        _ => Err(format!("'{text}' is none of error, warn, info, debug")),
    }
}

/// `text` or `json`: whether it is the second.
pub fn is_json(text: &str) -> Result<bool, String> {
    match text {
        "text" => Ok(false),
        "json" => Ok(true),
        _ => Err(format!("'{text}' is neither text nor json")),
    }
}

/// `writes`, `errors`, `slow`, with commas between them.
pub fn wanted(text: &str) -> Result<Wanted, String> {
    let mut wanted = Wanted::default();
    for word in text.split(',').map(str::trim) {
        match word {
            "writes" => wanted.writes = true,
            "errors" => wanted.errors = true,
            "slow" => wanted.slow = true,
            _ => return Err(format!("'{word}' is none of writes, errors, slow")),
        }
    }
    Ok(wanted)
}

/// A [`switch`] that stands alone when it is on.
pub fn lone_switch(text: &str) -> Result<bool, String> {
    if text.is_empty() { Ok(true) } else { switch(text) }
}

/// `perlbal` or `none`.
pub fn server(text: &str) -> Result<Server, String> {
    match text {
        "perlbal" => Ok(Server::Http),
        "none" => Ok(Server::None),
        _ => Err(format!("'server = {text}' not understood by rmogstored")),
    }
}

/// A path that a configuration file can hold, so that `--check-config` can print every
/// configuration.
pub fn path(text: &str) -> Result<PathBuf, String> {
    if text.contains(|c: char| c == '#' || c.is_control()) || text.trim() != text {
        return Err(format!(
            "'{}': '#' and control characters cannot be used",
            text.escape_debug()
        ));
    }
    Ok(PathBuf::from(text))
}

/// A path for a Unix socket: `sun_path` has room for 107 bytes, of which an upgrade needs four.
pub fn socket_path(text: &str) -> Result<PathBuf, String> {
    if text.len() > 103 {
        return Err(format!("'{text}' is longer than the 103 bytes it may have"));
    }
    path(text)
}

/// A name of a user or group; whether there is one is looked up elsewhere.
pub fn name(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

/// A descriptor that this process was started with.
pub fn descriptor(text: &str) -> Result<i32, String> {
    let fd = number(text, 0..=i32::MAX as usize)?;
    let table = Path::new("/proc/self/fd");
    if table.is_dir() && table.join(fd.to_string()).symlink_metadata().is_err() {
        return Err(format!("descriptor {fd} is not open"));
    }
    i32::try_from(fd).map_err(|e| e.to_string())
}

fn socket_address(text: &str) -> Option<SocketAddr> {
    let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let (ip, port) = match text.rsplit_once(':') {
        None => (any, text),
        Some(("", port)) => (any, port),
        Some((ip, port)) => (ip_address(ip)?, port),
    };
    Some(SocketAddr::new(ip, u16::try_from(digits(port)?).ok()?))
}

fn ip_address(text: &str) -> Option<IpAddr> {
    match text.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

fn scaled(text: &str) -> Option<Duration> {
    let end = text.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let unit: u128 = match suffix {
        "ms" => 1_000_000,
        "" | "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if fraction.is_empty() || fraction.len() > 9 {
        return None;
    }
    let scale = 10u128.pow(u32::try_from(fraction.len()).ok()?);
    let nanos = digits(whole)? as u128 * unit + digits(fraction)? as u128 * unit / scale;
    let duration =
        Duration::new(u64::try_from(nanos / 1_000_000_000).ok()?, (nanos % 1_000_000_000) as u32);
    (duration <= Duration::from_secs(LONGEST)).then_some(duration)
}

/// Stricter than `parse`, which takes a leading `+`.
fn digits(text: &str) -> Option<usize> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_form_of_an_address_is_read() {
        for (text, meant) in [
            ("127.0.0.1:7500", "127.0.0.1:7500"),
            (":7501", "0.0.0.0:7501"),
            ("7500", "0.0.0.0:7500"),
            ("0", "0.0.0.0:0"),
            ("[::1]:65535", "[::1]:65535"),
            ("[::]:7500", "[::]:7500"),
        ] {
            assert_eq!(address(text), Ok(meant.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_by_name() {
        for text in [
            "",
            ":",
            "1.2.3.4",
            "1.2.3.4:",
            "localhost:7500",
            "1.2.3.4:65536",
            "1.2.3.4:+1",
            "::1:7500",
            "[::1]",
            "[1.2.3.4]:80",
            "[::1:80",
            "1.2.3:80",
            "1.2.3.4:80 ",
            "-1",
            "99999999999999999999",
        ] {
            let error = address(text).unwrap_err();
            assert!(error.starts_with(&format!("'{text}' is not an address")), "{error}");
        }
    }

    #[test]
    fn addresses_that_nobody_can_connect_to_are_refused_with_the_reason() {
        let told = |text| address(text).unwrap_err();
        let meant = "'[::ffff:127.0.0.1]:7500' is an IPv4 address: write 127.0.0.1:7500";
        assert_eq!(told("[::ffff:127.0.0.1]:7500"), meant);
        for text in ["224.0.0.1:80", "255.255.255.255:80", "[ff02::1]:80"] {
            assert!(told(text).contains("the address of many"), "{text}");
        }
        assert!(told("1.2.3.4:80\0").starts_with("'1.2.3.4:80\\0' is not an address"));
    }

    #[test]
    fn durations_have_decimals_and_suffixes() {
        for (text, millis) in [
            ("60", 60_000),
            ("0", 0),
            ("0.5", 500),
            ("500ms", 500),
            ("1.5s", 1_500),
            ("10m", 600_000),
            ("0.25h", 900_000),
            ("007", 7_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(duration("0.000000001"), Ok(Duration::from_nanos(1)));
        assert_eq!(duration("1000000000"), Ok(Duration::from_secs(LONGEST)));
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in [
            "",
            "s",
            ".",
            ".5",
            "5.",
            "1..2",
            "1.2.3",
            "-1",
            "+1",
            "1d",
            "1 s",
            "1e3",
            "1S",
            "1000000001",
            "300000h",
            "0.0000000001",
            "99999999999999999999999",
            "ms",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert_eq!(positive_duration("0"), Err("'0' must be more than 0".into()));
    }

    #[test]
    fn numbers_stay_in_their_range() {
        assert_eq!(number("10", 1..=100), Ok(10));
        for text in ["0", "101", "", "1x", "+1", " 1", "1.0", "99999999999999999999999"] {
            let meant = format!("'{text}' is not a number from 1 to 100");
            assert_eq!(number(text, 1..=100), Err(meant));
        }
    }

    #[test]
    fn workers_are_a_word_or_a_number() {
        assert_eq!(workers("device"), Ok(Workers::Device));
        assert_eq!(workers("cpu"), Ok(Workers::Cpu));
        assert_eq!(workers("3"), Ok(Workers::Count(3)));
        for text in ["0", "513", "Device", "", "many"] {
            assert!(workers(text).is_err(), "{text}");
        }
        assert_eq!(worker_processes("0"), Ok(Workers::Count(1)));
        assert_eq!(worker_processes("2"), Ok(Workers::Count(2)));
        assert!(worker_processes("cpu").is_err());
    }

    #[test]
    fn server_is_perlbal_or_none() {
        assert_eq!(server("perlbal"), Ok(Server::Http));
        assert_eq!(server("none"), Ok(Server::None));
        let refusal = "'server = apache' not understood by rmogstored";
        assert_eq!(server("apache"), Err(refusal.into()));
    }

    #[test]
    fn switches_are_on_or_off() {
        assert_eq!(
            ["1", "yes", "On", "TRUE"].map(switch),
            [Ok(true), Ok(true), Ok(true), Ok(true)]
        );
        assert_eq!(["0", "no", "off", "false"].map(switch), [const { Ok(false) }; 4]);
        assert!(switch("2").is_err());
    }

    #[test]
    fn logs_go_to_a_file_or_to_the_syslog_with_lines_of_what_is_wanted() {
        assert_eq!(log_target("off"), Ok(None));
        assert_eq!(log_target("syslog"), Ok(Some(LogTarget::Syslog)));
        assert_eq!(log_target("/l"), Ok(Some(LogTarget::File("/l".into()))));
        assert_eq!(log_level("warn"), Ok(LevelFilter::Warn));
        assert!(log_level("trace").is_err() && log_level("").is_err());
        assert_eq!((is_json("text"), is_json("json")), (Ok(false), Ok(true)));
        assert!(log_target("/a#b").is_err() && log_format("common").is_err());
        let both = Wanted { writes: true, errors: true, slow: false };
        assert_eq!(wanted("writes, errors"), Ok(both));
        for text in ["", "all", "writes,,slow", "Writes"] {
            assert!(wanted(text).unwrap_err().contains("none of writes, errors, slow"), "{text}");
        }
    }

    #[test]
    fn paths_that_a_file_cannot_hold_are_refused() {
        assert_eq!(path("/a b"), Ok("/a b".into()));
        for text in ["/a#b", "/a\nb", " /a", "/a\t"] {
            assert!(path(text).is_err(), "{text:?}");
        }
        assert!(socket_path(&"x".repeat(103)).is_ok());
        assert!(socket_path(&"x".repeat(104)).is_err());
    }

    #[test]
    fn a_descriptor_must_be_open() {
        use std::os::fd::AsRawFd;
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(descriptor(&file.as_raw_fd().to_string()), Ok(file.as_raw_fd()));
        assert_eq!(descriptor("1000000"), Err("descriptor 1000000 is not open".into()));
        assert!(descriptor("-1").is_err());
    }

    proptest! {
        #[test]
        fn any_socket_address_is_read_as_std_prints_it(v6: bool, ip: u128, port: u16) {
            let ip = if v6 { IpAddr::V6(ip.into()) } else { IpAddr::V4((ip as u32).into()) };
            let meant = SocketAddr::new(ip, port);
            let of_many = ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST);
            prop_assume!(!of_many && ip.to_canonical() == ip);
            prop_assert_eq!(address(&meant.to_string()), Ok(meant));
        }

        #[test]
        fn values_of_any_text_never_panic(text in "\\PC*") {
            let _ = (address(&text), duration(&text), number(&text, 0..=9), path(&text));
            let _ = (workers(&text), switch(&text), server(&text), socket_path(&text));
        }

        #[test]
        fn durations_agree_with_the_reckoning_in_milliseconds(ms in 0u64..10_000_000) {
            let meant = Ok(Duration::from_millis(ms));
            prop_assert_eq!(duration(&format!("{ms}ms")), meant.clone());
            prop_assert_eq!(duration(&format!("{}.{:03}", ms / 1000, ms % 1000)), meant);
        }
    }
}
