//! What the clients did, by protocol.

use std::{
    fmt::Display,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

/// How many failures of a protocol are kept in words.
const KEPT: usize = 5;

/// One protocol's row. Every request that was sent is in `answered`, `turned_away` or `failed`.
#[derive(Debug)]
pub(super) struct Row {
    name: &'static str,
    answered: AtomicU64,
    /// Messages of WebSockets that an orderly Close answered, and that nobody upstream got.
    turned_away: AtomicU64,
    reconnects: AtomicU64,
    failed: AtomicU64,
    words: Mutex<Vec<String>>,
}

impl Row {
    pub(super) fn answered(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn turned_away(&self) {
        self.turned_away.fetch_add(1, Ordering::Relaxed);
    }

    /// The server ended the connection in order, and the client opened another before it sent anything.
    pub(super) fn reconnected(&self) {
        self.reconnects.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn failed(&self, why: impl Display) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        let mut words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        if words.len() < KEPT {
            words.push(format!("{why:#}"));
        }
    }
}

/// All rows, and when to end.
#[derive(Debug, Default)]
pub(super) struct Tally {
    rows: Mutex<Vec<Arc<Row>>>,
    stop: AtomicBool,
}

/// The sums.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) requests: u64,
    pub(super) reconnects: u64,
    pub(super) failed: u64,
}

impl Tally {
    /// A row for that protocol.
    pub(super) fn row(&self, name: &'static str) -> Arc<Row> {
        let row = Arc::new(Row {
            name,
            answered: AtomicU64::new(0),
            turned_away: AtomicU64::new(0),
            reconnects: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            words: Mutex::default(),
        });
        self.rows.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&row));
        row
    }

    /// Adds what another program counted.
    pub(super) fn add(&self, name: &'static str, answered: u64, reconnects: u64, failed: u64, words: String) {
        let row = self.row(name);
        row.answered.store(answered, Ordering::Relaxed);
        row.reconnects.store(reconnects, Ordering::Relaxed);
        row.failed.store(failed, Ordering::Relaxed);
        if failed > 0 {
            row.words.lock().unwrap_or_else(PoisonError::into_inner).push(words);
        }
    }

    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub(super) fn totals(&self) -> Totals {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        rows.iter().fold(Totals::default(), |sum, row| {
            let [answered, turned_away, reconnects, failed] = row.counts();
            Totals {
                requests: sum.requests + answered + turned_away + failed,
                reconnects: sum.reconnects + reconnects,
                failed: sum.failed + failed,
            }
        })
    }

    /// Rows that have nothing to tell: their protocol was not tried.
    pub(super) fn empty(&self) -> Vec<&'static str> {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        rows.iter().filter(|row| row.counts()[0] == 0).map(|row| row.name).collect()
    }

    /// The table as people read it, with the failures in words below.
    pub(super) fn table(&self) -> String {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = format!(
            "{:<34} {:>9} {:>11} {:>11} {:>7}\n",
            "", "requests", "turned away", "reconnects", "failed"
        );
        for row in rows.iter() {
            let [answered, turned_away, reconnects, failed] = row.counts();
            let requests = answered + turned_away + failed;
            text.push_str(&format!(
                "{:<34} {requests:>9} {turned_away:>11} {reconnects:>11} {failed:>7}\n",
                row.name
            ));
        }
        for row in rows.iter() {
            for word in row.words.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                text.push_str(&format!("{}: {word}\n", row.name));
            }
        }
        text
    }
}

impl Row {
    fn counts(&self) -> [u64; 4] {
        [&self.answered, &self.turned_away, &self.reconnects, &self.failed].map(|c| c.load(Ordering::Relaxed))
    }
}
