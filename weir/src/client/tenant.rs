//! `weir tenant create|list|delete|token`.

use anyhow::Result;
use api::admin::{
    CreateTenantRequest, CreateTokenRequest, DeleteTenantRequest, ListTenantsRequest, RevokeTokensRequest,
};
use clap::Subcommand;

use super::{Connect, refusal};
use crate::output::{self, Format, Table};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a tenant: its hostname and its token (shown once)
    Create {
        /// A DNS label; the tenant's hostname is <name>.<domain>
        name: String,
        #[command(flatten)]
        connect: Connect,
    },
    /// List tenants
    List {
        /// table, json or yaml
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
        #[command(flatten)]
        connect: Connect,
    },
    /// Delete a tenant with all its objects and tokens
    Delete {
        /// The tenant
        name: String,
        #[command(flatten)]
        connect: Connect,
    },
    /// Make a token for a tenant (shown once), or revoke all it has
    Token {
        /// The tenant
        name: String,
        /// admin reads and writes, viewer reads
        #[arg(long, default_value = "admin", value_parser = ["admin", "viewer"])]
        role: String,
        /// Revoke every token of the tenant instead
        #[arg(long)]
        revoke: bool,
        #[command(flatten)]
        connect: Connect,
    },
}

pub(crate) async fn run(command: Command) -> Result<()> {
    match command {
        Command::Create { name, connect } => {
            let mut client = connect.client()?;
            let request = CreateTenantRequest { name };
            let created = client.tenants.create_tenant(request).await.map_err(refusal)?.into_inner();
            let tenant = created.tenant.unwrap_or_default();
            output::text(&format!(
                "tenant   {}\nhostname {}\ntoken    {}   (shown once)\n",
                tenant.name, tenant.hostname, created.token
            ))
        }
        Command::List { output, connect } => {
            let mut client = connect.client()?;
            let tenants = client
                .tenants
                .list_tenants(ListTenantsRequest {})
                .await
                .map_err(refusal)?
                .into_inner()
                .tenants;
            let values: Vec<_> = tenants
                .iter()
                .map(|t| {
                    serde_json::json!({
                        "name": t.name, "hostname": t.hostname, "objects": t.objects, "bytes": t.bytes,
                        "quotas": {"objects": t.max_objects, "bytes": t.max_bytes},
                    })
                })
                .collect();
            output::print(output, &values, || {
                let mut table = Table::new(&["NAME", "HOSTNAME", "OBJECTS", "BYTES"]);
                for t in tenants {
                    let objects = format!("{} of {}", t.objects, t.max_objects);
                    let bytes = format!("{} of {}", t.bytes, t.max_bytes);
                    table.row([t.name, t.hostname, objects, bytes]);
                }
                table
            })
        }
        Command::Delete { name, connect } => {
            let mut client = connect.client()?;
            let request = DeleteTenantRequest { name: name.clone() };
            let deleted = client.tenants.delete_tenant(request).await.map_err(refusal)?.into_inner();
            output::text(&format!(
                "tenant {name} and its {} objects deleted at revision {}\n",
                deleted.objects, deleted.revision
            ))
        }
        Command::Token { name, revoke: true, connect, .. } => {
            let mut client = connect.client()?;
            let request = RevokeTokensRequest { tenant: name.clone() };
            let revoked = client.tenants.revoke_tokens(request).await.map_err(refusal)?.into_inner().revoked;
            output::text(&format!("{revoked} tokens of tenant {name} revoked\n"))
        }
        Command::Token { name, role, connect, .. } => {
            let mut client = connect.client()?;
            let request = CreateTokenRequest { tenant: name, role };
            let token = client.tenants.create_token(request).await.map_err(refusal)?.into_inner().token;
            output::text(&format!("{token}\n"))
        }
    }
}
