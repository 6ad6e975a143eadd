//! A scripted end of a simulated connection: writes in pieces, reads at its own pace.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;

use crate::base::clock::Now;
use crate::base::rng::Rng;
use crate::protocol::transport::Transport;
use crate::runtime::Runtime;

/// How fast somebody is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Most bytes written at once.
    pub(super) piece_bytes_max: usize,
    /// One in so many pieces, read or written, is followed by a rest; zero: none.
    pub(super) rest_odds: u64,
    /// Longest rest, in milliseconds.
    pub(super) rest_ms_max: u64,
}

impl Pace {
    /// As fast as the world allows.
    pub(super) const FAST: Self = Self { piece_bytes_max: 64 * 1024, rest_odds: 0, rest_ms_max: 0 };

    /// One of all kinds. `bytes` is what has to be moved at it: nobody takes hours.
    pub(super) fn random(rng: &mut Rng, bytes: usize) -> Self {
        match rng.below(4) {
            0 | 1 => Self::FAST,
            2 => Self {
                piece_bytes_max: (bytes / 256).max(1 + rng.below(700) as usize),
                rest_odds: 0,
                rest_ms_max: 0,
            },
            _ => Self {
                piece_bytes_max: (bytes / 64).max(1 + rng.below(5_000) as usize),
                rest_odds: 8,
                rest_ms_max: 1 + rng.below(400),
            },
        }
    }
}

/// How a connection's other side is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gone {
    /// In order.
    Ended,
    /// By a reset.
    Broken,
}

/// One end of a connection.
pub(super) struct Peer {
    pub(super) stream: Transport,
    runtime: Runtime,
    rng: RefCell<Rng>,
    /// Received and not looked at.
    ahead: RefCell<Vec<u8>>,
    read_pace: Cell<Pace>,
    /// Bytes written so far.
    pub(super) written: Cell<usize>,
    /// Bytes received so far.
    pub(super) received: Cell<usize>,
}

impl Peer {
    pub(super) fn new(runtime: &Runtime, stream: Transport, rng: Rng) -> Self {
        Self {
            stream,
            runtime: runtime.clone(),
            rng: RefCell::new(rng),
            ahead: RefCell::default(),
            read_pace: Cell::new(Pace::FAST),
            written: Cell::new(0),
            received: Cell::new(0),
        }
    }

    /// Makes the handshake, if there is one.
    pub(super) async fn shake_hands(&self) -> Result<(), Gone> {
        match self.stream.tls() {
            None => Ok(()),
            Some(tls) => tls.handshake().await.map_err(|_| Gone::Broken),
        }
    }

    pub(super) fn set_read_pace(&self, pace: Pace) {
        self.read_pace.set(pace);
    }

    pub(super) async fn rest(&self, ms: u64) {
        self.runtime.sleep_until(Now(self.runtime.now().0 + ms * 1_000_000)).await;
    }

    fn random(&self, below: u64) -> u64 {
        self.rng.borrow_mut().below(below)
    }

    /// Writes at a pace; at most a few pieces are queued.
    pub(super) async fn write(&self, mut bytes: &[u8], pace: Pace) -> Result<(), Gone> {
        while !bytes.is_empty() {
            let piece = bytes.len().min(1 + self.random(pace.piece_bytes_max as u64) as usize);
            assert!(self.stream.send_copy(&bytes[..piece]), "no memory");
            self.stream.flush();
            self.written.set(self.written.get() + piece);
            bytes = &bytes[piece..];
            poll_fn(|_| self.stream.poll_sent(128 * 1024)).await.map_err(gone)?;
            if pace.rest_odds > 0 && self.random(pace.rest_odds) == 0 {
                self.rest(self.random(pace.rest_ms_max)).await;
            }
        }
        Ok(())
    }

    /// Until everything written is on its way.
    pub(super) async fn flushed(&self) -> Result<(), Gone> {
        poll_fn(|_| self.stream.poll_sent(0)).await.map_err(gone)
    }

    /// More bytes, or the end.
    async fn fill(&self) -> Result<(), Gone> {
        let pace = self.read_pace.get();
        if pace.rest_odds > 0 && self.random(pace.rest_odds) == 0 {
            self.rest(self.random(pace.rest_ms_max)).await;
        }
        match poll_fn(|_| self.stream.poll_recv()).await {
            Ok(Some(bytes)) => {
                self.received.set(self.received.get() + bytes.len());
                self.ahead.borrow_mut().extend_from_slice(&bytes);
                Ok(())
            }
            Ok(None) => Err(Gone::Ended),
            Err(error) => Err(gone(error)),
        }
    }

    /// What comes up to and with `mark`.
    pub(super) async fn until(&self, mark: &[u8]) -> Result<Vec<u8>, Gone> {
        let mut looked_at = 0;
        loop {
            let found = {
                let mut ahead = self.ahead.borrow_mut();
                let at = ahead[looked_at..].windows(mark.len()).position(|window| window == mark);
                let end = at.map(|at| looked_at + at + mark.len());
                looked_at = looked_at.max(ahead.len().saturating_sub(mark.len() - 1));
                end.map(|end| ahead.drain(..end).collect())
            };
            if let Some(text) = found {
                return Ok(text);
            }
            self.fill().await?;
        }
    }

    /// Some of the next bytes, at least one and at most so many.
    pub(super) async fn some(&self, max: usize) -> Result<Vec<u8>, Gone> {
        while self.ahead.borrow().is_empty() {
            self.fill().await?;
        }
        let mut ahead = self.ahead.borrow_mut();
        let count = ahead.len().min(max);
        Ok(ahead.drain(..count).collect())
    }

    /// The end, without another byte.
    pub(super) async fn end(&self) -> Gone {
        match self.some(1000).await {
            Ok(bytes) => panic!("bytes nobody asked for: {:?}", String::from_utf8_lossy(&bytes)),
            Err(gone) => gone,
        }
    }

    /// Reads and forgets until the other side is gone.
    pub(super) async fn drain(&self) {
        while self.some(usize::MAX).await.is_ok() {}
    }

    pub(super) fn has_ahead(&self) -> bool {
        !self.ahead.borrow().is_empty()
    }
}

fn gone(_: io::Error) -> Gone {
    Gone::Broken
}
