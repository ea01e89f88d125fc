use super::*;
use proptest::prelude::*;

const TOO_BIG: &str = "9223372036854775808";

fn select(value: &str, total: u64) -> Selection {
    RangeHeader::parse(value.as_bytes()).select(total)
}

fn part(first: u64, last: u64) -> Selection {
    Selection::Part { first, last }
}

#[test]
fn one_range_selects_a_part() {
    assert_eq!(select("bytes=0-0", 10), part(0, 0));
    assert_eq!(select("bytes=2-5", 10), part(2, 5));
    assert_eq!(select("bytes=2-", 10), part(2, 9));
    assert_eq!(select("bytes=-3", 10), part(7, 9));
    assert_eq!(select("bytes=-10", 10), part(0, 9));
    assert_eq!(select("bytes=0-9", 10), part(0, 9));
    assert_eq!(select("Bytes=2-5", 10), part(2, 5));
    assert_eq!(select("bytes= 2-5 ,", 10), part(2, 5));
}

#[test]
fn an_end_past_the_file_is_cut() {
    assert_eq!(select("bytes=2-10", 10), part(2, 9));
    assert_eq!(select("bytes=0-9223372036854775807", 10), part(0, 9));
}

#[test]
fn a_start_at_or_past_the_end_is_unsatisfiable() {
    for value in ["bytes=10-", "bytes=10-10", "bytes=11-20", "bytes=9223372036854775807-"] {
        assert_eq!(select(value, 10), Selection::Unsatisfiable, "{value}");
    }
    assert_eq!(select("bytes=0-", 0), Selection::Unsatisfiable);
    assert_eq!(select("bytes=0-0", 0), Selection::Unsatisfiable);
}

#[test]
fn an_end_before_the_start_is_unsatisfiable() {
    assert_eq!(select("bytes=5-4", 10), Selection::Unsatisfiable);
    assert_eq!(select("bytes=20-4", 10), Selection::Unsatisfiable);
}

#[test]
fn a_suffix_longer_than_the_file_is_the_whole_file() {
    assert_eq!(select("bytes=-11", 10), Selection::Whole);
    assert_eq!(select("bytes=-1", 0), Selection::Whole);
}

#[test]
fn a_suffix_of_nothing_is_unsatisfiable() {
    for value in ["bytes=-0", "bytes=-000", "bytes=-"] {
        assert_eq!(select(value, 10), Selection::Unsatisfiable, "{value}");
    }
}

#[test]
fn numbers_past_63_bits_are_unsatisfiable() {
    for value in [
        format!("bytes={TOO_BIG}-"),
        format!("bytes=0-{TOO_BIG}"),
        format!("bytes=-{TOO_BIG}"),
        format!("bytes={TOO_BIG}-{TOO_BIG}"),
        format!("bytes=1-{}", "9".repeat(500)),
    ] {
        assert_eq!(select(&value, 10), Selection::Unsatisfiable, "{value}");
    }
}

#[test]
fn several_ranges_and_other_units_are_ignored() {
    for value in [
        "bytes=0-1,3-4",
        "bytes=0-1, -1",
        "bytes=5-1,0-",
        "lines=0-1",
        "lines=x",
        "bytes",
        "bytes 0-1",
        "",
    ] {
        assert_eq!(select(value, 10), Selection::Whole, "{value:?}");
    }
}

#[test]
fn nonsense_is_told() {
    for value in [
        "bytes=-5-5",
        "bytes=323",
        "bytes=4qasd",
        "bytes=",
        "bytes=,",
        "bytes=a-b",
        "bytes=1-b",
        "bytes=1--2",
        "bytes=+1-2",
        "bytes=1 - 2",
        "bytes=0-1,x",
        "bytes=x,0-1",
        "bytes=0x1-2",
        "bytes==1-2",
    ] {
        assert_eq!(select(value, 10), Selection::Nonsense, "{value:?}");
    }
}

