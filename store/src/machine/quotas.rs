//! What each prefix with a quota takes, kept with every change. It follows from the keys: no item of its own.

use std::collections::BTreeMap;

use super::*;
use crate::quota::{self, Quota, QuotaExceeded, Usage};

/// The quotas there are, by their prefixes, and what is used of them.
#[derive(Debug, Clone, Default)]
pub(super) struct Quotas(BTreeMap<Key, (Quota, Usage)>);

impl Quotas {
    /// A key that took `before` bytes takes `after`; `None`: it is not there.
    pub(super) fn change(&mut self, key: &str, before: Option<u64>, after: Option<u64>) {
        if self.0.is_empty() {
            return;
        }
        for prefix in quota::prefixes(key) {
            if let Some((_, usage)) = self.0.get_mut(prefix) {
                usage.change(before, after);
            }
        }
    }
}

impl Machine {
    /// The quota of a prefix.
    #[must_use]
    pub fn quota(&self, prefix: &str) -> Option<Quota> {
        self.quotas.0.get(prefix).map(|(quota, _)| *quota)
    }

    /// What the live keys under a prefix take. At once for one with a quota; others are counted.
    #[must_use]
    pub fn usage(&self, prefix: &str) -> Usage {
        match self.quotas.0.get(prefix) {
            Some((_, usage)) => *usage,
            None => self.counted(prefix),
        }
    }

    fn counted(&self, prefix: &str) -> Usage {
        let mut usage = Usage::default();
        for entry in self.range(prefix).filter_map(|(key, versions)| live_size(key, versions)) {
            usage.change(None, Some(entry));
        }
        usage
    }

    /// Whether all prefixes keep their quotas, those that the same operations set included.
    ///
    /// # Errors
    ///
    /// The first, in the order of their bytes, that does not.
    pub fn check_quotas(&self, ops: &[Op]) -> Result<(), QuotaExceeded> {
        let mut set: BTreeMap<&str, Option<Quota>> = BTreeMap::new();
        for op in ops {
            if let Some(prefix) = quota::prefix_of(op.key()) {
                let quota = match op {
                    Op::Put { value, .. } => Quota::read(value).ok(),
                    Op::Delete { .. } => None,
                };
                set.insert(prefix, quota);
            }
        }
        if set.is_empty() && self.quotas.0.is_empty() {
            return Ok(());
        }
        let mut growth: BTreeMap<&str, (Quota, Usage, Usage)> = BTreeMap::new();
        for op in ops {
            let key = op.key();
            let before = self.keys.get(key).and_then(|(key, versions)| live_size(key, versions));
            let after = match op {
                Op::Put { value, .. } => Some((key.len() + value.len()) as u64),
                Op::Delete { .. } => None,
            };
            for prefix in quota::prefixes(key) {
                let Some(quota) = set.get(prefix).copied().unwrap_or_else(|| self.quota(prefix)) else {
                    continue;
                };
                let (_, _, grown) = growth.entry(prefix).or_insert_with(|| {
                    let usage = self.usage(prefix);
                    (quota, usage, usage)
                });
                grown.change(before, after);
            }
        }
        growth.into_iter().try_for_each(|(prefix, (quota, before, after))| quota.check(prefix, before, after))
    }

    /// Follows the quotas among the keys that a transaction changed.
    pub(super) fn follow_quotas(&mut self, changed: &[Key]) {
        for key in changed {
            let Some(prefix) = quota::prefix_of(key) else { continue };
            match self.get(key).and_then(|entry| Quota::read(&entry.value).ok()) {
                Some(quota) => {
                    let usage = self.usage(prefix);
                    self.quotas.0.insert(prefix.into(), (quota, usage));
                }
                None => drop(self.quotas.0.remove(prefix)),
            }
        }
    }

    /// Finds the quotas in a state that was read.
    pub(super) fn read_quotas(&mut self) -> Result<(), BadItem> {
        for entry in self.list(quota::QUOTAS) {
            let prefix = quota::prefix_of(&entry.key);
            let (Some(prefix), Ok(quota)) = (prefix, Quota::read(&entry.value)) else {
                return Err(BadItem(format!("{} is no quota", entry.key)));
            };
            let usage = self.counted(prefix);
            self.quotas.0.insert(prefix.into(), (quota, usage));
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn check_usages(&self) {
        for (prefix, (_, usage)) in &self.quotas.0 {
            assert_eq!(*usage, self.counted(prefix), "{prefix}");
        }
    }
}

fn live_size(key: &Key, versions: &[Version]) -> Option<u64> {
    let value = versions.last()?.value.as_ref()?;
    Some((key.len() + value.len()) as u64)
}
