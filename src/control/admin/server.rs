//! Sockets and connections of the admin endpoint: hyper, with a bound on everything a client can hold.
use super::Admin;
use super::access_log::{Ends, LoggedBody};
use super::endpoints;
use super::request::{Reply, Request};
use crate::config::address::Address;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, SERVER, X_CONTENT_TYPE_OPTIONS};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Sleep, sleep, timeout};

/// A bound socket, before the runtime exists: start-up fails early when the address is taken.
#[derive(Debug)]
pub struct AdminListener {
    socket: Socket,
    local_address: Address,
}

#[derive(Debug)]
enum Socket {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

impl AdminListener {
    /// Binds and listens.
    ///
    /// # Errors
    /// The address is taken, not ours, or needs a privilege.
    pub fn bind(address: &Address) -> io::Result<Self> {
        let (socket, local_address) = match address {
            Address::Ip(address) => {
                return Self::adopt(std::net::TcpListener::bind(address)?);
            }
            Address::Pipe(pipe) => {
                let socket = bind_pipe(&pipe.path, pipe.mode)?;
                socket.set_nonblocking(true)?;
                (Socket::Unix(socket), address.clone())
            }
            // Conversion refuses it.
            Address::Internal(_) => return Err(io::ErrorKind::Unsupported.into()),
        };
        Ok(Self { socket, local_address })
    }

    /// Takes a socket that listens already, for one that has options.
    ///
    /// # Errors
    /// It is no socket of this kind.
    pub fn adopt(socket: std::net::TcpListener) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let local_address = Address::Ip(socket.local_addr()?);
        Ok(Self { socket: Socket::Tcp(socket), local_address })
    }

