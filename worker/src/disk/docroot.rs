//! The devices of a docroot, by their names.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use crate::disk::path::DevId;

/// The devids of the names in a docroot. Only names are read, never what they stand for; the
/// docroot itself may be on a disk that hangs, so this waits.
pub fn devices(docroot: &Path) -> io::Result<BTreeSet<u32>> {
    let mut devids = BTreeSet::new();
    for entry in std::fs::read_dir(docroot)? {
        let name = entry?.file_name();
        devids.extend(DevId::from_component(name.as_encoded_bytes()).map(DevId::get));
    }
    Ok(devids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_proper_names_are_devices() {
        let docroot = tempfile::tempdir().unwrap();
        let improper =
            ["dev", "dev0", "dev01", "dev16777216", "dev+1", "dev1 ", "Dev1", "xdev1", "dev1x"];
        for name in improper.iter().chain(&["dev1", "dev16777215", "dev99999999999999999999"]) {
            std::fs::create_dir(docroot.path().join(name)).unwrap();
        }
        assert_eq!(devices(docroot.path()).unwrap(), BTreeSet::from([1, 16_777_215]));
    }
}
