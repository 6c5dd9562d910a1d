//! Break-glass: pods, or all of them, that are judged and not hindered for a time. The end lies in
//! the table, and the kernel keeps to it; the agent only says so, and tidies up.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use policyc::link::LinkedPod;
use serde::{Deserialize, Serialize};

use super::{Agent, OrderError, State};
use crate::{
    apply::{self, Generation, seconds_since_boot},
    report::{Kind, line},
    state::PauseNote,
};

/// Longest pause.
pub const PAUSE_MAX: Duration = Duration::from_secs(24 * 3_600);

/// A pause that holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PauseStatus {
    /// `namespace/name`; `None` for every pod.
    pub pod: Option<String>,
    pub left_seconds: u32,
    /// RFC 3339, UTC; empty where it is not known.
    pub since: String,
    pub reason: Option<String>,
}

/// Why a pause was not made, or not ended. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum PauseError {
    #[error("a pause of {seconds} s: it lasts from one second to {} s", PAUSE_MAX.as_secs())]
    Time { seconds: u64 },
    #[error("no pod `{pod}` is enforced on this node; those that are: {have}")]
    NoSuchPod { pod: String, have: String },
    #[error("pod `{0}` is only guarded on this node: there is nothing to pause")]
    NotEnforced(String),
    #[error("`{0}` is not paused{1}")]
    NotPaused(String, &'static str),
}

/// What the proxy must know of pauses: last seconds since boot.
#[derive(Debug, Default)]
pub struct Paused {
    all: Option<u32>,
    pods: BTreeMap<IpAddr, u32>,
}

impl Agent {
    /// Pauses a pod, `namespace/name`, or every pod.
    pub fn pause(
        &self,
        pod: Option<&str>,
        time: Duration,
        reason: Option<String>,
    ) -> Result<PauseStatus, OrderError> {
        let seconds = time.as_secs();
        if seconds == 0 || time > PAUSE_MAX {
            return Err(PauseError::Time { seconds }.into());
        }
        let state = &mut *self.state();
        let active = self.active.load_full().ok_or(OrderError::NoTable)?;
        let until = apply::until(time);
        match pod {
            None => state.tables.pause_all(Some(until)),
            Some(name) => state.tables.pause_pod(enforced(&active, name)?, until),
        }
        let pod = pod.map(str::to_owned);
        state.kept.pauses.retain(|note| note.pod != pod);
        state.kept.pauses.push(PauseNote {
            pod: pod.clone(),
            reason: reason.clone(),
            since: line::now(),
        });
        state.keep();
        self.pauses_changed(state, &active);
        let about = format!("{} for {seconds} s", said(pod.as_deref()));
        self.reporter.notice(Kind::Paused, about, reason);
        Ok(status(state, pod, until))
    }

    /// Ends the pause of a pod, or every pause. Returns how many ended.
    pub fn resume(&self, pod: Option<&str>) -> Result<usize, OrderError> {
        let state = &mut *self.state();
        let active = self.active.load_full().ok_or(OrderError::NoTable)?;
        let pauses = pauses(state, &active);
        let ended: Vec<&PauseStatus> = pauses
            .iter()
            .filter(|pause| pod.is_none() || pause.pod.as_deref() == pod)
            .collect();
        if ended.is_empty() {
            let all = pauses.iter().any(|pause| pause.pod.is_none());
            let why = match all {
                true => " by itself: every pod is, and `enforcer resume all` ends that",
                false => "",
            };
            return Err(PauseError::NotPaused(said(pod), why).into());
        }
        for pause in &ended {
            end(state, &active, pause.pod.as_deref());
            let about = said(pause.pod.as_deref());
            self.reporter.notice(Kind::Resumed, about, None);
        }
        state.keep();
        self.pauses_changed(state, &active);
        Ok(ended.len())
    }

