//! 5: real filesystems on a block device that hangs, crawls and fails: who waits for it, and who
//! must not.

/// The disk that the others use does what it is told.
mod the_disk;
