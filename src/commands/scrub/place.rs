//! What a name is in the place where it is found: PROTOCOL.md section 1 has the tree.

use rmogstored_worker::disk::path::DevId;

/// Digits of the three folders above a file.
const FOLDERS: [usize; 3] = [1, 3, 3];
/// Digits of a FID: no fewer, and more only when the number has them.
const DIGITS: usize = 10;
const MOST_DIGITS: usize = 20;
/// Trackers' own test files.
const TRACKERS: &[u8] = b"test-write";
const TEMPORARY: &[u8] = b".rmogstored_tmp";
const USAGE_TEMPORARY: &[u8] = b".usage_tmp";
const LOST_AND_FOUND: &[u8] = b"lost+found";

/// What a file's name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// A file of the cluster, where it belongs.
    Fid(u64),
    /// A file of the cluster in a folder that is not its own.
    Misplaced(u64),
    /// Nothing that a node reads or writes.
    Stray,
    /// A file that was to get another name. The process that made it, where the name tells.
    Temporary(Option<i32>),
    /// Belongs there and is nobody's file.
    Known,
    /// Its folder has been told of already.
    Covered,
}

/// What a folder's name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Folder {
    /// One of the tree.
    Tree,
    /// Not a node's, but what is in it is worth a look.
    Stray,
    /// To be looked into, and no finding itself.
    Known,
    /// A folder that has the name of a file of the cluster.
    NamedAsFile(u64),
    /// Not to be looked into.
    Closed,
}

/// The number in `devN`, which the last part of a path is.
pub fn devid(path: &std::path::Path) -> Option<DevId> {
    use std::os::unix::ffi::OsStrExt;
    DevId::from_component(path.file_name()?.as_bytes())
}

