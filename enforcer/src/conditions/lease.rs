//! One agent of the cluster writes: whoever holds a Lease. It is held for as long as it is renewed; one
//! that nobody has renewed for its whole time, by our own clock, is anybody's.

use std::time::{Duration, Instant};

use k8s_openapi::{
    api::coordination::v1::{Lease as Object, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api, Client, Error,
    api::{ObjectMeta, PostParams},
};

use super::MANAGER;

/// How long it is held without being renewed.
pub const HELD: Duration = Duration::from_secs(30);
const NAME: &str = "enforcer-conditions";

pub struct Lease {
    api: Api<Object>,
    /// Who we are.
    holder: String,
    /// What the lease said last, and when it began to say so by our clock.
    seen: Option<(LeaseSpec, Instant)>,
    held: Duration,
}

impl Lease {
    /// The lease of a namespace, for a holder of this name.
    pub fn of(client: Client, namespace: &str, holder: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            holder: holder.into(),
            seen: None,
            held: HELD,
        }
    }

    #[cfg(test)]
    pub fn held_for(mut self, held: Duration) -> Self {
        self.held = held;
        self
    }

    /// Takes or renews it. Whether it is ours.
    ///
    /// # Errors
    /// When the API server does not say.
    pub async fn take(&mut self) -> Result<bool, Error> {
        let Some(mut object) = self.api.get_opt(NAME).await? else {
            let object = Object {
                metadata: ObjectMeta {
                    name: Some(NAME.into()),
                    ..ObjectMeta::default()
                },
                spec: Some(self.ours(None)),
            };
            return ours(self.api.create(&params(), &object).await);
        };
        let spec = object.spec.take().unwrap_or_default();
        if !self.may_take(&spec) {
            return Ok(false);
        }
        object.spec = Some(self.ours(Some(&spec)));
        // With the version that was read: of two who take it, one does.
        ours(self.api.replace(NAME, &params(), &object).await)
    }

    fn may_take(&mut self, spec: &LeaseSpec) -> bool {
        if spec.holder_identity.as_ref() == Some(&self.holder) {
            return true;
        }
        let nobodys = spec.holder_identity.as_ref().is_none_or(String::is_empty);
        match &self.seen {
            Some((seen, since)) if seen == spec => nobodys || since.elapsed() >= self.held,
            _ => {
                self.seen = Some((spec.clone(), Instant::now()));
                nobodys
            }
        }
    }

    fn ours(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let mine = before.filter(|spec| spec.holder_identity.as_ref() == Some(&self.holder));
        let changes = before.and_then(|spec| spec.lease_transitions).unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.holder.clone()),
            lease_duration_seconds: i32::try_from(self.held.as_secs()).ok(),
            acquire_time: match mine {
                Some(spec) => spec.acquire_time.clone(),
                None => Some(now.clone()),
            },
            lease_transitions: Some(match (mine, before) {
                (None, Some(_)) => changes.saturating_add(1),
                _ => changes,
            }),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }
    }
}

fn params() -> PostParams {
    PostParams {
        field_manager: Some(MANAGER.into()),
        ..PostParams::default()
    }
}

/// Another who was faster is no error.
fn ours(written: Result<Object, Error>) -> Result<bool, Error> {
    match written {
        Ok(_) => Ok(true),
        Err(Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}
