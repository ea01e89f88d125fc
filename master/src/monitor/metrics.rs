//! What the monitor knows as metrics: <https://prometheus.io/docs/practices/naming/>. Base units,
//! and the numbers of the moment in which they are asked for.

use std::fmt;
use std::sync::atomic::Ordering::Relaxed;
use std::time::UNIX_EPOCH;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, prometheus_text, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use rmogstored_worker::scoreboard::{DeviceSlot, Totals, WorkerState};
use rmogstored_worker::spec::DeviceKey;

use super::accept::Format;
use super::facts::Facts;
use crate::report::live::age_ms;
use crate::supervise::device_health::Trouble;

/// The text, whole.
pub(super) fn text(facts: &Facts, format: Format) -> String {
    let mut registry = Registry::with_prefix("rmogstored");
    registry.register_collector(Box::new(Snapshot::of(facts)));
    let mut text = String::new();
    let encoded = match format {
        Format::Prometheus => prometheus_text::encode(&mut text, &registry),
        Format::OpenMetrics => text::encode(&mut text, &registry),
    };
    if let Err(e) = encoded {
        log::error!("monitor: metrics: {e}");
    }
    text
}

/// One family, without its name's prefix.
#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
    samples: Samples,
}

/// Its samples with their labels.
#[derive(Debug)]
enum Samples {
    Counter(Vec<(Labels, u64)>),
    Gauge(Vec<(Labels, f64)>),
    Info(Labels),
}

type Labels = Vec<(&'static str, String)>;

/// All of one moment.
#[derive(Debug)]
struct Snapshot(Vec<Family>);

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        self.0.iter().try_for_each(|family| family.encode(&mut encoder))
    }
}

impl Family {
    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let kind = match &self.samples {
            Samples::Counter(_) => MetricType::Counter,
            Samples::Gauge(_) => MetricType::Gauge,
            Samples::Info(_) => MetricType::Info,
        };
        let unit = self.unit.as_ref();
        let mut family = encoder.encode_descriptor(self.name, self.help, unit, kind)?;
        match &self.samples {
            Samples::Counter(samples) => {
                for (labels, value) in samples {
                    let mut metric = family.encode_family(labels)?;
                    metric.encode_counter::<NoLabelSet, _, u64>(value, None)?;
                }
            }
            Samples::Gauge(samples) => {
                for (labels, value) in samples {
                    family.encode_family(labels)?.encode_gauge(value)?;
                }
            }
            Samples::Info(labels) => family.encode_info(labels)?,
        }
        Ok(())
    }
}

impl Snapshot {
    fn of(facts: &Facts) -> Snapshot {
        let mut all = Snapshot(Vec::new());
        all.node(facts);
        all.totals(&facts.totals());
        all.workers(facts);
        all.devices(facts);
        all
    }

    fn add(&mut self, name: &'static str, help: &'static str, unit: Option<Unit>, of: Samples) {
        self.0.push(Family { name, help, unit, samples: of });
    }

    fn node(&mut self, facts: &Facts) {
        let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
        self.add("build", "What runs here.", None, Samples::Info(version));
        let started = facts.started().duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = || Some(Unit::Seconds);
        let started = Samples::one(started.as_secs_f64());
        self.add("start_time", "When the master started, since 1970.", seconds(), started);
        let silence = Samples::one(facts.silence().as_secs_f64());
        let help = "Time since the master last spoke to the monitor, as it does each second.";
        self.add("master_silence", help, seconds(), silence);
        let Some(said) = facts.said() else { return };
        let states = ["starting", "running", "resting", "draining"];
        let state = Samples::set("state", &states, Vec::new(), &said.state);
        self.add("node_state", "1 for the state that the node is in.", None, state);
        let generation = Samples::one(said.generation.into());
        self.add("generation", "Counts reloads and upgrades, from 1.", None, generation);
        let successor = Samples::one(said.upgrade.successor.is_some().into());
        self.add("upgrade_running", "1 while there is a successor.", None, successor);
        let failures = Samples::count(said.upgrade.failures.into());
        self.add("upgrade_failures", "Upgrades that failed, of this master.", None, failures);
    }

