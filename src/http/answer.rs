//! The body of an answer, which keeps its connection busy.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use hyper::body::{Body, Frame, SizeHint};

use crate::transport::inbound::Requests;

/// A request that is being answered, until this is dropped.
#[derive(Debug)]
pub(super) struct Answering(pub(super) Requests);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.finish();
    }
}

/// A body, and behind its end the next request.
#[derive(Debug)]
pub(super) struct Answer<B> {
    body: B,
    _answering: Answering,
}

impl<B> Answer<B> {
    pub(super) fn new(body: B, answering: Answering) -> Self {
        Self { body, _answering: answering }
    }
}

impl<B: Body + Unpin> Body for Answer<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
