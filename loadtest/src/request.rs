//! PURE. The plan's one request, made once in both spellings.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Method, Uri, Version, header};

use crate::{Plan, target::Target};

/// Header fields that belong to one connection and have no place in HTTP/2 (RFC 9113 section 8.2.2).
const OF_HTTP_1: [header::HeaderName; 4] =
    [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE, header::HOST];

/// A request, ready to be written.
pub(crate) struct Request {
    /// Head and body as HTTP/1.1 writes them.
    pub(crate) h1: Bytes,
    /// The head for HTTP/2.
    pub(crate) h2: http::Request<()>,
    /// The body for HTTP/2.
    pub(crate) body: Bytes,
}

impl Request {
    /// # Errors
    ///
    /// The headers or the URL cannot be sent, in words.
    pub(crate) fn new(plan: &Plan, target: &Target) -> Result<Self, String> {
        let mut headers = HeaderMap::new();
        for (name, value) in &plan.headers {
            if [header::CONTENT_LENGTH, header::TRANSFER_ENCODING].contains(name) {
                return Err(format!("the header {name} is not yours to set: it follows from the body"));
            }
            headers.append(name, value.clone());
        }
        if !headers.contains_key(header::HOST) {
            let host = target.authority.parse().map_err(|_| format!("{} is no host", target.authority))?;
            headers.insert(header::HOST, host);
        }
        if !headers.contains_key(header::USER_AGENT) {
            headers.insert(header::USER_AGENT, header::HeaderValue::from_static("weir-loadtest"));
        }
        // RFC 9110 section 8.6: methods that expect content say that there is none.
        let expects_content = [Method::POST, Method::PUT, Method::PATCH].contains(&plan.method);
        if !plan.body.is_empty() || expects_content {
            headers.insert(header::CONTENT_LENGTH, plan.body.len().into());
        }
        if plan.connect_per_request {
            headers.insert(header::CONNECTION, header::HeaderValue::from_static("close"));
        }
        Ok(Self {
            h1: http1(plan, target, &headers),
            h2: http2(plan, target, headers)?,
            body: plan.body.clone(),
        })
    }

    /// Whether the answer has no body.
    pub(crate) fn is_head(&self) -> bool {
        self.h2.method() == Method::HEAD
    }
}

fn http1(plan: &Plan, target: &Target, headers: &HeaderMap) -> Bytes {
    let mut text = BytesMut::with_capacity(512 + plan.body.len());
    for part in [plan.method.as_str(), " ", &target.path, " HTTP/1.1\r\n"] {
        text.put_slice(part.as_bytes());
    }
    for (name, value) in headers {
        for part in [name.as_str().as_bytes(), b": ".as_slice(), value.as_bytes(), b"\r\n"] {
            text.put_slice(part);
        }
    }
    text.put_slice(b"\r\n");
    text.put_slice(&plan.body);
    text.freeze()
}

fn http2(plan: &Plan, target: &Target, mut headers: HeaderMap) -> Result<http::Request<()>, String> {
    let host = headers.get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or(&target.authority);
    let uri = Uri::builder()
        .scheme(if target.tls { "https" } else { "http" })
        .authority(host)
        .path_and_query(target.path.as_str())
        .build()
        .map_err(|error| format!("the host {host} cannot be sent: {error}"))?;
    for name in OF_HTTP_1 {
        headers.remove(name);
    }
    let mut request = http::Request::new(());
    *request.method_mut() = plan.method.clone();
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = headers;
    Ok(request)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{HeaderName, HeaderValue};

    use super::*;

    fn request(change: impl FnOnce(&mut Plan)) -> Result<Request, String> {
        let mut plan =
            Plan::new("http://shop.localhost:8080/a?b=c".parse().unwrap(), 1.0, Duration::from_secs(1));
        change(&mut plan);
        let target = Target {
            tls: false,
            host: "shop.localhost".into(),
            authority: "shop.localhost:8080".into(),
            path: "/a?b=c".into(),
            address: "127.0.0.1:8080".parse().unwrap(),
        };
        Request::new(&plan, &target)
    }

    fn header(name: &'static str, value: &'static str) -> (HeaderName, HeaderValue) {
        (HeaderName::from_static(name), HeaderValue::from_static(value))
    }

    #[test]
    fn a_get_is_its_line_and_its_host() {
        let request = request(|_| {}).unwrap();
        let text = "GET /a?b=c HTTP/1.1\r\nhost: shop.localhost:8080\r\nuser-agent: weir-loadtest\r\n\r\n";
        assert_eq!(request.h1, text);
        assert_eq!(request.h2.uri(), "http://shop.localhost:8080/a?b=c");
        assert!(!request.h2.headers().contains_key("host"));
    }

    #[test]
    fn a_body_has_its_length() {
        let request = request(|plan| {
            plan.method = Method::POST;
            plan.body = Bytes::from_static(b"hello");
        })
        .unwrap();
        let text = String::from_utf8(request.h1.to_vec()).unwrap();
        assert!(text.contains("content-length: 5\r\n") && text.ends_with("\r\n\r\nhello"), "{text}");
        assert_eq!(request.h2.headers()["content-length"], "5");
    }

    #[test]
    fn a_host_header_replaces_the_urls() {
        let request = request(|plan| {
            plan.headers = vec![header("host", "other.example"), header("connection", "keep-alive")];
        })
        .unwrap();
        assert!(request.h1.windows(19).any(|w| w == b"host: other.example"));
        assert_eq!(request.h2.uri().host(), Some("other.example"));
        assert!(!request.h2.headers().contains_key("connection"));
    }

    #[test]
    fn framing_headers_are_refused() {
        for name in ["content-length", "transfer-encoding"] {
            assert!(request(|plan| plan.headers = vec![header(name, "1")]).is_err());
        }
    }
}
