//! HTTP/2 as a test speaks it: a client and an upstream on the `h2` crate, and raw frames for what it would not send.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use h2::client::SendRequest;
use h2::ext::Protocol;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::runtime::{Builder, Runtime};

use super::PATIENCE;
use super::upstream::set_receive_buffer;

/// Field of a cluster whose endpoint speaks HTTP/2.
pub(crate) const TO_HTTP2: &str = "typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: \
                        {\"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, \
                        explicit_http_config: {http2_protocol_options: {max_concurrent_streams: 100}}}}";

/// A client's connection.
#[derive(Debug)]
pub(crate) struct Http2Client {
    runtime: Runtime,
    requests: SendRequest<Bytes>,
}

/// What came back on a stream.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Option<HeaderMap>,
    /// How it broke off.
    pub(crate) broken: Option<Reason>,
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

impl Http2Client {
    pub(crate) fn connect(port: u16) -> Self {
        let runtime = runtime();
        let requests = runtime.block_on(async {
            let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            // Or a window update waits for the acknowledgement of the one before it, 40 ms each.
            stream.set_nodelay(true).unwrap();
            let mut builder = h2::client::Builder::new();
            // A client that lags behind ends the connection for a hundred short frames else: it is not what is looked at.
            builder.data_frame_budget(1 << 24);
            let (requests, connection) = builder.handshake(stream).await.unwrap();
            tokio::spawn(async move { drop(connection.await) });
            requests
        });
        Self { runtime, requests }
    }

    /// A GET.
    pub(crate) fn get(&self, path: &str) -> Answer {
        self.send(Request::get(format!("http://a{path}")), &[], None)
    }

    /// A request that ends when the head of its answer is there.
    pub(crate) fn ending_late(&self, path: &str) -> Answer {
        self.runtime.block_on(async {
            let request = Request::post(format!("http://a{path}")).body(()).unwrap();
            let mut requests = self.requests.clone().ready().await.unwrap();
            let (response, mut stream) = requests.send_request(request, false).unwrap();
            let (parts, receiver) =
                tokio::time::timeout(PATIENCE, response).await.unwrap().unwrap().into_parts();
            stream.send_data(Bytes::new(), true).unwrap();
            let answer = Answer { status: parts.status.as_u16(), ..Answer::default() };
            tokio::time::timeout(PATIENCE, receive(receiver, answer)).await.unwrap()
        })
    }

    /// A request whose body is sent once an interim response has come; without a body it is over at once. The interim
    /// responses, and the final one.
    pub(crate) fn expecting(
        &self,
        request: http::request::Builder,
        body: &'static [u8],
    ) -> (Vec<Response<()>>, Answer) {
        let exchange = async {
            let mut requests = self.requests.clone().ready().await.unwrap();
            let sent = requests.send_request(request.body(()).unwrap(), body.is_empty());
            let (mut response, mut stream) = sent.unwrap();
            let mut interim = Vec::new();
            while let Some(early) = std::future::poll_fn(|context| response.poll_informational(context)).await
            {
                interim.push(early.unwrap());
                if interim.len() == 1 && !body.is_empty() {
                    send_body(&mut stream, Bytes::from_static(body), None).await;
                }
            }
            let (parts, receiver) = response.await.unwrap().into_parts();
            let answer =
                Answer { status: parts.status.as_u16(), headers: parts.headers, ..Answer::default() };
            (interim, receive(receiver, answer).await)
        };
        self.runtime.block_on(async { tokio::time::timeout(PATIENCE, exchange).await.unwrap() })
    }

    /// A request with a body and trailers.
    pub(crate) fn send(
        &self,
        request: http::request::Builder,
        body: &[u8],
        trailers: Option<HeaderMap>,
    ) -> Answer {
        self.all(vec![(request, body.to_vec(), trailers)]).pop().unwrap()
    }

