//! The commands that talk to the admin API.

pub(crate) mod apply;
pub(crate) mod audit;
pub(crate) mod cluster;
pub(crate) mod delete;
pub(crate) mod describe;
pub(crate) mod diff;
pub(crate) mod events;
pub(crate) mod explain;
pub(crate) mod get;
pub(crate) mod history;
pub(crate) mod rollback;
pub(crate) mod secrets;
pub(crate) mod tenant;
pub(crate) mod top;
pub(crate) mod watch;
pub(crate) mod workers;

use std::{future::Future, path::PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use api::{client::Admin, pki};
use tonic::{Code, Status};

use crate::layout::{DEFAULT_DATA, Layout};

/// How to reach the admin API; by default what `weir up` in this directory wrote.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Connect {
    /// Admin API address; several, with commas, are tried in turn
    #[arg(long, env = "WEIR_ADMIN", value_name = "HOST:PORT", global = true)]
    admin: Option<String>,
    /// PEM file of the installation's CA
    #[arg(long, env = "WEIR_CACERT", value_name = "FILE", global = true)]
    cacert: Option<PathBuf>,
    /// File that holds the bearer token (the token itself may be in WEIR_TOKEN)
    #[arg(long, env = "WEIR_TOKEN_FILE", value_name = "FILE", global = true)]
    token_file: Option<PathBuf>,
    /// Data directory of an installation on this machine
    #[arg(long, env = "WEIR_DATA", value_name = "DIR", default_value = DEFAULT_DATA, global = true)]
    data: PathBuf,
}

impl Connect {
    /// The installation on this machine.
    pub(crate) fn layout(&self) -> Result<Layout> {
        Layout::new(&self.data)
    }

    /// A client that connects on its first call, or an error that says what was looked for and where.
    pub(crate) fn client(&self) -> Result<Admin> {
        let layout = Layout::new(&self.data)?;
        let addresses = match (&self.admin, layout.read_client()?) {
            (Some(addresses), _) => addresses.split(',').map(|address| address.trim().to_owned()).collect(),
            (None, Some(file)) => file.addresses(),
            (None, None) => bail!(
                "no installation in {}: start one with `weir up`, or name one with --admin, --cacert and --token-file",
                layout.root().display()
            ),
        };
        let read = |path: PathBuf, flag: &str| {
            std::fs::read_to_string(&path).with_context(|| format!("read {} (see {flag})", path.display()))
        };
        let ca_pem = read(self.cacert.clone().unwrap_or_else(|| layout.ca()), "--cacert")?;
        let token = match std::env::var("WEIR_TOKEN") {
            Ok(token) if self.token_file.is_none() => token,
            // Whoever may read a server's key may do all that it may.
            _ if self.token_file.is_none()
                && !layout.admin_token().exists()
                && layout.server_file().exists() =>
            {
                let identity =
                    pki::load(&layout.pki(), "server").context("read this server's certificate")?;
                return Admin::of_server(&addresses, &ca_pem, &identity)
                    .context("set up a client of the admin API");
            }
            _ => read(self.token_file.clone().unwrap_or_else(|| layout.admin_token()), "--token-file")?,
        };
        Admin::of_any(&addresses, &ca_pem, token.trim()).context("set up a client of the admin API")
    }
}

/// Runs one command on a small runtime.
pub(crate) fn run(command: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?
        .block_on(command)
}

/// What a refusal says to a person: the server's own words, and what to do where that is known.
pub(crate) fn refusal(status: Status) -> anyhow::Error {
    let message = status.message();
    match status.code() {
        Code::InvalidArgument => {
            let lines: Vec<&str> = message.lines().collect();
            match lines.as_slice() {
                [one] => anyhow!("{one}"),
                many => anyhow!("{} mistakes; nothing was changed:\n  {}", many.len(), many.join("\n  ")),
            }
        }
        Code::Unauthenticated => anyhow!("the token is not known here: {message}"),
        Code::PermissionDenied => anyhow!("not allowed with this token: {message}"),
        Code::NotFound => anyhow!("not found: {message}"),
        Code::Aborted => anyhow!("someone else changed it meanwhile, try again: {message}"),
        Code::Unavailable => {
            anyhow!(
                "no server can be reached (is `weir up` or `weir server` running?), or none leads now; try again: {message}"
            )
        }
        Code::DeadlineExceeded => {
            anyhow!("no answer in time; the change may or may not have happened: {message}")
        }
        code => anyhow!("{code:?}: {message}"),
    }
}

/// `HTTPRoute` for `httproute`, `httproutes`, `HTTPRoute`, or a short name.
pub(crate) fn kind(name: &str) -> Result<&'static str> {
    const KINDS: [(&str, &[&str]); 15] = [
        ("Gateway", &["gateway", "gateways", "gtw"]),
        ("HTTPRoute", &["httproute", "httproutes", "route", "routes"]),
        ("GRPCRoute", &["grpcroute", "grpcroutes"]),
        ("TLSRoute", &["tlsroute", "tlsroutes"]),
        ("TCPRoute", &["tcproute", "tcproutes"]),
        ("UDPRoute", &["udproute", "udproutes"]),
        ("Backend", &["backend", "backends"]),
        ("Pool", &["pool", "pools"]),
        ("Tenant", &["tenant", "tenants"]),
        ("DirectResponse", &["directresponse", "directresponses"]),
        ("ListenerPolicy", &["listenerpolicy", "listenerpolicies"]),
        ("Secret", &["secret", "secrets"]),
        ("ReferenceGrant", &["referencegrant", "referencegrants", "grant", "grants"]),
        ("BackendTLSPolicy", &["backendtlspolicy", "backendtlspolicies"]),
        ("ConfigMap", &["configmap", "configmaps", "cm"]),
    ];
    let lower = name.to_ascii_lowercase();
    KINDS
        .iter()
        .find(|(kind, names)| kind.eq_ignore_ascii_case(name) || names.contains(&lower.as_str()))
        .map(|(kind, _)| *kind)
        .ok_or_else(|| {
            let known: Vec<&str> = KINDS.iter().map(|(kind, _)| *kind).collect();
            anyhow!("{name:?} is not a kind; use one of {}", known.join(", "))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_plurals_and_short_names() {
        assert_eq!(kind("httproutes").unwrap(), "HTTPRoute");
        assert_eq!(kind("HTTPRoute").unwrap(), "HTTPRoute");
        assert_eq!(kind("gtw").unwrap(), "Gateway");
        assert!(kind("frobnicator").unwrap_err().to_string().contains("HTTPRoute"));
    }

    #[test]
    fn several_mistakes_are_counted() {
        let text = refusal(Status::invalid_argument("a.yaml: x\nb.yaml: y")).to_string();
        assert!(text.starts_with("2 mistakes; nothing was changed:"), "{text}");
    }
}
