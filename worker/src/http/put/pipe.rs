//! The pipe by which a disk thread moves a large body from its socket into its file, splice(2): no
//! byte of it is copied to user space and back. Each thread keeps one, empty between two pieces.

use std::cell::RefCell;

use nix::sys::resource::{Resource, getrlimit};

use super::LARGE;
use crate::sys::doors::Door;
use crate::sys::pipe::Pipe;

/// Larger ones cost a little less, and take more of what a user may have.
const SIZE: usize = 512 * 1024;

/// A limit on open files from which on a thread may have a pipe.
const MANY: u64 = 1024;

thread_local! {
    static KEPT: RefCell<Kept> = const { RefCell::new(Kept::Unknown) };
}

enum Kept {
    /// There is none, now.
    Unknown,
    /// There cannot be one, or only one too small to be of use.
    Never,
    Here(Pipe),
}

/// The calling thread's pipe, empty; `None`: it has none. To be [kept](keep) again unless something
/// is left in it.
pub(super) fn take() -> Option<Pipe> {
    KEPT.with_borrow_mut(|kept| match std::mem::replace(kept, Kept::Unknown) {
        Kept::Here(pipe) => Some(pipe),
        Kept::Unknown if Door::Splice.is_open() && has_descriptors() => {
            let pipe = Pipe::new(SIZE, LARGE as usize);
            if let Err(e) = &pipe {
                log::debug!("no pipe for bodies: {e}");
                *kept = Kept::Never;
            }
            pipe.ok()
        }
        Kept::Unknown | Kept::Never => {
            *kept = Kept::Never;
            None
        }
    })
}

/// Two for each thread are no matter, but where there are few they are for connections and files.
fn has_descriptors() -> bool {
    getrlimit(Resource::RLIMIT_NOFILE).is_ok_and(|(soft, _)| soft >= MANY)
}

/// For the next piece. It must be empty.
pub(super) fn keep(pipe: Pipe) {
    KEPT.set(Kept::Here(pipe));
}
