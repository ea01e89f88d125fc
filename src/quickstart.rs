//! `--quickstart`: a folder to serve, and curl lines to paste once it is served.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::{env, fs};

use nix::unistd::mkdtemp;
use rmogstored_master::Listening;
use rmogstored_master::config::{Key, Options};
use rmogstored_worker::spec::Service;

use crate::cli;

/// The first file of the first device.
const FID_PATH: &str = "/dev1/0/000/000/0000000001.fid";

/// What to do where the usual ports are taken.
pub const BUSY_HINT: &str = "choose other addresses with --httplisten=ADDR and --mgmtlisten=ADDR \
     (port 0: any that is free)";

const DEVICES: [&str; 2] = ["dev1", "dev2"];

/// Makes the folder with dev1 and dev2, and completes the options: its listeners are reachable
/// from this machine alone. The folder.
pub fn prepare(folder: Option<PathBuf>, options: &mut Options) -> io::Result<PathBuf> {
    let folder = match folder {
        Some(folder) => folder,
        None => {
            let place = env::temp_dir();
            mkdtemp(&place.join("rmogstored-XXXXXX")).map_err(|e| about(&place, &e.into()))?
        }
    };
    for folder in DEVICES.map(|device| folder.join(device)) {
        fs::create_dir_all(&folder).map_err(|e| about(&folder, &e))?;
    }
    let docroot = folder.clone().into_os_string().into_string();
    let docroot = docroot.map_err(|_| io::Error::other("the folder's name is not UTF-8"))?;
    options.entries.push(cli::entry((Key::Docroot, docroot)));
    for (key, address) in [(Key::Httplisten, "127.0.0.1:7500"), (Key::Mgmtlisten, "127.0.0.1:7501")]
    {
        if !options.entries.iter().any(|entry| entry.key == key) {
            options.entries.push(cli::entry((key, address.to_owned())));
        }
    }
    Ok(folder)
}

fn about(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Takes back a temporary folder that nothing was served from; what is not empty stays.
pub fn take_back(folder: &Path) {
    for device in DEVICES {
        let _ = fs::remove_dir(folder.join(device));
    }
    let _ = fs::remove_dir(folder);
}

/// Prints what can be done now. Nobody may be reading: then it is not printed.
pub fn announce(listening: &[Listening]) {
    let Some(http) = listening.iter().find(|l| l.service == Service::Http) else { return };
    let _ = io::stdout().write_all(lesson(&http.docroot, reachable(http.address)).as_bytes());
}

fn lesson(docroot: &Path, address: SocketAddr) -> String {
    let url = format!("http://{address}{FID_PATH}");
    let docroot = docroot.display();
    format!(
        "Serving {docroot} on {address}. Store a file, fetch it, delete it:\n\
         \n\
         curl -i -X PUT --data-binary 'Hello, MogileFS' {url}\n\
         curl -i {url}\n\
         curl -i -X DELETE {url}\n\
         \n\
         Ctrl-C ends it.\n"
    )
}

/// A wildcard address is reached through the loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(options: &Options) -> Vec<(Key, &str)> {
        options.entries.iter().map(|e| (e.key, e.value.as_str())).collect()
    }

    #[test]
    fn the_folder_gets_two_devices_and_local_listeners() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a/b");
        let mut options = Options::default();
        prepare(Some(folder.clone()), &mut options).unwrap();
        assert!(folder.join("dev1").is_dir() && folder.join("dev2").is_dir());
        let meant = [
            (Key::Docroot, folder.to_str().unwrap()),
            (Key::Httplisten, "127.0.0.1:7500"),
            (Key::Mgmtlisten, "127.0.0.1:7501"),
        ];
        assert_eq!(values(&options), meant);
        prepare(Some(folder), &mut Options::default()).unwrap();
    }

    #[test]
    fn listeners_that_were_given_stay() {
        let dir = tempfile::tempdir().unwrap();
        let mut options = Options::default();
        options.entries.push(cli::entry((Key::Httplisten, "0".into())));
        prepare(Some(dir.path().into()), &mut options).unwrap();
        assert!(values(&options).contains(&(Key::Mgmtlisten, "127.0.0.1:7501")));
        let http = values(&options).iter().filter(|(key, _)| *key == Key::Httplisten).count();
        assert_eq!(http, 1);
    }

    #[test]
    fn a_temporary_folder_is_the_default() {
        let mut options = Options::default();
        prepare(None, &mut options).unwrap();
        let folder = PathBuf::from(values(&options)[0].1);
        assert!(folder.starts_with(env::temp_dir()) && folder.join("dev2").is_dir());
        fs::write(folder.join("dev1/file"), "x").unwrap();
        take_back(&folder);
        assert!(folder.join("dev1/file").exists() && !folder.join("dev2").exists());
        fs::remove_file(folder.join("dev1/file")).unwrap();
        take_back(&folder);
        assert!(!folder.exists());
    }

    #[test]
    fn three_curl_lines_name_the_real_address() {
        let text = lesson(Path::new("/q"), reachable("[::]:4242".parse().unwrap()));
        let lines: Vec<_> = text.lines().filter(|line| line.starts_with("curl ")).collect();
        assert_eq!(lines.len(), 3);
        let url = format!("http://[::1]:4242{FID_PATH}");
        assert!(lines.iter().all(|line| line.ends_with(&url)), "{text}");
    }
}
