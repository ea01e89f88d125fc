//! What is measured, and what is aimed at.

use crate::corpus::{HUGE, LARGE, MANY, MEDIUM, SMALL, Set};

/// Our name in the tables.
pub const OURS: &str = "rmogstored";
/// Another build of ours.
pub const BASELINE: &str = "baseline";
/// The usual peer.
pub const NGINX: &str = "nginx";
/// The part of the scaling benchmark with connections that do nothing.
pub const IDLE_ONES: &str = "idle";
/// The part of the scaling benchmark with millions of files.
pub const FILES_ONES: &str = "files";
/// The parts of the scaling benchmark; the first ones by their number of devices.
pub const PARTS: [&str; 6] = ["workers-1", "workers-8", "workers-36", NGINX, IDLE_ONES, FILES_ONES];
/// What a PUT of 1 MiB and OpenSSL's MD5 of as much cost together.
pub const PUT_AND_OPENSSL: &str = "PUT + openssl";
/// Our own PUT without a digest, in the case that checks one.
pub const PLAIN_PUT: &str = "own plain PUT";
/// `openssl dgst -md5`.
pub const OPENSSL: &str = "openssl";

/// A line of the table.
#[derive(Debug)]
pub struct Case {
    /// What `--only` calls it.
    pub name: &'static str,
    /// What it is, in words.
    pub title: &'static str,
    /// What its numbers are.
    pub unit: Unit,
    /// What is done.
    pub kind: Kind,
    /// Connections of the load.
    pub connections: usize,
    /// What is aimed at.
    pub goals: &'static [Goal],
}

/// What a number is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Processor time in microseconds by requests.
    MicrosEach,
    /// Processor time in milliseconds by 10^9 bytes.
    MillisPerGb,
    /// Memory in bytes by connections.
    Bytes,
    /// Elapsed microseconds.
    Latency,
}

/// What is done.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// GET.
    Get(Set),
    /// HEAD.
    Head(Set),
    /// GET of what is not there.
    Miss,
    /// GET over a connection of its own.
    GetOnce(Set),
    /// PUT of files of this size.
    Put(usize),
    /// The same with Content-MD5.
    PutDigest(usize),
    /// PUT, then DELETE.
    PutDelete(usize),
    /// `size` on the sidechannel.
    Size,
    /// `MD5` on the sidechannel.
    Digest(Set),
    /// Connections that do nothing.
    Idle,
    /// GETs at a fixed rate beside large transfers.
    Steady,
    /// GETs as many as can be.
    Full,
}

/// What a ratio, or a number, must not exceed.
#[derive(Debug, Clone, Copy)]
pub enum Goal {
    /// Ours by this server's.
    Of(&'static str, f64),
    /// Ours by the best peer's.
    OfBest(f64),
    /// Ours itself.
    AtMost(f64),
}

impl Unit {
    /// As the table shows it.
    pub fn name(self) -> &'static str {
        match self {
            Unit::MicrosEach => "µs CPU per request",
            Unit::MillisPerGb => "ms CPU per GB",
            Unit::Bytes => "bytes per connection",
            Unit::Latency => "µs",
        }
    }
}

impl Kind {
    /// It writes to the disk: such cases are run after all others.
    pub fn writes(self) -> bool {
        matches!(self, Kind::Put(_) | Kind::PutDigest(_) | Kind::PutDelete(_) | Kind::Steady)
    }
}

