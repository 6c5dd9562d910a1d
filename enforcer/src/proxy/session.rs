//! What one client's HTTP connection is doing: the requests that are being carried, so that a change
//! of policy finds them.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Instant,
};

use futures_util::task::AtomicWaker;
use http::{HeaderMap, Method};
use policyc::{
    l7::{HttpRequest, Outcome},
    request::{Expected, Wire},
};

use super::{
    Access, Refusal, Spoken, Why,
    conn::{Answered, Conn, Verdict},
    head::{Head, Lines},
};

/// A client's HTTP connection.
pub(super) struct Session {
    pub conn: Arc<Conn>,
    http1: bool,
    flights: Mutex<Vec<Arc<Flight>>>,
    busy: AtomicUsize,
    /// When the last request ended, or the connection began.
    idle_since: Mutex<Instant>,
    reset: AtomicBool,
    switched: AtomicBool,
}

/// An allowed request that is being carried.
pub(super) struct Flight {
    asked: Asked,
    lost: AtomicBool,
    /// The client has not sent its body to the end.
    cut: AtomicBool,
    /// One side does not take what it is given.
    stuck: AtomicBool,
    up: AtomicWaker,
    down: AtomicWaker,
}

/// A request as it was judged.
pub(super) struct Asked {
    pub method: Method,
    pub headers: HeaderMap,
    pub head: Head,
    /// When it came, in seconds since 1970. Its tokens are good as long as it lasts.
    pub now: u64,
    /// What an authorizer has said about it.
    pub answered: Option<Answered>,
}

impl Asked {
    pub fn request<'a>(&'a self, lines: &'a Lines<'a>) -> HttpRequest<'a> {
        HttpRequest {
            method: self.method.as_str(),
            target: &self.head.target,
            authority: self.head.authority.as_deref(),
            headers: lines,
            claims: None,
            now: self.now,
        }
    }
}

impl Session {
    pub fn new(conn: Arc<Conn>, http1: bool) -> Self {
        Self {
            conn,
            http1,
            flights: Mutex::default(),
            busy: AtomicUsize::new(0),
            idle_since: Mutex::new(Instant::now()),
            reset: AtomicBool::new(false),
            switched: AtomicBool::new(false),
        }
    }

    /// Some request is neither refused nor answered to its end.
    pub fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed) > 0
    }

    /// Since when no request has ended; while none is being answered, there was nothing to answer.
    pub fn idle_since(&self) -> tokio::time::Instant {
        let since = self.idle_since.lock();
        (*since.unwrap_or_else(PoisonError::into_inner)).into()
    }

    /// The connection will end by a reset.
    pub fn reset(&self) {
        self.reset.store(true, Ordering::Relaxed);
    }

    pub fn is_reset(&self) -> bool {
        self.reset.load(Ordering::Relaxed)
    }

    /// From now on another protocol is spoken.
    pub fn switch(&self) {
        self.switched.store(true, Ordering::Release);
    }

    pub fn has_switched(&self) -> bool {
        self.switched.load(Ordering::Acquire)
    }

    fn flights(&self) -> MutexGuard<'_, Vec<Arc<Flight>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Policies have changed: what has lost its permission is broken off.
    pub fn judge_again(&self) {
        // Judging takes its time, and those that end must not wait for it.
        let flights = self.flights().clone();
        for flight in flights {
            flight.judge_again(&self.conn);
        }
    }
}

impl Flight {
    fn new(asked: Asked) -> Self {
        Self {
            asked,
            lost: AtomicBool::new(false),
            cut: AtomicBool::new(false),
            stuck: AtomicBool::new(false),
            up: AtomicWaker::new(),
            down: AtomicWaker::new(),
        }
    }

    pub fn asked(&self) -> &Asked {
        &self.asked
    }

