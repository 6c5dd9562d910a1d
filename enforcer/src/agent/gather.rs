//! Changes of the cluster on their way to the table: one that comes after quiet is made at once, and
//! those that come close after one another are gathered, so that each costs its share of a link.
//!
//! Nothing that was told is lost: what could not be made comes back, and is tried again together with
//! what has happened since.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::Agent;
use crate::world::Changes;

/// Least time from one change that the table was linked anew for to the next one.
const APART: Duration = Duration::from_millis(50);
/// The same, from one that took a few stores.
const APART_STORED: Duration = Duration::from_millis(10);
/// How late a change may be because of it, the time for making it included.
pub const LATE_MAX: Duration = Duration::from_millis(60);
/// When what could not be made is tried again, though nothing else happens.
const RETRY: Duration = Duration::from_secs(1);
const _: () = assert!(APART.as_millis() < LATE_MAX.as_millis());

/// What was told and is not in the table yet.
#[derive(Debug, Default)]
pub struct Gather {
    waiting: Mutex<Changes>,
    some: Notify,
}

impl Gather {
    /// Tells of changes. Never waits.
    pub fn tell(&self, changes: Changes) {
        if changes.is_empty() {
            return;
        }
        self.waiting().then(changes);
        self.some.notify_one();
    }

    /// Makes what is told come true in the agent's table. Never ends.
    pub async fn follow(&self, agent: Arc<Agent>) {
        self.run(|changes| {
            let agent = Arc::clone(&agent);
            let making = tokio::task::spawn_blocking(move || made(&agent, changes));
            async {
                making.await.unwrap_or_else(|error| {
                    tracing::error!(%error, "a change of the cluster broke off, and is tried again");
                    None
                })
            }
        })
        .await;
    }

    /// `make` says how far from it the next one is to be; `None`: it could not.
    async fn run<M: Future<Output = Option<Duration>>>(&self, mut make: impl FnMut(Changes) -> M) {
        let mut next = Instant::now();
        loop {
            self.some.notified().await;
            sleep_until(next).await;
            loop {
                let began = Instant::now();
                next = began + APART;
                let changes = std::mem::take(&mut *self.waiting());
                if changes.is_empty() {
                    break;
                }
                if let Some(apart) = make(changes.clone()).await {
                    next = began + apart;
                    break;
                }
                self.put_back(changes);
                let again = Instant::now() + RETRY;
                tokio::select! {
                    () = sleep_until(again) => {}
                    () = self.some.notified() => sleep_until(next).await,
                }
            }
        }
    }

    fn put_back(&self, mut changes: Changes) {
        let mut waiting = self.waiting();
        changes.then(std::mem::take(&mut *waiting));
        *waiting = changes;
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Changes> {
        // Whatever broke off while it was held left whole changes.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts changes in force; how far from them the next ones are to be. `None`: it could not.
fn made(agent: &Agent, changes: Changes) -> Option<Duration> {
    match agent.change(changes) {
        Ok(changed) => {
            tracing::debug!(?changed, "the cluster has changed");
            if changed.words.is_some() {
                return Some(APART_STORED);
            }
            agent.make_ready();
            Some(APART)
        }
        Err(error) => {
            tracing::error!(
                error = crate::chain(&error),
                "a change of the cluster is not in force, and is tried again"
            );
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use policyc::cluster::Pod;

    use super::*;

    fn change(name: &str) -> Changes {
        let mut changes = Changes::default();
        let pod = Pod {
            namespace: "shop".into(),
            name: name.into(),
            ..Pod::default()
        };
        changes.pod(("shop".into(), name.into()), Some(pod));
        changes
    }

    /// What was made, when, in milliseconds since the first told.
    type Made = Vec<(u128, Vec<String>)>;

    /// Tells at these times and returns what was made; the first `failures` attempts fail.
    async fn made(told: &[(u64, &str)], failures: usize) -> Made {
        let (gather, made) = (
            Arc::new(Gather::default()),
            Arc::new(Mutex::new(Vec::new())),
        );
        // Some quiet first.
        tokio::time::advance(Duration::from_secs(5)).await;
        let began = Instant::now();
        let (run, to) = (gather.clone(), made.clone());
        let task = tokio::spawn(async move {
            run.run(|changes| {
                let names = changes.pods.keys().map(|(_, name)| name.clone()).collect();
                let mut made = to.lock().expect("no panic");
                made.push((began.elapsed().as_millis(), names));
                std::future::ready((made.len() > failures).then_some(APART))
            })
            .await;
        });
        for (at, name) in told {
            sleep_until(began + Duration::from_millis(*at)).await;
            gather.tell(change(name));
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
        task.abort();
        let made = made.lock().expect("no panic");
        made.clone()
    }

    fn expected(of: &[(u128, &[&str])]) -> Made {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        of.iter().map(|(at, of)| (*at, names(of))).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_after_quiet_is_made_at_once() {
        let made = made(&[(0, "a"), (50, "b"), (200, "c")], 0).await;
        assert_eq!(made, expected(&[(0, &["a"]), (50, &["b"]), (200, &["c"])]));
    }

    #[tokio::test(start_paused = true)]
    async fn changes_close_together_are_gathered_and_late_by_less_than_the_limit() {
        let told: Vec<(u64, String)> = (0..40).map(|i| (i * 7, format!("p{i:02}"))).collect();
        let borrowed: Vec<(u64, &str)> = told.iter().map(|(at, n)| (*at, n.as_str())).collect();
        let made = made(&borrowed, 0).await;
        let gathered: usize = made.iter().map(|(_, names)| names.len()).sum();
        assert_eq!(gathered, told.len(), "each once");
        assert!(made.len() <= 7, "{made:?}");
        for (at, names) in &made {
            for name in names {
                let told = told.iter().find(|(_, told)| told == name);
                let told = told.map_or(0, |(at, _)| u128::from(*at));
                assert!(at - told <= LATE_MAX.as_millis(), "{name} at {at}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_could_not_be_made_is_tried_again_with_what_came_since() {
        let made = made(&[(0, "a"), (10, "b")], 1).await;
        assert_eq!(made, expected(&[(0, &["a"]), (50, &["a", "b"])]));
        let alone = super::tests::made(&[(0, "a")], 1).await;
        assert_eq!(alone, expected(&[(0, &["a"]), (1000, &["a"])]));
    }
}
