//! A stream with some bytes already read from it.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// Gives back `read` before anything else.
#[derive(Debug)]
pub(super) struct Prefixed {
    read: Vec<u8>,
    at: usize,
    stream: TcpStream,
    reset: Option<Arc<AtomicBool>>,
}

impl Prefixed {
    pub fn new(read: Vec<u8>, stream: TcpStream) -> Self {
        Self {
            read,
            at: 0,
            stream,
            reset: None,
        }
    }

    /// Closing it will be a reset: what was sent and not taken is lost.
    pub fn reset(&self) -> io::Result<()> {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO))
    }

    /// Closing it will be a reset where the flag is set by then.
    pub fn reset_where(mut self, flag: Arc<AtomicBool>) -> Self {
        self.reset = Some(flag);
        self
    }
}

impl Drop for Prefixed {
    fn drop(&mut self) {
        let flag = self.reset.as_ref();
        if flag.is_some_and(|flag| flag.load(Ordering::Relaxed))
            && let Err(error) = self.reset()
        {
            tracing::debug!(%error, "a connection ends without a reset");
        }
    }
}

impl AsyncRead for Prefixed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let left = self.read.get(self.at..).unwrap_or(b"");
        if left.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let count = left.len().min(buffer.remaining());
        buffer.put_slice(&left[..count]);
        self.at += count;
        if self.at == self.read.len() {
            self.read = Vec::new();
            self.at = 0;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Prefixed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
