//! Joins sends to receives.
