//! The way to the pod of one client's HTTP connection: opened with the first allowed request, opened
//! again where the pod has closed it in between.

use std::{io, sync::Arc, time::Duration};

use http::{Request, Response, Version};
use hyper::{body::Incoming, client};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Mutex;

use super::{
    Refusal,
    body::Upload,
    conn::Conn,
    taking::{self, Watching},
    upstream::{self, First},
};

enum Sender {
    Http1(client::conn::http1::SendRequest<Upload>),
    Http2(client::conn::http2::SendRequest<Upload>),
}

/// The way to the pod.
pub(super) struct Way {
    conn: Arc<Conn>,
    version: Version,
    sender: Mutex<Option<Sender>>,
}

impl Way {
    pub fn new(conn: Arc<Conn>, version: Version) -> Self {
        Self {
            conn,
            version,
            sender: Mutex::new(None),
        }
    }

    pub fn version(&self) -> Version {
        self.version
    }

    /// Sends a request to the pod, on a new connection where the old one has ended in between, and
    /// waits for the head of its answer.
    pub async fn carry(&self, mut request: Request<Upload>) -> Result<Response<Incoming>, Refusal> {
        let mut slot = self.sender.lock().await;
        for first in [true, false] {
            if !slot.as_mut().is_some_and(Sender::is_usable) {
                *slot = None;
                let connected = self.connect().await;
                *slot = Some(connected.map_err(|error| self.failed(&error))?);
            }
            match slot.as_mut() {
                Some(Sender::Http2(sender)) => {
                    let mut sender = sender.clone();
                    drop(slot);
                    let sent = sender.send_request(request).await;
                    return sent.map_err(|error| self.failed(&io::Error::other(error)));
                }
                Some(Sender::Http1(sender)) => match sender.try_send_request(request).await {
                    Ok(response) => return Ok(response),
                    Err(mut error) => match error.take_message() {
                        // Nothing of it was sent: the pod had closed an idle connection.
                        Some(unsent) if first => {
                            request = unsent;
                            *slot = None;
                        }
                        _ => return Err(self.failed(&io::Error::other(error.into_error()))),
                    },
                },
                None => break,
            }
        }
        Err(Refusal::UpstreamFailed)
    }

    fn failed(&self, error: &io::Error) -> Refusal {
        tracing::debug!(client = %self.conn.client, pod = %self.conn.pod, %error, "upstream");
        upstream::refusal(error)
    }

    async fn connect(&self) -> io::Result<Sender> {
        let shared = &self.conn.shared;
        let (client, pod) = (self.conn.client, self.conn.pod);
        let (config, flows) = (&shared.config, &shared.flows);
        let leg = upstream::connect(config, flows, client, pod, First::Client(&[])).await?;
        let open = leg.open;
        let io = TokioIo::new(leg.stream);
        let watching = Watching {
            conn: Arc::clone(&self.conn),
            limit: shared.config.idle_timeout,
            refusal: Refusal::UpstreamTimeout,
        };
        let sender = if self.version == Version::HTTP_2 {
            let handshake = client::conn::http2::Builder::new(watching)
                .timer(TokioTimer::new())
                // A pod that has gone without a word is found out.
                .keep_alive_interval(Some(ALIVE_EVERY))
                .max_header_list_size(
                    u32::try_from(shared.config.head_bytes_max).unwrap_or(u32::MAX),
                )
                .handshake(io)
                .await;
            let (sender, connection) = handshake.map_err(io::Error::other)?;
            tokio::spawn(async move {
                let _open = open;
                let _ended = connection.await;
            });
            Sender::Http2(sender)
        } else {
            let handshake = client::conn::http1::Builder::new()
                .max_headers(shared.config.headers_max)
                .max_buf_size(shared.config.head_bytes_max.max(8_192))
                .handshake(io)
                .await;
            let (sender, connection) = handshake.map_err(io::Error::other)?;
            tokio::spawn(async move {
                let _open = open;
                let Watching {
                    conn,
                    limit,
                    refusal,
                } = watching;
                taking::watch(connection.with_upgrades(), limit, conn, refusal).await;
            });
            Sender::Http1(sender)
        };
        Ok(sender)
    }
}

/// Time between two signs of life that an HTTP/2 pod is asked for.
const ALIVE_EVERY: Duration = Duration::from_secs(60);

impl Sender {
    fn is_usable(&mut self) -> bool {
        match self {
            Self::Http1(sender) => !sender.is_closed(),
            Self::Http2(sender) => !sender.is_closed(),
        }
    }
}
