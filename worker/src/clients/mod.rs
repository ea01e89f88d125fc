//! The clients of a worker.
//!
//! | module | holds |
//! |---|---|
//! | [`conn`] | one client |
//! | [`inbox`] | connections on their way from one worker to another |
//! | [`timers`] | deadlines of connections |

pub mod conn;
pub mod inbox;
pub mod timers;
