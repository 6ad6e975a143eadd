//! Received bytes of a TLS connection on their way to plaintext, without I/O.
//!
//! A record that lies whole in the chunk it arrived in is decrypted there, and its plaintext is a view of that chunk. One
//! that straddles chunks is put together once, in a chunk of the size it needs. Nothing else is kept: between records a
//! connection holds no buffer.

use super::meter::{Owner, Permit};
use super::record;
use super::session::{Fault, Outgoing, Session};
use crate::base::limits;
use crate::buffer::{Chunk, ChunkMut, Pool};

/// A record up to this length is put behind the plaintext before it: a peer that sends a byte per record would else have
/// a view kept for each.
const APPEND_BYTES_MAX: usize = 1024;

/// What was received and is not plaintext yet.
#[derive(Debug, Default)]
pub(super) struct Inbound {
    /// Begins with what the session holds on to, then comes the next record.
    input: Option<ChunkMut>,
    /// Bytes at its beginning that the session has looked at and needs again: records of a message that is not whole.
    held: usize,
    /// For an input that waits for more, where there is less room than for any number of them. Apart: few do.
    permit: Option<Box<Permit>>,
    /// Why nothing more comes, once what was decrypted before has been taken. Apart: few connections have one.
    fault: Option<Box<Fault>>,
}

/// What there is to be read.
#[derive(Debug)]
pub(super) enum Next {
    /// Plaintext.
    Data(Chunk),
    /// Nothing, until more is received.
    More,
    /// The peer has said that this is all.
    Closed,
}

impl Inbound {
    /// Whether no bytes wait that are not plaintext yet.
    pub(super) fn is_empty(&self) -> bool {
        self.input.is_none() && self.permit.is_none()
    }

    /// What the session holds on to: [`Session::encrypt`] needs it, too.
    pub(super) fn held(&mut self) -> &mut [u8] {
        match &mut self.input {
            Some(input) if self.held > 0 => &mut input.filled()[..self.held],
            _ => &mut [],
        }
    }

    /// What waits, held bytes included.
    pub(super) fn bytes(&mut self) -> &[u8] {
        self.input.as_mut().map_or(&[], |input| input.filled())
    }

    /// Takes received bytes; those that are not needed for the record that is begun come back.
    pub(super) fn take(&mut self, pool: &Pool, mut chunk: Chunk) -> Result<Option<Chunk>, Fault> {
        while !chunk.is_empty() {
            let Some(input) = &mut self.input else {
                self.input = Some(alone(pool, chunk)?);
                return Ok(None);
            };
            let begun = &input.filled()[self.held..];
            let whole = record::length(begun).unwrap_or(record::HEADER_BYTES);
            let needed = whole.saturating_sub(begun.len());
            if needed == 0 {
                return Ok(Some(chunk));
            }
            self.append(pool, &mut chunk, needed)?;
        }
        Ok(None)
    }

    /// Takes received bytes whatever records they are of: a hello is looked at as a whole before the session gets any of it.
    pub(super) fn gather(&mut self, pool: &Pool, mut chunk: Chunk) -> Result<(), Fault> {
        if self.input.is_none() {
            self.input = Some(alone(pool, chunk)?);
            return Ok(());
        }
        let all = chunk.len();
        self.append(pool, &mut chunk, all)
    }

    /// Appends up to `needed` bytes of the chunk to the input, in which there is then room for all of them.
    fn append(&mut self, pool: &Pool, chunk: &mut Chunk, needed: usize) -> Result<(), Fault> {
        let Some(input) = &mut self.input else { return Ok(()) };
        if input.room() < needed {
            let whole = input.len() + needed;
            if whole > limits::LARGE_CHUNK_BYTES {
                return Err(Fault::TooLarge);
            }
            *input = copied(pool, input.filled(), whole)?;
        }
        let count = needed.min(chunk.len());
        input.write(&chunk[..count]);
        chunk.advance(count);
        Ok(())
    }

    /// More has to be received of what no session has seen: whether what there is may be kept until then, by the meter.
    pub(super) fn park(&mut self, owner: Owner<'_>) -> Result<(), Fault> {
        self.keep(owner)?;
        if let Some(permit) = &self.permit
            && let Some(input) = self.input.take()
        {
            permit.park(input);
        }
        Ok(())
    }

