//! Where the files are: an ext4 in a file in memory, mounted for this process and its children
//! alone, so that even after SIGKILL nothing of it stays.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{geteuid, syncfs};

use crate::failure::{Context, Failure, Outcome};

/// What the file system is made for.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Bytes of the file system.
    pub size: u64,
    /// Inodes, where more than usual are wanted.
    pub inodes: Option<u64>,
}

/// A folder that goes when this is dropped.
pub struct Scratch {
    /// Outermost first.
    mounts: Vec<PathBuf>,
    root: PathBuf,
    top: PathBuf,
    handle: File,
    kind: String,
}

impl Scratch {
    /// An ext4 for root, else a temporary folder; with `folder`, a new one inside that.
    pub fn new(folder: Option<&Path>, shape: Shape) -> Outcome<Scratch> {
        let base = folder.map_or_else(std::env::temp_dir, Path::to_owned);
        let base = base.canonicalize().context(base.display())?;
        let root = base.join(format!("rmogstored-bench-{}", std::process::id()));
        fs::create_dir(&root).context(format!("cannot make {}", root.display()))?;
        let handle = File::open(&root)?;
        let kind = "ext4 on a loop device, its file on a tmpfs".to_owned();
        let mut scratch = Scratch { mounts: Vec::new(), top: root.clone(), root, handle, kind };
        if folder.is_some() || !geteuid().is_root() {
            scratch.kind = "a folder of the machine's own".to_owned();
            eprintln!("files are in {}, on whatever file system that is", scratch.root.display());
            if folder.is_none() {
                eprintln!("(root would get an ext4 in memory; --dir chooses another folder)");
            }
            return Ok(scratch);
        }
        scratch.mount(shape)?;
        Ok(scratch)
    }

    /// The folder.
    pub fn top(&self) -> &Path {
        &self.top
    }

    /// What it is on, in words.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// Writes out what is dirty, and waits for the journal.
    pub fn settle(&self) -> Outcome<()> {
        syncfs(&self.handle).context("syncfs")
    }

    fn mount(&mut self, shape: Shape) -> Outcome<()> {
        unshare(CloneFlags::CLONE_NEWNS).context("cannot have mounts of our own")?;
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("mounts")?;
        let (memory, disk) = (self.root.join("memory"), self.root.join("disk"));
        fs::create_dir(&memory)?;
        fs::create_dir(&disk)?;
        let options = format!("size={},mode=700", shape.size + (64 << 20));
        mount(Some("tmpfs"), &memory, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
            .context("cannot mount a tmpfs")?;
        self.mounts.push(memory.clone());
        let image = memory.join("image");
        File::create(&image)?.set_len(shape.size)?;
        let mut make = Command::new("mkfs.ext4");
        // No tables left to be written in the background while we measure.
        make.args(["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"]);
        if let Some(inodes) = shape.inodes {
            make.args(["-N", &inodes.to_string()]);
        }
        run(make.arg(&image))?;
        // mount(8) frees the loop device with the last user of the mount.
        run(Command::new("mount").args(["-t", "ext4", "-o", "loop"]).arg(&image).arg(&disk))?;
        self.mounts.push(disk.clone());
        self.handle = File::open(&disk)?;
        self.top = disk;
        Ok(())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing of ours may hold the mount while it goes.
        if let Ok(elsewhere) = File::open("/") {
            self.handle = elsewhere;
        }
        for place in self.mounts.iter().rev() {
            if umount2(place, MntFlags::empty()).is_err() {
                let _ = umount2(place, MntFlags::MNT_DETACH);
            }
        }
        if let Err(error) = fs::remove_dir_all(&self.root) {
            eprintln!("cannot remove {}: {error}", self.root.display());
        }
    }
}

fn run(command: &mut Command) -> Outcome<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().context(&name)?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(Failure::new(format!("{name}: {reason}")))
        }
    }
}
