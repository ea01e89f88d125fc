//! 2.4, 2.5: nothing acknowledged is lost, and nothing stays of what failed.

use std::path::Path;
use std::thread;

use fuser::Errno;

use crate::harness::real_disk::{FsKind, Op, RealDisk, RealSick, Which};
use crate::harness::{
    Node, Setup, can_mount, content_md5, fid_path, names_in, pattern, skipped, until,
};

const FILE: &str = "/dev1/0/000/000/0000000001.fid";

/// Nothing under a temporary name.
fn nothing_temporary(device: &Path) {
    let left = device.join(".rmogstored_tmp");
    assert!(!left.exists() || names_in(&left).is_empty(), "{:?}", names_in(&left));
}

#[test]
fn put_with_an_empty_folder_name_leaves_no_folder_behind() {
    let node = Node::start();
    node.client().put("/dev1/a//c/b", "x").expect(201);
    assert_eq!(node.client().get("/dev1/a/c/b").expect(200).body, b"x");
}

#[test]
fn folders_of_a_put_that_fails_go_with_it() {
    let node = Node::start();
    node.client().put("/dev1/kept/old", "old").expect(201);
    let wrong = "Content-MD5: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
    for path in ["/dev1/new/x/y/file", "/dev1/kept/z/file"] {
        node.client().put_with(path, wrong, "x").expect(400);
    }
    assert_eq!(names_in(&node.file("/dev1/kept")), ["old"]);
    assert!(!node.file("/dev1/new").exists());
}

#[test]
fn failed_range_to_a_new_path_leaves_nothing() {
    let node = Node::start();
    let mut client = node.client();
    client.send(
        "PUT /dev1/new/file HTTP/1.1\r\nContent-Length: 5000\r\n\
         Content-Range: bytes 0-4999/*\r\n\r\nhalf",
    );
    client.finish_sending();
    node.logs("PUT /dev1/new/file failed from");
    until("the folder is gone", || !node.file("/dev1/new").exists());
    let range = "Content-Range: bytes 3-5/*\r\n";
    node.client().put_with("/dev1/new/file", range, "abc").expect(201);
    assert_eq!(node.content("/dev1/new/file"), b"\0\0\0abc");
}

/// A disk of which all is taken but a few KiB.
#[test]
fn what_does_not_fit_leaves_nothing_and_the_old_file_stays() {
    if !can_mount() {
        return skipped("cannot mount");
    }
    const OLD: [u8; 5000] = [b'o'; 5000];
    for args in [None, Some("--fsync=file"), Some("--fsync=batch")] {
        let mount = "mount -t tmpfs -o size=1m,nr_inodes=100 tmpfs {dir}/dev1";
        let setup = Setup::new().devices(1).mount(mount);
        let node = args.into_iter().fold(setup, Setup::arg).start();
        let mut client = node.client();
        client.put("/dev1/kept/old", OLD).expect(201);
        client.put("/dev1/new/old", OLD).expect(201); // What a usage file takes is taken.
        until("usage", || client.get("/dev1/usage").status == 200);
        node.in_its_mounts("cat /dev/zero >{dir}/dev1/ballast || true").unwrap();
        let names = || node.in_its_mounts("cd {dir}/dev1 && find . | sort").unwrap();
        let before = names();
        let range = "Content-Range: bytes 0-4999/*\r\n";
        let md5 = format!("Content-MD5: {}\r\n", content_md5([b'n'; 5000]));
        for headers in ["", range, &md5, &[range, &md5].concat()] {
            for path in ["/dev1/a/b/new", "/dev1/kept/new"] {
                node.client().put_with(path, headers, [b'n'; 5000]).expect(507);
                node.client().get(path).expect(404);
            }
            if !headers.starts_with("Content-Range") {
                node.client().put_with("/dev1/kept/old", headers, [b'n'; 5000]).expect(507);
            }
        }
        let chunked = [&b"1388\r\n"[..], &[b'n'; 5000], b"\r\n0\r\n\r\n"].concat();
        node.client().put_chunked("/dev1/kept/old", "", chunked).expect(507);
        assert_eq!(node.client().get("/dev1/kept/old").expect(200).body, OLD);
        assert_eq!(names(), before);
        node.client().delete("/dev1/new/old").expect(204);
        node.client().put_with("/dev1/a/b/new", range, [b'n'; 5000]).expect(201);
    }
}

#[test]
fn file_on_a_mount_below_the_device_is_replaced() {
    if !can_mount() {
        return skipped("cannot mount");
    }
    for args in [None, Some("--fsync=file"), Some("--fsync=batch")] {
        let setup = Setup::new().devices(1).shell("mkdir -p {dir}/dev1/0/000");
        let setup = setup.mount("mount -t tmpfs tmpfs {dir}/dev1/0/000");
        let node = args.into_iter().fold(setup, Setup::arg).start();
        for content in ["one", "two", "three"] {
            node.client().put(FILE, content).expect(201);
            assert_eq!(node.client().get(FILE).expect(200).body, content.as_bytes());
        }
        nothing_temporary(&node.file("/dev1"));
        node.client().delete(FILE).expect(204);
    }
}

#[test]
fn every_setting_of_fsync_stores_replaces_and_removes() {
    for mode in ["off", "file", "batch"] {
        let node = Setup::new().devices(1).arg(&format!("--fsync={mode}")).start();
        thread::scope(|scope| {
            for fid in 0..16 {
                let node = &node;
                scope.spawn(move || {
                    let (mut client, path) = (node.client(), fid_path(1, fid));
                    client.put(&path, "one").expect(201);
                    client.put(&path, "two").expect(201);
                    let range = "Content-Range: bytes 1-2/*\r\n";
                    client.put_with(&path, range, "xx").expect(201);
                    assert_eq!(client.get(&path).expect(200).body, b"txx");
                    client.delete(&path).expect(204);
                    client.get(&path).expect(404);
                });
            }
        });
        nothing_temporary(&node.file("/dev1"));
    }
}

#[test]
fn put_that_the_disk_did_not_take_is_refused_and_the_old_file_stays() {
    if let Some(reason) = RealDisk::missing(FsKind::Ext4) {
        return skipped(&reason);
    }
    for args in [&[][..], &["--fsync=file"], &["--fsync=batch"]] {
        let sick = RealSick::start(FsKind::Ext4, "1", args, |_| ());
        sick.node.client().put(FILE, "old").expect(201);
        sick.disk.fail(Op::Write, Which::All, Errno::EIO);
        let mut client = sick.node.client();
        // The answer comes before the end of the body, which is not read to its end.
        client.send(format!("PUT {FILE} HTTP/1.1\r\nContent-Length: {}\r\n\r\n", 64 << 20));
        client.try_send(pattern(64 << 20));
        assert_eq!(client.answer().status, 500, "{args:?}");
        let line = sick.node.logs(&format!("PUT {FILE}: "));
        assert!(line.contains("sync_file_range") || line.contains("fdatasync"), "{line}");
        assert_eq!(sick.node.client().get(FILE).expect(200).body, b"old");
        sick.disk.mend();
    }
}