    /// Tells of pauses that have ended by themselves, and forgets them.
    pub fn end_pauses(&self) {
        if self.paused.load().is_empty() {
            return;
        }
        let state = &mut *self.state();
        let Some(active) = self.active.load_full() else {
            return;
        };
        let now = seconds_since_boot();
        let mut over: Vec<Option<String>> = Vec::new();
        for pod in &active.pods {
            let until = state.tables.paused_until(pod.slot);
            if until.is_some_and(|until| until < now) {
                over.push(Some(name(pod)));
            }
        }
        if state.tables.all_paused_until().is_some_and(|u| u < now) {
            over.push(None);
        }
        if over.is_empty() {
            return;
        }
        for pod in &over {
            end(state, &active, pod.as_deref());
            let about = said(pod.as_deref());
            self.reporter.notice(Kind::PauseEnded, about, None);
        }
        state.keep();
        self.pauses_changed(state, &active);
    }

    /// Whether the pod that holds an address is paused.
    pub fn is_paused(&self, pod: IpAddr) -> bool {
        self.paused.load().holds(pod)
    }

    /// The proxy judges its connections anew.
    pub(super) fn pauses_changed(&self, state: &State, active: &Generation) {
        let pods = active.slots.iter().filter_map(|(address, slot)| {
            let until = state.tables.paused_until(*slot)?;
            Some((*address, until))
        });
        let paused = Paused {
            all: state.tables.all_paused_until(),
            pods: pods.collect(),
        };
        let nothing = paused.is_empty() && self.paused.load().is_empty();
        self.paused.store(paused.into());
        if !nothing {
            self.changes.send_modify(|_| {});
        }
    }
}

impl Paused {
    fn is_empty(&self) -> bool {
        self.all.is_none() && self.pods.is_empty()
    }

    fn holds(&self, pod: IpAddr) -> bool {
        if self.is_empty() {
            return false;
        }
        let until = self.all.max(self.pods.get(&pod.to_canonical()).copied());
        until.is_some_and(|until| seconds_since_boot() <= until)
    }
}

/// The pauses that hold.
pub(super) fn pauses(state: &State, active: &Generation) -> Vec<PauseStatus> {
    let now = seconds_since_boot();
    let all = state.tables.all_paused_until().map(|until| (None, until));
    let pods = active.pods.iter().filter_map(|pod| {
        let until = state.tables.paused_until(pod.slot)?;
        Some((Some(name(pod)), until))
    });
    all.into_iter()
        .chain(pods)
        .filter(|(_, until)| *until >= now)
        .map(|(pod, until)| status(state, pod, until))
        .collect()
}

fn status(state: &State, pod: Option<String>, until: u32) -> PauseStatus {
    let note = state.kept.pauses.iter().find(|note| note.pod == pod);
    PauseStatus {
        left_seconds: until.saturating_sub(seconds_since_boot()),
        since: note.map(|note| note.since.clone()).unwrap_or_default(),
        reason: note.and_then(|note| note.reason.clone()),
        pod,
    }
}

fn end(state: &mut State, active: &Generation, pod: Option<&str>) {
    match pod {
        None => state.tables.pause_all(None),
        Some(pod) => {
            for linked in active.pods.iter().filter(|linked| name(linked) == pod) {
                let flag = enforcer_ebpf::words::pod_flags::PAUSED;
                state.tables.clear_pod_flags(linked.slot, flag);
            }
        }
    }
    state.kept.pauses.retain(|note| note.pod.as_deref() != pod);
}

/// Slot of a policed pod.
fn enforced(active: &Generation, wanted: &str) -> Result<u32, PauseError> {
    let pod = active.pods.iter().find(|pod| name(pod) == wanted);
    match pod {
        Some(pod) if pod.enrolled => Ok(pod.slot),
        Some(_) => Err(PauseError::NotEnforced(wanted.into())),
        None => {
            let policed = active.pods.iter().filter(|pod| pod.enrolled);
            let mut have: Vec<String> = policed.map(name).collect();
            have.sort();
            Err(PauseError::NoSuchPod {
                pod: wanted.into(),
                have: match have.is_empty() {
                    true => "none".into(),
                    false => have.join(", "),
                },
            })
        }
    }
}

fn name(pod: &LinkedPod) -> String {
    format!("{}/{}", pod.namespace, pod.name)
}

fn said(pod: Option<&str>) -> String {
    pod.unwrap_or("all").to_owned()
}
