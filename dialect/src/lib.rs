//! Objects as users write them (Kubernetes Gateway API, and `weir.dev/v1` where that has no kind) to the
//! model's configuration: `parse` reads and checks each object by itself, `compile` puts them together.
//!
//! Pure: no files, no clock, no sockets. Every mistake says what is wrong, where, and how to mend it, and all of
//! them are reported together.
//!
//! Deliberately absent: the store, admission by quota, and `Programmed` conditions (they need the workers'
//! acknowledgements; `controller` adds them).
#![forbid(unsafe_code)]

mod compile;
mod environment;
mod name;
mod object;
mod parse;
mod read;
pub mod spec;
pub mod status;

pub use compile::{Compiled, compile};
pub use environment::{DEFAULT_POOL, Environment};
pub use object::{DEFAULT_NAMESPACE, Kind, Mistake, Object, ObjectKey, Source, SourceFile};
pub use parse::{parse, parse_value};
pub use spec::{Http3, Listen, PoolSpec, Spec, TenantQuotas, TenantSpec};
pub use status::{Condition, ObjectStatus, Scope};
