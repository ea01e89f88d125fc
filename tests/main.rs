//! End-to-end tests: the real binary, driven over its sockets.
//!
//! The binary is this package's, or the one that `RMOGSTORED_UNDER_TEST` names. Each test starts
//! a node of its own on free ports, in a temporary folder.

mod harness;

/// PROTOCOL.md 2.2: the bytes of each answer, and which of them leave the connection open.
mod http_answers;
