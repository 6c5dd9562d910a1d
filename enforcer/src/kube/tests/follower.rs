//! One kind: what is told of it, and where its watch goes on.

use super::*;

struct Following {
    script: Script,
    health: Arc<Health>,
    news: mpsc::Receiver<(Kind, News)>,
    kind: Kind,
}

async fn follow(kind: Kind, pace: Pace, answers: impl IntoIterator<Item = Answer>) -> Following {
    let script = Script::start(answers).await;
    let health = Arc::new(Health::new(true));
    let (out, news) = mpsc::channel(16);
    let follower = Follower::new(client(&script), kind, mesh(), pace, health.clone(), out);
    tokio::spawn(follower.run());
    Following {
        script,
        health,
        news,
        kind,
    }
}

impl Following {
    /// The next things told, in short.
    async fn told(&mut self, count: usize) -> Vec<String> {
        let mut told = Vec::new();
        for _ in 0..count {
            let next = tokio::time::timeout(PATIENCE, self.news.recv()).await;
            let (kind, news) = next.expect("news in time").expect("it goes on");
            assert_eq!(kind, self.kind);
            told.push(match news {
                News::Begin => "begin".into(),
                News::Now(seen) => seen.name.1,
                News::End => "end".into(),
                News::Gone(name) => format!("-{}", name.1),
            });
        }
        told
    }

    fn status(&self) -> KindStatus {
        let kinds = self.health.status().kinds;
        let name = self.kind.to_string();
        let found = kinds.into_iter().find(|kind| kind.kind == name);
        found.expect("it is followed")
    }

    async fn until(&self, what: &str, holds: impl Fn(&KindStatus) -> bool) {
        let waiting = async {
            while !holds(&self.status()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, waiting).await;
        assert!(waited.is_ok(), "{what}: {:?}", self.status());
    }

    async fn until_asked(&self, part: &str) {
        let waiting = async {
            while !self.script.asked().iter().any(|asked| asked.contains(part)) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, waiting).await;
        assert!(waited.is_ok(), "no `{part}` in {:#?}", self.script.asked());
    }
}

#[tokio::test]
async fn pages_are_read_to_the_end_and_a_watch_goes_on_from_there() {
    let mut following = follow(
        Kind::Namespaces,
        PACE,
        [
            page(5, "more", &["a", "b"]),
            page(6, "", &["c"]),
            Answer::Held(event("ADDED", "d", 7) + &event("DELETED", "a", 8)),
        ],
    )
    .await;
    let told = following.told(7).await;
    assert_eq!(told, ["begin", "a", "b", "c", "end", "d", "-a"]);
    let asked = following.script.asked();
    assert!(asked[0].starts_with("/api/v1/namespaces?") && asked[0].contains("limit=500"));
    assert!(asked[1].contains("continue=more"), "{asked:?}");
    assert!(asked[2].contains("watch=true"), "{asked:?}");
    assert!(asked[2].contains("allowWatchBookmarks=true"), "{asked:?}");
    assert!(asked[2].contains("resourceVersion=6"), "{asked:?}");
    following
        .until("two changes", |status| status.events == 2)
        .await;
    let status = following.status();
    assert_eq!(
        (status.state.as_str(), status.behind_seconds),
        ("watched", 0)
    );
}

#[tokio::test]
async fn a_cut_watch_goes_on_from_the_last_whole_line() {
    let half = event("ADDED", "c", 8);
    let half = &half[..half.len() / 2];
    let mut following = follow(
        Kind::Namespaces,
        PACE,
        [
            page(5, "", &["a"]),
            Answer::Cut(event("ADDED", "b", 7) + half),
            Answer::Held(event("ADDED", "c", 8)),
        ],
    )
    .await;
    assert_eq!(following.told(5).await, ["begin", "a", "end", "b", "c"]);
    assert!(following.script.asked()[2].contains("resourceVersion=7"));
}

#[tokio::test]
async fn a_version_that_is_gone_is_listed_anew_wherever_the_server_says_so() {
    let gone = refusal(410, "Expired", "too old resource version: 5 (9)");
    let line = json!({"type": "ERROR", "object": gone}).to_string() + "\n";
    let mut following = follow(
        Kind::Namespaces,
        PACE,
        [
            page(5, "", &["a", "b"]),
            Answer::Held(line),
            page(10, "", &["b"]),
            Answer::Refused(410, gone.clone()),
            page(12, "more", &["b"]),
            Answer::Refused(410, gone),
            page(14, "", &["c"]),
        ],
    )
    .await;
    let told = following.told(12).await;
    let expected = [
        "begin", "a", "b", "end", "begin", "b", "end", "begin", "b", "begin", "c", "end",
    ];
    assert_eq!(told, expected);
}

#[tokio::test]
async fn a_bookmark_moves_the_place_where_a_watch_goes_on() {
    let mark = json!({"type": "BOOKMARK", "object": {"kind": "Namespace", "apiVersion": "v1",
        "metadata": {"resourceVersion": "40", "creationTimestamp": null}}});
    let following = follow(
        Kind::Namespaces,
        PACE,
        [page(5, "", &[]), Answer::Ended(mark.to_string() + "\n")],
    )
    .await;
    following.until_asked("resourceVersion=40").await;
    assert_eq!(following.status().events, 0, "nothing has changed");
}

#[tokio::test]
async fn what_is_forbidden_is_named_with_its_verb_and_tried_again() {
    let no = refusal(403, "Forbidden", "services is forbidden");
    let mut following = follow(
        Kind::Services,
        Pace {
            retry: Duration::from_millis(300),
            retry_max: Duration::from_millis(300),
            ..PACE
        },
        [
            Answer::Refused(403, no.clone()),
            page(5, "", &["a"]),
            Answer::Refused(403, no),
            Answer::Held(String::new()),
        ],
    )
    .await;
    let says = |verb: &'static str| {
        move |status: &KindStatus| {
            let trouble = status.trouble.clone().unwrap_or_default();
            trouble.contains(&format!("`{verb}` `services`")) && status.state == "failing"
        }
    };
    following.until("forbidden to list", says("list")).await;
    assert_eq!(following.told(4).await, ["begin", "begin", "a", "end"]);
    following.until("forbidden to watch", says("watch")).await;
    let back = |status: &KindStatus| status.state == "watched" && status.trouble.is_none();
    following.until("watched", back).await;
    assert_eq!(
        following.status().lists,
        1,
        "the watch went on where it was"
    );
}

