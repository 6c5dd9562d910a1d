//! What a replay says of a recorded flow is what the whole request would have met, whatever of it
//! was not recorded.

use policyc::{
    ast::AuthorizationPolicy,
    options::CatchAllDeny,
    replay::{Recording, Verdict, flow, replay},
    request::{Expected, Http, Judgement, Layer, Request, Wire},
};
use proptest::{collection::vec, prelude::*};

use super::{NOW, cases, options, program, requests, tables, world};

/// The line that a monitor would show.
pub fn line(request: &Request, judged: &Judgement) -> flow::Line {
    let mut seen = request.clone();
    seen.ext_authz = None;
    seen.http = request.http.as_ref().map(|http| Http {
        method: http.method.clone(),
        path: http.path.clone(),
        host: http.host.clone().or_else(|| {
            let mut hosts = http
                .headers
                .iter()
                .filter(|(name, _)| name.eq_ignore_ascii_case("host"));
            hosts
                .next()
                .and_then(|(_, values)| values.lines().first().cloned())
        }),
        ..Http::default()
    });
    if judged.layer == Layer::L4 {
        (seen.http, seen.sni, seen.protocol) = (None, None, Wire::Tcp);
    }
    let mut value = serde_json::to_value(&seen).expect("a request is JSON");
    let recorded = serde_json::json!({
        "time": "2026-01-01T00:00:00Z", "src_port": 40000, "dst_ip": "10.0.0.1",
        "verdict": judged.verdict, "layer": judged.layer, "reason": judged.reason,
        "datapath": "denied", "policy": judged.policy, "rule": judged.rule, "audit": judged.audit,
        "dry_run": judged.dry_run, "hook": "to_pod", "epoch": 1, "generation": 0,
    });
    let fields = recorded.as_object().expect("an object").clone();
    value.as_object_mut().expect("an object").extend(fields);
    flow::parse(value.to_string().as_bytes()).expect("a monitor's line")
}

/// What a replay knows of each request that can be judged: the verdict, where it is certain.
fn known(
    old: Vec<AuthorizationPolicy>,
    new: Vec<AuthorizationPolicy>,
    requests: &[Request],
) -> Result<(usize, usize), TestCaseError> {
    let options = options(CatchAllDeny::DenyAll);
    let (old, new) = (world::cluster(old), world::cluster(new));
    let program = program(&new);
    let before = tables(&old, &options, requests);
    let after = tables(&new, &options, requests);
    let (mut certain, mut all) = (0, 0);
    for ((request, before), after) in requests.iter().zip(before).zip(after) {
        let (Ok(before), Ok(after)) = (before, after) else {
            continue;
        };
        all += 1;
        let mut recording = Recording::default();
        recording.add(line(request, &before)).expect("one flow");
        let replayed = replay(&program, &new, &recording, NOW);
        let told: Vec<Verdict> = [&replayed.widened, &replayed.narrowed]
            .into_iter()
            .flatten()
            .map(|changed| changed.now)
            .collect();
        let same = (replayed.same == 1).then(|| Verdict::from(before.verdict));
        let told: Vec<Verdict> = told.into_iter().chain(same).collect();
        let not_told = replayed.unknown.len() + replayed.unjudged.len();
        prop_assert_eq!(
            told.len() + not_told,
            1,
            "a flow is told of once: {:?}",
            replayed
        );
        if let [verdict] = told[..] {
            certain += 1;
            prop_assert_eq!(
                verdict == Verdict::Allow,
                after.verdict == Expected::Allow,
                "the record of {:?} and the request differ: {:?}",
                request,
                after
            );
        }
    }
    Ok((certain, all))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn what_a_replay_tells_is_what_the_request_would_meet(
        old in vec(world::policy(), 0..3),
        new in vec(world::policy(), 0..4),
        requests in vec(requests::request(), 1..12),
    ) {
        known(old, new, &requests)?;
    }
}

/// Saying always "not known" would satisfy the property.
#[test]
fn most_flows_are_told_for_certain() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let (mut certain, mut all) = (0, 0);
    for _ in 0..60 {
        let mut policies = || {
            let drawn = vec(world::policy(), 1..3).new_tree(&mut runner);
            drawn.expect("it draws").current()
        };
        let (old, new) = (policies(), policies());
        let requests = vec(requests::request(), 8).new_tree(&mut runner);
        let requests = requests.expect("it draws").current();
        let (known, judged) = known(old, new, &requests).expect("the property holds");
        certain += known;
        all += judged;
    }
    assert!(
        certain * 2 > all,
        "{certain} of {all} flows were told for certain"
    );
}
