//! The supervisor of rmogstored.
//!
//! | module | holds |
//! |---|---|
//! | [`config`] | the one configuration, its grammar, its checks |

pub mod config;
