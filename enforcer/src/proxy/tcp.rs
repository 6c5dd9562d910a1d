//! Bytes, both ways, for what is not HTTP and for what HTTP was upgraded to.

use std::{
    future::poll_fn,
    io,
    mem::MaybeUninit,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use policyc::{
    l7::Outcome,
    request::{Authorizer, Expected, Wire},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{
    Access, Refusal, Ruling, Spoken, Why,
    authorizer::Checked,
    conn::{Answered, Conn, Judged, epoch, settled},
    prefixed::Prefixed,
    upstream::{self, First},
};

/// Judges a connection, and carries it while policies allow it.
pub(super) async fn serve(
    conn: Arc<Conn>,
    stream: TcpStream,
    read: Vec<u8>,
    wire: Wire,
    sni: Option<String>,
) -> io::Result<()> {
    let began = Instant::now();
    let sni = sni.as_deref();
    let changes = conn.shared.judge.changes();
    let ruling = conn.ruling();
    if ruling.is_none() {
        conn.refuse(Refusal::NoTable);
    }
    let (outcome, answered) = judge(&conn, ruling.as_ref(), wire, sni).await;
    let epoch = epoch(ruling.as_ref());
    conn.report(epoch, &outcome, wire, sni, None);
    let mut carried = Carried::default();
    let mut failed = None;
    let mut lost = false;
    if outcome.verdict == Expected::Deny {
        reset(&stream)?;
    } else {
        let shared = &conn.shared;
        let (config, flows) = (&shared.config, &shared.flows);
        let first = if read.is_empty() {
            First::Pod
        } else {
            First::Client(&read)
        };
        match upstream::connect(config, flows, conn.client, conn.pod, first).await {
            Ok(mut leg) => {
                let mut client = Prefixed::new(read, stream);
                client.skip(leg.sent);
                let allowed = || conn.allows_still(wire, sni, None, answered.as_ref());
                let mut broken = false;
                let on_break = |by_policy| {
                    broken = true;
                    lost = by_policy;
                };
                let idle = config.idle_timeout;
                let up = &mut leg.stream;
                carried = tunnel(&mut client, up, changes, allowed, idle, on_break).await;
                carried.to_pod += leg.sent as u64;
                if broken {
                    // What one side breaks off must not look like an end to the other.
                    for done in [client.reset(), reset(&leg.stream)] {
                        if let Err(error) = done {
                            tracing::debug!(%error, "a connection ends without a reset");
                        }
                    }
                }
            }
            Err(error) => {
                let refusal = upstream::refusal(&error);
                tracing::debug!(client = %conn.client, pod = %conn.pod, %error, "upstream");
                conn.refuse(refusal);
                failed = Some(refusal);
                reset(&stream)?;
            }
        }
    }
    if conn.shared.reporter.wants_accesses() {
        let verdict = conn.verdict(epoch, &outcome);
        conn.shared.reporter.access(&Access {
            source: conn.client,
            destination: conn.pod,
            epoch: Some(epoch),
            verdict: match failed {
                None if !lost => outcome.verdict,
                _ => Expected::Deny,
            },
            why: Some(failed.map_or(Why::Policy(outcome.cause), Why::Proxy)),
            policy: verdict.policy.as_deref(),
            rule: outcome.rule,
            broken_off: lost,
            spoken: match wire {
                Wire::Tls => Spoken::Tls { sni },
                Wire::Tcp | Wire::Http => Spoken::Tcp,
            },
            request_id: None,
            status: None,
            received: carried.to_pod,
            sent: carried.to_client,
            time: began.elapsed(),
        });
    }
    carried.error.map_or(Ok(()), Err)
}

/// Closing it will be a reset: what was sent and not taken is lost.
pub(super) fn reset(stream: &TcpStream) -> io::Result<()> {
    socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO))
}

/// The verdict on a connection, an authorizer asked where it is wanted.
async fn judge(
    conn: &Conn,
    ruling: Option<&Ruling>,
    wire: Wire,
    sni: Option<&str>,
) -> (Box<Outcome>, Option<Answered>) {
    let question = match conn.judge(ruling, wire, sni, None, None) {
        Judged::Verdict(outcome) => return (outcome, None),
        Judged::Ask(question) => question,
    };
    let answer = match conn.ask(&question, sni, None).await {
        Ok(Checked::Allow(_)) => Authorizer::Allow,
        Ok(Checked::Deny(_)) => Authorizer::Deny,
        Err(error) => {
            let provider = &question.provider;
            tracing::warn!(provider, %error, "an authorizer failed");
            Authorizer::Error
        }
    };
    let answered = Answered {
        provider: question.provider,
        answer,
    };
    let outcome = match conn.judge(ruling, wire, sni, None, Some(&answered)) {
        Judged::Verdict(outcome) => outcome,
        Judged::Ask(other) => {
            let cause = policyc::request::Cause::CustomError;
            settled(Expected::Deny, cause, Some(other.rule), None)
        }
    };
    (outcome, Some(answered))
}

/// What a tunnel has carried.
#[derive(Debug, Default)]
pub(super) struct Carried {
    /// Bytes.
    pub to_pod: u64,
    pub to_client: u64,
    pub error: Option<io::Error>,
}

