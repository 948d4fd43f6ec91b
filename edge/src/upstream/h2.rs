//! HTTP/2 towards upstreams, the client's side (RFC 9113).
//!
//! A connection is a [`Channel`] that the requests of a thread share, each of which reads and writes its own stream, and a task
//! that moves frames between it and the socket: what all put into one buffer in a turn of the runtime goes out by one write.
//! What an upstream may do that costs it nothing is bounded as it is for clients: it may be compromised, or merely odd.
//!
//! Deliberately absent: push, which is refused, and a dynamic table for what we send.

mod channel;
mod drive;
mod floods;
mod hear;
mod receive;
mod request;
mod response;
mod stream;

#[cfg(test)]
mod tests;

pub(super) use channel::Channel;
pub(super) use drive::run;
pub(crate) use request::write_request;
pub(crate) use stream::{Came, Failure, OpenStream};