    /// Requests at the same time, answers in the same order.
    pub(crate) fn all(
        &self,
        requests: Vec<(http::request::Builder, Vec<u8>, Option<HeaderMap>)>,
    ) -> Vec<Answer> {
        self.runtime.block_on(async {
            let tasks: Vec<_> = requests
                .into_iter()
                .map(|(request, body, trailers)| {
                    tokio::spawn(exchange(self.requests.clone(), request.body(()).unwrap(), body, trailers))
                })
                .collect();
            let mut answers = Vec::new();
            for task in tasks {
                answers.push(tokio::time::timeout(3 * PATIENCE, task).await.unwrap().unwrap());
            }
            answers
        })
    }
}

async fn exchange(
    requests: SendRequest<Bytes>,
    request: Request<()>,
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
) -> Answer {
    let broken =
        |error: h2::Error| Answer { broken: error.reason().or(Some(Reason::NO_ERROR)), ..Answer::default() };
    let mut requests = match requests.ready().await {
        Ok(requests) => requests,
        Err(error) => return broken(error),
    };
    let ends = body.is_empty() && trailers.is_none();
    let (response, mut stream) = match requests.send_request(request, ends) {
        Ok(sent) => sent,
        Err(error) => return broken(error),
    };
    if !ends {
        tokio::spawn(async move { send_body(&mut stream, Bytes::from(body), trailers).await });
    }
    let response = match response.await {
        Ok(response) => response,
        Err(error) => return broken(error),
    };
    let (parts, receiver) = response.into_parts();
    let answer = Answer { status: parts.status.as_u16(), headers: parts.headers, ..Answer::default() };
    receive(receiver, answer).await
}

/// Sends as the windows allow; gives up when the peer does.
pub(crate) async fn send_body(stream: &mut SendStream<Bytes>, mut body: Bytes, trailers: Option<HeaderMap>) {
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        if stream.capacity() == 0 {
            match std::future::poll_fn(|context| stream.poll_capacity(context)).await {
                Some(Ok(_)) => continue,
                _ => return,
            }
        }
        let piece = body.split_to(stream.capacity().min(body.len()));
        let ends = body.is_empty() && trailers.is_none();
        if stream.send_data(piece, ends).is_err() {
            return;
        }
        if ends {
            return;
        }
    }
    match trailers {
        Some(trailers) => drop(stream.send_trailers(trailers)),
        None => drop(stream.send_data(Bytes::new(), true)),
    }
}

async fn receive(mut receiver: RecvStream, mut answer: Answer) -> Answer {
    while let Some(data) = receiver.data().await {
        match data {
            Ok(data) => {
                drop(receiver.flow_control().release_capacity(data.len()));
                answer.body.extend_from_slice(&data);
            }
            Err(error) => {
                answer.broken = error.reason().or(Some(Reason::NO_ERROR));
                return answer;
            }
        }
    }
    match receiver.trailers().await {
        Ok(trailers) => answer.trailers = trailers,
        Err(error) => answer.broken = error.reason().or(Some(Reason::NO_ERROR)),
    }
    answer
}

/// An upstream that speaks HTTP/2. What it does depends on the path: see `answer`.
#[derive(Debug)]
pub(crate) struct Http2Upstream {
    pub(crate) port: u16,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
}

impl Http2Upstream {
    /// Takes so many streams at a time on a connection.
    pub(crate) fn start(streams_max: u32) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        listener.set_nonblocking(true).unwrap();
        let (connections, requests) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (opened, seen) = (Arc::clone(&connections), Arc::clone(&requests));
        std::thread::spawn(move || {
            runtime().block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                while let Ok((stream, _)) = listener.accept().await {
                    stream.set_nodelay(true).unwrap();
                    let number = opened.fetch_add(1, Ordering::SeqCst);
                    tokio::spawn(serve(stream, streams_max, number, Arc::clone(&seen)));
                }
            });
        });
        Self { port, connections, requests }
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

async fn serve(stream: tokio::net::TcpStream, streams_max: u32, number: usize, seen: Arc<AtomicUsize>) {
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(streams_max).enable_connect_protocol();
    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
    let mut served = 0;
    while let Some(Ok((request, respond))) = connection.accept().await {
        seen.fetch_add(1, Ordering::SeqCst);
        served += 1;
        if request.uri().path() == "/goaway" && served == 1 {
            connection.graceful_shutdown();
        }
        tokio::spawn(answer(request, respond, number));
    }
}

