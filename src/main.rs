//! rmogstored: a MogileFS storage node.
fn main() {}
