//! Hedging: a request whose answer is late is sent to a second endpoint, and whichever answers first is heard (Dean and
//! Barroso, The Tail at Scale, 2013). The other one's connection is closed, or its stream reset.
//!
//! Only what may be done twice and has no body; never more often than the backend's budget of retries allows.

use std::{cell::RefCell, pin::pin, rc::Rc};

use futures_util::future::{Either, select};
use tokio::time::{Instant, timeout};

use super::{Aim, Answer, Destination, Failure, Incoming, attempt, record::Record};
use crate::{
    body::RequestBody,
    h1::{BodyLength, ResponseHead},
    health::Verdict,
    journal::TryPlace,
    upstream::{Balancer, Endpoint},
    worker::Thread,
};

/// How a try ended.
type Tried = Result<(ResponseHead, Answer), Failure>;

/// What became of a request that may have been sent twice.
pub(super) struct Raced {
    /// Whose result it is.
    pub(super) endpoint: Rc<Endpoint>,
    pub(super) result: Tried,
    /// It was sent twice.
    pub(super) hedged: bool,
}

/// Whether a request may be sent twice, and its backend wants that.
pub(super) fn is_wanted(balancer: &Balancer, incoming: &Incoming<'_>) -> bool {
    balancer.backend.traffic.hedging.is_some()
        && incoming.head.method().is_idempotent()
        && incoming.upgrade.is_none()
        && incoming.body.length() == BodyLength::None
}

/// Sends a request to `first`, and to another endpoint if no answer has begun when it is late.
pub(super) async fn race(
    thread: &Rc<Thread>,
    balancer: &Balancer,
    first: Rc<Endpoint>,
    incoming: &mut Incoming<'_>,
    to: &Destination<'_>,
    record: &RefCell<&mut Record>,
) -> Raced {
    let mut again = Incoming { head: incoming.head.clone(), body: RequestBody::Empty, upgrade: None };
    let began = Instant::now();
    let aim = Aim { endpoint: &first, fresh: false };
    let mut one = pin!(attempt(thread, balancer, aim, incoming, to, record));
    let early = match balancer.hedge_after() {
        None => Some(one.as_mut().await),
        Some(delay) => timeout(delay, one.as_mut()).await.ok(),
    };
    if let Some(result) = early {
        first.observe(began.elapsed());
        return Raced { endpoint: Rc::clone(&first), result, hedged: false };
    }
    let second = balancer.other(thread, &first).filter(|_| is_allowed(thread, balancer, record));
    let Some(second) = second else {
        let result = one.await;
        first.observe(began.elapsed());
        return Raced { endpoint: Rc::clone(&first), result, hedged: false };
    };
    let began_again = Instant::now();
    let aim = Aim { endpoint: &second, fresh: false };
    let two = pin!(attempt(thread, balancer, aim, &mut again, to, record));
    let (of_first, result) = match select(one, two).await {
        Either::Left((result, _late)) if is_good(&result) => {
            record.borrow_mut().outrun(TryPlace::Last);
            (true, result)
        }
        Either::Right((result, _late)) if is_good(&result) => {
            record.borrow_mut().outrun(TryPlace::First);
            (false, result)
        }
        // One has failed: the other may still do better.
        Either::Left((failed, other)) => {
            better(thread, balancer, record, (true, &first, failed), (&second, other.await))
        }
        Either::Right((failed, other)) => {
            better(thread, balancer, record, (false, &second, failed), (&first, other.await))
        }
    };
    // That of the one that was outrun is at least so much.
    first.observe(began.elapsed());
    if !of_first {
        second.observe(began_again.elapsed());
        thread.counters.hedges_won.add(1);
    }
    Raced { endpoint: Rc::clone(if of_first { &first } else { &second }), result, hedged: true }
}

/// Whether the backend's budget has a second try, which is taken then.
fn is_allowed(thread: &Thread, balancer: &Balancer, record: &RefCell<&mut Record>) -> bool {
    if !balancer.group.retries.borrow_mut().spend() {
        thread.counters.retries_denied.add(1);
        record.borrow_mut().denied_retry();
        return false;
    }
    thread.counters.hedges.add(1);
    record.borrow_mut().retried();
    true
}

/// Whether there is nothing better to wait for.
fn is_good(tried: &Tried) -> bool {
    tried.as_ref().is_ok_and(|(head, _)| head.status() < 500)
}

/// Of two tries that have both ended, the one to hear: the later, unless only the earlier has an answer, or both are bad.
fn better(
    thread: &Rc<Thread>,
    balancer: &Balancer,
    record: &RefCell<&mut Record>,
    (of_first, endpoint, earlier): (bool, &Rc<Endpoint>, Tried),
    (other, later): (&Rc<Endpoint>, Tried),
) -> (bool, Tried) {
    let takes_later = is_good(&later) || earlier.is_err();
    let (left, of) = if takes_later { (&earlier, endpoint) } else { (&later, other) };
    let verdict = match left {
        Ok((head, _)) => Some(Verdict::of_status(head.status())),
        Err(failure) => {
            record.borrow_mut().failed(failure.place, &failure.refusal);
            failure.refusal.verdict()
        }
    };
    if let Some(verdict) = verdict {
        balancer.note(thread, of, verdict);
    }
    if takes_later { (!of_first, later) } else { (of_first, earlier) }
}
