//! The listening sockets of one pool, held for life.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use api::agent::{Listen, Slots, Transport};
use sys::{
    reuseport::{self, ReuseportOptions},
    steer::{self, CidKey, Group, Program},
};
use tracing::warn;

use crate::slots::Steering;

/// How long a sleeping pool's connection may wait for its first byte before it wakes a worker all the same.
const DEFER: Duration = Duration::from_secs(10);

/// Sockets by address and slot.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    addresses: BTreeMap<Listen, BTreeMap<u32, Arc<OwnedFd>>>,
}

impl Sockets {
    /// Binds sockets of these numbers; returns which were bound, and why not all.
    pub(crate) fn bind(&mut self, listen: &Listen, slots: &[u32]) -> (Vec<u32>, Option<String>) {
        let sockets = self.addresses.entry(listen.clone()).or_default();
        let mut bound = Vec::new();
        for slot in slots {
            // The first of a group must not join somebody else's.
            let free = if sockets.is_empty() { probe(listen) } else { Ok(()) };
            match free.and_then(|()| bind(listen)) {
                Ok(socket) => {
                    sockets.insert(*slot, Arc::new(socket));
                    bound.push(*slot);
                }
                Err(error) => return (bound, Some(error.to_string())),
            }
        }
        (bound, None)
    }

