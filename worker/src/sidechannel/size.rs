//! `size`: PROTOCOL.md section 3.

use std::io;

use log::Level;

use crate::disk::faults::Access;
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
        let path = self.path.as_str();
        match found {
            Ok(size) => answer(&mut line, &self.path, size),
            Err(e) if is_missing(&e) => answer(&mut line, &self.path, -1),
            // Told from a missing file: a tracker that is told -1 takes the copy for lost.
            Err(e) => {
                let told = format_args!("size {path}: {e}");
                turn.note_fault(Access::Read, Level::Error, e.raw_os_error(), told);
                line.extend_from_slice(format!("ERR stat {path} failed\r\n").as_bytes());
            }
        }
        Turned::Over(turn.answer(line, true))
    }
}

/// Appends the answer: a size in bytes, or -1.
pub fn answer(out: &mut Vec<u8>, path: &DevPath, size: i64) {
    out.extend_from_slice(format!("{} {size}\r\n", path.as_str()).as_bytes());
}

/// No such file, or none that we may show.
pub fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::ENOTDIR | libc::EACCES | libc::EXDEV | libc::ELOOP)
    )
}
