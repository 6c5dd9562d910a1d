//! What is asked and answered, without an agent.

use super::*;
use crate::report::{Peer, Verdict, VerdictLine};

fn line() -> Line {
    Line::Verdict(Box::new(VerdictLine {
        id: "1-1".into(),
        time: String::new(),
        src: Peer::Pod("web/frontend-1".into()),
        src_principal: Some("cluster.local/ns/web/sa/frontend".into()),
        src_ip: [10, 0, 0, 1].into(),
        src_port: 40_000,
        dst: Peer::Ip {
            ip: [10, 0, 0, 2].into(),
        },
        dst_ip: [10, 0, 0, 2].into(),
        port: 80,
        protocol: "tcp".into(),
        verdict: Verdict::Deny,
        layer: policyc::request::Layer::L4,
        reason: "deny_rule".into(),
        datapath: "denied".into(),
        policy: Some("web/deny-all".into()),
        rule: Some(0),
        audit: Vec::new(),
        dry_run: Vec::new(),
        hook: "to_pod".into(),
        epoch: 1,
        generation: 0,
        http: None,
        shadow: None,
        sni: None,
    }))
}

#[test]
fn an_empty_filter_wants_everything_and_each_field_narrows() {
    assert!(Filter::default().wants(&line()));
    let filter = |set: &dyn Fn(&mut Filter)| {
        let mut filter = Filter::default();
        set(&mut filter);
        filter.wants(&line())
    };
    assert!(filter(&|f| f.namespace = Some("web".into())));
    assert!(!filter(&|f| f.namespace = Some("other".into())));
    assert!(filter(&|f| f.pod = Some("web/frontend-1".into())));
    assert!(filter(&|f| f.pod = Some("frontend-1".into())));
    assert!(!filter(&|f| f.pod = Some("other/frontend-1".into())));
    assert!(filter(&|f| f.verdict = Some(Verdict::Deny)));
    assert!(!filter(&|f| f.verdict = Some(Verdict::Allow)));
    assert!(filter(&|f| f.policy = Some("web/deny-all".into())));
    assert!(!filter(&|f| f.policy = Some("web/other".into())));
    assert!(filter(&|f| f.reason = Some("deny_rule".into())));
    assert!(filter(&|f| f.reason = Some("denied".into())));
    assert!(!filter(&|f| f.reason = Some("allowed".into())));
    assert!(filter(&|f| f.source = Some("web/frontend-1".into())));
    assert!(filter(&|f| f.source = Some("10.0.0.1".into())));
    let principal = "cluster.local/ns/web/sa/frontend";
    assert!(filter(&|f| f.source = Some(principal.into())));
    assert!(
        !filter(&|f| f.source = Some("10.0.0.2".into())),
        "the destination"
    );
}

#[tokio::test]
async fn a_monitor_that_is_too_slow_is_told_how_much_it_missed() {
    let (sender, receiver) = broadcast::channel(2);
    for _ in 0..7 {
        sender.send(Arc::new(line())).expect("somebody listens");
    }
    drop(sender);
    let (ours, its) = UnixStream::pair().expect("a pair of sockets");
    let (_, write) = its.into_split();
    let sent = monitor(receiver, &Filter::default(), write).await;
    sent.expect("the monitor is still there");
    let mut text = String::new();
    let mut ours = ours;
    let read = ours.read_to_string(&mut text).await;
    read.expect("the agent has ended");
    let lines: Vec<Line> = text
        .lines()
        .skip(1)
        .map(|line| serde_json::from_str(line).expect("one of the two kinds"))
        .collect();
    assert!(
        matches!(
            lines[..],
            [Line::Lost { lost: 5 }, Line::Verdict(_), Line::Verdict(_)]
        ),
        "five of seven did not fit, and that is said in their place: {text}"
    );
}

#[test]
fn requests_are_read_strictly() {
    let read = |text: &str| serde_json::from_str::<Request>(text);
    assert_eq!(
        read(r#"{"command":"status"}"#).expect("as the CLI sends it"),
        Request::Status {}
    );
    assert_eq!(
        read(r#"{"command":"pause","pod":"web/a","seconds":60,"reason":null}"#).expect("as sent"),
        Request::Pause {
            pod: Some("web/a".into()),
            seconds: 60,
            reason: None
        }
    );
    for text in [
        r#"{"command":"pause","pods":"web/a","seconds":60}"#,
        r#"{"command":"pause","seconds":60}"#,
        r#"{"command":"resume"}"#,
    ] {
        assert!(read(text).is_err(), "nothing must not mean all: {text}");
    }
    assert!(
        read(r#"{"command":"status","x":1}"#).is_err(),
        "an unknown field"
    );
    assert!(read(r#"{"command":"stat"}"#).is_err(), "an unknown command");
}

#[test]
fn every_kind_of_line_is_read_as_what_it_is() {
    let notice = crate::report::Notice::now(crate::report::Kind::Paused, "web/a".into(), None);
    for sent in [
        Line::Lost { lost: 3 },
        Line::Dropped { dropped: 4 },
        Line::Notice(notice),
        line(),
    ] {
        let text = serde_json::to_string(&sent).expect("lines are JSON");
        let read: Line = serde_json::from_str(&text).expect("one of the kinds");
        assert_eq!(format!("{read:?}"), format!("{sent:?}"));
    }
}
