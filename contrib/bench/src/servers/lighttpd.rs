//! lighttpd: sendfile, mod_webdav.

use std::fs;
use std::net::SocketAddr;
use std::process::Stdio;

use super::{Plan, Server, Settings, free_address, session};
use crate::failure::{Context, Outcome};

pub fn start(plan: &Plan, settings: &Settings) -> Outcome<Server> {
    let http = free_address()?;
    let uploads = settings.folder.join("uploads");
    fs::create_dir_all(&uploads).context(uploads.display())?;
    let config = settings.folder.join("lighttpd.conf");
    fs::write(&config, configuration(settings, http)).context(config.display())?;
    let mut command = session(&plan.binary);
    command.arg("-D").arg("-f").arg(&config).stdout(Stdio::null());
    let log = settings.folder.join("log");
    let mut server = Server::spawn(&mut command, log, http)?;
    server.wait()?;
    Ok(server)
}

/// One process, whatever the number of workers asked for.
fn configuration(settings: &Settings, http: SocketAddr) -> String {
    let Settings { docroot, folder, connections, .. } = settings;
    let (docroot, folder) = (docroot.display(), folder.display());
    let files = connections * 2 + 1000;
    let port = http.port();
    format!(
        "server.modules = (\"mod_webdav\")
server.document-root = \"{docroot}\"
server.bind = \"127.0.0.1\"
server.port = {port}
server.errorlog = \"{folder}/errors\"
server.upload-dirs = (\"{folder}/uploads\")
server.max-connections = {connections}
server.max-fds = {files}
server.listen-backlog = 1024
server.max-keep-alive-requests = 1000000000
server.max-keep-alive-idle = 3600
server.max-read-idle = 3600
server.max-request-size = 0
server.network-backend = \"sendfile\"
webdav.activate = \"enable\"
webdav.is-readonly = \"disable\"
"
    )
}
