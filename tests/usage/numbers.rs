//! The numbers of usage files and those of df(1), taken apart.

use std::collections::HashMap;

use crate::harness::{Node, until, until_some};

const KEYS: [&str; 7] = ["available", "device", "disk", "time", "total", "use", "used"];

/// The seven lines, taken apart.
pub(super) struct Usage(HashMap<String, String>);

impl Usage {
    /// Insists on everything that can be told from the text alone.
    pub(super) fn parse(text: &str) -> Usage {
        let lines: Vec<&str> = text.split_terminator('\n').collect();
        assert!(text.ends_with('\n'), "{text:?}");
        let pairs = lines.iter().map(|line| line.split_once(": "));
        let pairs: Option<Vec<(&str, &str)>> = pairs.collect();
        let pairs = pairs.unwrap_or_else(|| panic!("not KEY: VALUE: {text:?}"));
        let keys: Vec<&str> = pairs.iter().map(|(key, _)| *key).collect();
        assert_eq!(keys, KEYS, "{text:?}");
        let owned = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        let usage = Usage(pairs.into_iter().map(owned).collect());
        let (total, used) = (usage.number("total"), usage.number("used"));
        assert!(used > 0 && total == used + usage.number("available"), "{text:?}");
        assert_eq!(usage.get("use"), format!("{}%", (used * 100).div_ceil(total)), "{text:?}");
        usage
    }

    pub(super) fn get(&self, key: &str) -> &str {
        &self.0[key]
    }

    pub(super) fn number(&self, key: &str) -> u64 {
        let value = self.get(key);
        value.parse().unwrap_or_else(|_| panic!("{key} is {value:?}"))
    }
}

/// The usage file's text over HTTP, once there has been a first look.
pub(super) fn usage_text(node: &Node, device: &str) -> String {
    let mut client = node.client();
    let text = until_some("a first look", || {
        let answer = client.get(&format!("{device}/usage"));
        (answer.status == 200).then_some(answer.body)
    });
    String::from_utf8(text).unwrap()
}

pub(super) fn usage_of(node: &Node, device: &str) -> Usage {
    Usage::parse(&usage_text(node, device))
}

/// A look at the disk that began after this call.
pub(super) fn fresh_usage(node: &Node, device: &str) -> Usage {
    later_usage(node, device, 2)
}

/// The numbers once their time has moved on by so many seconds.
pub(super) fn later_usage(node: &Node, device: &str, seconds: u64) -> Usage {
    let first = usage_of(node, device).number("time");
    until_some("a later look", || {
        let usage = usage_of(node, device);
        (usage.number("time") >= first + seconds).then_some(usage)
    })
}

/// A line of `df -P -k`.
pub(super) struct Df {
    pub(super) device: String,
    numbers: HashMap<&'static str, u64>,
    pub(super) per_cent: String,
}

impl Df {
    pub(super) fn number(&self, key: &str) -> u64 {
        self.numbers[key]
    }
}

pub(super) fn df_line(node: &Node, device: &str) -> String {
    format!("df -P -k {}", node.file(device).display())
}

/// Filesystem, 1024-blocks, Used, Available, Capacity, Mounted on.
pub(super) fn df(output: &str) -> Df {
    let fields: Vec<&str> = output.lines().nth(1).unwrap().split_whitespace().collect();
    let number = |at: usize| fields[at].parse().unwrap();
    Df {
        device: fields[0].to_owned(),
        numbers: HashMap::from([("used", number(2)), ("available", number(3))]),
        per_cent: fields[4].to_owned(),
    }
}

/// The filesystem is at rest but for the usage file itself, whose size does not change.
pub(super) fn equals_df(node: &Node, device: &str) {
    until("what df says", || {
        let usage = fresh_usage(node, device);
        let theirs = df(&node.in_its_mounts(&format!("df -P -k {{dir}}{device}")).unwrap());
        let numbers = ["used", "available"].map(|key| usage.number(key) == theirs.number(key));
        let same = numbers == [true, true];
        assert!(!same || usage.get("use") == theirs.per_cent, "{:?}", usage.0);
        same
    });
}