    fn totals(&mut self, totals: &Totals) {
        let mut counter = |name, help, unit, value| {
            self.add(name, help, unit, Samples::count(value));
        };
        let bytes = || Some(Unit::Bytes);
        let help = "Requests answered, sidechannel lines included.";
        counter("requests", help, None, totals.requests);
        counter("errors", "Answers of class 5xx, and ERROR lines.", None, totals.errors);
        counter("connections_accepted", "Connections accepted.", None, totals.accepted);
        let help = "Connections handed to another worker.";
        counter("connections_handed_over", help, None, totals.handed_over);
        counter("received", "Bytes of bodies received.", bytes(), totals.bytes_in);
        counter("sent", "Bytes of bodies sent.", bytes(), totals.bytes_out);
        let help = "Lines of the access log that could not be written.";
        counter("accesslog_lines_lost", help, None, totals.accesslog_lost);
        counter("loop_wakeups", "Times a worker's loop woke up.", None, totals.wakeups);
        let help = "Times a worker was replaced after a crash.";
        counter("worker_respawns", help, None, totals.restarts);
    }

    fn workers(&mut self, facts: &Facts) {
        let live: Vec<_> = facts.board().live_workers().collect();
        let gauge = |of: &dyn Fn(usize) -> Option<f64>| {
            let value =
                |index: usize| Some((vec![("worker", live[index].0.to_string())], of(index)?));
            Samples::Gauge((0..live.len()).filter_map(value).collect())
        };
        let connections = gauge(&|n| Some(live[n].1.connections.load(Relaxed).into()));
        let watchers = gauge(&|n| Some(live[n].1.watchers.load(Relaxed).into()));
        let age = |n: usize| Some(age_ms(live[n].1.heartbeat.load(Relaxed))? as f64 / 1000.0);
        let heartbeats = gauge(&age);
        let count = |wanted| live.iter().filter(|(_, slot)| slot.state() == wanted).count() as f64;
        let states = [
            ("starting", WorkerState::Starting),
            ("running", WorkerState::Running),
            ("draining", WorkerState::Draining),
        ];
        let states = states.map(|(name, state)| (vec![("state", name.to_owned())], count(state)));
        self.add("workers", "Workers by state.", None, Samples::Gauge(states.into()));
        self.add("worker_connections", "Connections that a worker holds.", None, connections);
        let help = "Connections of a worker that watch the disk load.";
        self.add("worker_watchers", help, None, watchers);
        let help = "Time since a worker's loop last went round.";
        self.add("worker_heartbeat_age", help, Some(Unit::Seconds), heartbeats);
    }

    fn devices(&mut self, facts: &Facts) {
        let devices = facts.board().devices();
        let devices: Vec<Device<'_>> = devices
            .into_iter()
            .filter(|(key, _)| key.devid != 0)
            .map(|(key, slot)| Device { key, slot, facts })
            .collect();
        let states: Vec<_> = devices.iter().flat_map(Device::states).collect();
        let help = "1 for the worst of what is wrong with a device, or ok.";
        self.add("device_state", help, None, Samples::Gauge(states));
        for (name, help, unit, of) in DEVICE_GAUGES {
            let samples = devices.iter().filter_map(|d| Some((d.labels(), of(d.slot)?)));
            self.add(name, help, unit(), Samples::Gauge(samples.collect()));
        }
        let errors = devices.iter().flat_map(Device::errors).collect();
        let help = "What could not be read or written, and answers that told of a full disk.";
        self.add("device_errors", help, None, Samples::Counter(errors));
        let of = |of: fn(&DeviceSlot) -> u64| {
            Samples::Counter(devices.iter().map(|d| (d.labels(), of(d.slot))).collect())
        };
        let answers = of(|slot| slot.faults.counts().errors);
        let help = "Answers of class 5xx that a device was asked for.";
        self.add("device_failed_requests", help, None, answers);
        let stalls = of(|slot| slot.faults.counts().stalls);
        self.add("device_stalls", "Times a device has stalled.", None, stalls);
    }
}

