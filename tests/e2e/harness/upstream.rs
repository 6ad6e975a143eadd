//! An upstream on a free port: every connection is a thread that plays a script; what it saw is recorded.

use std::io::{self, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use super::PATIENCE;
use super::message::{Message, Otherwise, Reader};

/// A running upstream. It stops accepting when dropped.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) port: u16,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    stopped: AtomicBool,
    connections: AtomicUsize,
    seen: Mutex<Vec<Seen>>,
    changed: Condvar,
}

/// One request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Number of the connection it came on, from 0.
    pub(crate) connection: usize,
    pub(crate) request: Message,
}

/// A connection from the proxy, as a script sees it.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) connection: usize,
    reader: Reader<TcpStream>,
    shared: Arc<Shared>,
}

impl Upstream {
    /// Plays `script` on every connection.
    pub(crate) fn start(script: impl Fn(&mut Peer) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared::default());
        let (script, accepting) = (Arc::new(script), Arc::clone(&shared));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { continue };
                if accepting.stopped.load(Ordering::SeqCst) {
                    return;
                }
                stream.set_nodelay(true).unwrap();
                stream.set_read_timeout(Some(PATIENCE * 2)).unwrap();
                stream.set_write_timeout(Some(PATIENCE * 2)).unwrap();
                let connection = accepting.connections.fetch_add(1, Ordering::SeqCst);
                accepting.changed.notify_all();
                let (script, shared) = (Arc::clone(&script), Arc::clone(&accepting));
                std::thread::spawn(move || {
                    script(&mut Peer { connection, reader: Reader::new(stream), shared });
                });
            }
        });
        Self { port, shared }
    }

    /// Answers every complete request with what `answer` makes of it, on connections that stay open.
    pub(crate) fn answering(answer: impl Fn(&Message) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::start(move |peer| {
            while let Some(request) = peer.request() {
                if peer.try_send(answer(&request)).is_err() {
                    return;
                }
            }
        })
    }

    /// Answers every request with its own method, path and body.
    pub(crate) fn echo() -> Self {
        Self::answering(|request| ok(&echo_of(request)))
    }

    /// Sends back every byte.
    pub(crate) fn echo_bytes() -> Self {
        Self::start(|peer| {
            while let Some(bytes) = peer.read(1) {
                if peer.try_send(bytes).is_err() {
                    return;
                }
            }
        })
    }

    /// Connections accepted so far.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Requests whose head has arrived, in the order of their arrival.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// Waits until so many requests have arrived.
    pub(crate) fn wait_for_requests(&self, count: usize) -> Vec<Seen> {
        let seen = self.shared.seen.lock().unwrap();
        let (seen, timed_out) =
            self.shared.changed.wait_timeout_while(seen, PATIENCE, |seen| seen.len() < count).unwrap();
        assert!(!timed_out.timed_out(), "{} of {count} requests arrived", seen.len());
        seen.clone()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Ends the accept that waits.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Peer {
    /// The next request, its body included; `None` when the connection ends before it is complete.
    pub(crate) fn request(&mut self) -> Option<Message> {
        let mut request = self.request_head()?;
        self.body(&mut request).then_some(request)
    }

    /// The next request's head.
    pub(crate) fn request_head(&mut self) -> Option<Message> {
        let request = self.reader.head().ok()??;
        let seen = Seen { connection: self.connection, request: request.clone() };
        self.shared.seen.lock().unwrap().push(seen);
        self.shared.changed.notify_all();
        Some(request)
    }

    /// The body that follows a head; whether it is complete.
    pub(crate) fn body(&mut self, request: &mut Message) -> bool {
        self.reader.body(request, Otherwise::NoBody).is_ok() && request.complete
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).unwrap();
    }

    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.reader.stream.write_all(bytes.as_ref())
    }

    /// Exactly that many bytes; `None` if the connection ends before.
    pub(crate) fn read(&mut self, count: usize) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        self.reader.exactly(count, &mut bytes).ok()?.then_some(bytes)
    }

    /// Whether the proxy ends the connection, after whatever it still sends.
    pub(crate) fn sees_end(&mut self) -> bool {
        self.end().is_some()
    }

    /// Whether it ends it with a reset, which leaves no port in TIME_WAIT.
    pub(crate) fn sees_reset(&mut self) -> bool {
        self.end() == Some(End::Reset)
    }

    fn end(&mut self) -> Option<End> {
        loop {
            match self.reader.fill() {
                Ok(0) => return Some(End::InOrder),
                Ok(_) => {}
                Err(error) => return super::client::is_broken(&error).then_some(End::Reset),
            }
        }
    }

    /// Has the kernel keep few bytes that are not read.
    pub(crate) fn keeps_little(&self) {
        set_receive_buffer(&self.reader.stream, 32 * 1024);
    }

    pub(crate) fn shutdown_write(&self) {
        let _ = self.reader.stream.shutdown(Shutdown::Write);
    }
}

/// How the proxy ended a connection.
#[derive(PartialEq, Eq)]
enum End {
    InOrder,
    Reset,
}

/// Makes the kernel's receive buffer small, so that a slow reader is felt early.
pub(crate) fn set_receive_buffer(stream: &TcpStream, bytes: libc::c_int) {
    // SAFETY: the descriptor is open, and the pointer and length describe an int that outlives the call.
    #[allow(unsafe_code, reason = "std has no way to set SO_RCVBUF")]
    let set = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUF,
            std::ptr::from_ref(&bytes).cast(),
            size_of_val(&bytes) as libc::socklen_t,
        )
    };
    assert_eq!(set, 0);
}

/// A 200 with this body and its length.
pub(crate) fn ok(body: &[u8]) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    text.extend_from_slice(body);
    text
}

/// What [`Upstream::echo`] answers.
pub(crate) fn echo_of(request: &Message) -> Vec<u8> {
    let mut body = format!("{} {}\n", request.method(), request.path()).into_bytes();
    body.extend_from_slice(&request.body);
    body
}
