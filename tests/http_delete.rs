//! DELETE and MKCOL.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use crate::harness::{Node, Setup, fid_path, names_in};

#[test]
fn a_deleted_file_is_gone() {
    let node = Node::start();
    let path = fid_path(1, 123);
    assert_eq!(path, "/dev1/0/000/000/0000000123.fid");
    node.store(&path, "x");
    let mut client = node.client();
    client.delete(&path).expect_and(204, "keep-alive");
    assert!(!node.file(&path).exists());
    client.get(&path).expect_and(404, "keep-alive");
    client.delete(&path).expect_and(404, "keep-alive");
}

#[test]
fn a_delete_of_what_is_missing_is_404() {
    let node = Node::start();
    node.store("/dev1/file", "x");
    for path in ["/dev1/no", "/dev1/no/deeper", "/dev9/a", "/dev1/file/below"] {
        node.stays_after(format!("DELETE {path} HTTP/1.1\r\n\r\n"), 404);
    }
}

#[test]
fn a_delete_of_a_directory_is_403_and_leaves_it() {
    let node = Node::start();
    node.store("/dev1/folder/file", "x");
    fs::create_dir(node.file("/dev1/empty")).unwrap();
    for path in ["/", "//", "/dev1", "/dev1/", "/dev1/folder", "/dev1/folder/", "/dev1/empty"] {
        node.stays_after(format!("DELETE {path} HTTP/1.1\r\n\r\n"), 403);
    }
    assert!(node.file("/dev1/empty").exists() && node.file("/dev1/folder/file").exists());
}

#[test]
fn a_delete_that_is_not_allowed_is_403() {
    let node = Setup::new().without_privilege().start();
    node.store("/dev1/folder/file", "x");
    let folder = node.file("/dev1/folder");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o500)).unwrap();
    node.stays_after("DELETE /dev1/folder/file HTTP/1.1\r\n\r\n", 403);
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
    assert!(node.file("/dev1/folder/file").exists());
}

#[test]
fn a_delete_removes_a_symlink_and_not_what_it_leads_to() {
    let node = Node::start();
    node.store("/dev1/file", "x");
    symlink("file", node.file("/dev1/link")).unwrap();
    node.stays_after("DELETE /dev1/link HTTP/1.1\r\n\r\n", 204);
    assert!(node.file("/dev1/file").exists() && !node.file("/dev1/link").exists());
}

#[test]
fn a_delete_does_not_reach_through_a_symlink_to_another_device() {
    let node = Node::start();
    node.store("/dev2/file", "x");
    symlink("../dev2", node.file("/dev1/other")).unwrap();
    node.stays_after("DELETE /dev1/other/file HTTP/1.1\r\n\r\n", 403);
    assert!(node.file("/dev2/file").exists());
}

#[test]
fn mkcol_is_always_400_and_makes_nothing() {
    let node = Node::start();
    let before = [names_in(node.docroot()), names_in(&node.file("/dev2"))];
    for path in ["/", "/dev2/test-write/", "/dev2/test-write", "/dev9/a", "/new", "/dev2"] {
        node.stays_after(format!("MKCOL {path} HTTP/1.1\r\n\r\n"), 400);
    }
    assert!(!node.file("/dev2/test-write").exists() && !node.file("/new").exists());
    let now: Vec<_> = names_in(&node.file("/dev2"));
    // Usage may be written just now.
    let usage = ["usage", ".usage_tmp"];
    let known = |name: &String| usage.contains(&&**name) || before[1].contains(name);
    assert!(now.iter().all(known), "{now:?}");
}

#[test]
fn mkcol_with_two_dots_is_403() {
    let node = Node::start();
    node.stays_after("MKCOL /dev1/../dev2 HTTP/1.1\r\n\r\n", 403);
}

#[test]
fn the_trackers_write_test_passes() {
    let node = Node::start();
    let mut client = node.client();
    let wrong = "Content-MD5: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
    for _ in 0..3 {
        client.mkcol("/dev1/test-write/").expect_and(400, "keep-alive");
        client.put("/dev1/test-write/test-write-42", "time=1 rand=2").expect_and(201, "keep-alive");
        let get = "GET /dev1/test-write/test-write-42 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
        assert_eq!(client.ask(get).expect_and(200, "keep-alive").body, b"time=1 rand=2");
        let answer = client.put_with("/dev1/test-write/test-md5", wrong, "!");
        answer.expect_and(400, "keep-alive");
    }
}
