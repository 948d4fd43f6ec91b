//! The installation's CA in the store, sealed under the key file: any server can sign, whichever is left, and no disk
//! has its key in the clear.

use api::pki::{Ca, PkiError};
use bytes::Bytes;
use model::{Revision, TenantId};
use serde::{Deserialize, Serialize};
use store::{
    Handle, Read, ReadError, Txn, TxnError,
    seal::{SealError, Sealer},
};

use crate::keys;

/// Why the CA is not had or not kept.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// It does not open or seal.
    #[error("the installation's CA")]
    Seal(#[from] SealError),
    /// It is not one.
    #[error("the installation's CA")]
    Pki(#[from] PkiError),
    /// It is not written as this version writes it.
    #[error("the installation's CA is not written as this version writes it")]
    Format(#[from] serde_json::Error),
    /// The store did not answer.
    #[error("read the installation's CA")]
    Read(#[from] ReadError),
    /// The store did not take it.
    #[error("store the installation's CA")]
    Store(#[from] TxnError),
}

impl CaError {
    /// Whether it is sealed with a key that the key file does not have.
    #[must_use]
    pub fn needs_other_key(&self) -> bool {
        matches!(self, Self::Seal(SealError::OtherKey { .. }))
    }
}

#[derive(Serialize, Deserialize)]
struct Pair {
    cert_pem: String,
    key_pem: String,
}

/// The CA as it is stored.
///
/// # Errors
///
/// It cannot be sealed.
pub fn seal_ca(ca: &Ca, sealer: &Sealer) -> Result<Bytes, CaError> {
    let pair = Pair { cert_pem: ca.cert_pem().to_owned(), key_pem: ca.key_pem() };
    Ok(sealer.seal(&TenantId::platform(), keys::CA, &serde_json::to_vec(&pair)?)?)
}

/// The CA that [`seal_ca`] sealed.
///
/// # Errors
///
/// It does not open with this key file, or is something else.
pub fn unseal_ca(sealed: &[u8], sealer: &Sealer) -> Result<Ca, CaError> {
    let pair: Pair = serde_json::from_slice(&sealer.open(&TenantId::platform(), keys::CA, sealed)?)?;
    Ok(Ca::from_pem(&pair.cert_pem, &pair.key_pem)?)
}

/// The CA in this server's state; `None`: it has none yet.
///
/// # Errors
///
/// It does not open with this key file.
pub async fn stored_ca(store: &Handle, sealer: &Sealer) -> Result<Option<Ca>, CaError> {
    let entry = store.get(keys::CA, Read::Local).await?;
    entry.map(|entry| unseal_ca(&entry.value, sealer)).transpose()
}

/// Puts the CA into the store if there is none.
///
/// # Errors
///
/// The store does not take it.
pub async fn found_ca(store: &Handle, sealer: &Sealer, ca: &Ca) -> Result<(), CaError> {
    let txn = Txn::new("server").note("keep the installation's CA").compare(keys::CA, Revision(0));
    match store.txn(txn.put(keys::CA, seal_ca(ca, sealer)?)).await {
        // Somebody was first.
        Ok(_) | Err(TxnError::Conflict { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
