use super::*;
use proptest::prelude::*;

fn path(raw: &str) -> DevPath {
    DevPath::parse(raw.as_bytes()).unwrap_or_else(|error| panic!("{raw}: {error:?}"))
}

fn error(raw: &str) -> Option<PathError> {
    DevPath::parse(raw.as_bytes()).err()
}

fn device(number: u32) -> Option<DevId> {
    let id = DevId::new(number);
    assert!(id.is_some(), "{number} is a device number");
    id
}

#[test]
fn device_numbers_run_from_1_to_16777215() {
    assert_eq!(DevId::new(0), None);
    assert_eq!(DevId::new(16_777_216), None);
    assert_eq!(DevId::from_component(b"dev1"), device(1));
    assert_eq!(DevId::from_component(b"dev16777215"), device(16_777_215));
    for name in [
        "",
        "dev",
        "dev0",
        "dev01",
        "dev16777216",
        "dev99999999",
        "dev4294967297",
        "dev-1",
        "dev1x",
        "Dev1",
        "xdev1",
        "dev+1",
        "dev 1",
    ] {
        assert_eq!(DevId::from_component(name.as_bytes()), None, "{name}");
    }
    assert_eq!(device(7).map(|id| id.to_string()), Some("7".to_owned()));
}

#[test]
fn leading_slashes_collapse() {
    for raw in ["/dev1/x", "//dev1/x", "///////////////////////////////////////////////////dev1/x"]
    {
        assert_eq!(path(raw).as_str(), "/dev1/x");
        assert_eq!(path(raw), path("/dev1/x"));
    }
    assert!(path("/").is_root());
    assert!(path("//").is_root());
    assert!(!path("/x").is_root());
    assert_eq!(path("/dev1//x").as_str(), "/dev1//x");
}

#[test]
fn every_byte_but_the_allowed_is_refused() {
    for byte in 0..=255u8 {
        let allowed =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/.-".contains(&byte);
        let verdict = DevPath::parse(&[b'/', b'a', byte, b'b']);
        assert_eq!(verdict.is_ok(), allowed, "{byte}");
        assert!(allowed || verdict == Err(PathError::BadByte), "{byte}");
    }
}

#[test]
fn relative_paths_are_refused() {
    for raw in ["", "dev1/x", "./dev1", "*", "?"] {
        assert_eq!(error(raw), Some(PathError::NotAbsolute), "{raw}");
    }
}

#[test]
fn two_dots_anywhere_are_told_apart() {
    for raw in ["/..", "/../x", "/dev1/../dev2", "/dev1/a..b", "/dev1/...", "/dev1/x.."] {
        assert_eq!(error(raw), Some(PathError::Dots), "{raw}");
    }
    assert_eq!(path("/dev1/a.b.c").as_str(), "/dev1/a.b.c");
}

#[test]
fn the_worst_fault_is_reported() {
    let long = "x".repeat(100);
    assert_eq!(error(&format!("/{long}/..")), Some(PathError::Dots));
    assert_eq!(error(&format!("/{long}/..?")), Some(PathError::BadByte));
    assert_eq!(error(&format!("/{long}")), Some(PathError::TooLong));
}

#[test]
fn ordinary_paths_end_at_37_bytes() {
    assert_eq!(path(&format!("/{}", "x".repeat(36))).as_str().len(), 37);
    assert_eq!(path(&format!("////{}", "x".repeat(36))).as_str().len(), 37);
    assert_eq!(error(&format!("/{}", "x".repeat(37))), Some(PathError::TooLong));
}

#[test]
fn fid_paths_may_have_20_digits() {
    for raw in [
        "/dev16777215/0/000/000/0123456789.fid".replace("0/000/000/", "0/012/345/"),
        "/dev1/1/234/567/12345678901.fid".to_owned(),
        "/dev16777215/1/234/567/12345678901.fid".to_owned(),
        "/dev16777215/1/844/674/18446744073709551615.fid".to_owned(),
        "//dev16777215/1/844/674/18446744073709551615.fid".to_owned(),
    ] {
        assert_eq!(path(&raw).as_str(), raw.replace("//", "/"));
    }
}

#[test]
fn fid_paths_have_one_spelling() {
    assert!(path("//dev1/0/000/000/0000000001.fid").is_fid());
    for raw in [
        "/./dev1/0/000/000/0000000001.fid",
        "/dev1//0/000/000/0000000001.fid",
        "/dev1/./0/000/000/0000000001.fid",
        "/dev1/0/000//0000000001.fid",
        "/dev1/0/000/000/000000001.fid",
        "/dev0/0/000/000/0000000001.fid",
        "/0/000/000/0000000001.fid",
        "/dev1/0/000/000/0000000001.fi",
        "/dev1/0/000/000/",
        "/dev1",
        "/d",
        "/",
    ] {
        assert!(!path(raw).is_fid(), "{raw}");
    }
}