/// Carries bytes until one side fails, both have ended, nothing moves for too long, or policies
/// change and no longer allow it. `on_break` is told, before the client's side is closed, where the
/// end is not both sides' own, and whether policies are the cause.
pub(super) async fn tunnel(
    client: impl AsyncRead + AsyncWrite + Unpin,
    up: impl AsyncRead + AsyncWrite + Unpin,
    mut changes: watch::Receiver<u64>,
    allowed: impl Fn() -> bool,
    idle: Duration,
    on_break: impl FnOnce(bool),
) -> Carried {
    let moved = Moved {
        start: Instant::now(),
        last_ms: AtomicU64::new(0),
    };
    let (to_pod, to_client) = (AtomicU64::new(0), AtomicU64::new(0));
    let carrying = async {
        let (mut client, mut up) = (client, up);
        let (mut up_stream, mut down_stream) = (Half::new(&to_pod), Half::new(&to_client));
        let carry = poll_fn(|context| {
            let up_ended = up_stream.poll(&mut client, &mut up, &moved, context)?;
            let down_ended = down_stream.poll(&mut up, &mut client, &moved, context)?;
            match (up_ended, down_ended) {
                (Poll::Ready(()), Poll::Ready(())) => Poll::Ready(Ok(())),
                _ => Poll::Pending,
            }
        });
        let mut carry = pin!(carry);
        let error = loop {
            tokio::select! {
                // Not one byte more than policies allow.
                biased;
                changed = changes.changed() => {
                    if changed.is_err() {
                        break io::Error::other("the agent ends");
                    }
                    if !allowed() {
                        on_break(true);
                        return None;
                    }
                }
                done = &mut carry => match done {
                    Ok(_) => return None,
                    Err(error) => break error,
                },
                () = sleep_until(moved.last() + idle) => {
                    if moved.last().elapsed() >= idle {
                        break io::ErrorKind::TimedOut.into();
                    }
                }
            }
        };
        on_break(false);
        Some(error)
    };
    let error = carrying.await;
    Carried {
        to_pod: to_pod.into_inner(),
        to_client: to_client.into_inner(),
        error,
    }
}

/// When bytes last moved, either way.
struct Moved {
    start: Instant,
    /// Milliseconds after `start`.
    last_ms: AtomicU64,
}

impl Moved {
    fn now(&self) {
        let elapsed = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(elapsed, Ordering::Relaxed);
    }

    fn last(&self) -> Instant {
        self.start + Duration::from_millis(self.last_ms.load(Ordering::Relaxed))
    }
}

/// One direction. It holds bytes only while they cannot be written: a thousand tunnels that carry
/// nothing have no buffer.
struct Half<'a> {
    /// Read and not yet written, from `at` on.
    waiting: Vec<u8>,
    at: usize,
    state: State,
    carried: &'a AtomicU64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// What was read ends; the other side is to be told.
    Ending,
    Ended,
}

/// Bytes read at once.
const READ: usize = 16 << 10;

impl<'a> Half<'a> {
    fn new(carried: &'a AtomicU64) -> Self {
        Self {
            waiting: Vec::new(),
            at: 0,
            state: State::Open,
            carried,
        }
    }

    /// Reads no more than it could write: a slow reader slows the writer. `Ok(Ready)` when all has
    /// been carried to the end.
    fn poll<R, W>(
        &mut self,
        from: &mut R,
        to: &mut W,
        moved: &Moved,
        context: &mut Context<'_>,
    ) -> io::Result<Poll<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            while let Some(rest @ [_, ..]) = self.waiting.get(self.at..) {
                match Pin::new(&mut *to).poll_write(context, rest)? {
                    Poll::Pending => return self.flush(to, context),
                    Poll::Ready(count) => self.wrote(count, moved)?,
                }
            }
            self.waiting = Vec::new();
            self.at = 0;
            match self.state {
                State::Ended => return Ok(Poll::Ready(())),
                State::Ending => match Pin::new(&mut *to).poll_shutdown(context)? {
                    Poll::Pending => return Ok(Poll::Pending),
                    Poll::Ready(()) => self.state = State::Ended,
                },
                State::Open => {
                    let mut bytes = [MaybeUninit::uninit(); READ];
                    let mut buffer = ReadBuf::uninit(&mut bytes);
                    if Pin::new(&mut *from)
                        .poll_read(context, &mut buffer)?
                        .is_pending()
                    {
                        return self.flush(to, context);
                    }
                    moved.now();
                    let read = buffer.filled();
                    if read.is_empty() {
                        self.state = State::Ending;
                        continue;
                    }
                    let written = match Pin::new(&mut *to).poll_write(context, read)? {
                        Poll::Ready(count) => {
                            self.wrote(count, moved)?;
                            count
                        }
                        Poll::Pending => 0,
                    };
                    self.waiting = read.get(written..).unwrap_or_default().to_vec();
                    self.at = 0;
                }
            }
        }
    }

    fn wrote(&mut self, count: usize, moved: &Moved) -> io::Result<()> {
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.at += count;
        self.carried.fetch_add(count as u64, Ordering::Relaxed);
        moved.now();
        Ok(())
    }

    /// Nothing more can be done now, but what was written must not wait for it.
    fn flush<W: AsyncWrite + Unpin>(
        &self,
        to: &mut W,
        context: &mut Context<'_>,
    ) -> io::Result<Poll<()>> {
        let _later = Pin::new(to).poll_flush(context)?;
        Ok(Poll::Pending)
    }
}
