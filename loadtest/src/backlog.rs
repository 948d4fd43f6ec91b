//! PURE. Requests between the moment they are due and the moment a connection takes them.

use std::{collections::VecDeque, iter::Peekable, time::Duration};

use crate::schedule::{Arrival, Schedule};

/// A request that waits for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Job {
    pub(crate) arrival: Arrival,
    /// When the generator noticed that it was due; later than `arrival.at` only by the generator's own fault.
    pub(crate) noticed: Duration,
}

impl Job {
    /// How much of the delay between due and sent is the generator's own: what passed before it noticed, and what
    /// passed between a connection being free (since `free_since`) and the request being sent.
    pub(crate) fn lag(&self, free_since: Duration, sent: Duration) -> Duration {
        let notice = self.noticed.saturating_sub(self.arrival.at);
        notice + sent.saturating_sub(free_since.max(self.noticed))
    }
}

/// A bounded queue in front of the connections, filled by the schedule.
#[derive(Debug)]
pub(crate) struct Backlog {
    schedule: Peekable<Schedule>,
    waiting: VecDeque<Job>,
    bound: usize,
    stopped: bool,
}

impl Backlog {
    pub(crate) fn new(schedule: Schedule, bound: usize) -> Self {
        Self { schedule: schedule.peekable(), waiting: VecDeque::new(), bound, stopped: false }
    }

    /// When the next request becomes due; none if the schedule is at its end.
    pub(crate) fn next_due(&mut self) -> Option<Duration> {
        if self.stopped { None } else { self.schedule.peek().map(|a| a.at) }
    }

    /// Lets every request that is due by `now` wait, or drops it where the queue is full.
    pub(crate) fn advance(&mut self, now: Duration, mut each: impl FnMut(Arrival, Admission)) {
        while self.next_due().is_some_and(|at| at <= now) {
            let Some(arrival) = self.schedule.next() else { return };
            if self.waiting.len() < self.bound {
                self.waiting.push_back(Job { arrival, noticed: now });
                each(arrival, Admission::Waits);
            } else {
                each(arrival, Admission::Dropped);
            }
        }
    }

    /// The request that has waited longest.
    pub(crate) fn take(&mut self) -> Option<Job> {
        self.waiting.pop_front()
    }

    /// Whether another request waits.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether nothing waits and nothing will.
    pub(crate) fn is_finished(&mut self) -> bool {
        self.waiting.is_empty() && self.next_due().is_none()
    }

    /// Ends the schedule now. Returns what waited: it will not be sent.
    pub(crate) fn stop(&mut self) -> VecDeque<Job> {
        self.stopped = true;
        std::mem::take(&mut self.waiting)
    }
}

/// What became of a request that fell due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It waits for a connection.
    Waits,
    /// The queue is full.
    Dropped,
}

#[cfg(test)]
mod tests {
    use http::Uri;

    use super::*;
    use crate::{Plan, schedule::Share};

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Ten requests a second for one second.
    fn backlog(bound: usize) -> Backlog {
        let plan = Plan::new(Uri::from_static("http://127.0.0.1/"), 10.0, ms(1000));
        Backlog::new(Schedule::new(&plan, Share { index: 0, of: 1 }), bound)
    }

    fn advance(backlog: &mut Backlog, now: Duration) -> (usize, usize) {
        let (mut waits, mut dropped) = (0, 0);
        backlog.advance(now, |_, admission| match admission {
            Admission::Waits => waits += 1,
            Admission::Dropped => dropped += 1,
        });
        (waits, dropped)
    }

    #[test]
    fn requests_become_due_on_time_and_leave_in_order() {
        let mut backlog = backlog(100);
        assert_eq!(advance(&mut backlog, ms(250)), (3, 0));
        assert_eq!(backlog.next_due(), Some(ms(300)));
        assert_eq!(backlog.take().unwrap().arrival.at, ms(0));
        assert_eq!(backlog.take().unwrap().arrival.at, ms(100));
        assert!(backlog.is_waiting() && !backlog.is_finished());
    }

    #[test]
    fn a_full_queue_drops_what_comes_next() {
        let mut backlog = backlog(4);
        assert_eq!(advance(&mut backlog, ms(2000)), (4, 6));
        assert_eq!(backlog.next_due(), None);
        while backlog.take().is_some() {}
        assert!(backlog.is_finished());
    }

    #[test]
    fn stopping_ends_the_schedule_and_returns_what_waited() {
        let mut backlog = backlog(100);
        advance(&mut backlog, ms(250));
        assert_eq!(backlog.stop().len(), 3);
        assert!(backlog.is_finished());
        assert_eq!(advance(&mut backlog, ms(1000)), (0, 0));
    }

    #[test]
    fn lag_is_the_generators_own_delay_only() {
        let arrival = Arrival { at: ms(100), counted: true };
        let lag =
            |noticed, free_since, sent| Job { arrival, noticed: ms(noticed) }.lag(ms(free_since), ms(sent));
        assert_eq!(lag(100, 0, 100), ms(0), "on time");
        assert_eq!(lag(103, 0, 103), ms(3), "noticed late");
        assert_eq!(lag(100, 0, 105), ms(5), "sent late though a connection was free");
        assert_eq!(lag(100, 900, 900), ms(0), "all connections were busy: that is the server's doing");
        assert_eq!(lag(102, 900, 901), ms(3), "both");
    }
}