    /// Takes it back.
    pub(super) fn unpark(&mut self) -> Result<(), Fault> {
        if let (Some(permit), None) = (&self.permit, &self.input) {
            self.input = Some(permit.unpark().ok_or(Fault::Exhausted)?);
        }
        Ok(())
    }

    /// More has to be received: whether what there is of a message may be kept until then.
    pub(super) fn keep(&mut self, owner: Owner<'_>) -> Result<(), Fault> {
        let bytes = self.input.as_ref().map_or(0, ChunkMut::len);
        owner.ask(&mut self.permit, bytes).then_some(()).ok_or(Fault::Exhausted)
    }

    /// Works on what was received until there is plaintext, or nothing more to do.
    pub(super) fn next(
        &mut self,
        pool: &Pool,
        session: &mut Session,
        out: &mut impl Outgoing,
    ) -> Result<Next, Fault> {
        if let Some(fault) = &self.fault {
            return Err(Fault::clone(fault));
        }
        let data = self.work(session, out);
        if self.fault.is_some() || session.is_peer_closed() {
            // "Any data received after a closure alert has been received MUST be ignored" (RFC 8446 section 6.1).
            self.input = None;
        }
        self.settle(pool, data.is_some());
        match (data, &self.fault) {
            (Some(data), _) => Ok(Next::Data(data)),
            (None, Some(fault)) => Err(Fault::clone(fault)),
            (None, None) if session.is_peer_closed() => Ok(Next::Closed),
            (None, None) => Ok(Next::More),
        }
    }

    /// Gives whole records to the session, up to the first with plaintext and small ones behind it.
    fn work(&mut self, session: &mut Session, out: &mut impl Outgoing) -> Option<Chunk> {
        let input = self.input.as_mut()?;
        // Bytes that are done with, and where in them the plaintext is.
        let mut done = 0;
        let mut data = 0..0;
        while self.fault.is_none() && !session.is_peer_closed() {
            let Some(len) = record::length(&input.filled()[done + self.held..]) else { break };
            let end = done + self.held + len;
            if end > input.len() || (!data.is_empty() && len > APPEND_BYTES_MAX) {
                break;
            }
            let ingested = session.ingest(&mut input.filled()[done..end], out);
            let found = done + ingested.data.start..done + ingested.data.end;
            if data.is_empty() {
                data = found;
            } else {
                let len = found.len();
                input.filled().copy_within(found, data.end);
                data.end += len;
            }
            done += ingested.consumed;
            self.held = end - done;
            self.fault = ingested.outcome.err().map(Box::new);
        }
        if data.is_empty() {
            input.consume(done);
            return None;
        }
        input.consume(data.start);
        let view = input.split_to(data.len());
        input.consume(done - data.end);
        Some(view)
    }

    /// Keeps what waits where it does not hold on to the memory of plaintext that was `split_off`.
    fn settle(&mut self, pool: &Pool, split_off: bool) {
        let Some(input) = self.input.as_mut().filter(|input| !input.is_empty()) else {
            (self.input, self.held, self.permit) = (None, 0, None);
            return;
        };
        let begun = &input.filled()[self.held..];
        let whole = record::length(begun).unwrap_or(record::HEADER_BYTES);
        if !split_off || begun.len() >= whole {
            return;
        }
        match copied(pool, input.filled(), self.held + whole) {
            Ok(own) => *input = own,
            Err(fault) => {
                self.fault = Some(Box::new(fault));
                (self.input, self.held, self.permit) = (None, 0, None);
            }
        }
    }
}

/// The chunk as something to change: itself, unless somebody else looks at it.
fn alone(pool: &Pool, chunk: Chunk) -> Result<ChunkMut, Fault> {
    chunk.try_into_mut().or_else(|shared| copied(pool, &shared, shared.len()))
}

/// A copy with room for `whole` bytes.
fn copied(pool: &Pool, bytes: &[u8], whole: usize) -> Result<ChunkMut, Fault> {
    let mut copy = pool.alloc_for(whole.max(bytes.len())).ok_or(Fault::Exhausted)?;
    copy.write(bytes);
    Ok(copy)
}
