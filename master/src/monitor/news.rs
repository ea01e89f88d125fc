//! What the master tells the monitor: one JSON object a line. The only definition for both sides.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::report::status::Document;

/// The longest line that is taken, in bytes: a document with a thousand devices has half of that.
const LONGEST: usize = 4 << 20;

/// One piece of news.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum News {
    /// How the node is.
    Status(Box<Status>),
    /// An event, with its time as in RFC 3339.
    Event(Value),
}

/// How the node is, as the master sees it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Status {
    /// The status document.
    pub document: Document,
    /// The docroots by their numbers.
    pub docroots: Vec<String>,
}

/// Puts lines together that arrive in pieces.
#[derive(Debug, Default)]
pub(crate) struct Lines(Vec<u8>);

impl News {
    /// Its line.
    pub fn line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }
}

impl Lines {
    /// The news that a piece completes; what is none is passed over.
    pub fn hear(&mut self, piece: &[u8]) -> Vec<News> {
        self.0.extend_from_slice(piece);
        let Some(end) = self.0.iter().rposition(|byte| *byte == b'\n') else {
            if self.0.len() > LONGEST {
                self.0.clear();
            }
            return Vec::new();
        };
        let rest = self.0.split_off(end + 1);
        let whole = std::mem::replace(&mut self.0, rest);
        let lines = whole.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.filter_map(|line| serde_json::from_slice(line).ok()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_arrive_however_they_are_cut() {
        let event = |n: u32| News::Event(serde_json::json!({"event": "reloaded", "generation": n}));
        let all: Vec<u8> = [1, 2].into_iter().flat_map(|n| event(n).line()).collect();
        for cut in 0..=all.len() {
            let mut lines = Lines::default();
            let mut heard = lines.hear(&all[..cut]);
            heard.extend(lines.hear(&all[cut..]));
            let generations: Vec<u64> = heard
                .iter()
                .filter_map(|news| match news {
                    News::Event(event) => event["generation"].as_u64(),
                    News::Status(_) => None,
                })
                .collect();
            assert_eq!(generations, [1, 2], "{cut}");
        }
    }

    #[test]
    fn nonsense_is_passed_over_and_a_line_without_an_end_is_not_kept() {
        let mut lines = Lines::default();
        assert!(lines.hear(b"{\"later\":1}\nnonsense\n\n").is_empty());
        for _ in 0..5 {
            assert!(lines.hear(&vec![b'x'; 1 << 20]).is_empty());
        }
        assert!(lines.0.len() <= LONGEST);
    }
}