    /// Takes the socket of an admin endpoint at `address` that another process has bound.
    ///
    /// # Errors
    /// It is no socket of this kind.
    pub fn inherit(socket: OwnedFd, address: &Address) -> io::Result<Self> {
        match address {
            Address::Ip(_) => Self::adopt(socket.into()),
            Address::Pipe(_) => {
                let socket = std::os::unix::net::UnixListener::from(socket);
                socket.set_nonblocking(true)?;
                Ok(Self { socket: Socket::Unix(socket), local_address: address.clone() })
            }
            Address::Internal(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Its socket once more, for another process. As long as one of them is open clients can connect.
    ///
    /// # Errors
    /// No descriptor left.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        match &self.socket {
            Socket::Tcp(socket) => socket.as_fd().try_clone_to_owned(),
            Socket::Unix(socket) => socket.as_fd().try_clone_to_owned(),
        }
    }

    /// Where it is bound; port 0 is resolved.
    pub fn local_address(&self) -> &Address {
        &self.local_address
    }

    /// Serves until dropped. Runs on the control thread's runtime; connections end with this future.
    ///
    /// # Errors
    /// The runtime refuses the socket; a failing accept is waited out.
    pub async fn serve(self, admin: Arc<Admin>) -> io::Result<Infallible> {
        log::info!(target: "admin", "admin address: {}", super::json::address_text(&self.local_address));
        let flush = async {
            loop {
                sleep(admin.flush_interval).await;
                admin.registry.flush();
            }
        };
        tokio::select! {
            never = flush => never,
            result = accept_all(self.socket, &admin) => result,
        }
    }
}

fn bind_pipe(path: &Path, mode: u32) -> io::Result<std::os::unix::net::UnixListener> {
    if let Some(name) = path.as_os_str().as_bytes().strip_prefix(b"@") {
        let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
        return std::os::unix::net::UnixListener::bind_addr(&address);
    }
    // A socket that an earlier process left behind is in the way; one that still answers is not ours to take.
    // What is no socket refuses connections, too, and is nobody's to remove.
    if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
        && std::os::unix::net::UnixStream::connect(path)
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    {
        std::fs::remove_file(path)?;
    }
    let socket = std::os::unix::net::UnixListener::bind(path)?;
    if mode != 0 {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    }
    Ok(socket)
}

async fn accept_all(socket: Socket, admin: &Arc<Admin>) -> io::Result<Infallible> {
    match socket {
        Socket::Tcp(socket) => {
            let socket = tokio::net::TcpListener::from_std(socket)?;
            let accept = async || {
                let (stream, peer) = socket.accept().await?;
                let ends = Ends { peer: Some(peer), local: stream.local_addr().ok() };
                Ok((stream, ends))
            };
            accept_loop(accept, admin).await
        }
        Socket::Unix(socket) => {
            let socket = tokio::net::UnixListener::from_std(socket)?;
            accept_loop(async || socket.accept().await.map(|(stream, _)| (stream, Ends::default())), admin)
                .await
        }
    }
}

async fn accept_loop<S>(
    accept: impl AsyncFn() -> io::Result<(S, Ends)>,
    admin: &Arc<Admin>,
) -> io::Result<Infallible>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        // Further clients wait in the backlog; connections that do nothing are cut, so their turn comes.
        let permit = Arc::clone(&permits).acquire_owned().await.map_err(io::Error::other)?;
        while connections.try_join_next().is_some() {}
        match accept().await {
            Ok((stream, ends)) => {
                let admin = Arc::clone(admin);
                connections.spawn(async move {
                    serve_connection(stream, ends, admin).await;
                    drop(permit);
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: others will be closed.
                log::warn!(target: "admin", "admin accept: {error}");
                sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

async fn serve_connection<S>(stream: S, ends: Ends, admin: Arc<Admin>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let admin = Arc::clone(&admin);
        async move { Ok::<_, Infallible>(serve_request(&admin, ends, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(Impatient { stream, stalled: None }), service);
    if let Err(error) = connection.await {
        log::debug!(target: "admin", "admin connection: {error}");
    }
}

async fn serve_request(admin: &Admin, ends: Ends, request: hyper::Request<Incoming>) -> Response<LoggedBody> {
    let (head, body) = request.into_parts();
    let mut record = admin.access_logs.begin(&head, ends);
    let mut parsed = Request {
        path: head.uri.path().to_string(),
        post: head.method == Method::POST,
        ..Request::default()
    };
    if let Some(query) = head.uri.query() {
        parsed.add_parameters(query);
    }
    let form = head.headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(FORM));
    // Nothing is done by half of what was asked.
    let mut lacks = None;
    if parsed.post && form {
        match timeout(BODY_TIMEOUT, Limited::new(body, BODY_BYTES_MAX).collect()).await {
            Ok(Ok(body)) => {
                let form = body.to_bytes();
                record.iter_mut().for_each(|record| record.received(form.len()));
                parsed.add_parameters(&String::from_utf8_lossy(&form));
            }
            Ok(Err(_)) => lacks = Some((StatusCode::PAYLOAD_TOO_LARGE, "the form is longer than 16 KiB\n")),
            Err(_) => lacks = Some((StatusCode::REQUEST_TIMEOUT, "the form does not come\n")),
        }
    }
    let Reply { status, content_type, body } = match lacks {
        Some((status, reason)) => Reply::refused(status, reason),
        None => endpoints::answer(admin, &parsed, head.method.as_str()),
    };
    let mut response = Response::new(LoggedBody::new(body, status.as_u16(), record));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, max-age=0"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(SERVER, HeaderValue::from_static("ringway"));
    response
}

/// A stream that fails when its peer takes nothing for [`STALL_MAX`].
struct Impatient<S> {
    stream: S,
    /// Runs while a write is waiting.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Impatient<S> {
    fn watch<T>(&mut self, result: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if result.is_pending() {
            let timer = self.stalled.get_or_insert_with(|| Box::pin(sleep(STALL_MAX)));
            ready!(timer.as_mut().poll(context));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        self.stalled = None;
        result
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(result, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.watch(result, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(context);
        self.watch(result, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Connections at a time: supervisors, scrapers and people together are a handful.
const CONNECTIONS_MAX: usize = 128;
/// Time for a request's head, and for the next request on a kept connection: longer than usual scrape intervals.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(120);
/// Time for the body of a form.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// A client that takes nothing of a reply for this long is cut.
const STALL_MAX: Duration = Duration::from_secs(15);
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);
/// Longest request head, in bytes; also what hyper buffers of a reply.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Longest form, in bytes.
const BODY_BYTES_MAX: usize = 16 * 1024;
const FORM: &[u8] = b"application/x-www-form-urlencoded";

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[tokio::test(start_paused = true)]
    async fn peer_that_takes_nothing_is_cut() {
        let (ours, _theirs) = tokio::io::duplex(16);
        let mut stream = Impatient { stream: ours, stalled: None };
        let error = stream.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
