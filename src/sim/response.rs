//! Responses, whole or broken off.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::HeaderValue;
use hyper::{Response, StatusCode};

/// A whole response; a status that HTTP does not allow becomes 500.
pub(super) fn response(status: u16, content_type: &'static str, bytes: Bytes) -> Response<Payload> {
    let mut response = Response::new(Payload { bytes: Some(bytes), end: End::Whole });
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    insert(&mut response, "content-type", content_type);
    response
}

/// The response with the head of the whole body and half of its bytes.
pub(super) fn halved(mut response: Response<Payload>) -> Response<Payload> {
    let bytes = response.body_mut().bytes.take().unwrap_or_default();
    insert(&mut response, "content-length", &bytes.len().to_string());
    *response.body_mut() = Payload { bytes: Some(bytes.slice(..bytes.len() / 2)), end: End::Pause };
    response
}

/// Sets a header; a value that HTTP does not allow is left out.
pub(super) fn insert(response: &mut Response<Payload>, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

/// A body in one piece, and how it ends.
pub(super) struct Payload {
    bytes: Option<Bytes>,
    end: End,
}

/// How a body ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Whole,
    /// It will break off at the next poll but one: hyper sends what it has in between.
    Pause,
    Break,
}

impl Body for Payload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Some(bytes) = self.bytes.take() {
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        match self.end {
            End::Whole => Poll::Ready(None),
            End::Pause => {
                self.end = End::Break;
                context.waker().wake_by_ref();
                Poll::Pending
            }
            End::Break => Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::BrokenPipe, "cut as scripted")))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none() && self.end == End::Whole
    }

    fn size_hint(&self) -> SizeHint {
        let length = self.bytes.as_ref().map_or(0, Bytes::len);
        let exact = u64::try_from(length).ok().filter(|_| self.end == End::Whole);
        exact.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
