//! The sessions of a port by their clients, and how many there may be.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use crate::{limits::Limits, listen::counted};

/// Sessions by their clients.
#[derive(Debug)]
pub(super) struct Table<S> {
    sessions: HashMap<SocketAddr, S>,
    /// How many each address has.
    clients: HashMap<IpAddr, usize>,
}

impl<S> Default for Table<S> {
    fn default() -> Self {
        Self { sessions: HashMap::new(), clients: HashMap::new() }
    }
}

impl<S> Table<S> {
    /// Whether that client may have another one.
    pub(super) fn has_room(&self, client: SocketAddr, limits: &Limits) -> bool {
        let own = counted(client).and_then(|client| self.clients.get(&client)).copied().unwrap_or(0);
        self.sessions.len() < limits.udp_sessions && own < limits.udp_sessions_per_client
    }

    pub(super) fn get(&self, client: &SocketAddr) -> Option<&S> {
        self.sessions.get(client)
    }

    /// Adds a session of a client that has none.
    pub(super) fn insert(&mut self, client: SocketAddr, session: S) {
        let before = self.sessions.insert(client, session);
        if before.is_none()
            && let Some(client) = counted(client)
        {
            *self.clients.entry(client).or_default() += 1;
        }
    }

    pub(super) fn remove(&mut self, client: &SocketAddr) {
        if self.sessions.remove(client).is_none() {
            return;
        }
        if let Some(client) = counted(*client)
            && let Some(count) = self.clients.get_mut(&client)
        {
            *count -= 1;
            if *count == 0 {
                self.clients.remove(&client);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    pub(super) fn each(&self, on: impl FnMut(&S)) {
        self.sessions.values().for_each(on);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_so_many_sessions_and_a_port_has() {
        let limits = Limits { udp_sessions: 4, udp_sessions_per_client: 2, ..Limits::default() };
        let client = |text: &str| text.parse::<SocketAddr>().unwrap();
        let mut table = Table::default();
        for port in [1, 2] {
            let one = client(&format!("192.0.2.1:{port}"));
            assert!(table.has_room(one, &limits));
            table.insert(one, ());
        }
        assert!(!table.has_room(client("192.0.2.1:3"), &limits), "its third");
        assert!(!table.has_room(client("[::ffff:192.0.2.1]:3"), &limits), "in another notation");
        let other = client("[2001:db8::1]:1");
        assert!(table.has_room(other, &limits));
        table.insert(other, ());
        // A session that takes another's place counts once.
        table.insert(other, ());
        table.remove(&client("192.0.2.1:1"));
        table.remove(&client("192.0.2.1:1"));
        assert!(table.has_room(client("192.0.2.1:3"), &limits), "one has ended");
        for port in [1, 2] {
            table.insert(client(&format!("127.0.0.1:{port}")), ());
        }
        assert!(!table.has_room(client("127.0.0.1:3"), &limits), "the port's fifth");
        for text in ["192.0.2.1:2", "[2001:db8::1]:1", "127.0.0.1:1", "127.0.0.1:2"] {
            table.remove(&client(text));
        }
        assert!(table.is_empty() && table.clients.is_empty());
    }

    #[test]
    fn a_proxy_on_this_machine_speaks_for_many() {
        let limits = Limits { udp_sessions_per_client: 1, ..Limits::default() };
        let mut table = Table::default();
        for port in 1..10 {
            let client = SocketAddr::from(([127, 0, 0, 1], port));
            assert!(table.has_room(client, &limits));
            table.insert(client, ());
        }
    }
}
