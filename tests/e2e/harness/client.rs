//! A client on a plain socket.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Weak};

use super::PATIENCE;
use super::message::{Message, Otherwise, Reader};

/// A connection to the proxy.
#[derive(Debug)]
pub(crate) struct Client(Reader<Shared>);

/// The client's socket, which the proxy's harness may end too. Closed with the client.
#[derive(Debug)]
pub(super) struct Shared(Arc<TcpStream>);

impl Read for Shared {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        (&*self.0).read(into)
    }
}

impl Client {
    pub(crate) fn connect(port: u16) -> Self {
        Self::try_connect(port).unwrap()
    }

    pub(crate) fn try_connect(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&([127, 0, 0, 1], port).into(), PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self::from_stream(stream))
    }

    pub(crate) fn from_stream(stream: TcpStream) -> Self {
        Self(Reader::new(Shared(Arc::new(stream))))
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.0.stream.0
    }

    /// Its socket as long as it lives.
    pub(super) fn socket(&self) -> Weak<TcpStream> {
        Arc::downgrade(&self.0.stream.0)
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream().write_all(bytes.as_ref()).unwrap();
    }

    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream().write_all(bytes.as_ref())
    }

    /// A complete final response to a request of this method; fails on anything else.
    pub(crate) fn response_to(&mut self, method: &str) -> Message {
        let response = self.any_response_to(method).unwrap().expect("a response, not the connection's end");
        assert!(response.complete, "an incomplete response: {response:?}");
        response
    }

    pub(crate) fn response(&mut self) -> Message {
        self.response_to("GET")
    }

    /// The next response, interim ones left out, complete or not; `None`: the connection ended before.
    pub(crate) fn any_response_to(&mut self, method: &str) -> io::Result<Option<Message>> {
        loop {
            let Some(mut response) = self.0.head()? else { return Ok(None) };
            let status = response.status();
            if (100..200).contains(&status) && status != 101 {
                continue;
            }
            let bodiless = method == "HEAD" || matches!(status, 101 | 204 | 304);
            let otherwise = if bodiless { Otherwise::NeverABody } else { Otherwise::UntilClose };
            match self.0.body(&mut response, otherwise) {
                Err(error) if is_broken(&error) => {}
                outcome => outcome?,
            }
            return Ok(Some(response));
        }
    }

    /// The next head alone, an interim one too.
    pub(crate) fn head(&mut self) -> Message {
        self.0.head().unwrap().expect("a head, not the connection's end")
    }

    /// Sends a request and reads its response.
    pub(crate) fn ask(&mut self, request: &str) -> Message {
        self.send(request);
        self.response_to(request.split(' ').next().unwrap_or_default())
    }

    pub(crate) fn get(&mut self, path: &str) -> Message {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"))
    }

    /// Exactly that many bytes, whatever they mean.
    pub(crate) fn read(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        assert!(self.0.exactly(count, &mut bytes).unwrap(), "the end after {} of {count} bytes", bytes.len());
        bytes
    }

    /// Everything until the connection's orderly end.
    pub(crate) fn read_to_end(&mut self) -> Vec<u8> {
        while self.0.fill().unwrap() > 0 {}
        std::mem::take(&mut self.0.ahead)
    }

    /// The proxy ends the connection without another byte, in order or by a reset.
    pub(crate) fn expect_closed(&mut self) {
        let more = self.0.fill();
        match more {
            Ok(0) => {}
            Err(error) if is_broken(&error) => {}
            other => panic!("not closed: {other:?}, {:?}", String::from_utf8_lossy(&self.0.ahead)),
        }
    }

    pub(crate) fn shutdown_write(&self) {
        self.stream().shutdown(Shutdown::Write).unwrap();
    }

    /// Closing sends a reset instead of an end.
    pub(crate) fn reset_on_close(&self) {
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        // SAFETY: the descriptor is open, and the pointer and length describe a `linger` that outlives the call.
        #[allow(unsafe_code, reason = "std has no stable way to set SO_LINGER")]
        let set = unsafe {
            libc::setsockopt(
                self.stream().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_LINGER,
                std::ptr::from_ref(&linger).cast(),
                size_of_val(&linger) as libc::socklen_t,
            )
        };
        assert_eq!(set, 0);
    }
}

/// A connection that the other side broke off.
pub(super) fn is_broken(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    matches!(error.kind(), ConnectionReset | BrokenPipe | ConnectionAborted)
}
