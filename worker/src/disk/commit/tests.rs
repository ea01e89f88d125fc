use super::*;
use crate::disk::pool::Progress;
use crate::disk::temporary::sweep;
use crate::spec::{DeviceKey, Fsync, SiteId};
use std::path::Path;

fn device() -> (tempfile::TempDir, Device) {
    let docroot = tempfile::tempdir().unwrap();
    std::fs::create_dir(docroot.path().join("dev1")).unwrap();
    let device = Device::new(DeviceKey { site: SiteId(0), devid: 1 }, docroot.path(), false);
    (docroot, device)
}

fn flush(progress: &Progress) -> Flush<'_> {
    Flush::new(Fsync::Off, progress, false)
}

fn create(device: &Device) -> Incoming {
    let progress = Progress::in_test();
    Incoming::create(&OnDisk::in_test(), device, &path(), &flush(&progress)).unwrap()
}

fn path() -> DevPath {
    DevPath::parse(b"/dev1/0/000/000/0000000001.fid").unwrap()
}

fn put(device: &Device, text: &str) {
    let on = OnDisk::in_test();
    let incoming = create(device);
    incoming.file().write_all_at(&on, text.as_bytes(), 0).unwrap();
    incoming.commit(&on, device, &path(), &flush(&Progress::in_test()), || ()).unwrap();
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn check_create_and_replace(anonymous: bool) {
    let (docroot, device) = device();
    device.dir(&OnDisk::in_test()).unwrap().set_anonymous_files(anonymous);
    let folder = docroot.path().join("dev1/0/000/000");
    put(&device, "old");
    let unfinished = create(&device);
    unfinished.file().write_all_at(&OnDisk::in_test(), b"never seen", 0).unwrap();
    drop(unfinished);
    assert_eq!(std::fs::read_to_string(folder.join("0000000001.fid")).unwrap(), "old");
    put(&device, "new");
    assert_eq!(std::fs::read_to_string(folder.join("0000000001.fid")).unwrap(), "new");
    assert_eq!(names(&folder), ["0000000001.fid"]);
    assert!(names(&docroot.path().join("dev1/.rmogstored_tmp")).is_empty());
}

#[test]
fn file_appears_whole_and_replaces_the_old_one() {
    check_create_and_replace(true);
}

#[test]
fn the_same_without_anonymous_files() {
    check_create_and_replace(false);
}

/// The folder that a thread has stored in last may go at any moment: before the next file, and while
/// that is on its way.
#[test]
fn folder_that_is_removed_is_made_again() {
    let (docroot, device) = device();
    let file = docroot.path().join("dev1/0/000/000/0000000001.fid");
    let remove = || std::fs::remove_dir_all(docroot.path().join("dev1/0")).unwrap();
    let found = || std::fs::read_to_string(&file).unwrap();
    for text in ["one", "two", "three"] {
        put(&device, text);
        assert_eq!(found(), text);
        remove();
    }
    put(&device, "four");
    let on = OnDisk::in_test();
    let incoming = create(&device);
    incoming.file().write_all_at(&on, b"five", 0).unwrap();
    remove();
    incoming.commit(&on, &device, &path(), &flush(&Progress::in_test()), || ()).unwrap();
    assert_eq!(found(), "five");
}

/// Another PUT made it, failed, and took it away when this one had just opened it.
#[test]
fn folder_that_is_removed_under_the_open_is_missing_and_not_forbidden() {
    let (docroot, device) = device();
    let (on, progress) = (OnDisk::in_test(), Progress::in_test());
    let dir = device.dir(&on).unwrap();
    for mode in [Fsync::Off, Fsync::File] {
        let flush = Flush::new(mode, &progress, false);
        std::fs::create_dir_all(docroot.path().join("dev1/0/000/000")).unwrap();
        let open = || {
            let folder = open_folder(&on, &device, &dir, &path(), flush.folder_flags());
            std::fs::remove_dir_all(docroot.path().join("dev1/0")).unwrap();
            folder
        };
        let error = create_anonymous(&on, &dir, &path(), &flush, open).unwrap_err();
        assert_eq!(error.errno(), Some(libc::ENOENT), "{mode:?}");
    }
}

#[test]
fn new_file_takes_no_name_that_is_taken() {
    for anonymous in [true, false] {
        let (docroot, device) = device();
        let on = OnDisk::in_test();
        device.dir(&on).unwrap().set_anonymous_files(anonymous);
        let put_new = |text: &[u8]| {
            let incoming = create(&device);
            incoming.file().write_all_at(&on, text, 0).unwrap();
            let progress = Progress::in_test();
            let flush = flush(&progress);
            incoming.commit_new(&on, &device, &path(), &flush)
        };
        assert!(put_new(b"first").unwrap().is_none());
        assert!(put_new(b"second").unwrap().is_some(), "given back");
        let folder = docroot.path().join("dev1/0/000/000");
        assert_eq!(std::fs::read(folder.join("0000000001.fid")).unwrap(), b"first");
        assert_eq!(names(&folder), ["0000000001.fid"]);
        assert!(names(&docroot.path().join("dev1/.rmogstored_tmp")).is_empty());
    }
}

#[test]
fn folder_removed_before_the_commit_is_made_again() {
    let (docroot, device) = device();
    let incoming = create(&device);
    std::fs::remove_dir_all(docroot.path().join("dev1/0")).unwrap();
    incoming
        .commit(&OnDisk::in_test(), &device, &path(), &flush(&Progress::in_test()), || ())
        .unwrap();
    assert!(docroot.path().join("dev1/0/000/000/0000000001.fid").is_file());
}

#[test]
fn directory_under_the_final_name_stays() {
    let (docroot, device) = device();
    let name = docroot.path().join("dev1/0/000/000/0000000001.fid");
    std::fs::create_dir_all(&name).unwrap();
    let incoming = create(&device);
    let error = incoming
        .commit(&OnDisk::in_test(), &device, &path(), &flush(&Progress::in_test()), || ())
        .unwrap_err();
    assert_eq!(error.errno(), Some(libc::EISDIR));
    assert!(name.is_dir());
    assert!(names(&docroot.path().join("dev1/.rmogstored_tmp")).is_empty());
}

#[test]
fn sweep_leaves_what_this_process_is_writing() {
    let (docroot, device) = device();
    let dir = device.dir(&OnDisk::in_test()).unwrap();
    dir.set_anonymous_files(false);
    let incoming = create(&device);
    sweep(&OnDisk::in_test(), &dir, device.path());
    incoming
        .commit(&OnDisk::in_test(), &device, &path(), &flush(&Progress::in_test()), || ())
        .unwrap();
    assert!(docroot.path().join("dev1/0/000/000/0000000001.fid").is_file());
}

#[test]
fn sweep_removes_what_dead_processes_left_only() {
    let (docroot, device) = device();
    let folder = docroot.path().join("dev1/.rmogstored_tmp");
    std::fs::create_dir(&folder).unwrap();
    let parent = std::os::unix::process::parent_id();
    std::fs::write(folder.join(format!("{parent}.1")), "alive").unwrap();
    std::fs::write(folder.join("999999999.1"), "dead").unwrap();
    device.dir(&OnDisk::in_test()).unwrap();
    assert_eq!(names(&folder), [format!("{parent}.1")]);
}
