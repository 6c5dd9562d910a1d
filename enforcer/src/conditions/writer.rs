//! Writes the conditions, while this agent is the one that does.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use kube::{
    Api, Client, Error,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams},
};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval},
};

use super::{
    Desired, MANAGER,
    change::{Policy, change},
    lease::{HELD, Lease},
};
use crate::report::line;

/// The conditions that policies need, by `(namespace, name)`.
pub type Conditions = Arc<BTreeMap<(String, String), Desired>>;

/// How often all policies are looked at, though nothing has changed here.
const LOOK_EVERY: Duration = Duration::from_secs(300);
/// Policies that are listed at a time.
const PAGE: u32 = 500;

/// Writes conditions.
pub struct Writer {
    client: Client,
    lease: Lease,
}

/// Why conditions are not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error(
        "cannot take the lease that says who writes conditions: the agent needs the verbs get, create and update on leases of coordination.k8s.io in its namespace"
    )]
    Lease {
        #[source]
        source: Box<Error>,
    },
    #[error("cannot list policies: the agent needs the verb list on authorizationpolicies")]
    List {
        #[source]
        source: Box<Error>,
    },
    #[error("a policy that the API server has is not as it should be")]
    Object {
        #[source]
        source: serde_json::Error,
    },
    #[error(
        "cannot write the condition of `{policy}`: the agent needs the verb patch on authorizationpolicies/status"
    )]
    Write {
        policy: String,
        #[source]
        source: Box<Error>,
    },
}

impl Writer {
    /// `namespace` is the agents', `node` the name by which this one is known.
    pub fn new(client: Client, namespace: &str, node: &str) -> Self {
        Self {
            lease: Lease::of(client.clone(), namespace, node),
            client,
        }
    }

    /// Writes for as long as somebody says what is to be written.
    pub async fn run(mut self, mut wanted: watch::Receiver<Conditions>) {
        let mut every = interval(HELD / 3);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looked: Option<Instant> = None;
        loop {
            let mut changed = false;
            tokio::select! {
                _ = every.tick() => {}
                still = wanted.changed() => match still {
                    Ok(()) => changed = true,
                    Err(_) => return,
                },
            }
            let conditions = wanted.borrow_and_update().clone();
            let due = changed || looked.is_none_or(|at| at.elapsed() >= LOOK_EVERY);
            match self.step(&conditions, due).await {
                Ok(true) => looked = Some(Instant::now()),
                Ok(false) => {}
                Err(error) => {
                    // Looked at again with the next renewal.
                    looked = None;
                    tracing::warn!(error = crate::chain(&error), "conditions are not written");
                }
            }
        }
    }

    /// Renews the lease, and where it is ours and `due` writes what has to be written. Whether that
    /// was looked at.
    async fn step(&mut self, conditions: &Conditions, due: bool) -> Result<bool, WriteError> {
        let ours = self.lease.take().await;
        let ours = ours.map_err(|source| WriteError::Lease {
            source: Box::new(source),
        })?;
        if !ours {
            return Ok(false);
        }
        if !due {
            return Ok(false);
        }
        let written = self.write(conditions).await?;
        if written > 0 {
            tracing::info!(written, "conditions of policies");
        }
        Ok(true)
    }

    /// Writes what has to be written now. How much that was.
    pub async fn write(&self, conditions: &Conditions) -> Result<usize, WriteError> {
        let kind = GroupVersionKind::gvk("security.istio.io", "v1", "AuthorizationPolicy");
        let kind = ApiResource::from_gvk_with_plural(&kind, "authorizationpolicies");
        let all: Api<DynamicObject> = Api::all_with(self.client.clone(), &kind);
        let mut params = ListParams::default().limit(PAGE);
        let mut written = 0;
        loop {
            let page = all.list(&params).await.map_err(|source| WriteError::List {
                source: Box::new(source),
            })?;
            for object in page.items {
                let policy = serde_json::to_value(object).and_then(serde_json::from_value);
                let policy = policy.map_err(|source| WriteError::Object { source })?;
                written += usize::from(self.write_one(&kind, &policy, conditions).await?);
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(written),
            }
        }
    }

    async fn write_one(
        &self,
        kind: &ApiResource,
        policy: &Policy,
        conditions: &Conditions,
    ) -> Result<bool, WriteError> {
        let name = (
            policy.metadata.namespace.clone(),
            policy.metadata.name.clone(),
        );
        let Some(patch) = change(policy, conditions.get(&name), &line::now()) else {
            return Ok(false);
        };
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &name.0, kind);
        let params = PatchParams {
            field_manager: Some(MANAGER.into()),
            ..PatchParams::default()
        };
        let patch = Patch::Merge(&patch);
        match api.patch_status(&name.1, &params, &patch).await {
            Ok(_) => Ok(true),
            // It has changed, or is gone: what is said of it comes with the next look.
            Err(Error::Api(status)) if [404, 409].contains(&status.code) => Ok(false),
            Err(source) => Err(WriteError::Write {
                policy: format!("{}/{}", name.0, name.1),
                source: Box::new(source),
            }),
        }
    }
}

#[cfg(test)]
mod tests;
