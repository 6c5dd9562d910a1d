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
                    if let (Some(received), Some(data)) = (&self.received, frame.data_ref()) {
                        received.fetch_add(data.remaining() as u64, Ordering::Relaxed);
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
        let held = self.held();
        let rest = self.rest.size_hint();
        let mut hint = SizeHint::new();
        // INVARIANT: the upper bound is set first, for a lower one above it is a mistake.
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + held);
        }
        hint.set_lower(rest.lower() + held);
        hint
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
    exchange: Exchange,
}

enum From {
    Pod(Incoming),
    Here(Full<Bytes>),
}

impl Download {
    pub fn pod(body: Incoming, exchange: Exchange) -> Self {
        let from = From::Pod(body);
        Self { from, exchange }
    }

    pub fn here(body: Bytes, exchange: Exchange) -> Self {
        let from = From::Here(Full::new(body));
        Self { from, exchange }
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
        let this = &mut *self;
        let body = match &mut this.from {
            From::Here(body) => {
                let polled = Pin::new(body).poll_frame(context);
                return polled.map(|frame| frame.map(|frame| frame.map_err(Into::into)));
            }
            From::Pod(body) => body,
        };
        let flight = this.exchange.flight();
        if flight.is_some_and(|flight| flight.poll_lost_down(context).is_ready()) {
            this.exchange.break_off();
            return Poll::Ready(Some(Err(lost())));
        }
        let polled = Pin::new(body).poll_frame(context);
        if let Poll::Ready(Some(frame)) = &polled {
            match frame {
                Ok(frame) => {
                    let data = frame.data_ref();
                    this.exchange.sent += data.map_or(0, |data| data.remaining() as u64);
                }
                Err(_) => {
                    this.exchange.failed(Refusal::UpstreamFailed);
                    this.exchange.break_off();
                }
            }
        }
        polled.map(|frame| frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.from {
            From::Pod(body) => body.is_end_stream(),
            From::Here(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.from {
            From::Pod(body) => body.size_hint(),
            From::Here(body) => body.size_hint(),
        }
    }
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
