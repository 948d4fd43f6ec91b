//! The last so many trails.

use super::{RequestId, Trail};

#[derive(Debug)]
pub(super) struct Ring {
    trails: Vec<Trail>,
    most: usize,
    /// The oldest one's place, once it is full.
    next: usize,
}

impl Ring {
    pub(super) const fn new(most: usize) -> Self {
        Self { trails: Vec::new(), most, next: 0 }
    }

    /// Adds one, in place of the oldest when it is full, which is given in exchange: to copy it and drop the other costs
    /// as much again.
    pub(super) fn push(&mut self, trail: &mut Trail) {
        if self.trails.len() < self.most {
            self.trails.push(trail.clone());
            return;
        }
        std::mem::swap(&mut self.trails[self.next], trail);
        self.next = (self.next + 1) % self.most;
    }

    pub(super) fn find(&self, id: RequestId) -> Option<&Trail> {
        self.trails.iter().find(|trail| trail.facts.id == id)
    }
}
