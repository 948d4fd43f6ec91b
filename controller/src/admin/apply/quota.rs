//! How much of the store one tenant may take. The store is bounded as a whole: without a share for each, one tenant's
//! objects would be the others' refusals.

use super::super::status::QuotaExceeded;

/// Objects of one tenant.
const MAX_OBJECTS: usize = 100_000;
/// Bytes of one tenant's objects, keys included: what edges take as one snapshot, and a sixteenth of the store.
const MAX_BYTES: usize = api::limits::MAX_SNAPSHOT;

/// What a tenant's objects take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Usage {
    pub(super) objects: usize,
    pub(super) bytes: usize,
}

impl Usage {
    /// With one more object of that size.
    pub(super) fn add(&mut self, bytes: usize) {
        self.objects += 1;
        self.bytes += bytes;
    }

    /// Whether a tenant may come from `before` to this. One that has too much may still make it less.
    pub(super) fn check(self, before: Self) -> Result<(), QuotaExceeded> {
        let over = |now: usize, before: usize, most: usize| now > most && now > before;
        if over(self.objects, before.objects, MAX_OBJECTS) {
            return Err(QuotaExceeded { what: "objects", would: self.objects, most: MAX_OBJECTS });
        }
        if over(self.bytes, before.bytes, MAX_BYTES) {
            return Err(QuotaExceeded { what: "bytes of objects", would: self.bytes, most: MAX_BYTES });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_grows_to_its_share_and_shrinks_from_beyond_it() {
        let usage = |objects, bytes| Usage { objects, bytes };
        let small = usage(1, 100);
        for (before, after, allowed) in [
            (small, usage(MAX_OBJECTS, MAX_BYTES), true),
            (small, usage(MAX_OBJECTS + 1, 200), false),
            (small, usage(2, MAX_BYTES + 1), false),
            (usage(2, MAX_BYTES + 9), usage(2, MAX_BYTES + 1), true),
            (usage(2, MAX_BYTES + 9), usage(2, MAX_BYTES + 10), false),
        ] {
            assert_eq!(after.check(before).is_ok(), allowed, "{before:?} {after:?}");
        }
        let text = usage(2, MAX_BYTES + 1).check(small).unwrap_err().to_string();
        assert!(text.contains("67108865 bytes of objects"), "{text}");
    }
}
