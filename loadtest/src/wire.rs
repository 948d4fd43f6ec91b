//! What all clients of one generator thread share.

use std::{cell::RefCell, time::Instant};

use crate::{
    connect::{Connector, Stream},
    request::Request,
    tally::{Failure, Tally, us},
};

/// The request, the way to the target and the counters.
pub(crate) struct Wire {
    pub(crate) connector: Connector,
    pub(crate) request: Request,
    pub(crate) connect_per_request: bool,
    pub(crate) tally: RefCell<Tally>,
}

impl Wire {
    /// Opens a connection and counts how long that took.
    pub(crate) async fn connect(&self) -> Result<Stream, Failure> {
        let begun = Instant::now();
        let stream = self.connector.connect().await?;
        self.tally.borrow_mut().connect.saturating_record(us(begun.elapsed()));
        Ok(stream)
    }
}
