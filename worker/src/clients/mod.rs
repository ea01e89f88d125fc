//! The clients of a worker.
//!
//! | module | holds |
//! |---|---|
//! | [`balance`] | how many connections a worker gives away, and to whom |
//! | [`conn`] | one client |
//! | [`heirs`] | the other node's workers, in an upgrade |
//! | [`inbox`] | connections on their way from one worker to another |
//! | [`listeners`] | the shared listeners as one worker uses them |
//! | [`neighbours`] | the other workers: what is sent to them, what they have |
//! | [`table`] | all of them |
//! | [`timers`] | deadlines of connections |
//! | [`watchers`] | who watches the load, and when they are told |

pub mod balance;
pub mod conn;
pub mod heirs;
pub mod inbox;
pub mod listeners;
pub mod neighbours;
pub mod table;
pub mod timers;
pub mod watchers;
