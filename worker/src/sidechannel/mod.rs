//! The sidechannel: PROTOCOL.md section 3.
//!
//! | module | holds |
//! |---|---|
//! | [`mod@line`] | bytes to commands, pure |
//! | [`size`], [`digest`] | the answers, as operations of a disk thread |
//! | `fsck` | one digest at a time |
//! | [`watch`] | the stream of disk load |

pub mod digest;
pub(crate) mod fsck;
pub mod line;
pub mod size;
pub mod watch;
