//! `size`: PROTOCOL.md section 3.

use std::io;

use crate::disk::loan::Style;
use crate::disk::open;
use crate::disk::operation::{Operation, Turn, Turned};
use crate::disk::path::DevPath;
use crate::ids::DeviceKey;

/// A `size` that only the disk can answer.
#[derive(Debug)]
pub struct Size {
    path: DevPath,
}

impl Size {
    /// Of a file.
    pub fn new(path: DevPath) -> Size {
        Size { path }
    }
}

impl Operation for Size {
    fn path(&self) -> &DevPath {
        &self.path
    }

    fn style(&self, device: DeviceKey) -> Style {
        Style::Line(device)
    }

    fn run(self: Box<Self>, turn: &Turn<'_>) -> Turned {
        let found = turn.device.dir(turn.on).and_then(|dir| {
            turn.progress.touch();
            let path = self.path.relative();
            let file = open::inside(turn.on, turn.device, &dir, path, libc::O_PATH, 0)?;
            Ok(file.stat(turn.on)?.st_size)
        });
        let mut line = Vec::with_capacity(80);
        answer(&mut line, &self.path, found);
        Turned::Over(turn.answer(line, true))
    }
}

/// Appends the answer. A failure other than a missing file is told from one: a tracker that is
/// told -1 takes the copy for lost.
pub fn answer(out: &mut Vec<u8>, path: &DevPath, found: io::Result<i64>) {
    let path = path.as_str();
    let line = match found {
        Ok(size) => format!("{path} {size}\r\n"),
        Err(e) if is_missing(&e) => format!("{path} -1\r\n"),
        Err(e) => {
            log::error!("size {path}: {e}");
            format!("ERR stat {path} failed\r\n")
        }
    };
    out.extend_from_slice(line.as_bytes());
}

/// No such file, or none that we may show.
pub fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::ENOTDIR | libc::EACCES | libc::EXDEV | libc::ELOOP)
    )
}
