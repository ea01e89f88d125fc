//! nginx: one worker, sendfile, WebDAV's PUT and DELETE, with and without what makes its GETs
//! cheaper.

use std::fs;
use std::net::SocketAddr;
use std::process::Stdio;

use super::{Plan, Server, Settings, free_address, session};
use crate::failure::{Context, Outcome};

/// It remembers files, open and with their sizes, and looks an hour later whether they changed.
pub const OPEN_FILE_CACHE: &str =
    "open_file_cache max=20000 inactive=1h; open_file_cache_valid 1h; open_file_cache_errors on;";

pub fn start(plan: &Plan, settings: &Settings, more: &str) -> Outcome<Server> {
    let http = free_address()?;
    let config = settings.folder.join("nginx.conf");
    fs::write(&config, configuration(settings, http, more)).context(config.display())?;
    let mut command = session(&plan.binary);
    command.arg("-p").arg(&settings.folder).arg("-c").arg(&config);
    command.arg("-e").arg(settings.folder.join("errors")).stdout(Stdio::null());
    let log = settings.folder.join("log");
    let mut server = Server::spawn(&mut command, log, http)?;
    server.wait()?;
    Ok(server)
}

fn configuration(settings: &Settings, http: SocketAddr, more: &str) -> String {
    let Settings { docroot, folder, workers, connections } = settings;
    let (docroot, folder) = (docroot.display(), folder.display());
    let files = connections + 1000;
    // Root's worker stays root where the master is, to write what the other servers read.
    let user = if nix::unistd::geteuid().is_root() { "user root;" } else { "" };
    format!(
        "{user}
daemon off;
worker_processes {workers};
worker_rlimit_nofile {files};
pid {folder}/pid;
error_log {folder}/errors crit;
events {{ worker_connections {connections}; }}
http {{
    access_log off;
    log_not_found off;
    sendfile on;
    tcp_nopush on;
    keepalive_timeout 1h;
    keepalive_requests 1000000000;
    keepalive_time 100h;
    client_max_body_size 0;
    client_body_buffer_size 256k;
    client_body_temp_path {folder}/uploads;
    proxy_temp_path {folder}/unused;
    fastcgi_temp_path {folder}/unused;
    uwsgi_temp_path {folder}/unused;
    scgi_temp_path {folder}/unused;
    {more}
    server {{
        listen {http} backlog=1024;
        root {docroot};
        location / {{
            dav_methods PUT DELETE;
            create_full_put_path on;
        }}
    }}
}}
"
    )
}
