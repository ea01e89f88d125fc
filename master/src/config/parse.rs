//! The keys, and the grammar of a configuration file: `key = value` lines, `#` comments.

use std::path::Path;

use super::problem::{Origin, Problem};

/// A setting that can be written in a file, and most of them as an option too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "named and explained in PROTOCOL.md section 6 and --help")]
pub enum Key {
    Accesslog,
    AccesslogFormat,
    AccesslogOnly,
    AioThreads,
    BodyTimeout,
    Daemonize,
    Docroot,
    DrainTimeout,
    Fsync,
    Group,
    HeaderTimeout,
    Httpgetlisten,
    Httplisten,
    IdleTimeout,
    Iostat,
    Logfile,
    Logformat,
    Loglevel,
    MaxQueue,
    Maxconns,
    Mgmtlisten,
    Pidfile,
    RequireMount,
    Server,
    Serverbin,
    SlowLog,
    StallTimeout,
    StatusFd,
    StatusSocket,
    Statuslisten,
    UpgradeTimeout,
    User,
    WorkerProcesses,
    Workers,
}

const NAMES: [(Key, &str); 34] = [
    (Key::Accesslog, "accesslog"),
    (Key::AccesslogFormat, "accesslog_format"),
    (Key::AccesslogOnly, "accesslog_only"),
    (Key::AioThreads, "aio_threads"),
    (Key::BodyTimeout, "body_timeout"),
    (Key::Daemonize, "daemonize"),
    (Key::Docroot, "docroot"),
    (Key::DrainTimeout, "drain_timeout"),
    (Key::Fsync, "fsync"),
    (Key::Group, "group"),
    (Key::HeaderTimeout, "header_timeout"),
    (Key::Httpgetlisten, "httpgetlisten"),
    (Key::Httplisten, "httplisten"),
    (Key::IdleTimeout, "idle_timeout"),
    (Key::Iostat, "iostat"),
    (Key::Logfile, "logfile"),
    (Key::Logformat, "logformat"),
    (Key::Loglevel, "loglevel"),
    (Key::MaxQueue, "max_queue"),
    (Key::Maxconns, "maxconns"),
    (Key::Mgmtlisten, "mgmtlisten"),
    (Key::Pidfile, "pidfile"),
    (Key::RequireMount, "require_mount"),
    (Key::Server, "server"),
    (Key::Serverbin, "serverbin"),
    (Key::SlowLog, "slow_log"),
    (Key::StallTimeout, "stall_timeout"),
    (Key::StatusFd, "status_fd"),
    (Key::StatusSocket, "status_socket"),
    (Key::Statuslisten, "statuslisten"),
    (Key::UpgradeTimeout, "upgrade_timeout"),
    (Key::User, "user"),
    (Key::WorkerProcesses, "worker_processes"),
    (Key::Workers, "workers"),
];

/// U+FEFF in UTF-8.
const BOM: &[u8] = b"\xef\xbb\xbf";

impl Key {
    /// Every key there is.
    pub fn all() -> impl Iterator<Item = Self> {
        NAMES.iter().map(|(key, _)| *key)
    }

    /// How it is written in a file.
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(key, _)| *key == self).map_or("", |(_, name)| name)
    }

    /// The key of that name; a dash is as good as an underscore.
    pub fn named(name: &str) -> Option<Self> {
        let name = name.replace('-', "_");
        NAMES.iter().find(|(_, known)| *known == name).map(|(key, _)| *key)
    }

    /// True where each line adds one, instead of replacing the last.
    pub fn repeats(self) -> bool {
        self.is_listener() || self == Self::AccesslogOnly
    }

    /// True for what a listener is given.
    pub(super) fn is_address(self) -> bool {
        self.is_listener() || self == Self::Statuslisten
    }

    fn is_listener(self) -> bool {
        matches!(self, Self::Httplisten | Self::Httpgetlisten | Self::Mgmtlisten)
    }

    fn may_stand_alone(self) -> bool {
        matches!(self, Self::Daemonize | Self::Iostat | Self::RequireMount)
    }
}

/// A setting as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What is set.
    pub key: Key,
    /// To what; empty where the key stands alone.
    pub value: String,
    /// By which line or option.
    pub origin: Origin,
}

