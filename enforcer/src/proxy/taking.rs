//! Who is given bytes of a body and does not take them. The other side of an HTTP/2 stream may keep its
//! window closed while its connection lives on, and a pod may stop reading; then nobody asks the body
//! for more, and nothing in the body could notice. So the tasks in which the library carries bodies are
//! watched, and ended where a piece has been waiting for too long.

use std::{cell::Cell, future::poll_fn, pin::pin, sync::Arc, task::Poll, time::Duration};

use hyper::rt::Executor;
use tokio::{task_local, time::Instant};

use super::{Refusal, conn::Conn, guarded::Patience};

/// Bytes of a piece of a watched body: who takes so many in time is not given up.
pub(super) const PIECE: usize = 16 << 10;

#[derive(Default)]
struct Taking {
    /// A piece has been given, and the next not been asked for.
    since: Cell<Option<Instant>>,
    over: Cell<bool>,
}

task_local! {
    static TAKING: Taking;
}

/// A body in a watched task is asked for its next piece, or is no more.
pub(super) fn asked() {
    let _unwatched = TAKING.try_with(|taking| taking.since.set(None));
}

/// A body in a watched task has given a piece.
pub(super) fn given() {
    let _unwatched = TAKING.try_with(|taking| taking.since.set(Some(Instant::now())));
}

/// Whether a body is in a watched task.
pub(super) fn is_watched() -> bool {
    TAKING.try_with(|_| ()).is_ok()
}

/// Whether what ends now ends because nothing was taken.
pub(super) fn is_over() -> bool {
    TAKING
        .try_with(|taking| taking.over.get())
        .unwrap_or_default()
}

/// Runs a task in which one body at a time is carried, until it ends or somebody has not taken a piece
/// within `limit`, which is counted as `refusal`.
pub(super) async fn watch(task: impl Future, limit: Duration, conn: Arc<Conn>, refusal: Refusal) {
    TAKING
        .scope(Taking::default(), async move {
            let mut task = pin!(task);
            let mut patience = Patience::default();
            poll_fn(|context| {
                if task.as_mut().poll(context).is_ready() {
                    return Poll::Ready(());
                }
                match TAKING.with(|taking| taking.since.get()) {
                    Some(since) if patience.is_over(since, limit, context) => {
                        TAKING.with(|taking| taking.over.set(true));
                        conn.refuse(refusal);
                        Poll::Ready(())
                    }
                    _ => Poll::Pending,
                }
            })
            .await;
        })
        .await;
}

/// Starts the tasks of an HTTP/2 connection, each watched.
#[derive(Clone)]
pub(super) struct Watching {
    pub conn: Arc<Conn>,
    pub limit: Duration,
    pub refusal: Refusal,
}

impl<F> Executor<F> for Watching
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        let conn = Arc::clone(&self.conn);
        tokio::spawn(watch(task, self.limit, conn, self.refusal));
    }
}
