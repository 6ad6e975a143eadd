//! Clock, names, random numbers, and every hard maximum. Imports nothing of the crate.
pub mod clock;
pub mod limits;
pub mod rng;
