//! Who is asked for a name's addresses, and for how long the answer holds.

use std::{
    fs,
    net::IpAddr,
    time::{Duration, Instant, SystemTime},
};

use hickory_resolver::{TokioResolver, config::LookupIpStrategy};
use tracing::warn;

use crate::limits::{DNS_LOOKUP, DNS_MIN};

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) addresses: Vec<IpAddr>,
    /// How long it holds, as who answered says.
    pub(super) ttl: Duration,
}

/// Asks as the machine is set up to: `/etc/hosts` first, then the servers of `/etc/resolv.conf`.
#[derive(Debug)]
pub(super) enum Resolver {
    /// Knows times to live, which the system's own resolver does not tell.
    Dns { resolver: Box<TokioResolver>, read: Stamp },
    /// Where `/etc/resolv.conf` cannot be read: the system's own, whose answers hold for the shortest time.
    System,
}

/// When the files that say who is asked were written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp([Option<SystemTime>; 2]);

impl Stamp {
    fn now() -> Self {
        let written = |file| fs::metadata(file).and_then(|metadata| metadata.modified()).ok();
        Self([written("/etc/hosts"), written("/etc/resolv.conf")])
    }
}

impl Resolver {
    /// As the machine is set up now.
    pub(super) fn of_machine() -> Self {
        let read = Stamp::now();
        let built = TokioResolver::builder_tokio().and_then(|mut builder| {
            let options = builder.options_mut();
            options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
            // What it is asked for again shall be new.
            options.cache_size = 0;
            builder.build()
        });
        match built {
            Ok(resolver) => Self::Dns { resolver: Box::new(resolver), read },
            Err(error) => {
                warn!(%error, "cannot read how this machine resolves names: asking its own resolver");
                Self::System
            }
        }
    }

    /// Asks as `resolver` does.
    #[cfg(test)]
    pub(super) fn with(resolver: TokioResolver) -> Self {
        Self::Dns { resolver: Box::new(resolver), read: Stamp::now() }
    }

    /// Whether the machine was set up anew since then.
    pub(super) fn is_outdated(&self) -> bool {
        matches!(self, Self::Dns { read, .. } if *read != Stamp::now())
    }

    /// Asks.
    ///
    /// # Errors
    /// Why there is no answer, for people.
    pub(super) async fn lookup(&self, name: &str) -> Result<Answer, String> {
        let answer = async {
            match self {
                Self::Dns { resolver, .. } => {
                    let found = resolver.lookup_ip(name).await.map_err(|error| error.to_string())?;
                    let ttl = found.valid_until().saturating_duration_since(Instant::now());
                    Ok(Answer { addresses: found.iter().collect(), ttl })
                }
                Self::System => {
                    let found =
                        tokio::net::lookup_host((name, 0)).await.map_err(|error| error.to_string())?;
                    Ok(Answer { addresses: found.map(|address| address.ip()).collect(), ttl: DNS_MIN })
                }
            }
        };
        tokio::time::timeout(DNS_LOOKUP, answer).await.unwrap_or_else(|_| Err("no answer in time".to_owned()))
    }
}
