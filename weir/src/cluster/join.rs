//! `weir cluster join`, and what joining as a node has in common with it.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use api::{
    client::{self, AnyServer},
    join::{JoinRequest, JoinResponse, NewServer, join_client::JoinClient, join_request},
    pki::{self, Identity},
};
use controller::JoinToken;

use super::{DataPlane, Place};
use crate::{
    client::refusal,
    layout::{ClientFile, DEFAULT_DATA, Layout, ServerFile, Start, write_private},
    output,
};

/// Whom to join, and with what.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Whom {
    /// A server's admin API; may be repeated, any of them will do
    #[arg(long = "server", value_name = "HOST:PORT", required = true)]
    servers: Vec<String>,
    /// The join token; in the environment it is in no list of processes
    #[arg(long, env = "WEIR_JOIN_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: Option<String>,
    /// File with the join token
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    token_file: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    whom: Whom,
    /// Data directory, made by this
    #[arg(long, env = "WEIR_DATA", value_name = "DIR", default_value = DEFAULT_DATA)]
    data: PathBuf,
    #[command(flatten)]
    place: Place,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let Args { whom, data, place } = args;
    place.check()?;
    let layout = Layout::new(&data)?;
    if layout.read_server()?.is_some() {
        bail!(
            "{} is a server's already: start it with `weir server --data {}`, or join into another directory",
            layout.root().display(),
            data.display()
        );
    }
    layout.create()?;
    let key_pem = kept_key(&layout, "server")?;
    let role = NewServer { peers: place.peers.clone(), admin: place.admin.clone() };
    let request = JoinRequest {
        token: String::new(),
        request_pem: pki::request(&key_pem)?,
        role: Some(join_request::Role::Server(role)),
    };
    let joined = whom.join(request).await?;
    let member = joined.membership.ok_or_else(|| anyhow!("the server gave no id; is it of this version?"))?;
    write_key_file(&layout, &member.key_file)?;
    write_private(&layout.ca(), joined.ca_pem.as_bytes())?;
    pki::store(&layout.pki(), "server", &Identity { cert_pem: joined.certificate_pem, key_pem })?;
    layout.write_client(&ClientFile::new(&place.admin, &joined.admins))?;
    // Last: a directory without it did not join, and may try again.
    let serves = DataPlane {
        http: member.http.parse().context("where the default pool listens for HTTP")?,
        https: member.https.parse().context("where the default pool listens for HTTPS")?,
        domain: member.domain,
    };
    let server = place.server(member.id, Start::Join, &serves);
    layout.write_server(&ServerFile { cluster_id: Some(member.cluster_id), ..server })?;
    output::text(&format!(
        "joined as server {}\n\n  key    {}   (encrypts all secrets: back it up, apart from the data)\n\n\
         Start it within a day: weir server --data {}\n",
        member.id,
        layout.key_encryption_key().display(),
        data.display()
    ))
}

impl Whom {
    /// Joins: the CA is the one that the token pins, before anything is said to anybody.
    pub(crate) async fn join(&self, request: JoinRequest) -> Result<JoinResponse> {
        let text = match (&self.token, &self.token_file) {
            (Some(token), _) => token.clone(),
            (None, Some(file)) => fs::read_to_string(file)
                .with_context(|| format!("read the join token in {}", file.display()))?,
            (None, None) => bail!("give the join token with --token, --token-file or WEIR_JOIN_TOKEN"),
        };
        let token = JoinToken::parse(&text)
            .ok_or_else(|| anyhow!("not a join token: use it whole, as it was shown (id.secret.hash)"))?;
        let ca_pem = self.authority(&token).await?;
        let servers = AnyServer::new(&self.servers, &ca_pem, None)?;
        let request = JoinRequest { token: token.reveal(), ..request };
        let joined = JoinClient::new(servers).join(request).await.map_err(refusal)?.into_inner();
        if pki::fingerprint(&joined.ca_pem)? != token.ca_hash {
            bail!("the server gave another CA than the token's: do not trust it");
        }
        Ok(joined)
    }

    async fn authority(&self, token: &JoinToken) -> Result<String> {
        let mut last = anyhow!("no server is named");
        for server in &self.servers {
            match client::authority(server, &token.ca_hash).await {
                Ok(ca_pem) => return Ok(ca_pem),
                Err(error) => last = error.into(),
            }
        }
        Err(last)
    }
}

/// The private key of an earlier attempt, whose answer may have been lost, or a new one.
pub(crate) fn kept_key(layout: &Layout, name: &str) -> Result<String> {
    let path = layout.pki().join(format!("{name}.key"));
    match fs::read_to_string(&path) {
        Ok(key) => Ok(key),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let key = pki::new_key()?;
            write_private(&path, key.as_bytes())?;
            Ok(key)
        }
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

fn write_key_file(layout: &Layout, text: &str) -> Result<()> {
    let path = layout.key_encryption_key();
    match fs::read_to_string(&path) {
        Ok(there) if there == text => Ok(()),
        Ok(_) => bail!("{} is the key file of another installation: move it away", path.display()),
        Err(_) => write_private(&path, text.as_bytes()),
    }
}
