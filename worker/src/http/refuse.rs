//! Which requests are refused as they stand, before anything is looked up, and what becomes of
//! a body that nobody wants.

use crate::http::answer::Status;
use crate::http::head::{Body, ContentMd5, ContentRange, Method, Request, Target};
use crate::spec::Service;

/// Longest body that is read and thrown away to keep a connection: PROTOCOL.md section 2.1.
pub const MOST_DISCARDED: u64 = 64 * 1024;

/// A refusal, and whether this file says that the connection closes with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused {
    /// What to answer.
    pub status: Status,
    /// Close even if the body could be thrown away.
    pub close: bool,
}

/// What is done about the body of a request that does not use it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unwanted {
    /// There is none.
    Nothing,
    /// Read so many bytes first, then answer.
    Length(u64),
    /// Read it, as far as the limit goes, then answer.
    Chunked,
    /// Answer now and close.
    Close,
}

/// Says whether a request is refused as it stands.
pub fn refusal(request: &Request, service: Service) -> Option<Refused> {
    let keep = |status| Some(Refused { status, close: false });
    let close = |status| Some(Refused { status, close: true });
    match (request.target, request.method) {
        (_, Method::Put) if service == Service::HttpGet => close(Status::MethodNotAllowed405),
        (_, Method::Delete | Method::Mkcol) if service == Service::HttpGet => {
            keep(Status::MethodNotAllowed405)
        }
        (Target::Dots, _) => keep(Status::Forbidden403),
        (Target::TooLong, _) | (_, Method::Mkcol) => keep(Status::BadRequest400),
        (Target::Root, Method::Delete) => keep(Status::Forbidden403),
        (Target::Root, Method::Put) => keep(Status::BadRequest400),
        (Target::Path(path), Method::Put) if !path.names_a_file_on_device() => {
            keep(Status::BadRequest400)
        }
        (_, Method::Put) => put_refusal(request),
        _ => None,
    }
}

fn put_refusal(request: &Request) -> Option<Refused> {
    if request.content_md5 == ContentMd5::Malformed {
        return Some(Refused { status: Status::BadRequest400, close: true });
    }
    let fits = match (request.content_range, request.body) {
        (ContentRange::Absent, _) => true,
        (ContentRange::TooBig, _) => {
            return Some(Refused { status: Status::InsufficientStorage507, close: true });
        }
        (ContentRange::Bytes { first, last }, Body::Length(length)) => length == last - first + 1,
        _ => false,
    };
    (!fits).then_some(Refused { status: Status::BadRequest400, close: false })
}

/// Decides about a body that is not used. `known`: only one whose length is known is read, as
/// after a PUT that was refused.
pub fn unwanted(request: &Request, known: bool) -> Unwanted {
    match request.body {
        Body::None | Body::Length(0) => Unwanted::Nothing,
        _ if request.expect_continue => Unwanted::Close,
        Body::Length(length) if length <= MOST_DISCARDED => Unwanted::Length(length),
        Body::Chunked if !known => Unwanted::Chunked,
        _ => Unwanted::Close,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::path::DevPath;

    fn request(method: Method, target: &str) -> Request {
        let target = match DevPath::parse(target.as_bytes()) {
            Ok(path) if path.is_root() => Target::Root,
            Ok(path) => Target::Path(path),
            Err(_) => Target::Dots,
        };
        Request { method, target, keep_alive: true, ..Request::default() }
    }

    fn status(request: &Request, service: Service) -> Option<(u16, bool)> {
        refusal(request, service).map(|refused| (refused.status.code(), refused.close))
    }

    #[test]
    fn targets_and_methods_are_refused_as_the_protocol_says() {
        use Method::{Delete, Get, Mkcol, Put};
        let table = [
            (Get, "/dev1/..", Some((403, false))),
            (Mkcol, "/dev1/..", Some((403, false))),
            (Mkcol, "/dev1/a", Some((400, false))),
            (Delete, "/", Some((403, false))),
            (Delete, "//", Some((403, false))),
            (Put, "/", Some((400, false))),
            (Put, "/file", Some((400, false))),
            (Put, "/dev1", Some((400, false))),
            (Put, "/dev1/", Some((400, false))),
            (Put, "/dev1/a/", Some((400, false))),
            (Put, "/dev1/a", None),
            (Get, "/file", None),
        ];
        for (method, target, expected) in table {
            let found = status(&request(method, target), Service::Http);
            assert_eq!(found, expected, "{method:?} {target}");
        }
    }

    #[test]
    fn read_only_port_refuses_every_change() {
        use Method::{Delete, Get, Mkcol, Put};
        let read_only = |method| status(&request(method, "/dev1/a"), Service::HttpGet);
        assert_eq!(read_only(Put), Some((405, true)));
        assert_eq!(read_only(Delete), Some((405, false)));
        assert_eq!(read_only(Mkcol), Some((405, false)));
        assert_eq!(read_only(Get), None);
    }

    #[test]
    fn content_range_must_agree_with_the_length() {
        let put = |content_range, body| {
            let request = Request { content_range, body, ..request(Method::Put, "/dev1/a") };
            status(&request, Service::Http)
        };
        let bytes = ContentRange::Bytes { first: 10, last: 19 };
        assert_eq!(put(bytes, Body::Length(10)), None);
        assert_eq!(put(bytes, Body::Length(9)), Some((400, false)));
        assert_eq!(put(bytes, Body::None), Some((400, false)));
        assert_eq!(put(bytes, Body::Chunked), Some((400, false)));
        assert_eq!(put(ContentRange::Malformed, Body::Length(10)), Some((400, false)));
        assert_eq!(put(ContentRange::TooBig, Body::Length(10)), Some((507, true)));
    }

    #[test]
    fn bodies_are_thrown_away_up_to_the_limit() {
        let with = |body, expect_continue| Request {
            body,
            expect_continue,
            ..request(Method::Get, "/dev1/a")
        };
        assert_eq!(unwanted(&with(Body::None, true), true), Unwanted::Nothing);
        assert_eq!(unwanted(&with(Body::Length(65_536), false), true), Unwanted::Length(65_536));
        assert_eq!(unwanted(&with(Body::Length(65_537), false), false), Unwanted::Close);
        assert_eq!(unwanted(&with(Body::Length(1), true), false), Unwanted::Close);
        assert_eq!(unwanted(&with(Body::Chunked, false), false), Unwanted::Chunked);
        assert_eq!(unwanted(&with(Body::Chunked, false), true), Unwanted::Close);
    }
}