/// The FID that a file's name is, if it is written as nodes write it.
pub fn fid(name: &[u8]) -> Option<u64> {
    let digits = name.strip_suffix(b".fid")?;
    let long = digits.len() > DIGITS;
    if !(DIGITS..=MOST_DIGITS).contains(&digits.len()) || (long && digits[0] == b'0') {
        return None;
    }
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Judges a name that is no folder's. `folders`: those above it, below the device.
pub fn file(folders: &[Vec<u8>], name: &[u8]) -> Name {
    if let Some(fid) = fid(name) {
        let parts = [&name[..1], &name[1..4], &name[4..7]];
        return if folders == parts { Name::Fid(fid) } else { Name::Misplaced(fid) };
    }
    let top = folders.first().map(Vec::as_slice);
    match (top, folders.len()) {
        (None, _) if name == b"usage" => Name::Known,
        (Some(TEMPORARY), 1) => Name::Temporary(maker(name)),
        (Some(LOST_AND_FOUND), 1) => Name::Stray,
        _ if name.starts_with(TEMPORARY) => Name::Temporary(maker(&name[TEMPORARY.len()..])),
        (None, _) if name == USAGE_TEMPORARY || is_of_usage(name) => Name::Temporary(None),
        _ if names_a_fid(name) => Name::Temporary(None),
        _ if is_of_tree(folders) => Name::Stray,
        _ => Name::Covered,
    }
}

/// Judges a folder's name.
pub fn folder(folders: &[Vec<u8>], name: &[u8]) -> Folder {
    if folders.is_empty() && name == TRACKERS {
        return Folder::Closed;
    }
    if folders.is_empty() && (name == TEMPORARY || name == LOST_AND_FOUND) {
        return Folder::Known;
    }
    if let Some(fid) = fid(name) {
        return Folder::NamedAsFile(fid);
    }
    let in_tree = is_of_tree(folders);
    match FOLDERS.get(folders.len()) {
        Some(&digits) if in_tree && is_number(name, digits) => Folder::Tree,
        _ if in_tree || folders[0] == TEMPORARY => Folder::Stray,
        _ if folders.len() == 1 && folders[0] == LOST_AND_FOUND => Folder::Stray,
        _ => Folder::Known,
    }
}

/// Whether folders are some of the tree, from its top.
pub fn is_of_tree(folders: &[Vec<u8>]) -> bool {
    folders.len() <= FOLDERS.len()
        && folders.iter().zip(FOLDERS).all(|(name, digits)| is_number(name, digits))
}

fn is_number(name: &[u8], digits: usize) -> bool {
    name.len() == digits && name.iter().all(u8::is_ascii_digit)
}

/// The process of `PID.NUMBER`, whatever marks stand before it.
fn maker(name: &[u8]) -> Option<i32> {
    let start = name.iter().position(u8::is_ascii_digit)?;
    let digits = name[start..].split(|byte| !byte.is_ascii_digit()).next()?;
    std::str::from_utf8(digits).ok()?.parse().ok().filter(|pid| *pid > 0)
}

/// `usage` with something before or behind it, as daemons write before they rename.
fn is_of_usage(name: &[u8]) -> bool {
    let name = name.strip_prefix(b".").unwrap_or(name);
    name.strip_prefix(b"usage").is_some_and(|rest| matches!(rest.first(), Some(b'.' | b'_' | b'-')))
}

/// A file's name with something before or behind it: what other daemons and tools write before
/// they rename (`0000000001.fid.77.tmp`, rsync's `.0000000001.fid.Ab3dEf`).
fn names_a_fid(name: &[u8]) -> bool {
    if name.strip_suffix(b".fid").is_some_and(|digits| digits.iter().all(u8::is_ascii_digit)) {
        return false; // Digits alone, but not as a FID is written.
    }
    let ends = name.windows(4).enumerate().filter(|(_, part)| part == b".fid");
    ends.map(|(at, _)| &name[..at]).any(|before| {
        before.iter().rev().take_while(|byte| byte.is_ascii_digit()).count() >= DIGITS
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(path: &str) -> (Vec<Vec<u8>>, Vec<u8>) {
        let mut parts: Vec<Vec<u8>> = path.split('/').map(|part| part.into()).collect();
        let name = parts.pop().unwrap();
        (parts, name)
    }

    fn file_at(path: &str) -> Name {
        let (folders, name) = split(path);
        file(&folders, &name)
    }

    fn folder_at(path: &str) -> Folder {
        let (folders, name) = split(path);
        folder(&folders, &name)
    }

    #[test]
    fn files_belong_into_the_folders_of_their_first_digits() {
        assert_eq!(file_at("0/000/000/0000000123.fid"), Name::Fid(123));
        assert_eq!(file_at("1/234/567/12345678901.fid"), Name::Fid(12_345_678_901));
        for wrong in ["0/000/001/0000000123.fid", "0000000123.fid", "0/000/000/x/0000000123.fid"] {
            assert_eq!(file_at(wrong), Name::Misplaced(123), "{wrong}");
        }
        assert_eq!(file_at("backup/0000000123.fid"), Name::Misplaced(123));
        assert_eq!(file_at("lost+found/0000000123.fid"), Name::Misplaced(123));
    }

    #[test]
    fn names_that_are_no_fid_s_are_told_apart() {
        for stray in ["foo", "0/000/000/123.fid", "0/000/000/00000000123.fid", "lost+found/#12"] {
            assert_eq!(file_at(stray), Name::Stray, "{stray}");
        }
        assert_eq!(file_at("backup/old/foo"), Name::Covered);
        assert_eq!(file_at("usage"), Name::Known);
        assert_eq!(file_at("0/usage"), Name::Stray);
        for left in [
            ".usage_tmp",
            "usage.77",
            "0/000/000/0000000001.fid.77.tmp",
            "0/000/000/.0000000001.fid.Ab3dEf",
            "0/000/000/tmp.0000000001.fid",
        ] {
            assert_eq!(file_at(left), Name::Temporary(None), "{left}");
        }
        assert_eq!(file_at(".rmogstored_tmp/77.3"), Name::Temporary(Some(77)));
        assert_eq!(file_at("0/000/000/.rmogstored_tmp.77.3"), Name::Temporary(Some(77)));
        assert_eq!(file_at(".rmogstored_tmp/x"), Name::Temporary(None));
    }

    #[test]
    fn folders_of_the_tree_have_one_three_and_three_digits() {
        for good in ["0", "0/123", "0/123/456"] {
            assert_eq!(folder_at(good), Folder::Tree, "{good}");
        }
        for stray in ["00", "x", "0/12", "0/123/456/789", ".rmogstored_tmp/x", "lost+found/#7"] {
            assert_eq!(folder_at(stray), Folder::Stray, "{stray}");
        }
        for known in [".rmogstored_tmp", "lost+found", "x/y", "0/123/456/789/1"] {
            assert_eq!(folder_at(known), Folder::Known, "{known}");
        }
        assert_eq!(folder_at("test-write"), Folder::Closed);
        assert_eq!(folder_at("0/000/000/0000000001.fid"), Folder::NamedAsFile(1));
    }
}
