//! How this process was started, so that an upgrade can start its successor in the same way:
//! the executable is found again through `argv[0]` and PATH, as a shell would.

use std::env;
use std::ffi::{CString, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The words of the command line, and where its first was looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    words: Vec<OsString>,
    folder: PathBuf,
    search_path: OsString,
}

impl Invocation {
    /// Of this process. To be called before it changes its folder or its title.
    pub fn capture() -> Invocation {
        Invocation {
            words: env::args_os().collect(),
            folder: env::current_dir().unwrap_or_default(),
            search_path: env::var_os("PATH").unwrap_or_default(),
        }
    }

    /// The command line, `argv[0]` first.
    pub(crate) fn words(&self) -> Vec<CString> {
        let words = self.words.iter().map(|word| CString::new(word.as_bytes()));
        words.map(Result::unwrap_or_default).collect() // they came as C strings
    }

    /// Where the executable is now.
    pub(crate) fn executable(&self) -> io::Result<PathBuf> {
        let name =
            Path::new(self.words.first().map_or(Default::default(), |word| word.as_os_str()));
        if name.as_os_str().as_bytes().contains(&b'/') {
            return check(self.folder.join(name));
        }
        let mut refused = io::Error::new(
            io::ErrorKind::NotFound,
            format!("{} is not in PATH={}", name.display(), self.search_path.display()),
        );
        for folder in env::split_paths(&self.search_path) {
            match check(self.folder.join(folder).join(name)) {
                Ok(found) => return Ok(found),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => refused = e,
            }
        }
        Err(refused)
    }
}

/// A path as the C library takes it.
pub(crate) fn c_path(path: PathBuf) -> CString {
    CString::new(path.into_os_string().into_vec()).unwrap_or_default()
}

/// Fails with the path in the text. What exec finds wrong later is told as well; this is only
/// to choose among several.
fn check(path: PathBuf) -> io::Result<PathBuf> {
    let told = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
    let found = fs::metadata(&path).map_err(told)?;
    if !found.is_file() || found.permissions().mode() & 0o111 == 0 {
        let kind = io::ErrorKind::PermissionDenied;
        return Err(told(io::Error::new(kind, "not an executable file")));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invocation(word: &str, folder: &Path, search_path: &str) -> Invocation {
        let (words, search_path) = (vec![word.into()], search_path.into());
        Invocation { words, folder: folder.to_owned(), search_path }
    }

    fn program(path: &Path, mode: u32) {
        fs::write(path, "").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn path_with_a_slash_is_taken_from_the_first_folder() {
        let folder = tempfile::tempdir().unwrap();
        program(&folder.path().join("node"), 0o755);
        let started = invocation("./node", folder.path(), "/nowhere");
        assert!(started.executable().unwrap().ends_with("node"));
        fs::remove_file(folder.path().join("node")).unwrap();
        let error = started.executable().unwrap_err().to_string();
        assert!(error.contains("node: No such file"), "{error}");
    }

    #[test]
    fn name_alone_is_searched_for_in_path() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let search = format!("{}:{}", a.path().display(), b.path().display());
        let started = invocation("node", Path::new("/"), &search);
        assert!(started.executable().unwrap_err().to_string().contains("node is not in PATH="));
        program(&b.path().join("node"), 0o755);
        assert_eq!(started.executable().unwrap(), b.path().join("node"));
        program(&a.path().join("node"), 0o644);
        assert_eq!(started.executable().unwrap(), b.path().join("node"));
        fs::remove_file(b.path().join("node")).unwrap();
        let error = started.executable().unwrap_err().to_string();
        assert!(error.contains("not an executable file"), "{error}");
    }
}