    /// Keeps what a worker sent of the sockets that an earlier agent lent it; returns the slots that are ours now.
    pub(crate) fn keep(&mut self, slots: Slots, sockets: Vec<OwnedFd>) -> io::Result<Slots> {
        if slots.slots.len() != sockets.len() {
            let text = format!("{} slots with {} sockets", slots.slots.len(), sockets.len());
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let ours = self.addresses.entry(slots.listen.clone()).or_default();
        let mut kept = Vec::new();
        for (slot, socket) in slots.slots.into_iter().zip(sockets) {
            let address = reuseport::local_address(socket.as_fd())?;
            if address != slots.listen.bind {
                let text = format!("slot {slot} is bound to {address}, not to {}", slots.listen.bind);
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
            match ours.get(&slot) {
                // Another worker has sent it before: a slot may be held by two.
                Some(known) if reuseport::cookie(known.as_fd())? != reuseport::cookie(socket.as_fd())? => {
                    warn!(slot, bind = %slots.listen.bind, "two sockets have one slot's number");
                    continue;
                }
                Some(_) => {}
                None => {
                    ours.insert(slot, Arc::new(socket));
                }
            }
            kept.push(slot);
        }
        Ok(Slots { listen: slots.listen, slots: kept })
    }

    /// The sockets of these slots, in their order; `None` if we lack one.
    pub(crate) fn of(&self, slots: &Slots) -> Option<Vec<Arc<OwnedFd>>> {
        let sockets = self.addresses.get(&slots.listen)?;
        slots.slots.iter().map(|slot| sockets.get(slot).cloned()).collect()
    }

    /// Tells the kernel how to spread a UDP address's datagrams.
    pub(crate) fn steer(&self, listen: &Listen, steering: &Steering, key: CidKey) -> io::Result<()> {
        let number =
            |slot: &u32| u16::try_from(*slot).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
        let slots = steering.slots.iter().map(number).collect::<io::Result<Vec<_>>>()?;
        let active = steering.active.iter().map(number).collect::<io::Result<Vec<_>>>()?;
        let Some(socket) = self.addresses.get(listen).and_then(|sockets| sockets.values().next()) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let group = Group { slots: &slots, active: &active };
        let program = match listen.raw {
            true => Program::by_client(&group, key, listen.bind.is_ipv6()),
            false => Program::new(&group, key),
        };
        steer::attach(socket.as_fd(), &program)
    }

    /// Closes our copies.
    pub(crate) fn close(&mut self, listen: &Listen) {
        self.addresses.remove(listen);
    }

    /// The sockets on which somebody calls who wants the pool to wake: all of TCP, and of UDP whose datagrams are passed on
    /// the first of each address, to which the kernel leads what comes while nobody listens.
    ///
    /// A datagram of HTTP/3 wakes nobody: it may be the last word of a connection that has ended, and a client that means
    /// to begin one calls by TCP, too, when nobody answers.
    pub(crate) fn waking(&self) -> impl Iterator<Item = &Arc<OwnedFd>> {
        self.addresses.iter().flat_map(|(listen, sockets)| {
            let count = match listen.transport {
                Transport::Tcp => sockets.len(),
                Transport::Udp => usize::from(listen.raw),
            };
            sockets.values().take(count)
        })
    }

    /// How many connections wait on each slot of each TCP address.
    pub(crate) fn queues(&self) -> impl Iterator<Item = (&Listen, BTreeMap<u32, u32>)> {
        let tcp = self.addresses.iter().filter(|(listen, _)| listen.transport == Transport::Tcp);
        tcp.map(|(listen, sockets)| {
            let length = |socket: &Arc<OwnedFd>| reuseport::queue_len(socket.as_fd());
            let lengths = sockets.iter().filter_map(|(slot, socket)| Some((*slot, length(socket).ok()?)));
            (listen, lengths.collect())
        })
    }

    /// Whether connections are kept back until their first byte: a port scan should wake nobody. Only while nobody
    /// listens, for a worker should see and bound idle connections itself.
    pub(crate) fn defer(&self, defer: bool) {
        for (listen, sockets) in &self.addresses {
            if listen.transport != Transport::Tcp {
                continue;
            }
            for socket in sockets.values() {
                if let Err(error) = reuseport::set_defer_accept(socket.as_fd(), defer.then_some(DEFER)) {
                    warn!(bind = %listen.bind, %error, "cannot defer connections");
                }
            }
        }
    }
}

fn probe(listen: &Listen) -> io::Result<()> {
    match listen.transport {
        Transport::Tcp => reuseport::probe_tcp(listen.bind),
        Transport::Udp => reuseport::probe_udp(listen.bind),
    }
}

fn bind(listen: &Listen) -> io::Result<OwnedFd> {
    match listen.transport {
        Transport::Tcp => reuseport::bind_tcp(listen.bind, ReuseportOptions::default()),
        Transport::Udp => reuseport::bind_udp(listen.bind, ReuseportOptions::default()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn free_listen() -> Listen {
        let bind = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        Listen { bind, port: 80, tls: false, transport: Transport::Tcp, raw: false }
    }

    #[test]
    fn an_address_of_somebody_else_is_not_joined() {
        let listen = free_listen();
        let mut theirs = Sockets::default();
        assert_eq!(theirs.bind(&listen, &[0, 1]), (vec![0, 1], None));
        let (bound, problem) = Sockets::default().bind(&listen, &[0, 1]);
        assert!(bound.is_empty());
        assert!(problem.unwrap().contains(&listen.bind.to_string()));
    }

    #[test]
    fn recovered_sockets_are_checked_and_joined() {
        let listen = free_listen();
        let slots = |slots: &[u32]| Slots { listen: listen.clone(), slots: slots.to_vec() };
        let mut old = Sockets::default();
        old.bind(&listen, &[0, 1]);
        let duplicates = |of: &Sockets, numbers: &[u32]| -> Vec<OwnedFd> {
            of.of(&slots(numbers)).unwrap().iter().map(|fd| fd.try_clone().unwrap()).collect()
        };
        let mut new = Sockets::default();
        assert_eq!(new.keep(slots(&[0, 1]), duplicates(&old, &[0, 1])).unwrap(), slots(&[0, 1]));
        // The same again from another holder, then a wrong socket under a known number.
        assert_eq!(new.keep(slots(&[1]), duplicates(&old, &[1])).unwrap(), slots(&[1]));
        assert_eq!(new.keep(slots(&[1]), duplicates(&old, &[0])).unwrap(), slots(&[]));
        assert!(new.keep(slots(&[2, 3]), duplicates(&old, &[0])).is_err());
        let foreign = TcpListener::bind("127.0.0.1:0").unwrap().into();
        assert!(new.keep(slots(&[2]), vec![foreign]).is_err());
        drop(old);
        assert_eq!(new.bind(&listen, &[2]), (vec![2], None));
    }
}
