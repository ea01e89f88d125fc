//! The supervisor of rmogstored.
//!
//! | module | holds |
//! |---|---|
//! | [`config`] | the one configuration, its grammar, its checks |
//! | [`limits`] | RLIMIT_NOFILE, raised to what maxconns needs |
//! | [`pidfile`] | the pid file and its rules |

pub mod config;
pub mod limits;
pub mod pidfile;
