//! Folders and files in memory, by the numbers of their inodes.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::time::SystemTime;

use fuser::{Errno, FileAttr, FileType, INodeNo};

/// The size of a block, as it is told.
pub(super) const BLOCK: u32 = 4096;

/// All of them. The first is the root.
pub(super) struct Tree {
    nodes: HashMap<u64, Inode>,
    last: u64,
}

/// A folder or a file.
pub(super) struct Inode {
    entries: Option<BTreeMap<OsString, u64>>,
    content: Vec<u8>,
    mode: u16,
    changed: SystemTime,
}

impl Tree {
    pub(super) fn new() -> Tree {
        let nodes = HashMap::from([(INodeNo::ROOT.0, Inode::folder(0o755))]);
        Tree { nodes, last: INodeNo::ROOT.0 }
    }

    fn node(&mut self, number: INodeNo) -> Result<&mut Inode, Errno> {
        self.nodes.get_mut(&number.0).ok_or(Errno::ENOENT)
    }

    fn entries(&mut self, folder: INodeNo) -> Result<&mut BTreeMap<OsString, u64>, Errno> {
        self.node(folder)?.entries.as_mut().ok_or(Errno::ENOTDIR)
    }

    pub(super) fn facts(&mut self, number: INodeNo) -> Result<FileAttr, Errno> {
        self.node(number).map(|node| node.facts(number))
    }

    pub(super) fn find(&mut self, folder: INodeNo, name: &OsStr) -> Result<FileAttr, Errno> {
        let number = *self.entries(folder)?.get(name).ok_or(Errno::ENOENT)?;
        self.facts(INodeNo(number))
    }

    pub(super) fn add(
        &mut self,
        folder: INodeNo,
        name: &OsStr,
        node: Inode,
    ) -> Result<FileAttr, Errno> {
        if self.entries(folder)?.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        self.last += 1;
        let number = self.last;
        self.nodes.insert(number, node);
        self.entries(folder)?.insert(name.to_owned(), number);
        self.facts(INodeNo(number))
    }

    /// The node stays, as for a file that is open; the test is short.
    pub(super) fn remove(&mut self, folder: INodeNo, name: &OsStr) -> Result<u64, Errno> {
        self.entries(folder)?.remove(name).ok_or(Errno::ENOENT)
    }

    /// What has the new name loses it.
    pub(super) fn rename(
        &mut self,
        (folder, name): (INodeNo, &OsStr),
        (new_folder, new_name): (INodeNo, OsString),
    ) -> Result<(), Errno> {
        let number = self.remove(folder, name)?;
        self.entries(new_folder)?.insert(new_name, number);
        Ok(())
    }

    pub(super) fn read(
        &mut self,
        number: INodeNo,
        offset: usize,
        size: usize,
    ) -> Result<Vec<u8>, Errno> {
        let content = &self.node(number)?.content;
        let from = content.len().min(offset);
        let to = content.len().min(from + size);
        Ok(content[from..to].to_vec())
    }

    pub(super) fn write(
        &mut self,
        number: INodeNo,
        offset: usize,
        data: &[u8],
    ) -> Result<u32, Errno> {
        let node = self.node(number)?;
        let to = offset + data.len();
        node.content.resize(node.content.len().max(to), 0);
        node.content[offset..to].copy_from_slice(data);
        node.changed = SystemTime::now();
        Ok(data.len() as u32)
    }

    /// Another mode or another length, where one is given.
    pub(super) fn change(
        &mut self,
        number: INodeNo,
        mode: Option<u32>,
        size: Option<u64>,
    ) -> Result<FileAttr, Errno> {
        let node = self.node(number)?;
        node.mode = mode.map_or(node.mode, |mode| (mode & 0o7777) as u16);
        size.inspect(|size| node.content.resize(*size as usize, 0));
        self.facts(number)
    }

    pub(super) fn list(
        &mut self,
        folder: INodeNo,
    ) -> Result<Vec<(u64, FileType, OsString)>, Errno> {
        let entries = self.entries(folder)?.clone();
        let entry = |(name, number)| {
            let kind = self.nodes.get(&number).map_or(FileType::RegularFile, Inode::kind);
            (number, kind, name)
        };
        Ok(entries.into_iter().map(entry).collect())
    }
}

impl Inode {
    pub(super) fn folder(mode: u16) -> Inode {
        Inode { entries: Some(BTreeMap::new()), ..Inode::file(mode) }
    }

    pub(super) fn file(mode: u16) -> Inode {
        Inode { entries: None, content: Vec::new(), mode, changed: SystemTime::now() }
    }

    fn kind(&self) -> FileType {
        if self.entries.is_some() { FileType::Directory } else { FileType::RegularFile }
    }

    fn facts(&self, number: INodeNo) -> FileAttr {
        let size = self.content.len() as u64;
        FileAttr {
            ino: number,
            size,
            blocks: size.div_ceil(512),
            atime: self.changed,
            mtime: self.changed,
            ctime: self.changed,
            crtime: self.changed,
            kind: self.kind(),
            perm: self.mode,
            nlink: if self.entries.is_some() { 2 } else { 1 },
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: BLOCK,
            flags: 0,
        }
    }
}