/// Reads a file's lines. What the old daemons pass over is a warning, since their files must
/// load; a known key without its value is an error.
pub fn file(path: &Path, content: &[u8]) -> (Vec<Entry>, Vec<Problem>) {
    let (mut entries, mut problems) = (Vec::new(), Vec::new());
    if content.starts_with(b"\xff\xfe") || content.starts_with(b"\xfe\xff") {
        let text = format!("{} is UTF-16: it must be UTF-8", path.display());
        return (entries, vec![Problem::error(text, None)]);
    }
    for (index, line) in content.split(|b| *b == b'\n').enumerate() {
        let origin = Origin::File(path.to_owned(), index + 1);
        if hides_a_line(line) {
            let text = "a carriage return ends no line: what follows it is comment too";
            problems.push(Problem::warning(text, Some(origin.clone())));
        }
        match entry(line, origin) {
            Ok(None) => {}
            Ok(Some(entry)) => add(&mut entries, entry, &mut problems),
            Err(problem) => problems.push(problem),
        }
    }
    (entries, problems)
}

/// A comment in which a carriage return is followed by more.
fn hides_a_line(line: &[u8]) -> bool {
    let comment = line.iter().position(|b| *b == b'#').map_or(&line[..0], |at| &line[at..]);
    let within = comment.trim_ascii_end();
    within.split(|b| *b == b'\r').skip(1).any(|rest| {
        let end = rest.iter().position(|b| *b == b'#').unwrap_or(rest.len());
        rest[..end].contains(&b'=')
    })
}

/// An editor's byte order mark may begin the file, and each line of files that were joined.
fn entry(line: &[u8], origin: Origin) -> Result<Option<Entry>, Problem> {
    let line = line.strip_prefix(BOM).unwrap_or(line);
    let end = line.iter().position(|b| *b == b'#').unwrap_or(line.len());
    let Ok(line) = str::from_utf8(&line[..end]) else {
        return Err(Problem::error("not UTF-8", Some(origin)));
    };
    let (name, value) = match line.split_once('=') {
        Some((name, value)) => (name.trim(), Some(value.trim())),
        None => (line.trim(), None),
    };
    if name.is_empty() && value.is_none() {
        return Ok(None);
    }
    if !is_word(name) {
        let text = format!("not a 'key = value' line, ignored: '{}'", line.trim().escape_debug());
        return Err(Problem::warning(text, Some(origin)));
    }
    let Some(key) = Key::named(name) else {
        return Err(Problem::warning(unknown(name), Some(origin)));
    };
    match value {
        Some("") | None if !key.may_stand_alone() => {
            Err(Problem::error(format!("{name} has no value"), Some(origin)))
        }
        value => Ok(Some(Entry { key, value: value.unwrap_or_default().to_owned(), origin })),
    }
}

