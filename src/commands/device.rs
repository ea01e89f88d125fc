//! `rmogstored device`: what the operator knows better about a device.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use rmogstored_master::report::request::Request;

use super::ask;

/// Tells the node.
pub fn tell(request: &Request, socket: &Path) -> ExitCode {
    let told = match ask(socket, request) {
        Ok(Ok(done)) => writeln!(io::stdout(), "{done}"),
        Ok(Err(refused)) => {
            let _ = writeln!(io::stderr(), "E: {refused}");
            return ExitCode::FAILURE;
        }
        Err(e) => {
            let _ = writeln!(io::stderr(), "E: {}: {e}", socket.display());
            return ExitCode::FAILURE;
        }
    };
    // It is done, whether or not anybody reads so.
    told.map_or(ExitCode::SUCCESS, |()| ExitCode::SUCCESS)
}
