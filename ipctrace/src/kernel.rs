//! What the running kernel is like and what follows from it, in three steps: gather facts ([`facts`]), decide by a
//! pure rule ([`plan`]), then load and attach accordingly ([`crate::attach`]).

pub mod btf;
mod cast;
mod events;
pub mod facts;
pub mod objects;
pub mod plan;
mod probe;
pub mod recorded;
pub mod syscalls;
pub mod uring;

pub use facts::Facts;
pub use plan::Plan;
