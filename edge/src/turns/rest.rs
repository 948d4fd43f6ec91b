//! What a reply costs beside its head: its body is moved long after its request had its turn, and is paid for all the same.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use super::{Turns, nanos, stretched};
use crate::share::Share;

/// The rest of a reply that is being written. Dropped at its end.
pub(crate) struct Rest<'t> {
    turns: &'t Turns,
    share: Option<&'t Rc<Share>>,
    spent: Duration,
}

impl<'t> Rest<'t> {
    pub(super) fn new(turns: &'t Turns, share: Option<&'t Rc<Share>>) -> Self {
        Self { turns, share, spent: Duration::ZERO }
    }

    /// Lets it work. While the thread is busy that is the tenant's time: what is above what was expected is paid for at once by its
    /// next requests.
    pub(crate) fn timed<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let (Some(share), true) = (self.share, self.turns.busy.get()) else { return work() };
        let began = Instant::now();
        let done = work();
        let took = began.elapsed();
        self.turns.spent.set(self.turns.spent.get() + took);
        let paid = nanos(self.spent).max(share.lane.rest());
        self.spent += took;
        let more = nanos(self.spent).saturating_sub(paid);
        share.lane.finish.set(share.lane.finish.get() + stretched(more, share.weight()));
        done
    }
}

impl Drop for Rest<'_> {
    fn drop(&mut self) {
        if let Some(share) = self.share.filter(|_| !self.spent.is_zero()) {
            share.lane.learn_rest(nanos(self.spent));
        }
    }
}
