//! The dialect from outside: files in, configuration, statuses and mistakes out.
#![expect(clippy::unwrap_used, reason = "helpers of tests; a panic is how a test fails")]

mod clients;
mod conditions;
mod golden;
mod grpc_route;
mod listener_policy;
mod malformed;
mod property;
mod secrets;
mod sessions;
mod set;
mod streams;
mod traffic;
mod upstream_tls;
