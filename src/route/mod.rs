//! Route matching and actions: pure functions.
