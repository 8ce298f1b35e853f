//! How far a connection is with its current request, and until when that may last.
//!
//! hyper's own head timer also ends idle connections, and costs a timer a request. Here the socket and the service only note
//! where the connection stands; the one task that drives it compares that with one timer, which is set again when it fires, not
//! with each request.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::base::clock::Clock;

/// From the first byte of a head to its last.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// From a complete head until the client has taken the answer, which is there within a second.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection may rest between requests. Counted from the last head; SDKs keep idle connections for a minute.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// Where a connection stands, shared by its socket, its service and its task.
#[derive(Debug, Clone)]
pub(super) struct Pace(Arc<Mutex<Stage>>);

#[derive(Debug, Clone, Copy)]
enum Stage {
    /// Nothing of a request is there.
    Idle { since: Instant },
    /// A head has begun. No clock is read for one that comes whole.
    Head { since: Option<Instant> },
    /// The head was complete, the answer is being made. `early`: bytes of the next head are there already.
    Answering { since: Instant, early: bool },
    /// The answer is being written.
    Writing { since: Instant, early: bool },
}

/// Why a connection is ended from this side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overdue {
    /// It rested too long.
    Idle,
    /// Its head did not get complete.
    Head,
    /// Its client does not read.
    Answer,
}

impl Pace {
    /// Of a connection accepted at `now`.
    pub(super) fn new(now: Instant) -> Self {
        Self(Arc::new(Mutex::new(Stage::Idle { since: now })))
    }

    /// A request's head was complete at `now`.
    pub(super) fn head_complete(&self, now: Instant) {
        *self.0.lock() = Stage::Answering { since: now, early: false };
    }

    /// When the current stage is overdue, and what to call that.
    pub(super) fn due(&self, clock: &Clock) -> (Instant, Overdue) {
        let mut stage = self.0.lock();
        match &mut *stage {
            Stage::Idle { since } => (*since + IDLE_TIMEOUT, Overdue::Idle),
            Stage::Head { since } => (*since.get_or_insert_with(|| clock.now().mono) + HEAD_TIMEOUT, Overdue::Head),
            Stage::Answering { since, .. } | Stage::Writing { since, .. } => (*since + ANSWER_TIMEOUT, Overdue::Answer),
        }
    }

    fn received(&self) {
        let mut stage = self.0.lock();
        match &mut *stage {
            Stage::Idle { .. } => *stage = Stage::Head { since: None },
            Stage::Answering { early, .. } | Stage::Writing { early, .. } => *early = true,
            Stage::Head { .. } => (),
        }
    }

    fn sent(&self) {
        let mut stage = self.0.lock();
        if let Stage::Answering { since, early } = *stage {
            *stage = Stage::Writing { since, early };
        }
    }

    fn flushed(&self) {
        let mut stage = self.0.lock();
        if let Stage::Writing { since, early } = *stage {
            *stage = if early { Stage::Head { since: None } } else { Stage::Idle { since } };
        }
    }
}

/// A socket that notes in its [`Pace`] what passes.
#[derive(Debug)]
pub(super) struct Paced<T> {
    inner: T,
    pace: Pace,
}

impl<T> Paced<T> {
    pub(super) fn new(inner: T, pace: Pace) -> Self {
        Self { inner, pace }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Paced<T> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.pace.received();
        }
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Paced<T> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.pace.sent();
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write_vectored(context, slices);
        self.pace.sent();
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    /// hyper flushes the socket once all of an answer has been written to it.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_flush(context);
        if polled.is_ready() {
            self.pace.flushed();
        }
        polled
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_stage_has_its_own_end() {
        let clock = Clock::System;
        let start = clock.now().mono;
        let pace = Pace::new(start);
        assert_eq!(pace.due(&clock), (start + IDLE_TIMEOUT, Overdue::Idle));
        tokio::time::advance(Duration::from_secs(70)).await;
        pace.received();
        let begun = clock.now().mono;
        assert_eq!(pace.due(&clock), (begun + HEAD_TIMEOUT, Overdue::Head));
        tokio::time::advance(Duration::from_secs(3)).await;
        pace.received();
        assert_eq!(pace.due(&clock), (begun + HEAD_TIMEOUT, Overdue::Head), "more bytes of a head win no time");
        let complete = clock.now().mono;
        pace.head_complete(complete);
        pace.flushed();
        assert_eq!(pace.due(&clock), (complete + ANSWER_TIMEOUT, Overdue::Answer), "nothing was there to flush");
        pace.sent();
        pace.flushed();
        assert_eq!(pace.due(&clock), (complete + IDLE_TIMEOUT, Overdue::Idle));
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_begins_during_an_answer_has_its_ten_seconds_from_then_on() {
        let clock = Clock::System;
        let start = clock.now().mono;
        let pace = Pace::new(start);
        pace.received();
        pace.head_complete(start);
        pace.received();
        pace.sent();
        pace.flushed();
        assert_eq!(pace.due(&clock), (start + HEAD_TIMEOUT, Overdue::Head));
    }
}