    /// Whether it may still be carried. What has lost its permission never has it again.
    pub fn judge_again(&self, conn: &Conn) -> bool {
        if self.is_lost() {
            return false;
        }
        let lines = Lines(&self.asked.headers);
        let request = self.asked.request(&lines);
        let answered = self.asked.answered.as_ref();
        let allowed = conn.allows_still(Wire::Http, None, Some(&request), answered);
        if !allowed {
            self.lost.store(true, Ordering::Release);
            self.wake();
        }
        allowed
    }

    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// The client does not send the rest of its body.
    pub fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    pub fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }

    /// One side does not take what it is given: nothing is carried on, either way.
    pub fn stick(&self) {
        self.stuck.store(true, Ordering::Release);
        self.wake();
    }

    pub fn is_stuck(&self) -> bool {
        self.stuck.load(Ordering::Acquire)
    }

    fn wake(&self) {
        self.up.wake();
        self.down.wake();
    }

    /// Ready when the permission is lost or nothing moves; asked by whoever carries the request's body.
    pub fn poll_lost_up(&self, context: &Context<'_>) -> Poll<()> {
        self.poll_lost(&self.up, context)
    }

    /// The same for whoever waits for the answer or carries it.
    pub fn poll_lost_down(&self, context: &Context<'_>) -> Poll<()> {
        self.poll_lost(&self.down, context)
    }

    fn poll_lost(&self, waker: &AtomicWaker, context: &Context<'_>) -> Poll<()> {
        waker.register(context.waker());
        if self.is_lost() || self.is_stuck() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

/// A request from its head to the last byte of its answer. Counted and logged when dropped.
pub(super) struct Exchange {
    session: Arc<Session>,
    began: Instant,
    flight: Option<Arc<Flight>>,
    /// What the access log is told; without a log, nothing.
    record: Option<Box<Record>>,
    pub status: u16,
    /// Of the answer's body.
    pub sent: u64,
}

struct Record {
    method: String,
    target: String,
    host: Option<String>,
    request_id: Option<String>,
    received: Arc<AtomicU64>,
    verdict: Option<Verdict>,
    failed: Option<Refusal>,
}

impl Exchange {
    pub fn begin(session: Arc<Session>) -> Self {
        session.busy.fetch_add(1, Ordering::Relaxed);
        Self {
            session,
            began: Instant::now(),
            flight: None,
            record: None,
            status: 0,
            sent: 0,
        }
    }

    /// Remembers the request, where somebody wants to read about it.
    pub fn note(&mut self, method: &Method, head: &Head, headers: &HeaderMap) {
        if !self.session.conn.shared.reporter.wants_accesses() {
            return;
        }
        let id = headers.get("x-request-id");
        self.record = Some(Box::new(Record {
            method: method.as_str().into(),
            target: head.target.clone(),
            host: head.authority.clone(),
            request_id: id.map(|id| String::from_utf8_lossy(id.as_bytes()).into_owned()),
            received: Arc::default(),
            verdict: None,
            failed: None,
        }));
    }

    pub fn judged(&mut self, epoch: u32, outcome: &Outcome) {
        if let Some(record) = &mut self.record {
            record.verdict = Some(self.session.conn.verdict(epoch, outcome));
        }
    }

    /// The proxy could not carry it to its end.
    pub fn failed(&mut self, refusal: Refusal) {
        if let Some(record) = &mut self.record {
            record.failed = Some(refusal);
        }
    }

    /// The request is allowed, and from now on a change of policy finds it.
    pub fn take_off(&mut self, asked: Asked) -> Arc<Flight> {
        let flight = Arc::new(Flight::new(asked));
        self.session.flights().push(Arc::clone(&flight));
        self.flight = Some(Arc::clone(&flight));
        flight
    }

    pub fn flight(&self) -> Option<&Arc<Flight>> {
        self.flight.as_ref()
    }

    /// Where the bytes of the request's body are counted.
    pub fn received(&self) -> Option<Arc<AtomicU64>> {
        self.record.as_ref().map(|r| Arc::clone(&r.received))
    }

    /// The end of the connection must not look like the end of the answer. An HTTP/2 stream ends by
    /// itself.
    pub fn break_off(&self) {
        if self.session.http1 {
            self.session.reset();
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let session = &self.session;
        if let Some(flight) = &self.flight {
            session
                .flights()
                .retain(|other| !Arc::ptr_eq(other, flight));
        }
        let now = Instant::now();
        *session
            .idle_since
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = now;
        session.busy.fetch_sub(1, Ordering::Relaxed);
        let conn = &session.conn;
        let time = now - self.began;
        conn.shared.stats.latency.add(time);
        let Some(record) = &self.record else {
            return;
        };
        let lost = self.flight.as_ref().is_some_and(|flight| flight.is_lost());
        let verdict = record.verdict.as_ref();
        conn.shared.reporter.access(&Access {
            source: conn.client,
            destination: conn.pod,
            epoch: verdict.map(|v| v.epoch),
            verdict: match verdict {
                Some(v) if record.failed.is_none() && !lost => v.verdict,
                _ => Expected::Deny,
            },
            why: record
                .failed
                .map(Why::Proxy)
                .or(verdict.map(|v| Why::Policy(v.cause))),
            policy: verdict.and_then(|v| v.policy.as_deref()),
            rule: verdict.and_then(|v| v.rule),
            broken_off: lost,
            spoken: Spoken::Http {
                method: &record.method,
                target: &record.target,
                host: record.host.as_deref(),
            },
            request_id: record.request_id.as_deref(),
            status: Some(self.status).filter(|status| *status != 0),
            received: record.received.load(Ordering::Relaxed),
            sent: self.sent,
            time,
        });
    }
}
