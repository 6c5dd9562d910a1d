//! Bodies on their way: streamed as they come, and broken off when their request loses its
//! permission.

use std::{
    collections::VecDeque,
    error::Error,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, Response, header::CONTENT_LENGTH};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::{
    Refusal,
    session::{Exchange, Flight},
    taking,
};

/// The library looks into errors for the reason that an HTTP/2 stream was reset with.
type Broken = Box<dyn Error + Send + Sync>;

/// From the client to the pod.
pub(super) struct Upload {
    /// Read before, for an authorizer.
    held: VecDeque<Bytes>,
    rest: Incoming,
    flight: Arc<Flight>,
    received: Option<Arc<AtomicU64>>,
}

impl Upload {
    pub fn new(
        held: VecDeque<Bytes>,
        rest: Incoming,
        flight: Arc<Flight>,
        received: Option<Arc<AtomicU64>>,
    ) -> Self {
        Self {
            held,
            rest,
            flight,
            received,
        }
    }

    fn held(&self) -> u64 {
        self.held.iter().map(|bytes| bytes.len() as u64).sum()
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        taking::asked();
        if self.flight.poll_lost_up(context).is_ready() {
            return Poll::Ready(Some(Err(lost())));
        }
        let polled = match self.held.pop_front() {
            Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            None => Pin::new(&mut self.rest).poll_frame(context),
        };
        polled.map(|frame| {
            frame.map(|frame| match frame {
                Ok(mut frame) => {
                    if let Some(data) = frame.data_ref() {
                        taking::given();
                        if let Some(received) = &self.received {
                            received.fetch_add(data.remaining() as u64, Ordering::Relaxed);
                        }
                    }
                    if let Some(trailers) = frame.trailers_mut() {
                        only_harmless(trailers);
                    }
                    Ok(frame)
                }
                Err(error) => {
                    self.flight.cut();
                    Err(error.into())
                }
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_empty() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        plus(self.rest.size_hint(), self.held())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if taking::is_over() {
            self.flight.stick();
        }
        taking::asked();
    }
}

/// What a pod might take for a header that nobody has judged.
const NEVER_TRAILERS: [&str; 14] = [
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "host",
    "forwarded",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-request-id",
];

/// RFC 9110, 6.5.1: trailers carry no field that frames, routes or authenticates the request.
fn only_harmless(trailers: &mut HeaderMap) {
    let harmful = |name: &HeaderName| {
        let name = name.as_str();
        NEVER_TRAILERS.contains(&name) || name.starts_with("x-forwarded-")
    };
    let named: Vec<HeaderName> = trailers
        .keys()
        .filter(|name| harmful(name))
        .cloned()
        .collect();
    for name in named {
        trailers.remove(name);
    }
}

/// The beginning of a body, and what it is shown as.
pub(super) struct Held {
    pub pieces: VecDeque<Bytes>,
    /// At most as many bytes as were asked for.
    pub shown: Bytes,
    /// There is more than what is shown.
    pub partial: bool,
}

/// Reads the beginning of a body, until there are more than `most` bytes or it ends.
pub(super) async fn hold(body: &mut Incoming, most: usize) -> Result<Held, Broken> {
    let mut pieces = VecDeque::new();
    let mut count = 0;
    while count <= most {
        let Some(frame) = body.frame().await else {
            break;
        };
        // Trailers come last, and are seldom enough to be let go of.
        if let Ok(data) = frame?.into_data() {
            count += data.len();
            pieces.push_back(data);
        }
    }
    let mut shown = BytesMut::with_capacity(count.min(most));
    for piece in &pieces {
        let room = most - shown.len();
        shown.extend_from_slice(&piece[..piece.len().min(room)]);
    }
    Ok(Held {
        pieces,
        shown: shown.freeze(),
        partial: count > most,
    })
}

/// From the pod to the client, or made here.
pub(super) struct Download {
    from: From,
    /// Read from the pod, and not yet given.
    rest: Bytes,
    exchange: Exchange,
}

enum From {
    Pod(Incoming),
    Here(Full<Bytes>),
}

impl Download {
    pub fn pod(body: Incoming, exchange: Exchange) -> Self {
        Self::new(From::Pod(body), exchange)
    }

    pub fn here(body: Bytes, exchange: Exchange) -> Self {
        Self::new(From::Here(Full::new(body)), exchange)
    }

    fn new(from: From, exchange: Exchange) -> Self {
        Self {
            from,
            rest: Bytes::new(),
            exchange,
        }
    }

    /// Of a body in pieces, this one; the rest is kept for later.
    fn piece(&mut self, mut bytes: Bytes) -> Frame<Bytes> {
        if taking::is_watched() && bytes.len() > taking::PIECE {
            self.rest = bytes.split_off(taking::PIECE);
        }
        taking::given();
        self.exchange.sent += bytes.len() as u64;
        Frame::data(bytes)
    }
}

/// HEAD is answered as GET would be, without the body. In HTTP/1 the library leaves it out by itself;
/// in HTTP/2 it would send it, and clients take that for a broken stream.
pub(super) fn leave_out(response: &mut Response<Download>) {
    let From::Here(body) = &mut response.body_mut().from else {
        return;
    };
    let length = body.size_hint().exact();
    *body = Full::default();
    if let Some(length) = length {
        let headers = response.headers_mut();
        headers.insert(CONTENT_LENGTH, length.into());
    }
}

impl Body for Download {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        taking::asked();
        let this = &mut *self;
        let body = match &mut this.from {
            From::Here(body) => {
                let polled = Pin::new(body).poll_frame(context);
                if let Poll::Ready(Some(_)) = &polled {
                    taking::given();
                }
                return polled.map(|frame| frame.map(|frame| frame.map_err(Into::into)));
            }
            From::Pod(body) => body,
        };
        let flight = this.exchange.flight();
        if flight.is_some_and(|flight| flight.poll_lost_down(context).is_ready()) {
            if flight.is_some_and(|flight| flight.is_stuck()) {
                this.exchange.failed(Refusal::UpstreamTimeout);
            }
            this.exchange.break_off();
            return Poll::Ready(Some(Err(lost())));
        }
        if !this.rest.is_empty() {
            let rest = std::mem::take(&mut this.rest);
            return Poll::Ready(Some(Ok(this.piece(rest))));
        }
        Pin::new(body).poll_frame(context).map(|frame| {
            frame.map(|frame| match frame {
                Ok(frame) => Ok(match frame.into_data() {
                    Ok(data) => this.piece(data),
                    Err(other) => other,
                }),
                Err(error) => {
                    this.exchange.failed(Refusal::UpstreamFailed);
                    this.exchange.break_off();
                    Err(error.into())
                }
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        match &self.from {
            From::Pod(body) => self.rest.is_empty() && body.is_end_stream(),
            From::Here(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.from {
            From::Pod(body) => plus(body.size_hint(), self.rest.len() as u64),
            From::Here(body) => body.size_hint(),
        }
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        if taking::is_over() {
            self.exchange.failed(Refusal::BodyTimeout);
            if let Some(flight) = self.exchange.flight() {
                flight.stick();
            }
        }
    }
}

/// The size of what is there already and of what comes.
fn plus(rest: SizeHint, held: u64) -> SizeHint {
    let mut hint = SizeHint::new();
    // INVARIANT: the upper bound is set first, for a lower one above it is a mistake.
    if let Some(upper) = rest.upper() {
        hint.set_upper(upper + held);
    }
    hint.set_lower(rest.lower() + held);
    hint
}

fn lost() -> Broken {
    io::Error::other("policies do not allow the request any more").into()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn trailers_carry_nothing_that_a_rule_would_have_wanted_to_see_first() {
        let mut trailers = HeaderMap::new();
        for name in ["grpc-status", "host", "x-forwarded-for", "authorization"] {
            let name = HeaderName::from_static(name);
            trailers.insert(name, HeaderValue::from_static("1"));
        }
        only_harmless(&mut trailers);
        let names: Vec<&str> = trailers.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["grpc-status"]);
    }
}
