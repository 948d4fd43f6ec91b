//! Errors of the store as gRPC codes.

use store::{QuotaExceeded, ReadError, TxnError, WatchError};
use tonic::Status;

use crate::quotas;

/// A tenant would have more than its share.
pub(crate) fn of_quota(exceeded: &QuotaExceeded) -> Status {
    Status::resource_exhausted(quotas::refusal(exceeded))
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
        TxnError::Quota(exceeded) => of_quota(&exceeded),
        TxnError::Full { .. } => Status::resource_exhausted(text),
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
