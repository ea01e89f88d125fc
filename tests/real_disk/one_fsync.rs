//! 2.4: what a shared flush relies on. Where the journal keeps things in order, an fsync of a folder
//! whose times were changed makes safe all names that were changed before, in any folder.

use std::fs::{self, File, FileTimes};
use std::path::Path;
use std::time::SystemTime;

use crate::harness::real_disk::{FsKind, RealDisk};
use crate::harness::skipped;

/// In MiB.
const SIZE: u64 = 512;

fn all_names_are_safe(kind: FsKind, options: &str) {
    if let Some(reason) = RealDisk::missing(kind) {
        return skipped(&reason);
    }
    let disk = RealDisk::make_with(kind, SIZE, options);
    let cut = disk.inside(|root| {
        prepare(root);
        disk.record();
        let folder = File::open(root.join("mine")).unwrap();
        File::create(root.join("mine/file")).unwrap();
        folder.sync_all().unwrap(); // Of this folder nothing is left to be done.
        change_names(root);
        folder.set_times(FileTimes::new().set_accessed(SystemTime::now())).unwrap();
        folder.sync_all().unwrap();
        disk.recorded()
    });
    let recording = disk.recording().expect("recorded");
    let left = RealDisk::of_image(kind, recording.image(cut, |_| false));
    left.inside(|root| {
        let found = ["old", "new", "gone", "made/folder/file"]
            .map(|name| fs::read(root.join("other").join(name)).ok().map(|bytes| bytes.len()));
        let what = format!("{} {options}", kind.name());
        assert_eq!(found, [None, Some(5000), None, Some(5000)], "{what}");
    });
}

/// Files whose content is safe.
fn prepare(root: &Path) {
    for folder in ["mine", "other"] {
        fs::create_dir(root.join(folder)).unwrap();
    }
    for name in ["old", "gone", "moved"] {
        fs::write(root.join("other").join(name), [7; 5000]).unwrap();
        File::open(root.join("other").join(name)).unwrap().sync_all().unwrap();
    }
    nix::unistd::syncfs(File::open(root).unwrap()).unwrap();
}

fn change_names(root: &Path) {
    let other = root.join("other");
    fs::rename(other.join("old"), other.join("new")).unwrap();
    fs::remove_file(other.join("gone")).unwrap();
    fs::create_dir_all(other.join("made/folder")).unwrap();
    fs::rename(other.join("moved"), other.join("made/folder/file")).unwrap();
}

#[test]
fn fsync_of_one_folder_makes_all_names_safe() {
    all_names_are_safe(FsKind::Ext4, "");
    all_names_are_safe(FsKind::Ext4, "-O fast_commit");
    all_names_are_safe(FsKind::Xfs, "");
}
