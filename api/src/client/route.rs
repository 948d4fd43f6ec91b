//! PURE. Which server to try next: spread over all of them, the leader at once when somebody names it.

use rand::seq::SliceRandom as _;

/// Two servers that name each other are not followed for ever: an election is under way.
const MAX_HINTS: usize = 3;

/// The servers as one client goes through them.
#[derive(Debug, Clone, Default)]
pub struct Route {
    servers: Vec<String>,
    /// What is left of this round, the next one last.
    left: Vec<String>,
    /// Named by a server: tried before the others.
    hint: Option<String>,
    /// Hints taken since a server was last tried without one.
    hints: usize,
}

impl Route {
    /// Through these servers, `host:port` each.
    #[must_use]
    pub fn new(servers: Vec<String>) -> Self {
        Self { servers, ..Self::default() }
    }

    /// Whom to try now; each server once a round, in an order drawn anew for each. `None`: there is none.
    pub fn choose(&mut self) -> Option<String> {
        if let Some(hint) = self.hint.take() {
            self.left.retain(|server| *server != hint);
            return Some(hint);
        }
        self.hints = 0;
        if self.left.is_empty() {
            self.left.clone_from(&self.servers);
            self.left.shuffle(&mut rand::rng());
        }
        self.left.pop()
    }

    /// Somebody named this server. Returns whether it is tried next, so that there is nothing to wait for.
    pub fn hint(&mut self, server: String) -> bool {
        self.hints += 1;
        if self.hints > MAX_HINTS {
            return false;
        }
        self.hint = Some(server);
        true
    }

    /// The servers are these now. Returns whether that is news; an empty list never is.
    pub fn learn(&mut self, servers: &[String]) -> bool {
        let (mut new, mut old) = (servers.to_vec(), self.servers.clone());
        new.sort_unstable();
        old.sort_unstable();
        if servers.is_empty() || new == old {
            return false;
        }
        self.servers = servers.to_vec();
        self.left.retain(|server| servers.contains(server));
        true
    }

    /// The servers, as they were learned last.
    #[must_use]
    pub fn servers(&self) -> &[String] {
        &self.servers
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn route() -> Route {
        Route::new(vec!["a".into(), "b".into(), "c".into()])
    }

    #[test]
    fn each_server_is_tried_once_a_round() {
        let mut route = route();
        for _ in 0..10 {
            let round: BTreeSet<String> = (0..3).filter_map(|_| route.choose()).collect();
            assert_eq!(round.len(), 3);
        }
        assert_eq!(Route::default().choose(), None);
    }

    #[test]
    fn a_hint_comes_first_and_counts_as_tried() {
        let mut route = route();
        let first = route.choose().unwrap();
        let hint = ["a", "b", "c"].into_iter().find(|s| *s != first).unwrap();
        assert!(route.hint(hint.into()));
        assert_eq!(route.choose().unwrap(), hint);
        let last = route.choose().unwrap();
        assert!(last != first && last != hint);
    }

    #[test]
    fn servers_that_name_each_other_are_left() {
        let mut route = route();
        let mut followed = 0;
        while route.hint("a".into()) {
            route.choose();
            followed += 1;
        }
        assert_eq!(followed, MAX_HINTS);
        route.choose();
        assert!(route.hint("b".into()), "after one that nobody named, hints count anew");
    }

    #[test]
    fn the_order_of_a_list_is_no_news() {
        let mut route = route();
        assert!(!route.learn(&["c".into(), "a".into(), "b".into()]));
        assert!(!route.learn(&[]));
        assert!(route.learn(&["a".into(), "d".into()]));
        let round: BTreeSet<String> = (0..2).filter_map(|_| route.choose()).collect();
        assert_eq!(round, BTreeSet::from(["a".into(), "d".into()]));
    }
}
