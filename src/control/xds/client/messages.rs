//! The responses of a stream, put together here: tonic keeps room for the largest message as long as the stream lives, which may be
//! months after a state of the world of tens of megabytes. It is handed what comes piece by piece, each as a message of its own, and
//! has all else of gRPC to do: requests, statuses, trailers.
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::uri::PathAndQuery;
use http::{Request, Response};
use hyper::body::{Body, Frame};
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder};
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Status, Streaming};
use tonic_prost::{ProstCodec, ProstEncoder};
use tower_service::Service;

use super::judge::briefly;

/// Bytes before a message: whether it is compressed, and its length. Source: gRPC over HTTP/2, "Length-Prefixed-Message".
const PREFIX_BYTES: usize = 5;

/// Responses as they come.
#[derive(Debug)]
pub(super) struct Responses<M> {
    pieces: Streaming<Bytes>,
    assembly: Assembly,
    messages: PhantomData<M>,
}

/// Opens a stream; responses of more than `bytes_max` bytes end it.
///
/// # Errors
/// What the control plane, or the way to it, has answered instead.
pub(super) async fn open<Q: Message + 'static, M>(
    channel: Channel,
    metadata: MetadataMap,
    queued: mpsc::Receiver<Q>,
    method: &'static str,
    bytes_max: usize,
) -> Result<Responses<M>, Status> {
    let mut grpc = Grpc::new(InPieces(channel));
    grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
    let mut request = tonic::Request::new(ReceiverStream::new(queued));
    *request.metadata_mut() = metadata;
    let method = PathAndQuery::from_static(method);
    let opened = grpc.streaming(request, method, PieceCodec(PhantomData)).await?;
    let assembly = Assembly { bytes_max, ..Assembly::default() };
    Ok(Responses { pieces: opened.into_inner(), assembly, messages: PhantomData })
}

impl<M: Message + Default> Responses<M> {
    /// The next one; `None`: the stream has ended. Nothing is lost where this is given up and called again.
    ///
    /// # Errors
    /// The stream's status, or that it cannot be read.
    pub(super) async fn next(&mut self) -> Result<Option<M>, Status> {
        loop {
            if let Some(message) = briefly(|| self.assembly.take())? {
                let decoded = briefly(|| M::decode(&*message));
                return decoded.map(Some).map_err(|error| Status::internal(error.to_string()));
            }
            match self.pieces.message().await? {
                Some(piece) => self.assembly.ahead = piece,
                None if self.assembly.is_between() => return Ok(None),
                None => return Err(Status::internal("the stream ends within a message")),
            }
        }
    }
}

/// The message that comes, and what has come behind it.
#[derive(Debug, Default)]
struct Assembly {
    bytes_max: usize,
    prefix: BytesMut,
    message: Vec<u8>,
    /// How many bytes of the message are still to come; `None`: its prefix is.
    missing: Option<usize>,
    ahead: Bytes,
}

impl Assembly {
    /// The message, if it is whole.
    fn take(&mut self) -> Result<Option<Vec<u8>>, Status> {
        let missing = match self.missing {
            Some(missing) => missing,
            None => {
                let part = self.ahead.len().min(PREFIX_BYTES - self.prefix.len());
                self.prefix.put(self.ahead.split_to(part));
                if self.prefix.len() < PREFIX_BYTES {
                    return Ok(None);
                }
                let is_compressed = self.prefix.get_u8() != 0;
                let length = self.prefix.get_u32() as usize;
                self.prefix.clear();
                if is_compressed {
                    return Err(Status::internal("a compressed message, which was not asked for"));
                }
                if length > self.bytes_max {
                    let reason = format!("a message of {length} bytes, more than {}", self.bytes_max);
                    return Err(Status::out_of_range(reason));
                }
                self.reserve(length)?;
                length
            }
        };
        let part = self.ahead.split_to(self.ahead.len().min(missing));
        self.message.extend_from_slice(&part);
        self.missing = Some(missing - part.len());
        if self.missing == Some(0) {
            self.missing = None;
            return Ok(Some(std::mem::take(&mut self.message)));
        }
        Ok(None)
    }

    /// Room for a message; its memory is touched as it comes. That there is none ends the stream, and not the process.
    fn reserve(&mut self, length: usize) -> Result<(), Status> {
        let reserved = self.message.try_reserve_exact(length);
        reserved.map_err(|_| Status::resource_exhausted(format!("no memory for a message of {length} bytes")))
    }

    /// Whether no message has begun.
    fn is_between(&self) -> bool {
        self.missing.is_none() && self.prefix.is_empty() && self.ahead.is_empty()
    }
}

/// Requests as messages, responses as pieces.
struct PieceCodec<Q>(PhantomData<Q>);

