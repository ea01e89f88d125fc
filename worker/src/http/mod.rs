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
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use crate::clock;
use crate::disk::failed::{Failed, is_shortage};
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

/// Logs a failure that is ours or the disk's, once; what a client can cause at will is not, and
/// what the operator has forbidden once a second at most.
pub fn log_failure(method: &str, path: &str, status: Status, error: &io::Error) {
    log(method, path, status, error.raw_os_error(), error);
}

/// The same, with the name of the call.
pub fn log_failed(method: &str, path: &str, status: Status, failed: &Failed) {
    log(method, path, status, failed.errno(), failed);
}

fn log(method: &str, path: &str, status: Status, errno: Option<i32>, error: &dyn fmt::Display) {
    static FORBIDDEN: AtomicU64 = AtomicU64::new(0);
    match (errno, status.code()) {
        (Some(libc::EACCES | libc::EPERM), _) => {
            let second = clock::unix_time().as_secs();
            if FORBIDDEN.swap(second, Relaxed) != second {
                log::warn!("{method} {path}: {error}");
            }
        }
        // Device::insist_on_mount has said so.
        (Some(libc::ENOMEDIUM), _) => log::debug!("{method} {path}: {error}"),
        (_, 500..) => log::error!("{method} {path}: {error}"),
        _ => log::debug!("{method} {path}: {error}"),
    }
}

/// The status of a message that could not be read.
pub fn status_of_refusal(refusal: Refusal) -> Status {
    match refusal {
        Refusal::BadRequest => Status::BadRequest400,
        Refusal::NotImplemented => Status::NotImplemented501,
        Refusal::TooLarge => Status::InsufficientStorage507,
    }
}
