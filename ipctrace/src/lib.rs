//! The collector of ipctrace: attach -> ring -> decode -> correlate -> model -> render.
//!
//! `docs/architecture.md` tells the way of a record through these modules.

pub mod attach;
pub mod correlate;
pub mod decode;
pub mod feedback;
pub mod kernel;
pub mod model;
pub mod object;
pub mod straddlers;
pub mod tracer;
