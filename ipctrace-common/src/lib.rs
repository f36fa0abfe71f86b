//! What the eBPF programs and the collector share: the table of mechanisms, the records on the ring, the causes of
//! loss and the configuration that user space writes before the programs are loaded.
//!
//! Everything here is `no_std` and free of `unsafe`; both sides are compiled from these same definitions.
#![no_std]

pub mod config;
pub mod digest;
pub mod hook;
pub mod loss;
pub mod mechanism;
pub mod ring;
pub mod run;
pub mod spread;
pub mod straddling;
pub mod syscall;
pub mod uring;
pub mod waiting;
pub mod wire;

pub use config::Config;
pub use hook::Hook;
pub use loss::Cause;
pub use mechanism::{Mechanism, Shape};