fn is_word(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// Of a setting that is given again the last one counts, as in both old daemons.
pub fn last_of_each(entries: &[Entry]) -> (Vec<Entry>, Vec<Problem>) {
    let (mut last, mut problems) = (Vec::new(), Vec::new());
    entries.iter().for_each(|entry| add(&mut last, entry.clone(), &mut problems));
    (last, problems)
}

fn add(entries: &mut Vec<Entry>, entry: Entry, problems: &mut Vec<Problem>) {
    let earlier = entries.iter().position(|e| e.key == entry.key && !e.key.repeats());
    if let Some(earlier) = earlier {
        let Entry { key, origin, value } = entries.remove(earlier);
        let ignored = match origin {
            Origin::CommandLine if value.is_empty() => String::new(),
            Origin::CommandLine => format!(", ignored is '{}'", value.escape_debug()),
            line => format!(", ignored is {line}"),
        };
        let text = format!("{} is given again{ignored}", key.name());
        problems.push(Problem::warning(text, Some(entry.origin.clone())));
    }
    entries.push(entry);
}

fn unknown(name: &str) -> String {
    let nearest = NAMES
        .iter()
        .map(|(_, known)| (strsim::osa_distance(&name.to_ascii_lowercase(), known), known))
        .min();
    match nearest {
        Some((distance, known)) if distance <= 2.max(known.len() / 3) => {
            format!("unknown key '{name}' ignored, did you mean '{known}'?")
        }
        _ => format!("unknown key '{name}' ignored"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(content: &str) -> (Vec<(Key, String)>, Vec<String>) {
        let (entries, problems) = file(Path::new("f"), content.as_bytes());
        let entries = entries.into_iter().map(|e| (e.key, e.value)).collect();
        (entries, problems.iter().map(ToString::to_string).collect())
    }

    fn pair(key: Key, value: &str) -> (Key, String) {
        (key, value.to_owned())
    }

    #[test]
    fn lines_are_keys_and_values_with_any_blanks() {
        let text = "# hello\n\n docroot=/d \nmaxconns\t=  5\r\npidfile = a = b";
        let meant =
            vec![pair(Key::Docroot, "/d"), pair(Key::Maxconns, "5"), pair(Key::Pidfile, "a = b")];
        assert_eq!(read(text), (meant, vec![]));
    }

    #[test]
    fn byte_order_marks_are_passed_over() {
        let meant = vec![pair(Key::Docroot, "/d"), pair(Key::Maxconns, "5")];
        assert_eq!(read("\u{feff}docroot = /d\r\n\u{feff}maxconns = 5"), (meant, vec![]));
        assert_eq!(read("\u{feff}# hello\n\u{feff}\n\u{feff}"), (vec![], vec![]));
        let (_, problems) = file(Path::new("f"), b"\xff\xfed\0o\0c\0");
        assert_eq!(problems[0].to_string(), "E: f is UTF-16: it must be UTF-8");
    }

    #[test]
    fn form_feeds_and_other_blanks_are_blanks() {
        let meant = vec![pair(Key::Docroot, "/d"), pair(Key::Maxconns, "5")];
        assert_eq!(
            read("\x0c\n\x0bdocroot\u{a0}=\u{a0}/d\x0c\nmaxconns\x0c=5\x0c\r"),
            (meant, vec![])
        );
    }

    #[test]
    fn line_that_a_carriage_return_hides_is_told() {
        let (entries, problems) = read("# old\rdocroot = /d\r");
        assert_eq!(entries, []);
        assert!(problems[0].starts_with("W: a carriage return ends no line"), "{problems:?}");
        assert_eq!(read("# hello\r\n# a = b\r\n"), (vec![], vec![]));
    }

    #[test]
    fn a_comment_may_follow_a_value_and_hold_any_bytes() {
        assert_eq!(read("maxconns = 5# five").0, [pair(Key::Maxconns, "5")]);
        let (entries, problems) = file(Path::new("f"), b"maxconns = 5 # f\xfcnf\n#\xff\n");
        assert_eq!((entries.len(), problems.len()), (1, 0));
    }

    #[test]
    fn switches_may_stand_alone_or_have_a_value() {
        let meant = vec![pair(Key::Daemonize, ""), pair(Key::Iostat, "")];
        assert_eq!(read("daemonize\niostat\n"), (meant, vec![]));
        let meant = vec![pair(Key::Daemonize, "1"), pair(Key::Iostat, "0")];
        assert_eq!(read("daemonize = 1\niostat=0"), (meant, vec![]));
    }

    #[test]
    fn a_key_without_its_value_is_an_error() {
        for line in ["docroot", "docroot =", "docroot = # none"] {
            assert_eq!(read(&format!("\n{line}")).1, ["E: docroot has no value (f:2)"]);
        }
    }

    #[test]
    fn an_unknown_key_is_a_warning_that_names_the_nearest() {
        let told = |line| read(line).1.remove(0);
        let meant = "W: unknown key 'docrot' ignored, did you mean 'docroot'? (f:1)";
        assert_eq!(told("docrot = /x"), meant);
        assert!(told("\nMaxConns = 1").contains("did you mean 'maxconns'? (f:2)"));
        assert!(told("maxcons").contains("did you mean 'maxconns'?"));
        assert!(told("mgmt_listen = 1").contains("did you mean 'mgmtlisten'?"));
        assert_eq!(told("xyzzy = 1"), "W: unknown key 'xyzzy' ignored (f:1)");
    }

    #[test]
    fn other_lines_are_a_warning() {
        let (entries, problems) = read("SERVER max_connections = 10\n= 5\ndocroot /x\n[a]");
        assert_eq!(entries, []);
        let meant = "W: not a 'key = value' line, ignored: 'SERVER max_connections = 10' (f:1)";
        assert_eq!(problems[0], meant);
        assert_eq!(problems.len(), 4);
    }

    #[test]
    fn bytes_that_are_no_text_are_an_error() {
        let (_, problems) = file(Path::new("f"), b"docroot = /\xff\n");
        assert_eq!(problems[0].to_string(), "E: not UTF-8 (f:1)");
    }

    #[test]
    fn the_last_of_two_lines_counts_and_is_told() {
        let (entries, problems) = read("maxconns = 1\nmaxconns = 2\n");
        assert_eq!(entries, [pair(Key::Maxconns, "2")]);
        assert_eq!(problems, ["W: maxconns is given again, ignored is f:1 (f:2)"]);
    }

    #[test]
    fn listeners_add_up() {
        let (entries, problems) = read("httplisten = 1\nhttplisten = 2\n");
        assert_eq!((entries.len(), problems.len()), (2, 0));
    }

    #[test]
    fn names_and_keys_are_one_to_one() {
        for (key, name) in NAMES {
            assert_eq!((Key::named(name), key.name()), (Some(key), name));
            assert_eq!(Key::named(&name.replace('_', "-")), Some(key));
        }
    }

    #[test]
    fn each_prefix_of_a_file_reads_without_panic() {
        let whole = "# Größe\r\ndocroot = /é\nhttplisten = [::1]:0\nfoo\ndaemonize\n= #\n";
        for end in 0..=whole.len() {
            let (entries, _) = file(Path::new("f"), &whole.as_bytes()[..end]);
            assert!(entries.len() <= 3);
        }
    }

    /// A line as it is meant, and one of the ways to write it.
    fn line() -> impl Strategy<Value = (Option<(Key, String)>, String)> {
        let blanks = "[ \t]{0,3}";
        let setting = (0..NAMES.len(), "[a-z0-9/:.]{1,12}", blanks, blanks, blanks).prop_map(
            |(index, value, a, b, c)| {
                let (key, name) = NAMES[index];
                (Some(pair(key, &value)), format!("{a}{name}{b}={c}{value}{a}"))
            },
        );
        let comment = "[ \t]{0,2}#[ -~é]{0,20}".prop_map(|text| (None, text));
        let blank = blanks.prop_map(|text| (None, text));
        prop_oneof![4 => setting, 1 => comment, 1 => blank]
    }

    proptest! {
        #[test]
        fn files_mean_what_a_simple_model_says(
            lines in prop::collection::vec((line(), "(\r)?( #[ -~]*)?"), 0..12),
            last_newline: bool,
        ) {
            let mut text: Vec<String> = Vec::new();
            let mut meant: Vec<(Key, String)> = Vec::new();
            for ((setting, written), tail) in lines {
                text.push(format!("{written}{tail}"));
                if let Some((key, value)) = setting {
                    meant.retain(|(k, _)| *k != key || k.repeats());
                    meant.push((key, value));
                }
            }
            let text = text.join("\n") + if last_newline { "\n" } else { "" };
            let (entries, problems) = read(&text);
            prop_assert_eq!(entries, meant);
            prop_assert!(problems.iter().all(|p| p.contains("is given again")), "{:?}", problems);
        }

        #[test]
        fn any_bytes_read_without_panic_and_every_line_is_accounted_for(
            content in prop::collection::vec(any::<u8>(), 0..200)
        ) {
            prop_assume!(!content.starts_with(b"\xff\xfe") && !content.starts_with(b"\xfe\xff"));
            let (entries, problems) = file(Path::new("f"), &content);
            let told = content
                .split(|b| *b == b'\n')
                .filter(|line| {
                    let line = line.strip_prefix(BOM).unwrap_or(line);
                    let text = line.split(|b| *b == b'#').next().unwrap_or_default();
                    !String::from_utf8_lossy(text).trim().is_empty()
                })
                .count();
            let hidden = content.split(|b| *b == b'\n').filter(|line| hides_a_line(line)).count();
            prop_assert_eq!(entries.len() + problems.len(), told + hidden);
        }
    }
}