#[test]
fn long_paths_that_are_no_fid_paths_are_refused() {
    for raw in [
        "/dev16777215/1/844/674/184467440737095516150.fid",
        "/dev16777215/1/844/675/18446744073709551615.fid",
        "/dev16777215/1/843/674/18446744073709551615.fid",
        "/dev16777215/2/844/674/18446744073709551615.fid",
        "/dev16777216/1/844/674/18446744073709551615.fid",
        "/dev016/1/844/674/18446744073709551615.fid",
        "/dev16777215/1/844/674/1844674407370955161x.fid",
        "/dev16777215/1/844/674/18446744073709551615.fidx",
        "/dev16777215/1/844/674/18446744073709551615.fit",
        "/dev16777215/1/844/674/18446744073709551615.fid/",
        "/dev16777215/1/844/18446744073709551615.fid",
        "/dev16777215//1/844/674/18446744073709551615.fid",
        "/dev1/x/1/844/674/18446744073709551615.fid",
    ] {
        assert_eq!(error(raw), Some(PathError::TooLong), "{raw}");
    }
}

/// Raw path, device (0: none), what to open, folder and name.
type Row = (&'static str, u32, &'static str, Option<(&'static str, &'static str)>);

#[test]
fn paths_are_taken_apart() {
    #[rustfmt::skip]
    let table: &[Row] = &[
        ("/", 0, ".", None),
        ("/.", 0, ".", None),
        ("/somefile", 0, "somefile", Some(("", "somefile"))),
        ("/./a/b", 0, "a/b", Some(("a", "b"))),
        ("/folder/", 0, "folder/", None),
        ("/dev0/x", 0, "dev0/x", Some(("dev0", "x"))),
        ("/x/dev1/y", 0, "x/dev1/y", Some(("x/dev1", "y"))),
        ("/dev1", 1, ".", None),
        ("/dev1/", 1, ".", None),
        ("/dev1//", 1, ".", None),
        ("/dev1/.", 1, ".", None),
        ("/dev1/x", 1, "x", Some(("", "x"))),
        ("/dev1//x", 1, "x", Some(("", "x"))),
        ("/./dev1/x", 1, "x", Some(("", "x"))),
        ("/.//./dev1/.//./x", 1, "x", Some(("", "x"))),
        ("/dev1/.x", 1, ".x", Some(("", ".x"))),
        ("/dev1/a/.", 1, "a/.", None),
        ("/dev1/a/", 1, "a/", None),
        ("/dev1/a//b", 1, "a//b", Some(("a", "b"))),
        ("/dev1/a/./b", 1, "a/./b", Some(("a/.", "b"))),
        ("/dev7/0/000/000/0000000123.fid", 7, "0/000/000/0000000123.fid", Some(("0/000/000", "0000000123.fid"))),
    ];
    for (raw, number, relative, parent) in table {
        let path = path(raw);
        assert_eq!(path.device().map_or(0, DevId::get), *number, "{raw}");
        assert_eq!(path.relative().to_bytes(), relative.as_bytes(), "{raw}");
        let found = path.parent().map(|(folder, name)| (folder, name.to_bytes()));
        assert_eq!(found, parent.map(|(f, n)| (f.as_bytes(), n.as_bytes())), "{raw}");
        assert_eq!(path.names_a_file_on_device(), *number > 0 && parent.is_some(), "{raw}");
        assert_eq!(path.ends_with_slash(), raw.ends_with('/'), "{raw}");
    }
}

#[test]
fn usage_is_known_however_it_is_written() {
    for raw in ["/dev1/usage", "//dev1/usage", "/./dev1//usage"] {
        assert!(path(raw).is_usage(), "{raw}");
    }
    for raw in [
        "/usage",
        "/dev1/usage/",
        "/dev1/x/usage",
        "/dev1/usage1",
        "/dev0/usage",
        "/dev1",
        "/dev1/Usage",
    ] {
        assert!(!path(raw).is_usage(), "{raw}");
    }
}

proptest! {
    /// The model walks over components as strings; the path's own code walks over bytes.
    #[test]
    fn device_and_rest_agree_with_a_walk_over_components(
        parts in prop::collection::vec(prop::sample::select(vec!["", ".", "dev1", "dev23", "dev0", "a", "usage", ".b"]), 0..7)
    ) {
        let raw = format!("/{}", parts.join("/"));
        prop_assume!(raw.len() <= ORDINARY_MAX);
        let path = path(&raw);
        let mut useful = parts.iter().skip_while(|part| matches!(**part, "" | ".")).peekable();
        let number = useful.peek().and_then(|name| name.strip_prefix("dev")).and_then(|n| n.parse().ok());
        let on_device = number.is_some_and(|n: u32| n > 0);
        if on_device {
            useful.next();
        }
        let rest: Vec<&str> = useful.copied().skip_while(|part| matches!(*part, "" | ".")).collect();
        let rest = rest.join("/");
        prop_assert_eq!(path.device().map(DevId::get), number.filter(|n| *n > 0));
        let relative = path.relative().to_str().ok();
        prop_assert_eq!(relative, Some(if rest.is_empty() { "." } else { &rest }));
        prop_assert_eq!(path.is_usage(), on_device && rest == "usage");
    }

    #[test]
    fn any_bytes_are_judged_and_never_escape(raw in prop::collection::vec(prop::sample::select(b"/.dev1-a?".to_vec()), 0..60)) {
        if let Ok(path) = DevPath::parse(&raw) {
            let relative = path.relative().to_bytes();
            prop_assert!(!relative.is_empty() && relative[0] != b'/');
            prop_assert!(!relative.split(|b| *b == b'/').any(|part| part == b".."));
            let text = std::str::from_utf8(&raw).unwrap_or_default();
            prop_assert_eq!(path.as_str(), format!("/{}", text.trim_start_matches('/')));
        }
    }
}
