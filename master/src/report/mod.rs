//! What the node tells about itself to programs: the lines of the status pipe and the document
//! of the status socket, and what is asked for there.

pub mod events;
pub(crate) mod live;
pub mod request;
pub mod status;

use rmogstored_worker::spec::Service;

/// The service's name in reports.
pub fn service_name(service: Service) -> &'static str {
    match service {
        Service::Http => "http",
        Service::HttpGet => "httpget",
        Service::Mgmt => "mgmt",
    }
}

/// The name of the monitor's listener.
pub const STATUS_NAME: &str = "status";
