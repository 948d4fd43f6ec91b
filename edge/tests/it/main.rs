//! The worker over real sockets, against a scripted upstream.
#![expect(clippy::unwrap_used, reason = "what goes wrong in a test is its failure")]

mod abuse;
mod addresses;
mod attacks;
mod balancing;
mod bodies;
mod clients;
mod drain;
mod endpoints;
mod forwarding;
mod fuzz;
mod grpc;
mod h2;
mod h2spec;
mod h3;
mod health;
mod hedging;
mod overload;
mod policies;
mod proxy;
mod recall;
mod reload;
mod routing;
mod sessions;
mod smuggling;
mod streams;
mod support;
mod tickets;
mod tls;
mod tracing;
mod udp;
mod upstreams;
mod websocket;