struct PieceDecoder;

impl<Q: Message + 'static> Codec for PieceCodec<Q> {
    type Encode = Q;
    type Decode = Bytes;
    type Encoder = ProstEncoder<Q>;
    type Decoder = PieceDecoder;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<Q, ()>::default().encoder()
    }

    fn decoder(&mut self) -> Self::Decoder {
        PieceDecoder
    }
}

impl Decoder for PieceDecoder {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// A channel whose responses have [`Pieces`] for bodies.
struct InPieces<S>(S);

type Answered<B, E> = Pin<Box<dyn Future<Output = Result<Response<Pieces<B>>, E>> + Send>>;

impl<S, A, B> Service<Request<A>> for InPieces<S>
where
    S: Service<Request<A>, Response = Response<B>, Future: Send + 'static>,
{
    type Response = Response<Pieces<B>>;
    type Error = S::Error;
    type Future = Answered<B, S::Error>;

    fn poll_ready(&mut self, task: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(task)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let answer = self.0.call(request);
        Box::pin(async move { Ok(answer.await?.map(|body| Pieces { body, piece: None })) })
    }
}

/// A body of which each piece is a message: before it stands a prefix.
#[derive(Debug)]
struct Pieces<B> {
    body: B,
    /// Whose prefix has been handed on.
    piece: Option<Bytes>,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Pieces<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if let Some(piece) = self.piece.take() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        let frame = match ready!(Pin::new(&mut self.body).poll_frame(task)) {
            Some(Ok(frame)) => frame,
            other => return Poll::Ready(other),
        };
        let prefixed = frame.map_data(|piece| {
            let mut prefix = BytesMut::with_capacity(PREFIX_BYTES);
            prefix.put_u8(0);
            // A frame of HTTP/2 is smaller.
            prefix.put_u32(u32::try_from(piece.len()).unwrap_or(u32::MAX));
            self.piece = Some(piece);
            prefix.freeze()
        });
        Poll::Ready(Some(Ok(prefixed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixed(message: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.put_u32(u32::try_from(message.len()).unwrap());
        bytes.extend_from_slice(message);
        bytes
    }

    fn assembly(bytes_max: usize) -> Assembly {
        Assembly { bytes_max, ..Assembly::default() }
    }

    #[test]
    fn messages_are_whole_wherever_they_are_cut() {
        let messages: [&[u8]; 4] = [b"first", b"", b"second", b"x"];
        let stream: Vec<u8> = messages.iter().flat_map(|message| prefixed(message)).collect();
        for piece_bytes in 1..=stream.len() {
            let (mut assembly, mut taken) = (assembly(6), Vec::new());
            for piece in stream.chunks(piece_bytes) {
                assembly.ahead = Bytes::copy_from_slice(piece);
                while let Some(message) = assembly.take().unwrap() {
                    taken.push(message);
                }
                assert!(assembly.ahead.is_empty());
            }
            assert_eq!(taken, messages, "pieces of {piece_bytes}");
            assert!(assembly.is_between());
        }
    }

    #[test]
    fn what_has_begun_is_not_the_end() {
        for cut in 1..prefixed(b"first").len() {
            let mut assembly = assembly(6);
            assembly.ahead = Bytes::copy_from_slice(&prefixed(b"first")[..cut]);
            assert_eq!(assembly.take().unwrap(), None);
            assert!(!assembly.is_between(), "cut at {cut}");
        }
    }

    #[test]
    fn what_is_too_large_or_compressed_is_refused_by_its_prefix() {
        let refusal = |prefix: &[u8]| {
            let mut assembly = assembly(6);
            assembly.ahead = Bytes::copy_from_slice(prefix);
            assembly.take().unwrap_err().message().to_owned()
        };
        assert_eq!(refusal(&[0, 0, 0, 0, 7]), "a message of 7 bytes, more than 6");
        assert_eq!(refusal(&[0, 0xff, 0xff, 0xff, 0xff]), "a message of 4294967295 bytes, more than 6");
        assert_eq!(refusal(&[1, 0, 0, 0, 1]), "a compressed message, which was not asked for");
    }

    #[test]
    fn length_that_there_is_no_memory_for_ends_the_stream_alone() {
        let refused = assembly(usize::MAX).reserve(usize::MAX);
        assert_eq!(refused.unwrap_err().code(), tonic::Code::ResourceExhausted);
    }

    #[test]
    fn nothing_of_a_message_that_was_taken_is_kept() {
        let mut assembly = assembly(1 << 20);
        assembly.ahead = prefixed(&[7; 1 << 20]).into();
        assert_eq!(assembly.take().unwrap().unwrap().len(), 1 << 20);
        assert_eq!(assembly.message.capacity(), 0);
    }
}
