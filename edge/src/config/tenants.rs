//! The tenants' tables, in pieces that one configuration shares with the next.

use std::{collections::HashMap, ops::Index, sync::Arc};

use foldhash::fast::RandomState;
use model::TenantId;

use super::TenantTable;

/// A change copies the pieces of the tenants that it brings, and counts the others: of 1,000 tenants some 16 are copied
/// for one that changed.
const PIECES: usize = 64;

type Piece = HashMap<TenantId, Arc<TenantTable>, RandomState>;

/// The tenants' tables. A clone shares what is not changed afterwards.
#[derive(Debug, Clone)]
pub struct Tenants(Box<[Arc<Piece>; PIECES]>);

impl Default for Tenants {
    fn default() -> Self {
        let empty = Arc::default();
        Self(Box::new(std::array::from_fn(|_| Arc::clone(&empty))))
    }
}

impl Tenants {
    /// The table of a tenant.
    #[must_use]
    pub fn get(&self, tenant: &str) -> Option<&Arc<TenantTable>> {
        self.0[piece(tenant)].get(tenant)
    }

    /// Puts a tenant's table in place of the one that it had.
    pub fn insert(&mut self, tenant: TenantId, table: Arc<TenantTable>) {
        Arc::make_mut(&mut self.0[piece(tenant.as_str())]).insert(tenant, table);
    }

    /// Takes a tenant away, if it is there.
    pub fn remove(&mut self, tenant: &str) {
        let piece = &mut self.0[piece(tenant)];
        if piece.contains_key(tenant) {
            Arc::make_mut(piece).remove(tenant);
        }
    }

    /// All tenants, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&TenantId, &Arc<TenantTable>)> {
        self.0.iter().flat_map(|piece| piece.iter())
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.iter().map(|piece| piece.len()).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|piece| piece.is_empty())
    }
}

impl FromIterator<(TenantId, Arc<TenantTable>)> for Tenants {
    fn from_iter<I: IntoIterator<Item = (TenantId, Arc<TenantTable>)>>(tables: I) -> Self {
        let mut tenants = Self::default();
        tables.into_iter().for_each(|(tenant, table)| tenants.insert(tenant, table));
        tenants
    }
}

impl Index<&str> for Tenants {
    type Output = Arc<TenantTable>;

    fn index(&self, tenant: &str) -> &Self::Output {
        self.get(tenant).unwrap_or_else(|| panic!("there is no tenant {tenant}"))
    }
}

/// Which piece a tenant is in. FNV-1a: names are short, and who chooses them to meet in one piece gains nothing.
fn piece(tenant: &str) -> usize {
    let hash =
        tenant.bytes().fold(0x811c_9dc5_u32, |hash, b| (hash ^ u32::from(b)).wrapping_mul(0x0100_0193));
    (hash >> 16 ^ hash) as usize % PIECES
}

#[cfg(test)]
mod tests {
    use model::{CompileLimits, TenantConfig};

    use super::*;

    fn entry(name: &str) -> (TenantId, Arc<TenantTable>) {
        let tenant: TenantId = name.parse().unwrap();
        let config = TenantConfig::empty(tenant.clone());
        (tenant, Arc::new(TenantTable::compile(&config, &CompileLimits::default()).unwrap()))
    }

    #[test]
    fn a_change_copies_one_piece_and_clones_stay_as_they_were() {
        let names: Vec<String> = (0..1000).map(|n| format!("tenant-{n:04}")).collect();
        let before: Tenants = names.iter().map(|name| entry(name)).collect();
        assert_eq!((before.len(), before.iter().count()), (1000, 1000));
        assert!(names.iter().all(|name| before[name].tenant.as_str() == name));
        let fullest = before.0.iter().map(|piece| piece.len()).max();
        assert!(fullest < Some(64), "names of one pattern are spread: {fullest:?}");

        let mut after = before.clone();
        let (tenant, table) = entry("tenant-0007");
        after.insert(tenant, Arc::clone(&table));
        after.remove("nobody");
        let shared =
            |a: &Tenants, b: &Tenants| a.0.iter().zip(&*b.0).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
        assert_eq!(shared(&before, &after), PIECES - 1);
        assert!(Arc::ptr_eq(&after["tenant-0007"], &table) && !Arc::ptr_eq(&before["tenant-0007"], &table));

        after.remove("tenant-0007");
        assert!(after.get("tenant-0007").is_none() && before.get("tenant-0007").is_some());
        assert_eq!((after.len(), before.len()), (999, 1000));
        assert!(Tenants::default().is_empty() && !after.is_empty());
    }
}
