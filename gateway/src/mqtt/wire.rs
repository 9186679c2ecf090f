//! A socket's bytes, in and out, with no buffer of its own while nothing is under way.

use bytes::{Buf, BytesMut};
use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes taken from a socket at a time: one TLS record.
const CHUNK_BYTES: usize = 16 * 1024;
/// An output buffer that grew beyond this is given back once it is empty.
const KEPT_BYTES_MAX: usize = 256;

thread_local! {
    /// Every read of a thread goes through this one buffer, so that ten thousand idle connections do not hold
    /// one each.
    static CHUNK: RefCell<Box<[u8]>> = RefCell::new(vec![0; CHUNK_BYTES].into_boxed_slice());
}

/// A connection's stream, what has been read and not decoded, and what is to be written.
pub(crate) struct Wire<S> {
    stream: S,
    /// Read, not decoded yet.
    pub(crate) input: BytesMut,
    /// Encoded, not written yet.
    pub(crate) output: BytesMut,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// Wraps a stream.
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, input: BytesMut::new(), output: BytesMut::new() }
    }

    /// Reads what is there, up to one chunk; `Ok(0)` is the end.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        CHUNK.with_borrow_mut(|chunk| {
            let mut filled = ReadBuf::new(chunk);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut filled))?;
            self.input.extend_from_slice(filled.filled());
            Poll::Ready(Ok(filled.filled().len()))
        })
    }

    /// Gives the input buffer back if all of it has been decoded.
    pub(crate) fn trim(&mut self) {
        if self.input.is_empty() && self.input.capacity() > 0 {
            self.input = BytesMut::new();
        }
    }

    /// Writes all output and flushes it. Bytes written meanwhile are progress.
    pub(crate) fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.output))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.output.advance(written);
        }
        if self.output.capacity() > KEPT_BYTES_MAX {
            self.output = BytesMut::new();
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Says good-bye to the other side.
    pub(crate) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
