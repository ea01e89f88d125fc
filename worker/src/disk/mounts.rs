//! The mount that a device is on. The kernel's list holds names of any bytes, of all mounts of the
//! machine: one of them must not hide the others. Reads /proc only.

use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use nix::sys::statfs::fstatfs;

use crate::sys::mount;

/// What names a block device in place of its path, and where udev keeps links of that kind.
const TAGS: [(&[u8], &str); 4] = [
    (b"UUID=", "by-uuid"),
    (b"LABEL=", "by-label"),
    (b"PARTUUID=", "by-partuuid"),
    (b"PARTLABEL=", "by-partlabel"),
];
/// Filesystems by their number in statfs(2), for where there is no list of mounts.
const KINDS: [(u32, &str); 10] = [
    (0x0000_ef53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683e, "btrfs"),
    (0xf2f5_2010, "f2fs"),
    (0x2fc1_2fc1, "zfs"),
    (0x0102_1994, "tmpfs"),
    (0x794c_7630, "overlay"),
    (0x6573_5546, "fuse"),
    (0x0000_6969, "nfs"),
    (0xff53_4d42, "cifs"),
];

/// Major and minor number of a block device.
pub type Number = (u32, u32);

/// One mount: proc_pid_mountinfo(5).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    id: u64,
    number: Number,
    kind: Vec<u8>,
    source: Vec<u8>,
}

/// The mount that a descriptor is on; `number`: its st_dev, which is another than the mount's on
/// btrfs, and helps where the kernel does not say the mount's own number.
pub fn mount_of(fd: BorrowedFd<'_>, number: Number) -> Option<Mount> {
    let list = fs::read("/proc/self/mountinfo").ok()?;
    let id = mount::id(fd).ok().flatten().or_else(|| id_in_fdinfo(fd));
    find(&list, id, number)
}

/// What the filesystem under a descriptor is, where there is no list of mounts.
pub fn kind_of(fd: BorrowedFd<'_>) -> Option<&'static str> {
    let number = fstatfs(fd).ok()?.filesystem_type().0 as u32;
    KINDS.iter().find(|(known, _)| *known == number).map(|(_, name)| *name)
}

impl Mount {
    /// The source; the filesystem's type where there is none. On one line, whatever its bytes are.
    pub fn name(&self) -> String {
        let bytes = match self.source.as_slice() {
            b"" | b"none" => &self.kind,
            source => source,
        };
        let text = String::from_utf8_lossy(bytes);
        text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
    }

    /// The block device that it may be mounted from.
    pub fn node(&self) -> Option<PathBuf> {
        for (tag, folder) in TAGS {
            if let Some(value) = self.source.strip_prefix(tag) {
                return Some(PathBuf::from(format!("/dev/disk/{folder}/{}", udev(value))));
            }
        }
        // bcachefs names all disks of a filesystem, with colons between.
        let first = match self.kind.as_slice() {
            b"bcachefs" => self.source.split(|byte| *byte == b':').next()?,
            _ => &self.source,
        };
        let path = PathBuf::from(std::ffi::OsString::from_vec(first.to_vec()));
        path.starts_with("/dev").then_some(path)
    }
}

/// As udev writes a label into a name.
fn udev(value: &[u8]) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"#+-.:=@_".contains(&byte);
    let encoded = |byte: &u8| match byte {
        byte if plain(*byte) || !byte.is_ascii() => vec![*byte],
        byte => format!("\\x{byte:02x}").into_bytes(),
    };
    String::from_utf8_lossy(&value.iter().flat_map(encoded).collect::<Vec<u8>>()).into_owned()
}

/// As [`mount::id`], since Linux 3.15: proc_pid_fdinfo(5).
fn id_in_fdinfo(fd: BorrowedFd<'_>) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).ok()?;
    text.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok())
}

fn find(list: &[u8], id: Option<u64>, number: Number) -> Option<Mount> {
    let mounts = || list.split(|byte| *byte == b'\n').filter_map(parse);
    let by_id = id.and_then(|id| mounts().find(|mount| mount.id == id));
    by_id.or_else(|| mounts().find(|mount| mount.number == number))
}

fn parse(line: &[u8]) -> Option<Mount> {
    // Blanks within a field are written as octal digits.
    let middle = line.windows(3).position(|part| part == b" - ")?;
    let mut left = line[..middle].split(|byte| *byte == b' ');
    let mut right = line[middle + 3..].split(|byte| *byte == b' ');
    let id = std::str::from_utf8(left.next()?).ok()?.parse().ok()?;
    let (major, minor) = std::str::from_utf8(left.nth(1)?).ok()?.split_once(':')?;
    Some(Mount {
        id,
        number: (major.parse().ok()?, minor.parse().ok()?),
        kind: unescape(right.next()?),
        source: unescape(right.next()?),
    })
}

