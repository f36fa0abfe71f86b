//! `ipctrace demo`.
