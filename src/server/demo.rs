//! `ringway demo`: the embedded bootstrap and the two upstreams it proxies to.

use std::convert::Infallible;
use std::io;
use std::net::Ipv4Addr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// Most bytes of a request's body that an upstream echoes.
const ECHO_BYTES_MAX: usize = 1024 * 1024;

/// Starts both upstreams on threads of their own and returns the bootstrap that names their ports.
///
/// # Errors
/// No port or thread left.
pub(super) fn start() -> io::Result<String> {
    let ports = [upstream("one")?, upstream("two")?];
    let text = include_str!("demo.yaml");
    Ok(text.replace("$UPSTREAM_1", &ports[0].to_string()).replace("$UPSTREAM_2", &ports[1].to_string()))
}

/// Serves on a free port; which one.
fn upstream(name: &'static str) -> io::Result<u16> {
    let socket = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_nonblocking(true)?;
    let port = socket.local_addr()?.port();
    let runtime = super::event_loop::new()?;
    std::thread::Builder::new().name(format!("upstream-{name}")).spawn(move || {
        runtime.block_on(async move {
            let listener = match TcpListener::from_std(socket) {
                Ok(listener) => listener,
                Err(error) => return log::error!("upstream {name}: {error}"),
            };
            let local = tokio::task::LocalSet::new();
            local
                .run_until(async {
                    while let Ok((stream, _)) = listener.accept().await {
                        let service = service_fn(move |request| answer(name, request));
                        let http = hyper::server::conn::http1::Builder::new();
                        let connection = http.serve_connection(TokioIo::new(stream), service);
                        tokio::task::spawn_local(connection);
                    }
                })
                .await;
        });
    })?;
    Ok(port)
}

/// Says who answers, what was asked, and what was sent along.
async fn answer(name: &str, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let limited = http_body_util::Limited::new(body, ECHO_BYTES_MAX);
    let body = limited.collect().await.map_or_else(|_| Bytes::new(), http_body_util::Collected::to_bytes);
    let mut text = format!("upstream {name}: {} {}\n", head.method, head.uri);
    for (header, value) in &head.headers {
        text.push_str(&format!("{header}: {}\n", String::from_utf8_lossy(value.as_bytes())));
    }
    if !body.is_empty() {
        text.push('\n');
        text.push_str(&String::from_utf8_lossy(&body));
    }
    let mut response = Response::new(Full::new(Bytes::from(text)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(response)
}
