//! What a successor says through the pipe that it inherited, line by line: see `crate::successor`.

/// Most that is kept of a line.
const MOST_SAID: usize = 4096;

/// What a successor has said so far.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    rest: Vec<u8>,
    /// It knows of the pipe.
    pub knows: bool,
    /// Every worker of it accepts connections.
    pub serves: bool,
    /// It has pid file and status socket too.
    pub ready: bool,
    /// Why it fails.
    pub because: Option<String>,
}

impl Said {
    /// More of it; lines may be cut anywhere.
    pub(super) fn hear(&mut self, bytes: &[u8]) {
        self.rest.extend(bytes);
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line[..end]).into_owned();
            match line.split_once(' ') {
                Some(("because", reason)) => self.because = Some(reason.to_owned()),
                None if line == "hello" => self.knows = true,
                None if line == "serving" => self.serves = true,
                None if line == "ready" => self.ready = true,
                _ => {}
            }
        }
        self.rest.truncate(MOST_SAID);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(pieces: &[&str]) -> Said {
        let mut said = Said::default();
        pieces.iter().for_each(|piece| said.hear(piece.as_bytes()));
        said.rest.clear();
        said
    }

    #[test]
    fn lines_of_the_pipe_may_be_cut_anywhere() {
        let text = "hello\nsomething new\nbecause of this\nserving\nready\n";
        let whole = heard(&[text]);
        assert!(whole.knows && whole.serves && whole.ready);
        assert_eq!(whole.because.as_deref(), Some("of this"));
        for cut in 0..text.len() {
            assert_eq!(heard(&[&text[..cut], &text[cut..]]), whole);
        }
    }

    #[test]
    fn stranger_s_endless_line_is_not_kept() {
        let mut said = Said::default();
        (0..100).for_each(|_| said.hear(&[b'x'; 1000]));
        assert_eq!(said.rest.len(), MOST_SAID);
        assert!(!said.knows);
    }
}
