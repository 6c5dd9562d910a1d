//! A client's HTTP connection, watched: what cannot be framed in one way only is not read on, and who
//! is silent for too long is not waited for.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

use super::{
    Refusal,
    framing::{Framing, Owes},
    prefixed::Prefixed,
    session::Session,
};

/// No head goes on after this: the library answers 400 and ends the connection.
const POISON: &[u8] = b"\0\r\n\r\n";

/// The stream that the library reads and writes.
pub(super) struct Guarded {
    stream: Prefixed,
    session: Arc<Session>,
    /// HTTP/1 only: HTTP/2 frames itself.
    framing: Option<Framing>,
    /// What is given instead of what was not read on.
    poison: Option<&'static [u8]>,
    /// Since when a head has been incomplete.
    head_since: Option<Instant>,
    reading: Patience,
    writing: Patience,
}

/// Since when something is waited for, and what rings when it has been too long.
#[derive(Default)]
pub(super) struct Patience {
    since: Option<Instant>,
    bell: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    /// Something has come.
    fn satisfied(&mut self) {
        self.since = None;
    }

    /// Whether it is over: `limit` after `since`.
    pub fn is_over(&mut self, since: Instant, limit: Duration, context: &mut Context<'_>) -> bool {
        let deadline = since + limit;
        loop {
            let bell = match &mut self.bell {
                Some(bell) => bell,
                None => self.bell.insert(Box::pin(sleep_until(deadline))),
            };
            // It may ring too early, for an earlier deadline, and is wound up again; never too late.
            if bell.deadline() > deadline {
                bell.as_mut().reset(deadline);
            }
            if bell.as_mut().poll(context).is_pending() {
                return false;
            }
            if Instant::now() >= deadline {
                return true;
            }
            bell.as_mut().reset(deadline);
        }
    }
}

/// Whose silence it is.
enum Silence {
    /// The client may be silent for as long as it likes: the pod's answer is waited for.
    Allowed,
    /// Between two requests.
    Idle(Instant, Duration),
    /// In the middle of something.
    Late(Instant, Duration, Refusal),
}

impl Guarded {
    pub fn new(stream: Prefixed, session: Arc<Session>, http1: bool) -> Self {
        let config = &session.conn.shared.config;
        // The library counts bytes of a whole head; a line is shorter.
        let framing = http1.then(|| Framing::new(config.head_bytes_max, config.headers_max + 1));
        Self {
            stream,
            framing,
            session,
            poison: None,
            head_since: None,
            reading: Patience::default(),
            writing: Patience::default(),
        }
    }

    /// Looks at what was read into `buffer` after `before`.
    fn look(&mut self, buffer: &mut ReadBuf<'_>, before: usize) {
        let Some(framing) = &mut self.framing else {
            return;
        };
        if self.session.has_switched() {
            framing.switch();
            return;
        }
        let followed = framing.follow(&buffer.filled()[before..]);
        if let Err((at, why)) = followed {
            let conn = &self.session.conn;
            tracing::debug!(client = %conn.client, pod = %conn.pod, %why, "refused");
            conn.refuse(Refusal::AmbiguousRequest);
            buffer.set_filled(before + at);
            self.poison = Some(POISON);
            return;
        }
        self.head_since = match framing.owes() {
            Owes::RestOfHead => Some(self.head_since.unwrap_or_else(Instant::now)),
            Owes::Nothing | Owes::RestOfBody => None,
        };
    }

    fn silence(&mut self) -> Silence {
        let config = &self.session.conn.shared.config;
        let since = *self.reading.since.get_or_insert_with(Instant::now);
        match self.framing.as_ref().map(Framing::owes) {
            Some(Owes::RestOfHead) => {
                let since = self.head_since.unwrap_or(since);
                Silence::Late(since, config.head_timeout, Refusal::HeadTimeout)
            }
            Some(Owes::RestOfBody) => {
                Silence::Late(since, config.body_timeout, Refusal::BodyTimeout)
            }
            _ if self.session.is_busy() => Silence::Allowed,
            Some(Owes::Nothing) => Silence::Idle(since, config.idle_timeout),
            // Signs of life are no requests.
            None => Silence::Idle(self.session.idle_since(), config.idle_timeout),
        }
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(poison) = &mut this.poison {
            let count = poison.len().min(buffer.remaining());
            buffer.put_slice(&poison[..count]);
            *poison = &poison[count..];
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut this.stream).poll_read(context, buffer) {
            this.reading.satisfied();
            this.look(buffer, before);
            if this.poison.is_some() && buffer.filled().len() == before {
                // Nothing was good: an empty read would be the end of the stream.
                return self.poll_read(context, buffer);
            }
            return Poll::Ready(read);
        }
        if this.session.has_switched() {
            return Poll::Pending;
        }
        match this.silence() {
            Silence::Allowed => Poll::Pending,
            Silence::Idle(since, limit) => {
                if this.reading.is_over(since, limit, context) {
                    // As if the client had ended it: nothing is cut off.
                    return Poll::Ready(Ok(()));
                }
                Poll::Pending
            }
            Silence::Late(since, limit, refusal) => {
                if this.reading.is_over(since, limit, context) {
                    this.session.conn.refuse(refusal);
                    this.session.reset();
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
                Poll::Pending
            }
        }
    }
}

impl Guarded {
    /// What becomes of a write: a client that takes nothing for too long is not waited for.
    fn written<T>(
        &mut self,
        written: Poll<io::Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.writing.satisfied();
            return written;
        }
        let limit = self.session.conn.shared.config.body_timeout;
        let since = *self.writing.since.get_or_insert_with(Instant::now);
        if !self.session.has_switched() && self.writing.is_over(since, limit, context) {
            self.session.conn.refuse(Refusal::BodyTimeout);
            self.session.reset();
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.written(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.session.is_reset() {
            // The end must not look like an end.
            return Poll::Ready(Ok(()));
        }
        ready!(Pin::new(&mut this.stream).poll_shutdown(context))?;
        Poll::Ready(Ok(()))
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if self.session.is_reset()
            && let Err(error) = self.stream.reset()
        {
            tracing::debug!(%error, "a connection ends without a reset");
        }
    }
}