/// All of them, in the order in which they are run.
pub const CASES: &[Case] = &[
    Case {
        name: "get4k",
        title: "GET 4 KiB",
        unit: Unit::MicrosEach,
        kind: Kind::Get(SMALL),
        connections: 32,
        goals: &[Goal::Of(NGINX, 0.75), Goal::OfBest(0.9)],
    },
    Case {
        name: "many4k",
        title: "GET 4 KiB, 100,000 files",
        unit: Unit::MicrosEach,
        kind: Kind::Get(MANY),
        connections: 32,
        goals: &[Goal::Of(NGINX, 0.8)],
    },
    Case {
        name: "head4k",
        title: "HEAD 4 KiB",
        unit: Unit::MicrosEach,
        kind: Kind::Head(SMALL),
        connections: 32,
        goals: &[Goal::Of(NGINX, 0.75)],
    },
    Case {
        name: "get404",
        title: "GET, 404",
        unit: Unit::MicrosEach,
        kind: Kind::Miss,
        connections: 32,
        goals: &[Goal::Of(NGINX, 0.85)],
    },
    Case {
        name: "getconn",
        title: "GET 4 KiB, a connection each",
        unit: Unit::MicrosEach,
        kind: Kind::GetOnce(SMALL),
        connections: 32,
        goals: &[Goal::Of(NGINX, 0.95)],
    },
    Case {
        name: "get64k",
        title: "GET 64 KiB",
        unit: Unit::MillisPerGb,
        kind: Kind::Get(MEDIUM),
        connections: 16,
        goals: &[Goal::Of(NGINX, 0.9)],
    },
    Case {
        name: "get1m",
        title: "GET 1 MiB",
        unit: Unit::MillisPerGb,
        kind: Kind::Get(LARGE),
        connections: 8,
        goals: &[Goal::Of(NGINX, 0.8)],
    },
    Case {
        name: "get64m",
        title: "GET 64 MiB",
        unit: Unit::MillisPerGb,
        kind: Kind::Get(HUGE),
        connections: 4,
        goals: &[Goal::Of(NGINX, 1.0)],
    },
    Case {
        name: "size",
        title: "sidechannel size",
        unit: Unit::MicrosEach,
        kind: Kind::Size,
        connections: 32,
        goals: &[Goal::Of("cmogstored", 0.8)],
    },
    Case {
        name: "md5",
        title: "sidechannel MD5",
        unit: Unit::MillisPerGb,
        kind: Kind::Digest(HUGE),
        connections: 1,
        goals: &[Goal::Of(OPENSSL, 1.05)],
    },
    Case {
        name: "idle",
        title: "memory of an idle connection",
        unit: Unit::Bytes,
        kind: Kind::Idle,
        connections: 10_000,
        goals: &[Goal::AtMost(200.0)],
    },
    Case {
        name: "p999",
        title: "p99.9 of GET 4 KiB at full load",
        unit: Unit::Latency,
        kind: Kind::Full,
        connections: 64,
        goals: &[Goal::Of(NGINX, 1.0)],
    },
    Case {
        name: "put4k",
        title: "PUT 4 KiB",
        unit: Unit::MicrosEach,
        kind: Kind::Put(4 << 10),
        connections: 32,
        goals: &[Goal::Of(NGINX, 0.8)],
    },
    Case {
        name: "put1m",
        title: "PUT 1 MiB",
        unit: Unit::MillisPerGb,
        kind: Kind::Put(1 << 20),
        connections: 8,
        goals: &[Goal::Of(NGINX, 0.8)],
    },
    Case {
        name: "put1m-md5",
        title: "PUT 1 MiB, Content-MD5 verified",
        unit: Unit::MillisPerGb,
        kind: Kind::PutDigest(1 << 20),
        connections: 8,
        goals: &[Goal::Of("cmogstored", 0.75), Goal::Of(PUT_AND_OPENSSL, 1.1)],
    },
    Case {
        name: "put64m",
        title: "PUT 64 MiB",
        unit: Unit::MillisPerGb,
        kind: Kind::Put(64 << 20),
        connections: 4,
        goals: &[Goal::Of(NGINX, 0.9)],
    },
    Case {
        name: "putdel",
        title: "PUT + DELETE 4 KiB",
        unit: Unit::MicrosEach,
        kind: Kind::PutDelete(4 << 10),
        connections: 32,
        goals: &[Goal::Of(NGINX, 0.8)],
    },
    Case {
        name: "p99",
        title: "p99 of steady GET 4 KiB beside 4 big GETs and 4 big PUTs",
        unit: Unit::Latency,
        kind: Kind::Steady,
        connections: 8,
        goals: &[Goal::Of(NGINX, 0.8)],
    },
];
