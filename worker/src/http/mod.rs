//! HTTP: PROTOCOL.md section 2.
//!
//! | module | holds |
//! |---|---|
//! | [`head`], [`field`], [`date`], [`range`], [`chunked`] | bytes to values, pure |
//! | [`answer`] | values to bytes, pure |
//! | [`condition`] | what If-Match and its kin allow, pure |
//! | [`refuse`] | which requests are refused as they stand, pure |
//! | [`discard`] | a body that nobody wants, as it is thrown away, pure |
//! | [`get`], [`put`], [`delete`] | the exchanges, as operations of a disk thread |
//! | [`transfer`] | a file on its way to a peer |

pub mod answer;
pub mod chunked;
pub mod condition;
pub mod date;
pub mod delete;
pub mod discard;
pub mod field;
pub mod get;
pub mod head;
pub mod put;
pub mod range;
pub mod refuse;
pub mod transfer;

use std::fmt;
use std::io;

use log::Level;

use crate::disk::failed::{Failed, is_shortage};
use crate::disk::faults::Access;
use crate::disk::operation::Turn;
use crate::disk::path::DevPath;
use crate::http::answer::Status;
use crate::http::head::Refusal;

/// The answer to a failed file operation: PROTOCOL.md sections 2.3 to 2.5.
pub fn status_of(error: &io::Error) -> Status {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR) => Status::NotFound404,
        Some(libc::EACCES | libc::EPERM | libc::EXDEV) => Status::Forbidden403,
        // A folder, a socket, a device node without a driver.
        Some(libc::EISDIR | libc::ENXIO | libc::ENODEV) => Status::Forbidden403,
        Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG | libc::EOVERFLOW) => {
            Status::InsufficientStorage507
        }
        // The client may come back.
        _ if is_shortage(error) => Status::ServiceUnavailable503,
        // The disk has been unmounted, and may be mounted again: Device::insist_on_mount.
        Some(libc::ENOMEDIUM) => Status::ServiceUnavailable503,
        None if condition::has_failed(error) => Status::PreconditionFailed412,
        _ => Status::InternalServerError500,
    }
}

/// Logs and counts a failure that is ours or the disk's, or what the operator has forbidden:
/// [`crate::disk::faults::note`]. What a client can cause at will is not logged.
pub fn note_failure(
    turn: &Turn<'_>,
    method: &str,
    path: &DevPath,
    status: Status,
    error: &io::Error,
) {
    note(turn, method, path, status, error.raw_os_error(), error);
}

/// The same, with the name of the call.
pub fn note_failed(turn: &Turn<'_>, method: &str, path: &DevPath, status: Status, failed: &Failed) {
    note(turn, method, path, status, failed.errno(), failed);
}

fn note(
    turn: &Turn<'_>,
    method: &str,
    path: &DevPath,
    status: Status,
    errno: Option<i32>,
    error: &dyn fmt::Display,
) {
    let line = format_args!("{method} {}: {error}", path.as_str());
    let level = match (errno, status.code()) {
        (Some(libc::EACCES | libc::EPERM), _) => Level::Warn,
        // Device::insist_on_mount has said so.
        (Some(libc::ENOMEDIUM), _) => return log::debug!("{line}"),
        (_, 500..) => Level::Error,
        _ => return log::debug!("{line}"),
    };
    let access = if method == "GET" { Access::Read } else { Access::Write };
    turn.note_fault(access, level, errno, line);
}

/// The status of a message that could not be read.
pub fn status_of_refusal(refusal: Refusal) -> Status {
    match refusal {
        Refusal::BadRequest => Status::BadRequest400,
        Refusal::NotImplemented => Status::NotImplemented501,
        Refusal::TooLarge => Status::InsufficientStorage507,
    }
}
