//! Memory the kernel may touch: chunk pools and queues of chunks. [unsafe room 1]
//!
//! A worker owns one [`Pool`]. Bytes arrive in a [`Chunk`] and travel on as views of that same chunk; nothing is copied
//! between the receive and the send.
mod chunk;
mod pool;
mod queue;
mod share;

pub use chunk::{Chunk, ChunkMut};
pub use pool::{ChunkSize, Pool};
pub use queue::ChunkQueue;