#[test]
fn content_ranges_are_read() {
    let bytes = |first, last| ContentRange::Bytes { first, last };
    for (value, expected) in [
        ("bytes 0-0/*", bytes(0, 0)),
        ("bytes 5-14/*", bytes(5, 14)),
        ("bytes 5-14/15", bytes(5, 14)),
        ("BYTES  5-14/900", bytes(5, 14)),
        ("bytes 0-9223372036854775806/*", bytes(0, i64::MAX as u64 - 1)),
        ("bytes 5-9223372036854775806/9223372036854775807", bytes(5, i64::MAX as u64 - 1)),
        ("bytes 0-9223372036854775807/*", ContentRange::TooBig),
        ("bytes 9223372036854775807-9223372036854775807/*", ContentRange::TooBig),
        ("bytes 0-9223372036854775808/*", ContentRange::TooBig),
        ("bytes 9223372036854775808-0/*", ContentRange::TooBig),
        ("bytes 0-1/9223372036854775808", ContentRange::TooBig),
    ] {
        assert_eq!(ContentRange::parse(value.as_bytes()), expected, "{value}");
    }
}

#[test]
fn malformed_content_ranges_are_told() {
    for value in [
        "",
        "bytes",
        "bytes ",
        "bytes */10",
        "bytes 5-14",
        "bytes 5-14/",
        "bytes 14-5/*",
        "bytes 5-14/14",
        "bytes 5/*",
        "bytes -5/*",
        "bytes 5-/*",
        "bytes=5-14/*",
        "lines 5-14/*",
        "bytes 5-14/x",
        "bytes a-14/*",
        "bytes 5 - 14/*",
        "bytes 5-14/*/*",
        "bytes 5-14/**",
        "bytes x-9223372036854775808/*",
    ] {
        assert_eq!(ContentRange::parse(value.as_bytes()), ContentRange::Malformed, "{value:?}");
    }
}

#[test]
fn two_content_ranges_are_malformed() {
    let once = ContentRange::default().with(b"bytes 0-1/*");
    assert_eq!(once, ContentRange::Bytes { first: 0, last: 1 });
    assert_eq!(once.with(b"bytes 0-1/*"), ContentRange::Malformed);
}

proptest! {
    /// The model marks each byte of the file that the words of the RFC select, and looks at what is marked.
    #[test]
    fn selection_is_what_marking_bytes_gives(first in prop::option::of(0u64..14), last in prop::option::of(0u64..14), total in 0u64..12) {
        let text = |n: Option<u64>| n.map_or(String::new(), |n| n.to_string());
        let value = format!("bytes={}-{}", text(first), text(last));
        let marked: Vec<u64> = (0..total).filter(|at| match (first, last) {
            (Some(a), Some(b)) => a <= *at && *at <= b,
            (Some(a), None) => a <= *at,
            (None, Some(n)) => at + n >= total,
            (None, None) => false,
        }).collect();
        let too_long = first.is_none() && last.is_some_and(|n| n > total);
        let expected = match (marked.first(), marked.last()) {
            _ if too_long => Selection::Whole,
            (Some(a), Some(b)) => part(*a, *b),
            _ => Selection::Unsatisfiable,
        };
        prop_assert_eq!(select(&value, total), expected, "{} of {}", value, total);
    }

    #[test]
    fn any_value_gives_a_part_inside_the_file(value in "bytes=[-0-9, x]{0,12}", total: u64) {
        if let Selection::Part { first, last } = select(&value, total) {
            prop_assert!(first <= last && last < total);
        }
    }

    #[test]
    fn content_range_reads_what_was_written(first in 0..i64::MAX as u64, more in 0u64..1000, extra in prop::option::of(1u64..1000)) {
        let last = first.saturating_add(more).min(i64::MAX as u64);
        prop_assume!(last.saturating_add(1000) <= i64::MAX as u64);
        let total = extra.map_or("*".to_owned(), |extra| (last + extra).to_string());
        let value = format!("bytes {first}-{last}/{total}");
        prop_assert_eq!(ContentRange::parse(value.as_bytes()), ContentRange::Bytes { first, last });
    }
}
