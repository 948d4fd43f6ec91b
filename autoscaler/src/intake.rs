//! Load reports in, wishes out: the autoscaler's half of `Feed.Report`.

use std::sync::Arc;

use api::feed::{LoadReport, ReportReply};
use futures_util::{Stream, StreamExt as _};
use tonic::Status;

use crate::{fleet::Refused, metric, state::Shared, window::Arrival};

#[cfg(test)]
mod tests;

/// Takes load reports. Clones share one fleet.
#[derive(Debug, Clone)]
pub struct Intake {
    shared: Arc<Shared>,
}

impl Intake {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Takes one report and returns what its worker should do. What cannot wait for the next tick is looked at now.
    ///
    /// # Errors
    ///
    /// A name in it is not valid, or there are too many workers.
    pub fn take(&self, report: &LoadReport) -> Result<ReportReply, Refused> {
        let now = self.shared.clock.now();
        metrics::counter!(metric::REPORTS).increment(1);
        let (heard, saturated) = {
            let mut fleet = self.shared.fleet();
            let heard = match fleet.report(report, now) {
                Ok(heard) => heard,
                // Its last words came after its end: nothing is to be done, and it did nothing wrong.
                Err(Refused::Ended(_)) => return Ok(ReportReply::default()),
                Err(refused) => return Err(refused),
            };
            let saturated = self.shared.is_saturated(&fleet, report, now);
            if saturated {
                fleet.level(&heard.pool, now);
            }
            (heard, saturated)
        };
        if heard.arrival != Arrival::Stale {
            self.shared.traffic().count(&heard.pool, report);
        }
        self.shared.record_changes(heard.change.as_slice());
        if saturated || heard.change.is_some() {
            self.shared.wake.notify_one();
        }
        Ok(ReportReply { retire_above_connections: heard.retire_above })
    }

    /// Answers a stream of reports, one reply a report; it ends with the reports or with the first that is refused.
    /// Nothing is queued: a report is taken when its reply is asked for.
    pub fn serve<S>(self, reports: S) -> impl Stream<Item = Result<ReportReply, Status>> + Send
    where
        S: Stream<Item = Result<LoadReport, Status>> + Send,
    {
        reports.map(move |report| self.take(&report?).map_err(Status::from))
    }
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Name(_) => Self::invalid_argument(refused.to_string()),
            Refused::Ended(_) => Self::failed_precondition(refused.to_string()),
            Refused::Full(_) => Self::resource_exhausted(refused.to_string()),
        }
    }
}
