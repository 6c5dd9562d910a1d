//! Bytes, both ways, for what is not HTTP and for what HTTP was upgraded to.

use std::{
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use policyc::{
    l7::Outcome,
    request::{Authorizer, Expected, Wire},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{
    Access, Refusal, Ruling, Spoken, Why,
    authorizer::Checked,
    conn::{Answered, Conn, Judged, epoch, settled},
    prefixed::Prefixed,
    upstream,
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
    let client = Prefixed::new(read, stream);
    let mut carried = Carried::default();
    let mut failed = None;
    let mut lost = false;
    if outcome.verdict == Expected::Deny {
        client.reset()?;
    } else {
        let shared = &conn.shared;
        match upstream::connect(&shared.config, &shared.flows, conn.client, conn.pod).await {
            Ok((up, _open)) => {
                let allowed = || conn.allows_still(wire, sni, None, answered.as_ref());
                let idle = shared.config.idle_timeout;
                let reset = Arc::new(AtomicBool::new(false));
                let client = client.reset_where(Arc::clone(&reset));
                let on_break = |by_policy| {
                    lost = by_policy;
                    reset.store(true, Ordering::Relaxed);
                };
                carried = tunnel(client, up, changes, allowed, idle, on_break).await;
            }
            Err(error) => {
                let refusal = upstream::refusal(&error);
                tracing::debug!(client = %conn.client, pod = %conn.pod, %error, "upstream");
                conn.refuse(refusal);
                failed = Some(refusal);
                client.reset()?;
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
    let (client_read, client_write) = tokio::io::split(client);
    let (up_read, up_write) = tokio::io::split(up);
    let moved = Moved {
        start: Instant::now(),
        last_ms: AtomicU64::new(0),
    };
    let (to_pod, to_client) = (AtomicU64::new(0), AtomicU64::new(0));
    let carrying = async {
        let carry = async {
            tokio::try_join!(
                copy(client_read, up_write, &moved, &to_pod),
                copy(up_read, client_write, &moved, &to_client)
            )
        };
        let mut carry = pin!(carry);
        let error = loop {
            tokio::select! {
                done = &mut carry => match done {
                    Ok(_) => return None,
                    Err(error) => break error,
                },
                changed = changes.changed() => {
                    if changed.is_err() {
                        break io::Error::other("the agent ends");
                    }
                    if !allowed() {
                        on_break(true);
                        return None;
                    }
                }
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

/// Reads no more than it could write: a slow reader slows the writer.
async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    moved: &Moved,
    bytes: &AtomicU64,
) -> io::Result<()> {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let count = from.read(&mut buffer).await?;
        moved.now();
        if count == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..count]).await?;
        bytes.fetch_add(count as u64, Ordering::Relaxed);
        moved.now();
    }
}
