//! Everything that touches a disk.
//!
//! | module | holds |
//! |---|---|
//! | [`path`] | paths that have been checked |
//! | [`device`] | one device as this process sees it: its directory, what can be done there |
//! | [`open`] | opens that cannot leave the device, and those that cannot block |
//! | [`commit`] | a PUT from temporary to final name |
//! | [`pool`] | disk threads |
//! | [`mod@md5`] | digests at OpenSSL's speed |
//! | [`usage`], [`busy`] | how full a device is, how busy its disk |

pub mod busy;
pub mod commit;
pub mod device;
pub mod md5;
pub mod open;
pub mod path;
pub mod pool;
pub mod usage;
