//! Clock, random numbers, hashing, Base64, regular expressions, spare things, what is made with its first use, numbers of threads, maps that grow by much, addresses of sockets, what lasts and what passes, and every hard maximum. Imports nothing of the crate.
pub mod balance;
pub mod base64;
pub mod clock;
pub mod deferred;
pub mod edits;
pub mod hash;
pub mod heaps;
pub mod limits;
pub mod packed;
pub mod regex;
pub mod rng;
pub mod socket_address;
pub mod spares;
pub mod thread_number;
pub mod xx_hash;