#[tokio::test]
async fn a_kind_that_is_not_installed_is_as_if_there_were_none_of_it() {
    let none = refusal(
        404,
        "NotFound",
        "the server could not find the requested resource",
    );
    let mut answers = vec![Answer::Refused(404, none); 8];
    answers.push(page(5, "", &["a"]));
    let mut following = follow(Kind::AuthorizationPolicies, PACE, answers).await;
    let mut told = following.told(2).await;
    // Each attempt begins a list.
    while told.last().is_none_or(|last| last != "end") {
        told.extend(following.told(1).await);
    }
    assert!(told.iter().all(|told| told == "begin" || told == "end"));
    let asked = following.script.asked();
    let [v1, beta] = ["v1", "v1beta1"]
        .map(|version| format!("/apis/security.istio.io/{version}/authorizationpolicies?"));
    assert!(
        asked.iter().any(|asked| asked.starts_with(&v1)),
        "{asked:?}"
    );
    assert!(
        asked.iter().any(|asked| asked.starts_with(&beta)),
        "{asked:?}"
    );
    while told.last().is_none_or(|last| last != "a") {
        told.extend(following.told(1).await);
    }
}

#[tokio::test]
async fn a_kind_that_must_be_there_and_is_not_is_a_trouble() {
    let none = refusal(
        404,
        "NotFound",
        "the server could not find the requested resource",
    );
    let following = follow(Kind::Pods, PACE, vec![Answer::Refused(404, none); 3]).await;
    let failing = |status: &KindStatus| status.state == "failing";
    following.until("it is a trouble", failing).await;
    assert!(!following.health.is_complete());
}

#[tokio::test]
async fn after_what_cannot_be_understood_everything_is_listed_again() {
    for garbage in [
        "{\"type\": \"ADDED\", \"obj\n",
        "{\"type\":\"MOVED\",\"object\":{}}\n",
    ] {
        let mut following = follow(
            Kind::Namespaces,
            PACE,
            [
                page(5, "", &["a"]),
                Answer::Held(event("ADDED", "b", 6) + garbage + &event("ADDED", "d", 8)),
                page(9, "", &["b", "c"]),
            ],
        )
        .await;
        let told = following.told(8).await;
        let expected = ["begin", "a", "end", "b", "begin", "b", "c", "end"];
        assert_eq!(told, expected, "{garbage}");
    }
}

#[tokio::test]
async fn a_server_that_falls_silent_is_asked_again_from_where_it_was() {
    let pace = Pace {
        quiet: Duration::from_millis(200),
        ..PACE
    };
    let answers = [
        page(5, "", &[]),
        Answer::Held(event("ADDED", "a", 6)),
        Answer::Held(event("ADDED", "b", 7)),
    ];
    let mut following = follow(Kind::Namespaces, pace, answers).await;
    assert_eq!(following.told(4).await, ["begin", "end", "a", "b"]);
    assert!(following.script.asked()[2].contains("resourceVersion=6"));
}

#[tokio::test]
async fn a_watch_that_is_refused_for_good_is_begun_anew() {
    // Not a code that the client itself tries again.
    let no = refusal(400, "BadRequest", "Too large resource version");
    let mut answers = vec![page(900, "", &["a"])];
    answers.extend(vec![Answer::Refused(400, no); 3]);
    answers.push(page(3, "", &["b"]));
    let mut following = follow(Kind::Namespaces, PACE, answers).await;
    let told = following.told(6).await;
    assert_eq!(told, ["begin", "a", "end", "begin", "b", "end"]);
}

#[tokio::test]
async fn while_nobody_answers_the_kind_falls_behind_and_what_was_told_stands() {
    let health = Arc::new(Health::new(true));
    let (out, mut news) = mpsc::channel(16);
    let mut config = Config::new("http://127.0.0.1:1".parse().expect("an address"));
    config.connect_timeout = Some(Duration::from_secs(1));
    let client = Client::try_from(config).expect("a client");
    let kind = Kind::Namespaces;
    tokio::spawn(Follower::new(client, kind, mesh(), PACE, health.clone(), out).run());
    let waiting = async {
        loop {
            let troubles = health.troubles().join("\n");
            if troubles.contains("namespaces are not known yet: the API server cannot be reached") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    assert!(waited.is_ok(), "{:?}", health.troubles());
    assert!(matches!(news.recv().await, Some((_, News::Begin))));
    assert!(
        matches!(news.recv().await, Some((_, News::Begin))),
        "no end"
    );
}
