//! A stream whose peer must take what it is sent.

use crate::deadline::Deadline;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// Fails a write that makes no progress for a time. Reads pass as they are.
pub(super) struct Patient<S> {
    stream: S,
    time_max: Duration,
    stalled_since: Option<Instant>,
    deadline: Deadline,
}

impl<S> Patient<S> {
    pub(super) fn new(stream: S, time_max: Duration) -> Self {
        Self { stream, time_max, stalled_since: None, deadline: Deadline::default() }
    }

    /// Passes what a write came to, unless it has waited for too long.
    fn pass<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled_since = None;
            return written;
        }
        let since = *self.stalled_since.get_or_insert_with(Instant::now);
        match self.deadline.poll(cx, Some(since + self.time_max)) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        filled: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, filled)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.pass(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.pass(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.pass(cx, ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::poll;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    #[tokio::test]
    async fn answer_that_nobody_takes_ends_its_connection() {
        let (gateway, _device) = duplex(64);
        let time_max = Duration::from_millis(50);
        let (mut stream, start) = (Patient::new(gateway, time_max), Instant::now());
        let error = stream.write_all(&[7; 1_000]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(start.elapsed() >= time_max);
    }

    #[tokio::test]
    async fn every_byte_that_a_slow_device_takes_starts_its_time_again() {
        let (gateway, mut device) = duplex(64);
        let mut stream = Patient::new(gateway, Duration::from_secs(3_600));
        stream.write_all(&[7; 64]).await.unwrap();
        assert!(poll!(Box::pin(stream.write_all(&[7; 64]))).is_pending());
        assert!(stream.stalled_since.is_some());
        device.read_exact(&mut [0; 1]).await.unwrap();
        assert_eq!(stream.write(&[7; 64]).await.unwrap(), 1);
        assert_eq!(stream.stalled_since, None);
    }
}
