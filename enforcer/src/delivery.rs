//! How a bundle reaches this node and goes on reaching it: from a file, a ConfigMap or a registry.
//!
//! [`Source`] is where, [`Watch`] brings each bundle that is new there, and [`follow`] offers it to the
//! agent, which checks signature and order as for `enforcer load`. What comes and is refused changes
//! nothing. It is offered once: an operator's rollback stays until another bundle is published.

mod credentials;
mod file;
mod kept;
mod map;
mod oci;
mod source;
mod status;

use std::{panic::AssertUnwindSafe, path::PathBuf, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use tokio::time::{Instant, timeout};

pub use credentials::{Credentials, CredentialsError};
pub use kept::Kept;
pub use oci::OciError;
pub use source::{Source, SourceError};
pub use status::{Delivery, DeliveryStatus};

use crate::agent::Agent;

/// Shortest time between two tries after a failure.
const AGAIN_MIN: Duration = Duration::from_secs(1);
/// Longest one, unless polls are farther apart.
const AGAIN_MAX: Duration = Duration::from_secs(60);
/// How long a bundle may take to come.
const PATIENCE: Duration = Duration::from_secs(120);
/// Most bytes of a bundle.
const BYTES_MAX: u64 = 1 << 30;

/// A bundle as it came.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fetched {
    pub bytes: Vec<u8>,
    /// Where it came from, for people: the source, with the version where it has one.
    pub name: PathBuf,
}

/// What a look at the source has brought.
#[derive(Debug)]
enum News {
    New(Fetched),
    /// The source was looked at, and has what came last.
    Same,
    /// Nothing was told for a while.
    Quiet,
}

/// Why no bundle comes. What was enforced stays enforced.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    #[error("cannot read bundle `{path}`")]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Map(#[from] map::MapError),
    #[error(transparent)]
    Oci(#[from] OciError),
    #[error("what was sent for `{0}` could not be taken: the log has more")]
    Broken(String),
    #[error("`{source_name}` did not send a bundle within {seconds} s")]
    Slow { source_name: String, seconds: u64 },
}

/// How a source is looked at.
#[derive(Clone, Debug)]
pub struct Options {
    /// Time between two looks at a registry.
    pub poll: Duration,
    /// For the registry.
    pub credentials: Option<Credentials>,
}

/// Brings what is new at a source.
pub struct Watch {
    source: Source,
    kind: Kind,
    poll: Duration,
    /// Failures in a row.
    failures: u32,
}

enum Kind {
    File(file::FileWatch),
    Map(Box<map::MapWatch>),
    Oci(Box<oci::OciWatch>),
}

impl Watch {
    /// Nothing is asked yet.
    pub fn of(source: Source, options: &Options) -> Self {
        let kind = match &source {
            Source::File(path) => Kind::File(file::FileWatch::of(path)),
            Source::Map(place) => Kind::Map(Box::new(map::MapWatch::of(place))),
            Source::Oci(place) => {
                let credentials = options.credentials.clone();
                Kind::Oci(Box::new(oci::OciWatch::of(place, credentials)))
            }
        };
        Self {
            source,
            kind,
            poll: options.poll,
            failures: 0,
        }
    }

    /// The bundle to begin with. A file that cannot be read is an error; what comes over the network
    /// is waited for, unless `kept` has what came before.
    pub async fn first(&mut self, kept: &Kept) -> Result<Fetched, DeliveryError> {
        loop {
            let error = match self.look().await {
                Ok(News::New(fetched)) => return Ok(fetched),
                // Nothing is known yet that it could be the same as.
                Ok(News::Same | News::Quiet) => continue,
                Err(error) => error,
            };
            if matches!(self.kind, Kind::File(_)) {
                return Err(error);
            }
            let why = crate::chain(&error);
            if let Some(fetched) = kept.read() {
                tracing::warn!(why, source = %self.source, "beginning with the bundle that came last");
                return Ok(fetched);
            }
            let again = self.again();
            tracing::warn!(why, source = %self.source, again_s = again.as_secs(), "no bundle yet");
            tokio::time::sleep(again).await;
        }
    }

