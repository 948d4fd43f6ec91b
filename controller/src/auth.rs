//! Who may do what: bearer tokens, roles, and one table of what each method needs. Denied by default.

mod layer;
mod table;
mod token;

#[cfg(test)]
mod tests;

use std::fmt;

use model::{Revision, TenantId};
use serde::{Deserialize, Serialize};
use store::{Handle, Read, Txn, WatchError};
use tonic::{Request, Status};

pub use layer::{AdminAuth, Admit, Guard, Guarded, PeerAuth};
pub use table::{Need, RPCS, need_of};
pub use token::{NoRandomness, Token, TokenRecord, hash};

/// What a caller may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Everything.
    PlatformAdmin,
    /// Everything in one tenant.
    TenantAdmin(TenantId),
    /// Reading in one tenant.
    TenantViewer(TenantId),
}

impl Role {
    /// The one tenant that it is confined to.
    #[must_use]
    pub fn tenant(&self) -> Option<&TenantId> {
        match self {
            Self::PlatformAdmin => None,
            Self::TenantAdmin(tenant) | Self::TenantViewer(tenant) => Some(tenant),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PlatformAdmin => f.write_str("platform-admin"),
            Self::TenantAdmin(tenant) => write!(f, "tenant-admin({tenant})"),
            Self::TenantViewer(tenant) => write!(f, "tenant-viewer({tenant})"),
        }
    }
}

/// Who calls: put into the request by [`AdminAuth`] before any handler sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// What the caller may do.
    pub role: Role,
    /// For the audit: the role, and which token or certificate it came from.
    pub actor: String,
    /// For the audit: the address that the call came from.
    pub origin: String,
    /// Where the store has the token that it came from; `None`: it came from a certificate.
    pub token: Option<String>,
}

impl Principal {
    /// The caller of a request.
    ///
    /// # Errors
    ///
    /// `UNAUTHENTICATED` if nobody checked: a handler outside the authenticating layer serves nobody.
    pub fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        request.extensions().get().cloned().ok_or_else(|| Status::unauthenticated("who calls is not known"))
    }

    /// A transaction of the caller's.
    #[must_use]
    pub fn txn(&self) -> Txn {
        Txn::new(&self.actor).origin(&self.origin)
    }

    /// Whether the caller may read in `tenant`.
    ///
    /// # Errors
    ///
    /// `PERMISSION_DENIED`, in the same words whether or not the tenant exists.
    pub fn may_read(&self, tenant: &TenantId) -> Result<(), Status> {
        match self.role.tenant() {
            None => Ok(()),
            Some(own) if own == tenant => Ok(()),
            Some(_) => Err(self.denied(tenant)),
        }
    }

    /// Whether the caller may change `tenant`.
    ///
    /// # Errors
    ///
    /// `PERMISSION_DENIED`.
    pub fn may_write(&self, tenant: &TenantId) -> Result<(), Status> {
        match &self.role {
            Role::TenantViewer(own) if own == tenant => {
                Err(Status::permission_denied(format!("{} may only read", self.role)))
            }
            _ => self.may_read(tenant),
        }
    }

    /// Whether the caller is the platform's administrator.
    ///
    /// # Errors
    ///
    /// `PERMISSION_DENIED`.
    pub fn is_platform_admin(&self) -> Result<(), Status> {
        match self.role {
            Role::PlatformAdmin => Ok(()),
            _ => Err(Status::permission_denied("only the platform's administrator may do this")),
        }
    }

    /// Returns when the caller's token is no more. A call that ends by itself need not know; a stream has to.
    pub async fn revoked(&self, store: &Handle) {
        let Some(key) = &self.token else { return std::future::pending().await };
        let mut changes = store.watch(key.as_str(), Revision(0));
        // Looked up behind the watch's begin: nothing is missed in between.
        while store.get(key, Read::Local).await.is_ok_and(|entry| entry.is_some()) {
            if let Err(WatchError::Stopped) = changes.next().await {
                // The server ends, and all streams with it.
                return std::future::pending().await;
            }
        }
    }

    fn denied(&self, tenant: &TenantId) -> Status {
        Status::permission_denied(format!("{} has no rights in tenant {tenant}", self.role))
    }
}
