//! Hostnames: patterns, the map that finds the most specific one, and who owns a host.

use std::{collections::HashMap, net::Ipv4Addr, str::FromStr};

use foldhash::fast::RandomState;

use crate::{HostPattern, TenantId};

/// The longest hostname that DNS can carry, in bytes (RFC 1035 section 2.3.4, as text).
pub(crate) const HOST_BYTES: usize = 253;

/// Why a string is not a hostname pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is not a hostname: {problem}")]
pub struct InvalidHost {
    /// What was given.
    pub value: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl HostPattern {
    /// Parses `a.example.com` or `*.example.com`; letters are lowered.
    ///
    /// # Errors
    /// When it is no DNS name of at most 253 bytes with labels of 1 to 63 of a-z, 0-9 and '-', or when it is an
    /// IP address (Gateway API has none as hostnames).
    pub fn parse(value: &str) -> Result<Self, InvalidHost> {
        let invalid = |problem| Err(InvalidHost { value: value.to_owned(), problem });
        let lower = value.to_ascii_lowercase();
        let (wildcard, name) = match lower.strip_prefix("*.") {
            Some(suffix) => (true, suffix),
            None => (false, lower.as_str()),
        };
        if name.is_empty() {
            return invalid("it is empty");
        }
        if lower.len() > HOST_BYTES {
            return invalid("it is longer than 253 bytes");
        }
        if name.contains('*') {
            return invalid("a wildcard can only be the whole first label, as in *.example.com");
        }
        if name.contains(':') {
            return invalid("it must not carry a port, and IP addresses are not hostnames");
        }
        if Ipv4Addr::from_str(name).is_ok() {
            return invalid("IP addresses are not hostnames");
        }
        if name.ends_with('.') {
            return invalid("it must not end with a dot");
        }
        if !name.split('.').all(is_label) {
            return invalid(
                "each label is 1 to 63 of a-z, 0-9 and '-', and neither begins nor ends with '-'",
            );
        }
        Ok(if wildcard { Self::Wildcard(name.to_owned()) } else { Self::Exact(lower) })
    }

    /// Whether `host` (lowercase, no port) is one of these. A wildcard stands for one or more labels.
    #[must_use]
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => name == host,
            Self::Wildcard(suffix) => is_below(host, suffix),
        }
    }

    /// How exactly `hostname` says `host` (lowercase, no port): not at all where there is none, then a wildcard by its
    /// length, then the name itself. `None`: it is for other hosts.
    #[must_use]
    pub fn specificity(hostname: Option<&Self>, host: &str) -> Option<usize> {
        match hostname {
            None => Some(0),
            Some(pattern) if !pattern.matches(host) => None,
            Some(Self::Wildcard(suffix)) => Some(1 + suffix.len()),
            Some(Self::Exact(_)) => Some(usize::MAX),
        }
    }

    /// Whether every host of `other` is one of these.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (_, Self::Exact(host)) => self.matches(host),
            (Self::Wildcard(suffix), Self::Wildcard(inner)) => inner == suffix || is_below(inner, suffix),
            (Self::Exact(_), Self::Wildcard(_)) => false,
        }
    }

    /// The hosts that are of both, or `None` when there are none.
    #[must_use]
    pub fn intersect(a: &Self, b: &Self) -> Option<Self> {
        if a.covers(b) {
            Some(b.clone())
        } else if b.covers(a) {
            Some(a.clone())
        } else {
            None
        }
    }
}

impl FromStr for HostPattern {
    type Err = InvalidHost;

    fn from_str(value: &str) -> Result<Self, InvalidHost> {
        Self::parse(value)
    }
}

fn is_label(label: &str) -> bool {
    let bytes = label.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
        && bytes[0] != b'-'
        && bytes[bytes.len() - 1] != b'-'
}

/// Whether `host` is `suffix` with one or more labels before it.
fn is_below(host: &str, suffix: &str) -> bool {
    host.strip_suffix(suffix).and_then(|rest| rest.strip_suffix('.')).is_some_and(|labels| !labels.is_empty())
}

/// Something per host pattern, found by the most specific one: exact, then the longest wildcard, then any.
#[derive(Debug, Clone)]
pub(crate) struct HostMap<T> {
    exact: HashMap<Box<str>, T, RandomState>,
    wildcard: HashMap<Box<str>, T, RandomState>,
    any: Option<T>,
}

impl<T> Default for HostMap<T> {
    fn default() -> Self {
        Self { exact: HashMap::default(), wildcard: HashMap::default(), any: None }
    }
}

impl<T> HostMap<T> {
    /// Sets what stands at `pattern` (`None` is any host), and returns what stood there before.
    pub(crate) fn insert(&mut self, pattern: Option<&HostPattern>, value: T) -> Option<T> {
        match pattern {
            Some(HostPattern::Exact(host)) => self.exact.insert(host.as_str().into(), value),
            Some(HostPattern::Wildcard(suffix)) => self.wildcard.insert(suffix.as_str().into(), value),
            None => self.any.replace(value),
        }
    }

    /// What stands at the most specific pattern that `host` is of.
    pub(crate) fn find(&self, host: &str) -> Option<&T> {
        // A longer name is in no pattern, and walking its labels would be the client's choice of our work.
        if host.len() <= HOST_BYTES {
            if let Some(found) = self.exact.get(host) {
                return Some(found);
            }
            if !self.wildcard.is_empty() {
                let mut rest = host;
                while let Some((label, suffix)) = rest.split_once('.') {
                    // `.example.com` has no label before the dot: it is below nothing.
                    if !(label.is_empty() && rest.len() == host.len())
                        && let Some(found) = self.wildcard.get(suffix)
                    {
                        return Some(found);
                    }
                    rest = suffix;
                }
            }
        }
        self.any.as_ref()
    }
}

