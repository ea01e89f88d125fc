//! The commands about a node that runs already, and about its files.
//!
//! | module | holds |
//! |---|---|
//! | [`status`] | `rmogstored status`: a table, or the JSON document |
//! | [`upgrade`] | `rmogstored upgrade`: the steps of an upgrade, in order |
//! | [`scrub`] | `rmogstored scrub`: every file is read and judged |
//! | `table` | two looks at a node into a table |

pub mod scrub;
pub mod status;
mod table;
pub mod upgrade;

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rmogstored_master::report::status::{Document, VERSION};

/// A master that hangs is told from a slow one.
const PATIENCE: Duration = Duration::from_secs(10);

/// The document's text, as a node's status socket gives it.
fn read_text(socket: &Path) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// The document itself.
fn read(socket: &Path) -> io::Result<Document> {
    let text = read_text(socket)?;
    let other = |e| io::Error::other(format!("not a document of version {VERSION}: {e}"));
    serde_json::from_str(&text).map_err(other)
}

/// Tells of Ctrl-C from now on: it ends a wait instead of the process.
fn interrupts() -> Result<Receiver<()>, ctrlc::Error> {
    let (sender, receiver) = channel();
    // The receiver is gone when nobody waits any more.
    ctrlc::set_handler(move || {
        let _ = sender.send(());
    })?;
    Ok(receiver)
}
