//! Errors of the store as gRPC codes.

use store::{ReadError, TxnError, WatchError};
use tonic::Status;

/// A tenant would have more than its share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the tenant would have {would} {what}; the most is {most}: delete what is not used")]
pub(super) struct QuotaExceeded {
    pub(super) what: &'static str,
    pub(super) would: usize,
    pub(super) most: usize,
}

impl From<QuotaExceeded> for Status {
    fn from(exceeded: QuotaExceeded) -> Self {
        Self::resource_exhausted(exceeded.to_string())
    }
}

pub(crate) fn of_read(error: ReadError) -> Status {
    let text = error.to_string();
    match error {
        ReadError::Compacted(_) => Status::out_of_range(text),
        ReadError::Behind { .. } | ReadError::NoLeader | ReadError::Busy | ReadError::Stopped => {
            Status::unavailable(text)
        }
    }
}

pub(crate) fn of_txn(error: TxnError) -> Status {
    let text = error.to_string();
    match error {
        TxnError::Conflict { .. } => Status::aborted(text),
        TxnError::Invalid(_) | TxnError::RequestIdReused(_) => Status::invalid_argument(text),
        TxnError::Full { .. } | TxnError::Quota(_) => Status::resource_exhausted(text),
        TxnError::Busy | TxnError::NoLeader | TxnError::Unknown | TxnError::Stopped => {
            Status::unavailable(text)
        }
    }
}

pub(crate) fn of_watch(error: WatchError) -> Status {
    let text = error.to_string();
    match error {
        WatchError::Compacted(_) => Status::out_of_range(text),
        WatchError::Stopped => Status::unavailable(text),
    }
}