type DeviceGauge =
    (&'static str, &'static str, fn() -> Option<Unit>, fn(&DeviceSlot) -> Option<f64>);

const fn bytes() -> Option<Unit> {
    Some(Unit::Bytes)
}

const DEVICE_GAUGES: [DeviceGauge; 8] = [
    ("device_size", "What users may use in all.", bytes, |slot| {
        Some(slot.usage()?.total as f64 * 1024.0)
    }),
    ("device_used", "What is used of it.", bytes, |slot| Some(slot.usage()?.used as f64 * 1024.0)),
    ("device_available", "What is free for users.", bytes, |slot| {
        Some(slot.usage()?.available as f64 * 1024.0)
    }),
    (
        "device_inodes",
        "Inodes in all, where their number is fixed.",
        || None,
        |slot| inodes(slot, slot.inodes.load(Relaxed)),
    ),
    (
        "device_inodes_free",
        "Inodes that are free for users.",
        || None,
        |slot| inodes(slot, slot.free_inodes.load(Relaxed)),
    ),
    (
        "device_busy",
        "How busy its disk was in the last interval.",
        || Some(Unit::Other("ratio".to_owned())),
        |slot| Some(f64::from(slot.busy()?) / 10_000.0),
    ),
    (
        "device_operations_in_flight",
        "Disk operations that wait or run.",
        || None,
        |slot| Some(slot.in_flight.load(Relaxed).into()),
    ),
    (
        "device_oldest_operation",
        "Age of the oldest that runs.",
        || Some(Unit::Seconds),
        |slot| Some(slot.oldest_ms.load(Relaxed) as f64 / 1000.0),
    ),
];

fn inodes(slot: &DeviceSlot, number: u64) -> Option<f64> {
    slot.usage()?;
    (slot.inodes.load(Relaxed) > 0).then_some(number as f64)
}

/// One device.
struct Device<'a> {
    key: DeviceKey,
    slot: &'a DeviceSlot,
    facts: &'a Facts,
}

impl Device<'_> {
    fn labels(&self) -> Labels {
        let docroot = self.facts.docroot(self.key.site).to_owned();
        vec![("device", self.key.to_string()), ("docroot", docroot)]
    }

    fn states(&self) -> Vec<(Labels, f64)> {
        let names: Vec<&str> = ["ok"].into_iter().chain(Trouble::ALL.map(Trouble::name)).collect();
        let state = self.facts.troubles(self.key).first().map_or("ok", |trouble| trouble.name());
        match Samples::set("state", &names, self.labels(), state) {
            Samples::Gauge(samples) => samples,
            _ => Vec::new(),
        }
    }

    fn errors(&self) -> Vec<(Labels, u64)> {
        let faults = self.slot.faults.counts();
        let kinds = [
            ("read", faults.read_errors),
            ("write", faults.write_errors),
            ("no_space", faults.no_space),
        ];
        let labelled = |(kind, count): (&str, u64)| {
            let mut labels = self.labels();
            labels.push(("kind", kind.to_owned()));
            (labels, count)
        };
        kinds.map(labelled).into()
    }
}

impl Samples {
    fn one(value: f64) -> Samples {
        Samples::Gauge(vec![(Vec::new(), value)])
    }

    fn count(value: u64) -> Samples {
        Samples::Counter(vec![(Vec::new(), value)])
    }

    /// A gauge for each of several names, of which one is true.
    fn set(label: &'static str, names: &[&str], labels: Labels, is: &str) -> Samples {
        let one = |name: &&str| {
            let mut labels = labels.clone();
            labels.push((label, (*name).to_owned()));
            (labels, f64::from(u8::from(*name == is)))
        };
        Samples::Gauge(names.iter().map(one).collect())
    }
}
