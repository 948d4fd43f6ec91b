//! How much of the store one tenant may take. The store is bounded as a whole: without a share for each, one tenant's
//! objects would be the others' refusals.
//!
//! The store itself holds the shares, where it applies: two writers on two servers cannot exceed one together. This says
//! which shares there are.

use model::TenantId;
use store::{Handle, Key, Op, Quota, QuotaExceeded, Txn};

use crate::{keys, platform::Platform};

/// A tenant's share, unless its Tenant object says otherwise. Bytes: what edges take as one snapshot, and a sixteenth of
/// the store.
pub(crate) const DEFAULT: Quota = Quota { max_keys: 100_000, max_bytes: api::limits::MAX_SNAPSHOT as u64 };

/// A tenant's share.
pub(crate) fn of(platform: &Platform, tenant: &TenantId) -> Quota {
    let said = platform.quotas.get(tenant).copied().unwrap_or_default();
    Quota {
        max_keys: said.objects.unwrap_or(DEFAULT.max_keys),
        max_bytes: said.bytes.unwrap_or(DEFAULT.max_bytes),
    }
}

/// What is to be done so that every tenant has the share that the platform says.
pub(crate) fn ops(store: &Handle, platform: &Platform) -> Vec<Op> {
    let mut txn = Txn::new("");
    for tenant in &platform.tenants {
        let (prefix, wanted) = (keys::objects_of(tenant), of(platform, tenant));
        if store.quota(&prefix) != Some(wanted) {
            txn = txn.quota(&prefix, Some(wanted));
        }
    }
    txn.ops
}

/// The usual share of a tenant that has none, for an earlier version made it.
pub(crate) fn missing(store: &Handle, tenant: &TenantId) -> Option<Op> {
    let prefix = keys::objects_of(tenant);
    let has = tenant.is_platform() || store.quota(&prefix).is_some();
    if has { None } else { Txn::new("").quota(&prefix, Some(DEFAULT)).ops.pop() }
}

/// The key of a tenant's share.
pub(crate) fn key(tenant: &TenantId) -> Key {
    store::quota::key(&keys::objects_of(tenant)).into()
}

/// Says it to whom it concerns.
pub(crate) fn refusal(exceeded: &QuotaExceeded) -> String {
    let QuotaExceeded { prefix, what, have, would, most } = exceeded;
    let Some(tenant) = prefix.strip_prefix(keys::OBJECTS).and_then(|rest| rest.strip_suffix('/')) else {
        return exceeded.to_string();
    };
    let (what, field) = if *what == "keys" { ("objects", "objects") } else { ("bytes of objects", "bytes") };
    format!(
        "tenant {tenant} would have {would} {what}; it has {have} and its quota is {most}: delete what is not used, or \
         have the platform's administrator raise spec.quotas.{field} of the Tenant {tenant}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_tenant_the_quota_the_use_and_how_to_mend_it() {
        let exceeded =
            QuotaExceeded { prefix: "objects/acme/".into(), what: "keys", have: 3, would: 5, most: 4 };
        let text = refusal(&exceeded);
        for part in ["tenant acme", "5 objects", "has 3", "quota is 4", "spec.quotas.objects"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
