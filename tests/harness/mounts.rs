//! Filesystems of a test's own: loop devices, and what goes on in a node's mount namespace.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use super::Node;

/// A loop device with an empty filesystem on it, ext4 unless said otherwise. Dropping it detaches it, at the latest when its last
/// mount goes.
pub struct LoopDisk {
    /// `/dev/loopN`
    pub device: String,
    _image: TempDir,
}

impl LoopDisk {
    /// Needs root and loop devices: the error says what is missing.
    pub fn make(mebibytes: u64) -> Result<LoopDisk, String> {
        LoopDisk::made_by("mkfs.ext4 -q -F -m 5", mebibytes)
    }

    /// With the filesystem that a command makes of the file whose name is put behind it.
    pub fn made_by(mkfs: &str, mebibytes: u64) -> Result<LoopDisk, String> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let image = folder.path().join("image");
        let file = fs::File::create(&image).and_then(|file| file.set_len(mebibytes << 20));
        file.map_err(|error| error.to_string())?;
        let image = image.to_string_lossy().into_owned();
        shell(&format!("{mkfs} {image}"))?;
        let device = shell(&format!("losetup -f --show {image}"))?.trim().to_owned();
        Ok(LoopDisk { device, _image: folder })
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        if let Err(error) = shell(&format!("losetup -d {}", self.device)) {
            eprintln!("{error}");
        }
    }
}

impl Node {
    /// Runs a line of shell in the node's mount namespace; `{dir}` in it stands for the docroot.
    pub fn in_its_mounts(&self, line: &str) -> Result<String, String> {
        let line = line.replace("{dir}", self.docroot().to_str().expect("a plain name"));
        let pid = self.pid().to_string();
        run(Command::new("nsenter").args(["-t", &pid, "-m", "sh", "-ec", &line]))
    }
}

/// The name of the disk that a folder is on, as /proc/diskstats has it; `None`: no local disk.
pub fn disk_of(folder: &Path) -> Option<String> {
    let number = fs::metadata(folder).ok()?.dev();
    let number = format!("{}:{}", nix::sys::stat::major(number), nix::sys::stat::minor(number));
    let node = fs::canonicalize(format!("/sys/dev/block/{number}")).ok()?;
    let whole = if node.join("partition").exists() { node.parent()? } else { &node };
    Some(whole.file_name()?.to_string_lossy().into_owned())
}

/// Runs a line of shell; what it printed, or why it failed.
pub fn shell(line: &str) -> Result<String, String> {
    run(Command::new("sh").args(["-ec", line]))
}

fn run(command: &mut Command) -> Result<String, String> {
    let sbin = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = command.env("PATH", sbin).stdin(Stdio::null()).output();
    let Output { status, stdout, stderr } = output.map_err(|e| format!("{command:?}: {e}"))?;
    match status.success() {
        true => Ok(String::from_utf8_lossy(&stdout).into_owned()),
        false => Err(format!("{command:?}: {}", String::from_utf8_lossy(&stderr).trim())),
    }
}
