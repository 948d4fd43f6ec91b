//! The request that is asked about.

use std::borrow::Cow;

use api::admin::ExplainRequest;
use model::{PoolName, path};

/// What edges take by default (`limits.md`). Each of a tenant's matches may look at all of it.
const MAX_HEADERS: usize = 100;
const MAX_HEAD: usize = 64 * 1024;

/// A request in the form in which routing looks at it.
#[derive(Debug)]
pub(super) struct Question {
    entry: Entry,
    host: String,
    path: String,
    query: Option<String>,
    method: String,
    headers: Vec<(String, String)>,
}

/// Where a request comes in.
#[derive(Debug)]
pub(super) struct Entry {
    /// As Gateways name it.
    pub(super) port: u16,
    /// The pool whose address has the URL's port; `None`: whichever maps the Gateways' port.
    pub(super) pool: Option<PoolName>,
}

impl Question {
    /// Reads the URL as an edge would read the request for it. `entry` says what the URL's port means.
    pub(super) fn parse(request: &ExplainRequest, entry: impl FnOnce(u16) -> Entry) -> Result<Self, String> {
        let url = match request.url.contains("://") {
            true => request.url.clone(),
            false => format!("http://{}", request.url),
        };
        let uri: http::Uri = url.parse().map_err(|e| format!("{:?} is not a URL: {e}", request.url))?;
        let default_port = match uri.scheme_str() {
            Some("http") => 80,
            Some("https") => 443,
            _ => return Err(format!("{:?} begins with http:// or https://", request.url)),
        };
        let host = uri.host().filter(|h| !h.is_empty());
        let host = host.ok_or_else(|| format!("{:?} names no host", request.url))?.to_ascii_lowercase();
        let path = path::canonical(match uri.path() {
            "" => "/",
            path => path,
        })
        .map_err(|e| format!("an edge answers 400: {e}"))?;
        let bytes: usize = request.headers.iter().map(String::len).sum();
        if request.headers.len() > MAX_HEADERS || request.url.len() + bytes > MAX_HEAD {
            return Err(format!("an edge answers 431: more than {MAX_HEADERS} headers, or {MAX_HEAD} bytes"));
        }
        let headers = request
            .headers
            .iter()
            .map(|line| {
                let (name, value) = line
                    .split_once(':')
                    .ok_or_else(|| format!("header {line:?} is not of the form name: value"))?;
                Ok((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
            })
            .collect::<Result<_, String>>()?;
        Ok(Self {
            entry: entry(uri.port_u16().unwrap_or(default_port)),
            host,
            path: path.into_owned(),
            query: uri.query().map(str::to_owned),
            method: if request.method.is_empty() { "GET".to_owned() } else { request.method.clone() },
            headers,
        })
    }

    /// Whether a request like this can come in at `pool`.
    pub(super) fn enters(&self, pool: &PoolName) -> bool {
        self.entry.pool.as_ref().is_none_or(|entered| entered == pool)
    }
}

impl model::Request for Question {
    fn port(&self) -> u16 {
        self.entry.port
    }

    fn host(&self) -> &str {
        &self.host
    }

    fn path(&self) -> &str {
        &self.path
    }

    fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }

    fn method(&self) -> &str {
        &self.method
    }

    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        let values: Vec<_> =
            self.headers.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect();
        (!values.is_empty()).then(|| Cow::Owned(values.join(",").into_bytes()))
    }
}
