//! What a request must be before its signature is looked for.
//!
//! The S3 library reads forms of up to 5 GiB into memory before it asks who sent them, and writes the
//! signed headers out once for every time that they are named. So whoever has no signature, or uses
//! what nobody here needs, does not get as far as the library: no byte of a body is read for them.

use axum::extract::Request;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Response};

/// The longest path and query. Keys have at most 1 KiB, our own queries about 600 bytes.
const MAX_TARGET: usize = 8 * 1024;
/// How many headers may be signed. The SDK signs fewer than ten.
const MAX_SIGNED: usize = 32;
/// The only way to sign.
const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// Why a request is turned away: its status, and code and message as S3 has them.
type Refused = (StatusCode, &'static str, &'static str);

/// The answer to a request that needs no further look.
pub(super) fn turn_away(request: &Request) -> Option<Response> {
    admit(request).err().map(|(status, code, message)| {
        let xml = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code>\
             <Message>{message}</Message></Error>"
        );
        (status, [(CONTENT_TYPE, "application/xml")], xml).into_response()
    })
}

fn admit(request: &Request) -> Result<(), Refused> {
    if ![Method::GET, Method::HEAD, Method::PUT, Method::DELETE].contains(request.method()) {
        let message = "objects are put, got, looked at, listed and deleted, nothing else";
        return Err((StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message));
    }
    let invalid = |message| Err((StatusCode::BAD_REQUEST, "InvalidRequest", message));
    let target = request.uri().path_and_query().map_or("", |target| target.as_str());
    if target.len() > MAX_TARGET {
        return invalid("the address is too long");
    }
    let query = request.uri().query().unwrap_or_default();
    let mut headers = request.headers().get_all(AUTHORIZATION).iter();
    let header = match (headers.next(), headers.next()) {
        (None, _) => "",
        (Some(header), None) => header.to_str().unwrap_or_default(),
        (Some(_), Some(_)) => return invalid("two authorizations"),
    };
    let is_signed = header.starts_with(ALGORITHM)
        || query.split('&').any(|part| part.starts_with("X-Amz-Signature="));
    if !is_signed {
        let message = "the request is not signed: ask the control plane for a URL";
        return Err((StatusCode::FORBIDDEN, "AccessDenied", message));
    }
    if separators(query) + separators(header) > MAX_SIGNED {
        return invalid("too many signed headers");
    }
    Ok(())
}

/// How many `;` there are, as they are and percent-encoded.
fn separators(text: &str) -> usize {
    let plain = text.bytes().filter(|byte| *byte == b';').count();
    plain + text.as_bytes().windows(3).filter(|it| it.eq_ignore_ascii_case(b"%3b")).count()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn status(request: axum::http::request::Builder) -> u16 {
        let request = request.body(Body::empty()).unwrap();
        admit(&request).map_or_else(|(status, ..)| status.as_u16(), |()| 200)
    }

    #[test]
    fn only_what_is_signed_and_small_comes_in() {
        let signed = "/gantry/a?X-Amz-SignedHeaders=host&X-Amz-Signature=0";
        let header = "AWS4-HMAC-SHA256 Credential=a, SignedHeaders=host;x-amz-date, Signature=0";
        assert_eq!(status(Request::put(signed)), 200);
        assert_eq!(status(Request::get("/gantry/a").header(AUTHORIZATION, header)), 200);
        assert_eq!(status(Request::post(signed)), 405);
        assert_eq!(status(Request::get("/gantry/a")), 403);
        assert_eq!(status(Request::get("/gantry/a?AWSAccessKeyId=a&Signature=b")), 403);
        assert_eq!(status(Request::get("/gantry/a").header(AUTHORIZATION, "AWS a:b")), 403);
        assert_eq!(status(Request::get(format!("{signed}&a={}", "b".repeat(MAX_TARGET)))), 400);
        for separator in [";", "%3B", "%3b"] {
            let many = format!("{signed}&X-Amz-SignedHeaders={}", separator.repeat(33));
            assert_eq!(status(Request::get(many)), 400);
        }
        let many = header.replace("host;", &"host;".repeat(33));
        assert_eq!(status(Request::get("/gantry/a").header(AUTHORIZATION, many)), 400);
    }
}
