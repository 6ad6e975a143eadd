//! One core.