/// Blanks, tabs, line ends, backslashes and the like come as three octal digits.
fn unescape(mut field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    while let [first, rest @ ..] = field {
        match rest {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] if *first == b'\\' => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                field = after;
            }
            _ => {
                bytes.push(*first);
                field = rest;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;

    const MOUNTS: &[u8] = b"\
22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
30 22 0:26 / /run rw - tmpfs tmpfs rw
31 22 0:40 /sub /srv/a\\040b rw master:1 propagate_from:2 - btrfs /dev/sd\\040b1 rw,space_cache
32 22 0:41 / /x rw - zfs none rw
33 22 0:42 / /bad\xff\xfename rw - tmpfs odd\xff rw
34 22 0:43 / /srv/dev1 rw - btrfs /dev/sdc rw
35 34 0:44 / /srv/dev1 rw - btrfs /dev/sdd rw
36 22 0:45 / /e rw - tmpfs  rw
37 22 0:46 / /n rw - nfs4 host:/export\\011tab\\134\\012line rw,addr=10.0.0.1
38 22 0:47 / /z rw - zfs tank/a\\043b rw
39 22 0:48 / /o rw - overlay overlay rw,lowerdir=/a - b,upperdir=/c
not a line
40 22 x:y / /p rw - tmpfs tmpfs rw
41 22 0:49 / /t rw - fuse.sshfs user@host: rw
42 22 0:50 / /u rw - ext4 \\303\\244/\xc3\xa4 rw";

    fn name(id: u64) -> String {
        find(MOUNTS, Some(id), (9, 9)).unwrap().name()
    }

    #[test]
    fn mount_is_found_by_its_own_number() {
        let names = [22, 30, 31, 32, 34, 35, 36].map(name);
        let known = ["/dev/vda1", "tmpfs", "/dev/sd b1", "zfs", "/dev/sdc", "/dev/sdd", "tmpfs"];
        assert_eq!(names, known);
        assert_eq!([name(38), name(39), name(41)], ["tank/a#b", "overlay", "user@host:"]);
        assert_eq!(find(MOUNTS, Some(99), (9, 9)), None);
        assert_eq!(find(MOUNTS, Some(40), (9, 9)), None);
    }

    #[test]
    fn mount_is_found_by_the_filesystem_s_number_where_its_own_is_not_known() {
        let name = |id, number| find(MOUNTS, id, number).unwrap().name();
        assert_eq!(name(None, (254, 1)), "/dev/vda1");
        assert_eq!(name(None, (0, 40)), "/dev/sd b1");
        assert_eq!(name(Some(99), (0, 44)), "/dev/sdd");
    }

    #[test]
    fn name_is_one_line_of_text_whatever_its_bytes_are() {
        assert_eq!(name(33), "odd\u{fffd}");
        assert_eq!(name(37), "host:/export?tab\\?line");
        assert_eq!(name(42), "\u{e4}/\u{e4}");
    }

    #[test]
    fn long_list_is_read_to_its_end() {
        let mut list = Vec::new();
        for id in 100..20_000 {
            list.extend(format!("{id} 1 0:{id} / /").bytes());
            list.extend([0x80 + (id % 128) as u8; 500]);
            list.extend(b" rw - tmpfs tmpfs rw\n");
        }
        list.extend(MOUNTS);
        assert_eq!(find(&list, Some(35), (9, 9)).unwrap().name(), "/dev/sdd");
    }

    #[test]
    fn block_devices_are_named_in_several_ways() {
        let node = |kind: &str, source: &str| {
            let (kind, source) = (kind.into(), source.into());
            let mount = Mount { kind, source, ..Mount::default() };
            mount.node().map(|path| path.to_str().unwrap().to_owned())
        };
        for (kind, source, known) in [
            ("btrfs", "/dev/loop0", Some("/dev/loop0")),
            ("btrfs", "/dev/disk/by-label/a", Some("/dev/disk/by-label/a")),
            ("btrfs", "UUID=12-ab", Some("/dev/disk/by-uuid/12-ab")),
            ("btrfs", "LABEL=my disk/1", Some("/dev/disk/by-label/my\\x20disk\\x2f1")),
            ("bcachefs", "/dev/sda:/dev/sdb", Some("/dev/sda")),
            ("ext4", "/dev/sd:a", Some("/dev/sd:a")),
            ("nfs4", "host:/dev/sda", None),
            ("zfs", "tank/dev", None),
            ("overlay", "overlay", None),
            ("tmpfs", "/device", None),
        ] {
            assert_eq!(node(kind, source).as_deref(), known, "{source}");
        }
    }

    #[test]
    fn both_ways_to_the_mount_s_number_agree() {
        for path in ["/", "/proc", "/dev"] {
            let file = File::open(path).unwrap();
            let known = id_in_fdinfo(file.as_fd());
            assert!(known.is_some(), "{path}");
            if let Ok(Some(id)) = mount::id(file.as_fd()) {
                assert_eq!(Some(id), known, "{path}");
            }
        }
    }

    #[test]
    fn kind_is_known_without_a_list() {
        let shm = File::open("/dev/shm").unwrap();
        assert_eq!(kind_of(shm.as_fd()), Some("tmpfs"));
    }
}
