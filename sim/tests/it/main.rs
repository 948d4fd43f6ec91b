//! The system from outside: rules that no compiler checks, and whole installations as users start them.

mod e2e;
mod power;
mod tidy;
