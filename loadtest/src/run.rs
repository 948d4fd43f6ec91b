//! A run from its plan to its report: threads are started, begin together, and are added up.

use std::{
    collections::BTreeMap,
    io,
    ops::ControlFlow,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tokio::{
    runtime::{Builder, LocalOptions},
    sync::{mpsc, watch},
};

use crate::{
    Plan, Report, Second, TargetError, TlsError,
    connect::Connector,
    generator::{self, Broken, Event, Order, Outcome, Signal},
    report::Facts,
    request::Request,
    schedule::Share,
    tally::{SecondTally, Tally},
    target::Target,
};

/// From the signal to time zero: enough for every thread to wake up.
const COUNTDOWN: Duration = Duration::from_millis(20);
/// Messages between the threads and the run.
const EVENTS: usize = 256;

/// Why a run gave no report.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The plan's numbers; all mistakes together.
    #[error("the plan cannot be run: {}", .0.join("; "))]
    Plan(Vec<String>),
    /// The target is not allowed or not found.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// Certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Not one connection could be opened before the start.
    #[error("no connection to {target}: {detail}")]
    NoConnection {
        /// The URL.
        target: String,
        /// The first failure.
        detail: String,
    },
    /// A generator thread could not start or go on.
    #[error("generator thread")]
    Thread(#[source] io::Error),
}

/// Runs a plan. `progress` is given each second of the timeline when it is over, and may end the run early.
///
/// Takes as long as the plan's warm-up and steps, and at most twice its timeout more. Dropped before its end, the
/// generators stop sending and end by themselves.
///
/// # Errors
///
/// The plan or its target is wrong, or nothing answers there at all. Once a run has begun, what fails is in the report.
pub async fn run(plan: Plan, progress: impl FnMut(&Second) -> ControlFlow<()>) -> Result<Report, RunError> {
    let mistakes = plan.mistakes();
    if !mistakes.is_empty() {
        return Err(RunError::Plan(mistakes));
    }
    let target = Target::resolve(&plan).await?;
    Request::new(&plan, &target).map_err(|mistake| RunError::Plan(vec![mistake]))?;
    let connector = Connector::new(&plan, target.clone())?;
    let order = Arc::new(Order { plan, target, connector });

    let (signal, signals) = watch::channel(Signal::Prepare);
    let (sender, events) = mpsc::channel(EVENTS);
    for index in 0..order.plan.threads {
        let share = Share { index, of: order.plan.threads };
        start_thread(order.clone(), share, signals.clone(), sender.clone()).map_err(RunError::Thread)?;
    }
    drop((sender, signals));
    Conductor::new(&order.plan, signal, events, progress).conduct().await
}

fn start_thread(
    order: Arc<Order>,
    share: Share,
    signals: watch::Receiver<Signal>,
    events: mpsc::Sender<(usize, Event)>,
) -> io::Result<()> {
    let work = move || {
        let result = match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
            Ok(runtime) => runtime.block_on(async {
                let request = Request::new(&order.plan, &order.target)
                    .map_err(|mistake| Broken::Io(io::Error::other(mistake)))?;
                generator::run(order, request, share, signals, events.clone()).await
            }),
            Err(error) => Err(Broken::Io(error)),
        };
        // The receiver gone means that nobody wants the report.
        drop(events.blocking_send((share.index, Event::Done(result))));
    };
    thread::Builder::new().name(format!("loadtest-{}", share.index)).spawn(work).map(drop)
}

/// Follows the threads from their preparation to their last word.
struct Conductor<'a, P> {
    plan: &'a Plan,
    /// Dropped to stop the threads.
    signal: Option<watch::Sender<Signal>>,
    events: mpsc::Receiver<(usize, Event)>,
    progress: P,
    interrupted: bool,
    timeline: Timeline,
    tally: Tally,
    cpu_permille: u64,
}

impl<'a, P: FnMut(&Second) -> ControlFlow<()>> Conductor<'a, P> {
    fn new(
        plan: &'a Plan,
        signal: watch::Sender<Signal>,
        events: mpsc::Receiver<(usize, Event)>,
        progress: P,
    ) -> Self {
        Self {
            plan,
            signal: Some(signal),
            events,
            progress,
            interrupted: false,
            timeline: Timeline::new(plan.threads, plan.warmup),
            tally: Tally::new(),
            cpu_permille: 0,
        }
    }

