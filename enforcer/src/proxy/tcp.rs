//! Bytes, both ways, for what is not HTTP and for what HTTP was upgraded to.

use std::{
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use policyc::request::{Expected, Wire};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{conn::Conn, prefixed::Prefixed, upstream};

/// Judges a connection, and carries it while policies allow it.
pub(super) async fn serve(
    conn: Arc<Conn>,
    stream: TcpStream,
    read: Vec<u8>,
    wire: Wire,
    sni: Option<String>,
) -> io::Result<()> {
    let allowed = || conn.judge(wire, sni.as_deref(), None).verdict == Expected::Allow;
    let changes = conn.shared.judge.changes();
    if !allowed() {
        return reset(&stream);
    }
    let shared = &conn.shared;
    let connected = upstream::connect(&shared.config, &shared.flows, conn.client, conn.pod).await;
    let (up, _open) = match connected {
        Ok(connected) => connected,
        Err(error) => {
            reset(&stream)?;
            return Err(error);
        }
    };
    let client = Prefixed::new(read, stream);
    tunnel(client, up, changes, allowed, shared.config.idle_timeout).await
}

/// Ends a connection as the kernel ends a refused one.
fn reset(stream: &TcpStream) -> io::Result<()> {
    socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO))
}

/// Carries bytes until one side fails, both have ended, nothing moves for too long, or policies
/// change and no longer allow it.
pub(super) async fn tunnel(
    client: impl AsyncRead + AsyncWrite + Unpin,
    up: impl AsyncRead + AsyncWrite + Unpin,
    mut changes: watch::Receiver<u64>,
    allowed: impl Fn() -> bool,
    idle: Duration,
) -> io::Result<()> {
    let (client_read, client_write) = tokio::io::split(client);
    let (up_read, up_write) = tokio::io::split(up);
    let moved = Moved {
        start: Instant::now(),
        last_ms: AtomicU64::new(0),
    };
    let carry = async {
        tokio::try_join!(
            copy(client_read, up_write, &moved),
            copy(up_read, client_write, &moved)
        )
    };
    let mut carry = pin!(carry);
    loop {
        tokio::select! {
            done = &mut carry => return done.map(|_| ()),
            changed = changes.changed() => {
                if changed.is_err() || !allowed() {
                    return Ok(());
                }
            }
            () = sleep_until(moved.last() + idle) => {
                if moved.last().elapsed() >= idle {
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
        }
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
) -> io::Result<()> {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let count = from.read(&mut buffer).await?;
        moved.now();
        if count == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..count]).await?;
        moved.now();
    }
}
