//! The master with a tiny worker, over real processes, signals and sockets.
//!
//! The program runs itself: with `NODE` in its environment it is a node, else it runs the tests.
//! The usual harness would run them in threads, from which a node cannot fork.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod harness;
mod node;
mod tests;

fn main() {
    if std::env::var_os("NODE").is_some() {
        std::process::exit(node::run());
    }
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    for (name, test) in tests::ALL {
        if wanted.is_empty() || wanted.iter().any(|part| name.contains(part)) {
            print!("test {name} ... ");
            test();
            println!("ok");
        }
    }
}