/// `/echo`: the body and the trailers that came; `/body/N`: so many bytes; `/refuse`: refused on the first connection;
/// `/chat`: the head at once, then every byte as it comes; `/reset`: broken off; `/cut`: broken off within the body, once the request has ended; `/early`: answered at once; `/interim`: a 103 first; `/grpc/N`: a
/// gRPC response of the body that came, with status N; `/grpc-status/N`: that status alone.
async fn answer(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, number: usize) {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let response = || {
        let mut response = Response::builder().header("x-connection", number).header("x-path", &path);
        for name in
            ["te", "cookie", "content-length", "content-type", "x-forwarded-proto", "connection", "upgrade"]
        {
            for value in parts.headers.get_all(name) {
                response = response.header(format!("x-seen-{name}"), value);
            }
        }
        if let Some(protocol) = parts.extensions.get::<Protocol>() {
            response = response.header("x-seen-protocol", protocol.as_str());
        }
        let authority = parts.uri.authority().map_or("", |authority| authority.as_str());
        response.header("x-seen-authority", authority).header("x-seen-method", parts.method.as_str())
    };
    match path.as_str() {
        "/reset" => respond.send_reset(Reason::INTERNAL_ERROR),
        "/refuse" if number == 0 => respond.send_reset(Reason::REFUSED_STREAM),
        "/cut" => {
            let mut stream = respond.send_response(response().body(()).unwrap(), false).unwrap();
            stream.send_data(Bytes::from_static(b"part"), false).unwrap();
            // The client has the head: `Http2Client::ending_late`.
            receive(body, Answer::default()).await;
            stream.send_reset(Reason::INTERNAL_ERROR);
        }
        "/chat" => {
            let (mut body, response) = (body, response().body(()).unwrap());
            let Ok(mut stream) = respond.send_response(response, false) else { return };
            while let Some(Ok(data)) = body.data().await {
                drop(body.flow_control().release_capacity(data.len()));
                // What the windows have no room for the codec holds.
                drop(stream.send_data(data, false));
            }
            drop(stream.send_data(Bytes::new(), true));
        }
        "/early" => drop(respond.send_response(response().body(()).unwrap(), true)),
        "/interim" => {
            let early = Response::builder().status(103).header("link", "</a>").body(()).unwrap();
            respond.send_informational(early).unwrap();
            drop(respond.send_response(response().body(()).unwrap(), true));
        }
        path if path.starts_with("/body/") => {
            let bytes = path.trim_start_matches("/body/").parse().unwrap();
            let mut stream = respond.send_response(response().body(()).unwrap(), false).unwrap();
            send_body(&mut stream, pattern(bytes).into(), None).await;
        }
        path if path.starts_with("/grpc-status/") => {
            let status = path.trim_start_matches("/grpc-status/");
            let response =
                response().header("content-type", "application/grpc").header("grpc-status", status);
            drop(respond.send_response(response.body(()).unwrap(), true));
        }
        path if path.starts_with("/grpc/") => {
            let received = receive(body, Answer::default()).await;
            let response = response().header("content-type", "application/grpc").body(()).unwrap();
            let Ok(mut stream) = respond.send_response(response, false) else { return };
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", path.trim_start_matches("/grpc/").parse().unwrap());
            trailers.insert("grpc-message", "why".parse().unwrap());
            send_body(&mut stream, received.body.into(), Some(trailers)).await;
        }
        _ => {
            let received = receive(body, Answer::default()).await;
            let response = response().header("x-received", received.body.len()).body(()).unwrap();
            let Ok(mut stream) = respond.send_response(response, false) else { return };
            send_body(&mut stream, received.body.into(), received.trailers).await;
        }
    }
}

/// So many bytes that tell where they belong.
pub(crate) fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at.wrapping_mul(31) ^ at >> 8) as u8).collect()
}

/// A connection that sends frames as they are.
#[derive(Debug)]
pub(crate) struct RawHttp2 {
    stream: TcpStream,
}

