//! An identity that is renewed while the process runs.

use tokio::sync::watch;

use super::Identity;

/// The newest certificate and key of a process. Clones see the same; whoever listens or connects asks each time anew,
/// so that a renewal needs no restart.
#[derive(Debug, Clone)]
pub struct Live(watch::Receiver<Identity>);

impl Live {
    /// One that is renewed through the sender.
    #[must_use]
    pub fn new(identity: Identity) -> (watch::Sender<Identity>, Self) {
        let (sender, receiver) = watch::channel(identity);
        (sender, Self(receiver))
    }

    /// What it is now.
    #[must_use]
    pub fn now(&self) -> Identity {
        self.0.borrow().clone()
    }

    /// To follow it.
    #[must_use]
    pub fn receiver(&self) -> watch::Receiver<Identity> {
        self.0.clone()
    }

    /// What it is now, if that is news to this clone.
    pub fn news(&mut self) -> Option<Identity> {
        // An error says that it stays as it is.
        self.0.has_changed().unwrap_or(false).then(|| self.0.borrow_and_update().clone())
    }
}

/// One that stays.
impl From<&Identity> for Live {
    fn from(identity: &Identity) -> Self {
        Self(watch::channel(identity.clone()).1)
    }
}

impl From<Identity> for Live {
    fn from(identity: Identity) -> Self {
        Self(watch::channel(identity).1)
    }
}
