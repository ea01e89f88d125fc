//! End-to-end tests: the real binary, driven over its sockets.