    async fn conduct(mut self) -> Result<Report, RunError> {
        let (mut preparing, mut working) = (self.plan.threads, self.plan.threads);
        while working > 0 {
            let Some((index, event)) = self.events.recv().await else {
                return Err(RunError::Thread(io::Error::other("a generator thread ended without a word")));
            };
            match event {
                Event::Ready => {
                    preparing -= 1;
                    if preparing == 0
                        && let Some(signal) = &self.signal
                    {
                        signal.send_replace(Signal::Start(Instant::now() + COUNTDOWN));
                    }
                }
                Event::Second(second) => self.timeline.add(index, &second),
                Event::Done(result) => {
                    working -= 1;
                    self.timeline.done(index);
                    self.add(*result.map_err(|broken| self.explain(broken))?);
                }
            }
            self.tell();
        }
        let facts = Facts {
            cpu_permille: self.cpu_permille,
            interrupted: self.interrupted,
            timeline: self.timeline.complete,
        };
        Ok(Report::of(self.plan, &self.tally, facts))
    }

    fn add(&mut self, outcome: Outcome) {
        self.tally.add(&outcome.tally);
        self.cpu_permille = self.cpu_permille.max(outcome.cpu_permille);
    }

    /// Shows the seconds that became complete.
    fn tell(&mut self) {
        for second in self.timeline.complete_some() {
            if !self.interrupted && (self.progress)(second).is_break() {
                self.interrupted = true;
                self.signal = None;
            }
        }
    }

    fn explain(&self, broken: Broken) -> RunError {
        match broken {
            Broken::NoConnection(failure) => {
                RunError::NoConnection { target: self.plan.url.to_string(), detail: failure.detail }
            }
            Broken::Io(error) => RunError::Thread(error),
        }
    }
}

/// Adds the threads' seconds up; a second is complete when every thread has told it or is done.
struct Timeline {
    warmup: Duration,
    /// How many seconds each thread has told; all of them once it is done.
    told: Vec<u64>,
    open: BTreeMap<u64, SecondTally>,
    complete: Vec<Second>,
}

impl Timeline {
    fn new(threads: usize, warmup: Duration) -> Self {
        Self { warmup, told: vec![0; threads], open: BTreeMap::new(), complete: Vec::new() }
    }

    fn add(&mut self, thread: usize, second: &SecondTally) {
        self.told[thread] = second.second + 1;
        self.open.entry(second.second).or_insert_with(|| SecondTally::new(second.second)).add(second);
    }

    fn done(&mut self, thread: usize) {
        self.told[thread] = u64::MAX;
    }

    /// The seconds that became complete since the last call.
    fn complete_some(&mut self) -> &[Second] {
        let told = self.told.iter().copied().min().unwrap_or(0);
        let before = self.complete.len();
        let still_open = self.open.split_off(&told);
        let complete = std::mem::replace(&mut self.open, still_open);
        self.complete.extend(complete.values().map(|second| Second::of(second, self.warmup)));
        &self.complete[before..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(number: u64, ok: u64) -> SecondTally {
        let mut second = SecondTally::new(number);
        second.ok = ok;
        second
    }

    #[test]
    fn a_second_is_complete_when_every_thread_has_told_it() {
        let mut timeline = Timeline::new(2, Duration::from_secs(1));
        timeline.add(0, &second(0, 1));
        timeline.add(0, &second(1, 2));
        assert!(timeline.complete_some().is_empty());
        timeline.add(1, &second(0, 10));
        let rows: Vec<_> = timeline.complete_some().iter().map(|s| (s.second, s.ok, s.warmup)).collect();
        assert_eq!(rows, [(0, 11, true)]);
        timeline.done(1);
        let rows: Vec<_> = timeline.complete_some().iter().map(|s| (s.second, s.ok, s.warmup)).collect();
        assert_eq!(rows, [(1, 2, false)]);
    }
}