    /// Waits for the time of the next look, and looks.
    async fn next(&mut self) -> Result<News, DeliveryError> {
        if self.failures > 0 {
            tokio::time::sleep(self.again()).await;
        } else {
            match &self.kind {
                Kind::File(_) => tokio::time::sleep(file::EVERY).await,
                // It is told of changes.
                Kind::Map(_) => {}
                Kind::Oci(oci) if oci.is_final() => {
                    tokio::time::sleep(self.poll).await;
                    return Ok(News::Quiet);
                }
                Kind::Oci(_) => tokio::time::sleep(jittered(self.poll)).await,
            }
        }
        self.look().await
    }

    async fn look(&mut self) -> Result<News, DeliveryError> {
        let news = match &mut self.kind {
            Kind::File(file) => file.look().await,
            Kind::Map(map) => match timeout(self.poll, map.look()).await {
                Ok(news) => news.map_err(DeliveryError::from),
                Err(_) => return Ok(News::Quiet),
            },
            // A library's panic must not end the deliveries.
            Kind::Oci(oci) => match timeout(PATIENCE, caught(oci.look())).await {
                Ok(Some(news)) => news.map_err(DeliveryError::from),
                Ok(None) => Err(DeliveryError::Broken(self.source.to_string())),
                Err(_) => Err(DeliveryError::Slow {
                    source_name: self.source.to_string(),
                    seconds: PATIENCE.as_secs(),
                }),
            },
        };
        match news {
            Ok(_) => self.failures = 0,
            Err(_) => self.failures = self.failures.saturating_add(1),
        }
        news
    }

    /// How long to wait after a failure: longer each time, and not all nodes at the same moment.
    fn again(&self) -> Duration {
        let doubled = AGAIN_MIN * 2_u32.saturating_pow(self.failures.saturating_sub(1).min(16));
        let most = match self.kind {
            Kind::Oci(_) => AGAIN_MAX.max(self.poll),
            Kind::File(_) => AGAIN_MIN,
            Kind::Map(_) => AGAIN_MAX,
        };
        jittered(doubled.min(most))
    }
}

/// `None` where it panics.
async fn caught<T>(future: impl Future<Output = T>) -> Option<T> {
    AssertUnwindSafe(future).catch_unwind().await.ok()
}

/// Up to a tenth more or less.
fn jittered(time: Duration) -> Duration {
    time.mul_f64(0.9 + 0.2 * fastrand::f64())
}

/// Offers the agent what comes, for as long as it lives.
pub async fn follow(mut watch: Watch, agent: Arc<Agent>, delivery: Arc<Delivery>, kept: Kept) {
    // What was refused, and when it may be offered once more: a full disk may have been the reason.
    let mut refused: Option<(Fetched, Instant)> = None;
    loop {
        let offered = match watch.next().await {
            Ok(News::New(fetched)) => fetched,
            Ok(unchanged @ (News::Same | News::Quiet)) => {
                if matches!(unchanged, News::Same) {
                    delivery.looked();
                }
                match refused.take_if(|(_, when)| *when <= Instant::now()) {
                    Some((fetched, _)) => fetched,
                    None => continue,
                }
            }
            Err(error) => {
                delivery.failed(crate::chain(&error));
                continue;
            }
        };
        let (agent, fetched) = (agent.clone(), offered.clone());
        let loaded = tokio::task::spawn_blocking(move || agent.offer(fetched)).await;
        refused = match loaded {
            Ok(Ok(_)) => {
                if !matches!(watch.kind, Kind::File(_)) {
                    kept.write(&offered);
                }
                delivery.applied(&offered);
                None
            }
            Ok(Err(error)) => {
                delivery.refused(&offered, crate::chain(&error));
                Some((offered, Instant::now() + watch.poll))
            }
            Err(error) => {
                delivery.refused(&offered, error.to_string());
                Some((offered, Instant::now() + watch.poll))
            }
        };
    }
}

#[cfg(test)]
mod tests;
