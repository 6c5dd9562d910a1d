//! What is to be written to one policy so that it has the condition that it should have.
//!
//! The list of conditions belongs to all who write some: Istio's schema gives it no keys, so that
//! server-side apply would replace the list of others. Ours is put into the list that is there, and
//! the object's version goes along: where another has written meanwhile, nothing is.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Desired, TYPE};

/// The part of an AuthorizationPolicy that is looked at.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
pub struct Policy {
    pub metadata: Meta,
    #[serde(default)]
    status: Option<Status>,
}

#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Meta {
    #[serde(default)]
    pub namespace: String,
    pub name: String,
    #[serde(default)]
    resource_version: String,
    #[serde(default)]
    generation: i64,
}

/// Whatever others have written stays as it is.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
struct Status {
    #[serde(default)]
    conditions: Option<Vec<Value>>,
}

/// Our condition.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    reason: String,
    message: String,
    last_transition_time: String,
    observed_generation: i64,
}

impl Policy {
    fn conditions(&self) -> &[Value] {
        let conditions = self.status.as_ref().and_then(|s| s.conditions.as_deref());
        conditions.unwrap_or_default()
    }

    fn ours(&self) -> Option<usize> {
        let mut conditions = self.conditions().iter();
        conditions.position(|condition| condition["type"] == TYPE)
    }
}

/// The merge patch of the policy's status, or `None` where all is as it should be. `now` is RFC 3339.
pub fn change(policy: &Policy, desired: Option<&Desired>, now: &str) -> Option<Value> {
    let at = policy.ours();
    let exact = Desired::exact();
    let desired = match (desired, at) {
        (Some(desired), _) => desired,
        // It was told once that something is wrong, and is told that nothing is any more.
        (None, Some(_)) => &exact,
        (None, None) => return None,
    };
    let before = at.and_then(|at| policy.conditions().get(at));
    // One that is not as we write them is written anew.
    let before: Option<Condition> =
        before.and_then(|before| serde_json::from_value(before.clone()).ok());
    let status = if desired.status { "True" } else { "False" };
    let same_status = before.as_ref().filter(|before| before.status == status);
    let condition = Condition {
        kind: TYPE.into(),
        status: status.into(),
        reason: desired.reason.into(),
        message: desired.message.clone(),
        last_transition_time: match same_status {
            Some(before) => before.last_transition_time.clone(),
            None => now.into(),
        },
        observed_generation: policy.metadata.generation,
    };
    if before.as_ref() == Some(&condition) {
        return None;
    }
    let mut conditions = policy.conditions().to_vec();
    match at {
        Some(at) => conditions[at] = json!(condition),
        None => conditions.push(json!(condition)),
    }
    Some(json!({
        "metadata": { "resourceVersion": policy.metadata.resource_version },
        "status": { "conditions": conditions }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const THEN: &str = "2026-01-01T00:00:00Z";
    const NOW: &str = "2026-01-02T00:00:00Z";

    fn policy(conditions: Value) -> Policy {
        let policy = json!({ "metadata": { "namespace": "shop", "name": "a",
            "resourceVersion": "7", "generation": 3 }, "status": { "conditions": conditions } });
        serde_json::from_value(policy).expect("a policy")
    }

    fn differs() -> Desired {
        Desired {
            status: true,
            reason: super::super::desired::DIFFERS,
            message: "it denies more".into(),
        }
    }

    fn ours(desired: &Desired, since: &str, generation: i64) -> Value {
        json!({ "type": TYPE, "status": if desired.status { "True" } else { "False" },
            "reason": desired.reason, "message": desired.message, "lastTransitionTime": since,
            "observedGeneration": generation })
    }

    #[test]
    fn a_condition_is_added_to_those_of_others_and_only_once() {
        let others = json!({ "type": "Reconciled", "status": "True", "unknown": 1 });
        let patch = change(&policy(json!([others])), Some(&differs()), NOW).expect("a change");
        let expected = json!({ "metadata": { "resourceVersion": "7" },
            "status": { "conditions": [others, ours(&differs(), NOW, 3)] } });
        assert_eq!(patch, expected);
        let written = policy(patch["status"]["conditions"].clone());
        assert_eq!(change(&written, Some(&differs()), "later"), None);
    }

    #[test]
    fn the_time_is_that_of_the_last_change_of_the_status() {
        let before = policy(json!([ours(&differs(), THEN, 2)]));
        let patch = change(&before, Some(&differs()), NOW).expect("another generation");
        assert_eq!(
            patch["status"]["conditions"],
            json!([ours(&differs(), THEN, 3)])
        );
        let failed = Desired {
            status: false,
            ..differs()
        };
        let patch = change(&before, Some(&failed), NOW).expect("another status");
        assert_eq!(
            patch["status"]["conditions"],
            json!([ours(&failed, NOW, 3)])
        );
    }

    #[test]
    fn a_policy_that_was_mended_is_told_so_and_others_are_left_alone() {
        assert_eq!(change(&policy(json!([])), None, NOW), None);
        let before = policy(json!([ours(&differs(), THEN, 3)]));
        let patch = change(&before, None, NOW).expect("it is mended");
        assert_eq!(
            patch["status"]["conditions"],
            json!([ours(&Desired::exact(), THEN, 3)])
        );
        let written = policy(patch["status"]["conditions"].clone());
        assert_eq!(change(&written, None, NOW), None);
        let odd = policy(json!([{ "type": TYPE, "status": 5 }]));
        let patch = change(&odd, Some(&differs()), NOW).expect("it is written anew");
        assert_eq!(
            patch["status"]["conditions"],
            json!([ours(&differs(), NOW, 3)])
        );
    }
}