/// Two tenants claim the same pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{pattern} belongs to tenant {owner}; tenant {claimant} cannot have it too")]
pub struct HostConflict {
    /// What both claim.
    pub pattern: HostPattern,
    /// Who was given it first.
    pub owner: TenantId,
    /// Who came later.
    pub claimant: TenantId,
}

/// Who owns a host: the one authority on which tenant's table a request is looked up in.
///
/// It travels beside the tenants' snapshots and is swapped in the same Arc, so that a tenant that is held at last
/// good cannot keep a host that now belongs to another.
#[derive(Debug, Clone, Default)]
pub struct HostIndex {
    owners: HostMap<TenantId>,
}

impl HostIndex {
    /// An index of these patterns and their owners.
    ///
    /// # Errors
    /// When two tenants claim the same pattern. An exact host inside another tenant's wildcard is no conflict:
    /// the more specific claim wins.
    pub fn new(owners: impl IntoIterator<Item = (HostPattern, TenantId)>) -> Result<Self, HostConflict> {
        let mut index = Self::default();
        for (pattern, claimant) in owners {
            if let Some(owner) = index.owners.insert(Some(&pattern), claimant.clone())
                && owner != claimant
            {
                return Err(HostConflict { pattern, owner, claimant });
            }
        }
        Ok(index)
    }

    /// Gives every host that nobody claims to `tenant` (`edge --static` serves one tenant).
    #[must_use]
    pub fn with_catch_all(mut self, tenant: TenantId) -> Self {
        self.owners.insert(None, tenant);
        self
    }

    /// The tenant that owns `host` (lowercase, no port): by exact name, then by the longest wildcard, then the
    /// catch-all.
    #[must_use]
    pub fn owner(&self, host: &str) -> Option<&TenantId> {
        self.owners.find(host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> HostPattern {
        HostPattern::parse(text).unwrap()
    }

    fn tenant(name: &str) -> TenantId {
        name.parse().unwrap()
    }

    #[test]
    fn patterns_parse_and_print() {
        for text in ["a", "a.example.com", "*.example.com", "1.com", "*.com", "xn--bcher-kva.example"] {
            assert_eq!(pattern(text).to_string(), text);
        }
        assert_eq!(pattern("A.Example.COM").to_string(), "a.example.com");
    }

    #[test]
    fn what_is_no_hostname_is_refused_with_a_reason() {
        for (text, reason) in [
            ("", "empty"),
            ("*.", "empty"),
            ("*", "wildcard"),
            ("a.*.com", "wildcard"),
            ("*a.com", "wildcard"),
            ("a..b", "label"),
            ("-a.com", "label"),
            ("a_b.com", "label"),
            ("ä.com", "label"),
            ("a.com.", "dot"),
            ("a.com:80", "port"),
            ("[::1]", "IP"),
            ("10.0.0.1", "IP"),
            (&"a.".repeat(130), "253"),
        ] {
            let error = HostPattern::parse(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn a_wildcard_stands_for_one_or_more_labels() {
        let wildcard = pattern("*.example.com");
        assert!(wildcard.matches("a.example.com") && wildcard.matches("a.b.example.com"));
        for host in ["example.com", ".example.com", "aexample.com", "a.example.org", ""] {
            assert!(!wildcard.matches(host), "{host}");
        }
    }

    #[test]
    fn intersections() {
        for (a, b, both) in [
            ("a.com", "a.com", Some("a.com")),
            ("a.com", "b.com", None),
            ("*.com", "a.com", Some("a.com")),
            ("*.a.com", "a.com", None),
            ("*.com", "*.a.com", Some("*.a.com")),
            ("*.a.com", "*.a.com", Some("*.a.com")),
            ("*.a.com", "*.b.com", None),
        ] {
            let both = both.map(pattern);
            assert_eq!(HostPattern::intersect(&pattern(a), &pattern(b)), both, "{a} {b}");
            assert_eq!(HostPattern::intersect(&pattern(b), &pattern(a)), both, "{b} {a}");
        }
    }

    #[test]
    fn the_most_specific_owner_wins() {
        let index = HostIndex::new([
            (pattern("*.localhost"), tenant("platform")),
            (pattern("*.acme.localhost"), tenant("acme")),
            (pattern("shop.acme.localhost"), tenant("shop")),
        ])
        .unwrap();
        for (host, owner) in [
            ("shop.acme.localhost", Some("shop")),
            ("a.acme.localhost", Some("acme")),
            ("x.shop.acme.localhost", Some("acme")),
            ("acme.localhost", Some("platform")),
            (".acme.localhost", Some("platform")),
            ("localhost", None),
            ("", None),
        ] {
            assert_eq!(index.owner(host).map(TenantId::as_str), owner, "{host}");
        }
        assert_eq!(index.with_catch_all(tenant("all")).owner("localhost"), Some(&tenant("all")));
    }

    #[test]
    fn one_pattern_has_one_owner() {
        let twice = |other: &str| {
            HostIndex::new([(pattern("a.com"), tenant("acme")), (pattern("a.com"), tenant(other))])
        };
        assert!(twice("acme").is_ok());
        assert!(twice("globex").unwrap_err().to_string().contains("a.com belongs to tenant acme"));
    }
}
