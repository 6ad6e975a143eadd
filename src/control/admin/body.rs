//! Bodies of replies: a text, or pieces rendered one by one as the client takes them.
//!
//! A long reply never holds the control thread: one piece is rendered per turn of the event loop, and none while
//! the client has not taken the ones before.
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Something rendered in steps.
pub(super) trait Steps: Send {
    /// Appends the next step's text, which may be none; false: that was the last. A step is some 100 lines of
    /// work, well below a millisecond.
    fn step(&mut self, out: &mut String) -> bool;
}

/// A reply's body.
pub(super) enum ReplyBody {
    Full(Option<Bytes>),
    Stepped {
        steps: Option<Box<dyn Steps>>,
        /// Whether the last turn gave way to others.
        rested: bool,
    },
}

impl ReplyBody {
    pub(super) fn stepped(steps: impl Steps + 'static) -> Self {
        Self::Stepped { steps: Some(Box::new(steps)), rested: true }
    }
}

impl From<String> for ReplyBody {
    fn from(text: String) -> Self {
        Self::Full(Some(text.into()))
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Full(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Self::Stepped { steps: none @ None, .. } => {
                *none = None;
                Poll::Ready(None)
            }
            Self::Stepped { steps: left @ Some(_), rested } => {
                if std::mem::replace(rested, !*rested) {
                    let mut piece = String::new();
                    for _ in 0..STEPS_PER_TURN {
                        if !left.as_mut().is_some_and(|steps| steps.step(&mut piece)) {
                            *left = None;
                            break;
                        }
                        if piece.len() >= PIECE_BYTES {
                            break;
                        }
                    }
                    match (piece.is_empty(), &left) {
                        (false, _) => return Poll::Ready(Some(Ok(Frame::data(piece.into())))),
                        (true, None) => return Poll::Ready(None),
                        (true, Some(_)) => *rested = true,
                    }
                }
                context.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Full(None) | Self::Stepped { steps: None, .. })
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(text) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
            Self::Stepped { .. } => SizeHint::default(),
        }
    }
}

/// A piece is sent when it has this many bytes.
const PIECE_BYTES: usize = 32 * 1024;
/// Steps without enough output before other tasks get their turn.
const STEPS_PER_TURN: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    struct Count(usize, &'static str);

    impl Steps for Count {
        fn step(&mut self, out: &mut String) -> bool {
            out.push_str(self.1);
            self.0 -= 1;
            self.0 > 0
        }
    }

    fn frames(mut body: ReplyBody) -> (usize, String, usize) {
        let mut context = Context::from_waker(Waker::noop());
        let (mut frames, mut text, mut rests) = (0, String::new(), 0);
        loop {
            match Pin::new(&mut body).poll_frame(&mut context) {
                Poll::Pending => rests += 1,
                Poll::Ready(None) => return (frames, text, rests),
                Poll::Ready(Some(frame)) => {
                    frames += 1;
                    text.push_str(std::str::from_utf8(&frame.unwrap().into_data().unwrap()).unwrap());
                }
            }
        }
    }

    #[test]
    fn body_in_steps_gives_way_between_pieces() {
        let (count, text, rests) = frames(ReplyBody::stepped(Count(100, "ab")));
        assert_eq!(text, "ab".repeat(100));
        assert!(count >= 100 / STEPS_PER_TURN && rests >= count - 1, "{count} {rests}");
    }

    #[test]
    fn body_whose_steps_write_nothing_still_gives_way_and_ends() {
        let (count, _, rests) = frames(ReplyBody::stepped(Count(100, "")));
        assert_eq!(count, 0);
        assert!(rests >= 100 / STEPS_PER_TURN);
    }
}
