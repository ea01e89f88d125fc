//! One worker of rmogstored: a process with an event loop and disk threads.
//!
//! | module | holds |
//! |---|---|
//! | [`spec`] | what a worker is told when it starts |
//! | [`control`] | messages between master and worker |
//! | [`scoreboard`] | counters in shared memory that every process sees |
//! | [`sys`] | the only unsafe code: system calls that nix does not wrap |

pub mod control;
pub mod scoreboard;
pub mod spec;
pub mod sys;
