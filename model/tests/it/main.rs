//! The route table from outside: cases, errors, and a naive matcher that it must agree with.
#![expect(clippy::unwrap_used, reason = "helpers of tests; a panic is how a test fails")]

mod ask;
mod compile_errors;
mod find;
mod naive;
mod property;
mod streams;
