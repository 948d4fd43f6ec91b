//! Where a plan's requests go: the URL taken apart, resolved, and refused unless it is this machine.

use std::net::{Ipv4Addr, SocketAddr};

use http::Uri;

use crate::{Plan, Trust};

/// Why a target is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// Not an absolute http or https URL.
    #[error("{url} is not a target: use http://HOST[:PORT]/PATH or https://HOST[:PORT]/PATH")]
    Url {
        /// What was given.
        url: String,
    },
    /// The name has no address.
    #[error("resolve {host}")]
    Resolve {
        /// The URL's host.
        host: String,
        /// The resolver's word.
        #[source]
        source: std::io::Error,
    },
    /// The resolver answered with nothing.
    #[error("{host} has no address")]
    NoAddress {
        /// The URL's host.
        host: String,
    },
    /// Not this machine.
    #[error(
        "{host} is {address}, which is not a loopback address: a load test takes down what it is aimed at. If that \
         machine is yours, allow it with --allow-remote"
    )]
    Remote {
        /// The URL's host.
        host: String,
        /// Where it leads.
        address: SocketAddr,
    },
    /// Certificates are not checked.
    #[error(
        "certificates of {address} must be checked: give the CA with --cacert; --insecure is for loopback only"
    )]
    Unchecked {
        /// Where requests would go.
        address: SocketAddr,
    },
}

/// A resolved target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) tls: bool,
    /// The host without brackets, for SNI.
    pub(crate) host: String,
    /// `host[:port]` as the URL has it, for Host and `:authority`.
    pub(crate) authority: String,
    pub(crate) path: String,
    pub(crate) address: SocketAddr,
}

impl Target {
    /// Resolves the plan's URL and refuses what is not allowed.
    pub(crate) async fn resolve(plan: &Plan) -> Result<Self, TargetError> {
        let parts = Parts::of(&plan.url)?;
        let address = match (plan.connect_to, parts.local()) {
            (Some(address), _) | (None, Some(address)) => address,
            (None, None) => lookup(&parts.host, parts.port).await?,
        };
        if !address.ip().to_canonical().is_loopback() {
            if !plan.allow_remote {
                return Err(TargetError::Remote { host: parts.host, address });
            }
            if parts.tls && plan.trust == Trust::Insecure {
                return Err(TargetError::Unchecked { address });
            }
        }
        Ok(Self {
            tls: parts.tls,
            host: parts.host,
            authority: parts.authority,
            path: plan.url.path_and_query().map_or("/", |p| p.as_str()).to_owned(),
            address,
        })
    }
}

struct Parts {
    tls: bool,
    host: String,
    port: u16,
    authority: String,
}

impl Parts {
    fn of(url: &Uri) -> Result<Self, TargetError> {
        let bad = || TargetError::Url { url: url.to_string() };
        let tls = match url.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(bad()),
        };
        let authority = url.authority().ok_or_else(bad)?;
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return Err(bad());
        }
        let host = authority.host().trim_matches(['[', ']']).to_ascii_lowercase();
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Ok(Self { tls, host, port, authority: authority.as_str().to_owned() })
    }

    /// The address, where no resolver needs to be asked: a literal, or `localhost` and all below it (RFC 6761
    /// section 6.3), which are the default domain of a Weir installation.
    fn local(&self) -> Option<SocketAddr> {
        if let Ok(ip) = self.host.parse() {
            return Some(SocketAddr::new(ip, self.port));
        }
        let host = self.host.strip_suffix('.').unwrap_or(&self.host);
        (host == "localhost" || host.ends_with(".localhost"))
            .then(|| SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)))
    }
}

async fn lookup(host: &str, port: u16) -> Result<SocketAddr, TargetError> {
    let found = tokio::net::lookup_host((host, port)).await;
    let mut found = found.map_err(|source| TargetError::Resolve { host: host.to_owned(), source })?;
    found.next().ok_or_else(|| TargetError::NoAddress { host: host.to_owned() })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn resolve(url: &str) -> Result<Target, TargetError> {
        Target::resolve(&Plan::new(url.parse().unwrap(), 1.0, Duration::from_secs(1))).await
    }

    #[tokio::test]
    async fn names_below_localhost_need_no_resolver() {
        for (url, address) in [
            ("http://shop.localhost:8080/x?y", "127.0.0.1:8080"),
            ("http://LOCALHOST./", "127.0.0.1:80"),
            ("https://acme.localhost", "127.0.0.1:443"),
            ("http://127.0.0.9:1/", "127.0.0.9:1"),
            ("http://[::1]:8080/", "[::1]:8080"),
        ] {
            assert_eq!(resolve(url).await.unwrap().address.to_string(), address, "{url}");
        }
        let target = resolve("http://shop.localhost:8080/x?y").await.unwrap();
        assert_eq!((target.path.as_str(), target.authority.as_str()), ("/x?y", "shop.localhost:8080"));
    }

    #[tokio::test]
    async fn only_loopback_addresses_are_loaded() {
        for url in ["http://192.0.2.1/", "http://10.0.0.1:8080/", "https://[2001:db8::1]/", "http://0.0.0.0/"]
        {
            let error = resolve(url).await.unwrap_err();
            assert!(matches!(error, TargetError::Remote { .. }), "{url}: {error}");
            assert!(error.to_string().contains("--allow-remote"), "{error}");
        }
        let mut plan = Plan::new(Uri::from_static("http://localhost/"), 1.0, Duration::from_secs(1));
        plan.connect_to = Some("192.0.2.1:80".parse().unwrap());
        assert!(Target::resolve(&plan).await.is_err(), "connect_to is no way around");
    }

    #[tokio::test]
    async fn remote_tls_without_a_ca_is_refused() {
        let mut plan = Plan::new(Uri::from_static("https://192.0.2.1/"), 1.0, Duration::from_secs(1));
        plan.allow_remote = true;
        assert!(matches!(Target::resolve(&plan).await, Err(TargetError::Unchecked { .. })));
    }

    #[tokio::test]
    async fn what_is_no_url_is_refused() {
        for url in ["/path", "ftp://127.0.0.1/", "http://user@127.0.0.1/"] {
            assert!(matches!(resolve(url).await, Err(TargetError::Url { .. })), "{url}");
        }
    }
}
