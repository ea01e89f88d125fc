//! What a configuration prints loads as the same one, whatever it is.

use super::*;
use crate::config::{ListenerConfig, LogConfig, SiteConfig};
use log::LevelFilter;
use proptest::prelude::*;
use rmogstored_worker::spec::{AccessSettings, LogFormat, LogTarget, Wanted};

fn duration() -> impl Strategy<Value = Duration> {
    (0u64..1_000_000, 0u32..1_000_000_000).prop_map(|(s, ns)| Duration::new(s, ns))
}

fn positive() -> impl Strategy<Value = Duration> {
    duration().prop_map(|d| d.max(Duration::from_nanos(1)))
}

fn settings() -> impl Strategy<Value = Settings> {
    let durations = (positive(), positive(), duration(), positive(), duration());
    (1..20_000usize, durations, 1..=100usize, 1..5000usize, prop::option::of(accesslog())).prop_map(
        |(maxconns, (header, body, idle, stall, drain), aio_threads, max_queue, accesslog)| {
            Settings {
                maxconns,
                header_timeout: header,
                body_timeout: body,
                idle_timeout: idle,
                stall_timeout: stall,
                drain_timeout: drain,
                aio_threads,
                max_queue,
                fsync: Default::default(),
                accesslog,
                slow_log: header,
            }
        },
    )
}

fn accesslog() -> impl Strategy<Value = AccessSettings> {
    let target = prop_oneof![Just(LogTarget::Syslog), Just(LogTarget::File("/tmp/a b".into()))];
    let format = prop_oneof![Just(LogFormat::Combined), Just(LogFormat::Json)];
    let only = any::<(bool, bool, bool)>();
    let only = only.prop_map(|(writes, errors, slow)| Wanted { writes, errors, slow });
    (target, format, only).prop_map(|(target, format, only)| AccessSettings {
        target,
        format,
        only,
    })
}

/// Distinct addresses, one to three of them; the print keeps them in the order of writing.
fn listeners(first_port: u16) -> impl Strategy<Value = Vec<ListenerConfig>> {
    let ip = prop_oneof![
        any::<u32>().prop_map(|ip| std::net::IpAddr::V4(ip.into())),
        any::<u128>().prop_map(|ip| std::net::IpAddr::V6(ip.into()))
    ];
    let ip = ip.prop_filter("an address of one", |ip| {
        !ip.is_multicast() && ip.to_canonical() == *ip && ip.to_string() != "255.255.255.255"
    });
    let one = (0..3usize, ip);
    prop::collection::vec(one, 1..4).prop_map(move |list| {
        let mut list: Vec<_> = list
            .into_iter()
            .zip(first_port..)
            .map(|((service, ip), port)| {
                let service = [Service::Http, Service::HttpGet, Service::Mgmt][service];
                ListenerConfig { service, address: (ip, port).into() }
            })
            .collect();
        list.sort_by_key(|l| l.service as u8);
        list
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn what_is_printed_loads_as_the_same_configuration(
        settings in settings(),
        first in listeners(1000),
        second in prop::option::of(listeners(2000)),
        workers in prop_oneof![
            Just(Workers::Device), Just(Workers::Cpu), (1..=512usize).prop_map(Workers::Count)
        ],
        (pidfile, status_socket, status_fd, daemonize) in any::<(bool, bool, bool, bool)>(),
        require_mount in any::<bool>(),
    ) {
        let mut case = case();
        let dir = case.dir.path().to_owned();
        let mut sites = vec![SiteConfig { docroot: dir.join("root"), require_mount, listeners: first }];
        sites.extend(second.map(|listeners| SiteConfig { docroot: dir.clone(), require_mount: !require_mount, listeners }));
        let config = Config {
            sites,
            workers,
            settings,
            pidfile: pidfile.then(|| dir.join("pid")),
            log: LogConfig {
                level: if daemonize { LevelFilter::Debug } else { LevelFilter::Error },
                json: pidfile,
                file: require_mount.then(|| "/tmp/a log".into()),
            },
            identity: None,
            upgrade_timeout: Duration::from_millis(1500),
            daemonize,
            status_fd: status_fd.then_some(1),
            status_socket: status_socket.then(|| "/tmp/a b".into()),
            status_listen: status_socket.then(|| ([127, 0, 0, 1], 7502).into()),
        };
        let printed = config.to_string();
        for (index, text) in printed.split("\n# ").enumerate() {
            // The rest of the comment line is no setting.
            let text = if index == 0 { text.into() } else { format!("# {text}") };
            case = case.file(&index.to_string(), &text);
        }
        case.options.multi = config.sites.len() > 1;
        let loaded = load(&case.options).unwrap();
        prop_assert_eq!(loaded.config, config);
        prop_assert_eq!(loaded.warnings, vec![]);
    }
}
