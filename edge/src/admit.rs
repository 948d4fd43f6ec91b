//! Whether a request is let in at all: overload is refused at the door, at the price of a few instructions, before
//! any work was done that would be lost. Who waits for whom where there is only too much to do is said by
//! [`turns`](crate::turns).

use std::rc::Rc;

use crate::{
    limits::Limits,
    share::{Share, Shares},
};

/// What there is only so much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scarce {
    /// Client connections.
    Connections,
    /// Requests that are being served.
    Requests,
    /// Memory.
    Memory,
}

/// Why a request is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Overload {
    /// It would wait for too long.
    #[error("the worker is overloaded: the tenant's requests wait for too long")]
    Queue,
    /// Too many requests are being served.
    #[error("the worker serves too many requests at once")]
    InFlight,
    /// The process has too much memory.
    #[error("the worker is short of memory")]
    Memory,
    /// It becomes scarce, and the tenant has more of it than the others leave.
    #[error("the worker is short of {}, and the tenant has its share of them", .0.what())]
    Share(Scarce),
    /// The tenant has as much as its quota allows.
    #[error("the tenant has as many {} as spec.quotas.{} of its Tenant object allows", .0.what(), .0.field())]
    Quota(Scarce),
}

impl Scarce {
    fn what(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Requests => "requests at once",
            Self::Memory => "buffered bytes",
        }
    }

    fn field(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Requests => "requestsInFlight",
            Self::Memory => "bufferedBytes",
        }
    }
}

impl Overload {
    /// All of them, in the order of [`index`](Self::index).
    pub(crate) const ALL: [Self; 9] = [
        Self::Queue,
        Self::InFlight,
        Self::Memory,
        Self::Share(Scarce::Connections),
        Self::Share(Scarce::Requests),
        Self::Share(Scarce::Memory),
        Self::Quota(Scarce::Connections),
        Self::Quota(Scarce::Requests),
        Self::Quota(Scarce::Memory),
    ];

    /// Its place in [`ALL`](Self::ALL).
    pub(crate) fn index(self) -> usize {
        let within = |scarce| match scarce {
            Scarce::Connections => 0,
            Scarce::Requests => 1,
            Scarce::Memory => 2,
        };
        match self {
            Self::Queue => 0,
            Self::InFlight => 1,
            Self::Memory => 2,
            Self::Share(scarce) => 3 + within(scarce),
            Self::Quota(scarce) => 6 + within(scarce),
        }
    }

    /// The metric and log label.
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::Queue => "overload_queue",
            Self::InFlight => "overload_in_flight",
            Self::Memory => "overload_memory",
            Self::Share(Scarce::Connections) => "share_connections",
            Self::Share(Scarce::Requests) => "share_in_flight",
            Self::Share(Scarce::Memory) => "share_memory",
            Self::Quota(Scarce::Connections) => "quota_connections",
            Self::Quota(Scarce::Requests) => "quota_in_flight",
            Self::Quota(Scarce::Memory) => "quota_memory",
        }
    }
}

/// What a thread knows of its room.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Door {
    memory_bytes: u64,
}

impl Door {
    /// A tick: the process has so much memory.
    pub(crate) fn observe(&mut self, memory_bytes: u64) {
        self.memory_bytes = memory_bytes;
    }

    /// Whether `share`'s tenant may have one more request beside `in_flight` others of whoever's.
    ///
    /// # Errors
    /// [`Overload`], if not.
    pub(crate) fn admit(
        &self,
        shares: &Shares,
        share: &Share,
        in_flight: u64,
        limits: &Limits,
    ) -> Result<(), Overload> {
        if !self.is_open(limits) {
            return Err(Overload::Memory);
        }
        if in_flight >= limits.in_flight {
            return Err(Overload::InFlight);
        }
        for what in [Scarce::Requests, Scarce::Memory] {
            if !share.is_within_quota(what) {
                return Err(Overload::Quota(what));
            }
        }
        if !shares.is_fair(share, Scarce::Requests, in_flight, limits.in_flight) {
            return Err(Overload::Share(Scarce::Requests));
        }
        if !shares.is_fair(share, Scarce::Memory, self.memory_bytes, limits.memory_bytes) {
            return Err(Overload::Share(Scarce::Memory));
        }
        Ok(())
    }

    /// Whether new connections are worth their handshake.
    pub(crate) fn is_open(&self, limits: &Limits) -> bool {
        self.memory_bytes <= limits.memory_bytes
    }
}

/// Whether `share`'s tenant may have one more connection beside `open` others of the same address.
///
/// # Errors
/// [`Overload`], if not.
pub(crate) fn admit_connection(
    shares: &Shares,
    share: &Rc<Share>,
    open: u64,
    limits: &Limits,
) -> Result<(), Overload> {
    if !share.is_within_quota(Scarce::Connections) {
        return Err(Overload::Quota(Scarce::Connections));
    }
    let most = u64::try_from(limits.connections).unwrap_or(u64::MAX);
    if !shares.is_fair(share, Scarce::Connections, open, most) {
        return Err(Overload::Share(Scarce::Connections));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use model::TrafficQuota;

    use super::*;
    use crate::limits::LIMITS;

    fn share(quota: TrafficQuota) -> Rc<Share> {
        Share::new(Arc::default(), quota)
    }

    #[test]
    fn memory_and_requests_in_flight_are_bounded() {
        let (mut door, shares, share) = (Door::default(), Shares::default(), share(TrafficQuota::default()));
        let admit = |door: &Door, others| door.admit(&shares, &share, others, &LIMITS);
        assert_eq!(admit(&door, LIMITS.in_flight - 1), Ok(()));
        assert_eq!(admit(&door, LIMITS.in_flight), Err(Overload::InFlight));
        door.observe(LIMITS.memory_bytes + 1);
        assert_eq!(admit(&door, 0), Err(Overload::Memory));
        assert!(!door.is_open(&LIMITS));
        door.observe(LIMITS.memory_bytes / 2);
        assert_eq!(admit(&door, 0), Ok(()));
    }

    #[test]
    fn a_quota_says_what_is_used_up_and_where_it_is_said() {
        let quota = TrafficQuota {
            requests: Some(1),
            connections: Some(1),
            buffered_bytes: Some(1),
            ..Default::default()
        };
        let (door, shares, share) = (Door::default(), Shares::default(), share(quota));
        assert_eq!(door.admit(&shares, &share, 0, &LIMITS), Ok(()));
        share.counters.requests.add(1);
        let refused = door.admit(&shares, &share, 1, &LIMITS).unwrap_err();
        assert_eq!(refused.kind(), "quota_in_flight");
        assert!(refused.to_string().contains("spec.quotas.requestsInFlight"), "{refused}");
        share.counters.connections.add(1);
        let refused = admit_connection(&shares, &share, 1, &LIMITS);
        assert_eq!(refused, Err(Overload::Quota(Scarce::Connections)));
        share.counters.requests.sub(1);
        share.counters.buffered_bytes.add(1);
        assert_eq!(door.admit(&shares, &share, 0, &LIMITS), Err(Overload::Quota(Scarce::Memory)));
    }

    #[test]
    fn each_reason_has_its_place_and_its_word() {
        for (index, overload) in Overload::ALL.into_iter().enumerate() {
            assert_eq!(overload.index(), index);
        }
        let mut words = Overload::ALL.map(Overload::kind).to_vec();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Overload::ALL.len());
    }
}