/// A frame that came.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// The parameters of SETTINGS.
    pub(crate) fn settings(&self) -> Vec<(u16, u32)> {
        let parameter = |six: &[u8]| {
            let [a, b, c, d, e, f] = six.try_into().unwrap();
            (u16::from_be_bytes([a, b]), u32::from_be_bytes([c, d, e, f]))
        };
        self.payload.chunks(6).map(parameter).collect()
    }

    /// The number that RST_STREAM and WINDOW_UPDATE consist of.
    pub(crate) fn number(&self) -> u32 {
        u32::from_be_bytes(self.payload[..].try_into().unwrap())
    }
}

impl RawHttp2 {
    /// Connects and sends the preface and empty SETTINGS.
    pub(crate) fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let mut raw = Self { stream };
        raw.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        raw.frame(4, 0, 0, &[]);
        raw
    }

    /// The port of an upstream that does `answer` with each connection, once a request has come on it.
    pub(crate) fn upstream(answer: impl Fn(&mut Self) + Send + Sync + 'static) -> u16 {
        Self::server(move |raw| {
            if raw.frame(4, 0, 0, &[]) && raw.frames_until(|frame| frame.kind == 1).is_some() {
                answer(raw);
            }
        })
    }

    /// The port of an upstream that plays `script` on each connection, once the client's preface has come on it.
    pub(crate) fn server(script: impl Fn(&mut Self) + Send + Sync + 'static) -> u16 {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let script = Arc::new(script);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let script = Arc::clone(&script);
                std::thread::spawn(move || {
                    stream.set_nodelay(true).unwrap();
                    stream.set_read_timeout(Some(PATIENCE)).unwrap();
                    stream.set_write_timeout(Some(PATIENCE)).unwrap();
                    let mut raw = Self { stream };
                    if raw.stream.read_exact(&mut [0; 24]).is_ok() {
                        script(&mut raw);
                    }
                });
            }
        });
        port
    }

    /// Has the kernel keep few bytes that are not read.
    pub(crate) fn keeps_little(&self) {
        set_receive_buffer(&self.stream, 32 * 1024);
    }

    /// Ends our direction.
    pub(crate) fn shutdown_write(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Whether it could be sent.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// Sends a frame; whether it could be sent.
    pub(crate) fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        self.write(&bytes)
    }

    /// Says so much on the first stream and resets it (CANCEL), in one piece.
    pub(crate) fn say_and_reset(&mut self, words: &[u8]) -> bool {
        let data = &[0, 0, words.len() as u8, 0, 0, 0, 0, 0, 1][..];
        let reset = &[0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 8][..];
        self.write(&[data, words, reset].concat())
    }

    /// What is said on the one stream that there is, until it is reset.
    pub(crate) fn said_until_reset(&mut self) -> Vec<u8> {
        let frames = self.frames_until(|frame| frame.kind == 3).into_iter().flatten();
        frames.filter(|frame| frame.kind == 0).flat_map(|frame| frame.payload).collect()
    }

    /// HEADERS of a GET for `/` of `a`; complete with `flags` 5.
    pub(crate) fn get(&mut self, stream: u32, flags: u8) -> bool {
        // :method GET, :scheme http, :path / by index; :authority a as a literal.
        self.frame(1, flags, stream, &[0x82, 0x86, 0x84, 0x41, 1, b'a'])
    }

    /// The next frame; `None` at the connection's end.
    pub(crate) fn read(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).ok()?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.stream.read_exact(&mut payload).ok()?;
        Some(Frame { kind, flags, stream: u32::from_be_bytes(stream), payload })
    }

    /// The frames up to and with the one that is looked for; `None`: the connection ended before.
    pub(crate) fn frames_until(&mut self, is_it: impl Fn(&Frame) -> bool) -> Option<Vec<Frame>> {
        let mut frames = Vec::new();
        loop {
            frames.push(self.read()?);
            if frames.last().is_some_and(&is_it) {
                return Some(frames);
            }
        }
    }

    /// Reads until the connection's end; the error code of the last GOAWAY.
    pub(crate) fn goaway(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some(frame) = self.read() {
            if frame.kind == 7 {
                code = frame.payload.get(4..8).map(|bytes| u32::from_be_bytes(bytes.try_into().unwrap()));
            }
        }
        code
    }
}
