//! The collector of ipctrace: attach -> ring -> decode -> correlate -> model -> render.
//!
//! `docs/architecture.md` tells the way of a record through these modules.

pub mod addresses;
pub mod args;
pub mod attach;
pub mod books;
pub mod boot;
pub mod cgroup;
pub mod commands;
pub mod correlate;
pub mod decode;
pub mod demo;
pub mod dispositions;
pub mod feedback;
pub mod filter;
mod flag;
pub mod flows;
pub mod kernel;
pub mod message;
pub mod model;
pub mod object;
pub mod occupancy;
pub mod options;
pub mod output;
pub mod patience;
pub mod render;
pub mod ring;
pub mod runs;
pub mod screen;
pub mod session;
pub mod stderr;
pub mod stdout;
pub mod straddlers;
pub mod terminal;
pub mod time_zone;
pub mod top;
pub mod tracer;
