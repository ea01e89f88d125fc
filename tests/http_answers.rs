//! The exact bytes of each answer, and whether the connection survives it.

use crate::harness::Node;

#[test]
fn root_is_an_empty_file_of_the_epoch() {
    let node = Node::start();
    let answer = node.client().get("/").expect_and(200, "keep-alive");
    assert_eq!(answer.header("Last-Modified"), Some("Thu, 01 Jan 1970 00:00:00 GMT"));
}
