//! Bundles that come from files, and from doubles of a registry and of the API server.

mod doubles;

use std::{fs, os::unix::fs::symlink, path::Path, time::Duration};

use doubles::{ApiServer, Registry};
use tempfile::tempdir;

use super::{
    Credentials, DeliveryError, Fetched, Kept, News, Options, Source, Watch,
    file::FileWatch,
    map::{MapError, MapWatch},
    oci::{OciError, OciWatch},
};

fn bytes(news: Result<News, impl std::error::Error>) -> Vec<u8> {
    match news {
        Ok(News::New(fetched)) => fetched.bytes,
        other => panic!("nothing new: {other:?}"),
    }
}

/// Looks as often as it takes for what is being written to have settled.
async fn settled(watch: &mut FileWatch) -> Option<Vec<u8>> {
    for _ in 0..2 {
        if let News::New(fetched) = watch.look().await.expect("it can be read") {
            return Some(fetched.bytes);
        }
    }
    None
}

#[tokio::test]
async fn a_file_is_taken_when_another_one_has_its_name_and_not_before() {
    let folder = tempdir().expect("a folder");
    let path = folder.path().join("bundle.bin");
    let mut watch = FileWatch::of(&path);
    assert!(watch.look().await.is_err(), "there is none yet");
    fs::write(&path, "one").expect("a file");
    assert_eq!(bytes(watch.look().await), b"one");
    assert_eq!(settled(&mut watch).await, None);
    let beside = folder.path().join("beside");
    fs::write(&beside, "two").expect("a file");
    fs::rename(&beside, &path).expect("another name");
    assert_eq!(settled(&mut watch).await.as_deref(), Some(&b"two"[..]));
    // The same once more is nothing new.
    fs::write(&beside, "two").expect("a file");
    fs::rename(&beside, &path).expect("another name");
    assert_eq!(settled(&mut watch).await, None);
}

#[tokio::test]
async fn a_file_that_is_still_being_written_is_left_alone() {
    let folder = tempdir().expect("a folder");
    let path = folder.path().join("bundle.bin");
    fs::write(&path, "one").expect("a file");
    let mut watch = FileWatch::of(&path);
    assert_eq!(bytes(watch.look().await), b"one");
    for text in ["h", "ha", "hal", "half"] {
        fs::write(&path, text).expect("a file");
        assert!(matches!(watch.look().await, Ok(News::Same)), "{text}");
    }
    assert_eq!(bytes(watch.look().await), b"half");
}

#[tokio::test]
async fn a_volume_of_a_config_map_is_followed_when_kubelet_exchanges_its_folder() {
    let folder = tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let publish = |generation: &str, text: &str| {
        fs::create_dir(at(generation)).expect("a folder");
        fs::write(at(generation).join("bundle.bin"), text).expect("a file");
        symlink(generation, at("..data_tmp")).expect("a link");
        fs::rename(at("..data_tmp"), at("..data")).expect("another name");
    };
    publish("..2026_1", "one");
    symlink("..data/bundle.bin", at("bundle.bin")).expect("a link");
    let mut watch = FileWatch::of(&at("bundle.bin"));
    assert_eq!(bytes(watch.look().await), b"one");
    publish("..2026_2", "two");
    fs::remove_dir_all(at("..2026_1")).expect("it is there");
    assert_eq!(settled(&mut watch).await.as_deref(), Some(&b"two"[..]));
}

fn oci(text: &str, credentials: Option<&Path>) -> OciWatch {
    let Ok(Source::Oci(place)) = text.parse() else {
        panic!("{text} is no artifact");
    };
    let credentials = credentials.map(|path| Credentials { path: path.into() });
    OciWatch::of(&place, credentials)
}

#[tokio::test]
async fn a_tag_is_followed_and_what_it_names_is_named_by_digest() {
    let registry = Registry::new().await;
    let first = registry.push("prod", &[b"one"]);
    let mut watch = oci(&registry.place("prod"), None);
    let Ok(News::New(fetched)) = watch.look().await else {
        panic!("it is there");
    };
    assert_eq!(fetched.bytes, b"one");
    let name = fetched.name.display().to_string();
    assert!(name.ends_with(&format!("policies:prod@{first}")), "{name}");
    assert!(matches!(watch.look().await, Ok(News::Same)));
    assert_eq!(
        registry.blobs_sent(),
        1,
        "what is the same is not sent again"
    );
    registry.push("prod", &[b"two"]);
    assert_eq!(bytes(watch.look().await), b"two");
    assert!(!watch.is_final());
}

#[tokio::test]
async fn what_a_digest_names_is_had_once_and_must_be_that() {
    let registry = Registry::new().await;
    let digest = registry.push("prod", &[b"one"]);
    let mut watch = oci(&registry.place_of(&digest), None);
    assert!(!watch.is_final());
    assert_eq!(bytes(watch.look().await), b"one");
    assert!(watch.is_final());
    let other = registry.push("next", &[b"two"]);
    registry.replace(&digest, &other);
    let error = oci(&registry.place_of(&digest), None).look().await;
    let error = crate::chain(&error.expect_err("another manifest"));
    assert!(error.to_lowercase().contains("digest"), "{error}");
}

#[tokio::test]
async fn a_layer_with_other_bytes_than_its_digest_says_is_not_taken() {
    let registry = Registry::new().await;
    registry.push("prod", &[b"one"]);
    let mut watch = oci(&registry.place("prod"), None);
    for (damage, why) in [(&b"eno"[..], "digest"), (b"one and more", "more than")] {
        registry.damage(b"one", damage);
        let error = crate::chain(&watch.look().await.expect_err("it was changed"));
        assert!(error.to_lowercase().contains(why), "{error}");
    }
    registry.damage(b"one", b"one");
    assert_eq!(bytes(watch.look().await), b"one");
}

#[tokio::test]
async fn a_registry_that_knows_nobody_is_told_who_asks() {
    let registry = Registry::new().await;
    registry.push("prod", &[b"one"]);
    registry.ask_for("reader", "secret");
    let mut nobody = oci(&registry.place("prod"), None);
    let error = nobody.look().await.expect_err("it is refused");
    assert!(matches!(error, OciError::Unauthorized { .. }), "{error:?}");
    assert!(error.to_string().contains("--bundle-credentials"));
    let folder = tempdir().expect("a folder");
    let file = folder.path().join("config.json");
    let mut somebody = oci(&registry.place("prod"), Some(&file));
    assert!(matches!(
        somebody.look().await,
        Err(OciError::Credentials(_))
    ));
    // reader:secret
    let login = format!(
        "{{\"auths\": {{\"{}\": {{\"auth\": \"cmVhZGVyOnNlY3JldA==\"}}}}}}",
        registry.address
    );
    fs::write(&file, login).expect("a file");
    assert_eq!(bytes(somebody.look().await), b"one");
}

#[tokio::test]
async fn an_artifact_that_is_no_bundle_says_what_it_has() {
    let registry = Registry::new().await;
    registry.push("two", &[b"one", b"two"]);
    let error = oci(&registry.place("two"), None).look().await;
    let error = error.expect_err("two layers").to_string();
    assert!(
        error.ends_with("has 2 layers, and an artifact that is a bundle has one"),
        "{error}"
    );
    let missing = oci(&registry.place("none"), None).look().await;
    assert!(matches!(missing, Err(OciError::Pull { .. })), "{missing:?}");
}

fn watch(source: &str) -> Watch {
    let options = Options {
        poll: Duration::from_millis(50),
        credentials: None,
    };
    Watch::of(source.parse().expect("a source"), &options)
}

#[tokio::test]
async fn a_registry_that_fails_is_asked_again_less_and_less_often_until_it_answers() {
    let registry = Registry::new().await;
    registry.push("prod", &[b"one"]);
    // Who asks is asked first, and then the manifest.
    registry.fail_with(500, 2);
    let mut watch = watch(&registry.place("prod"));
    assert!(matches!(watch.look().await, Err(DeliveryError::Oci(_))));
    let mut last = Duration::ZERO;
    for failures in 1..7 {
        watch.failures = failures;
        let again = watch.again();
        assert!(again > last, "{again:?} after {last:?}");
        last = again;
    }
    watch.failures = u32::MAX;
    assert!(watch.again() <= Duration::from_secs(66));
    watch.failures = 1;
    assert_eq!(bytes(watch.next().await), b"one");
    assert_eq!(watch.failures, 0);
}

#[tokio::test]
async fn an_agent_begins_with_what_came_last_where_the_network_is_away() {
    let folder = tempdir().expect("a folder");
    let registry = Registry::new().await;
    let place = registry.place("prod");
    let kept = Kept::within(folder.path(), &place.parse().expect("a source"));
    let came = Fetched {
        bytes: b"earlier".to_vec(),
        name: "earlier".into(),
    };
    kept.write(&came);
    registry.fail_with(503, usize::MAX);
    let mut watch = watch(&place);
    let first = watch.first(&kept).await.expect("it was kept");
    assert_eq!(first.bytes, b"earlier");
    registry.push("prod", &[b"one"]);
    registry.fail_with(503, 0);
    assert_eq!(bytes(watch.next().await), b"one");
}

fn map(server: &ApiServer) -> MapWatch {
    let source = "configmap:enforcer-system/enforcer/bundle.bin";
    let Ok(Source::Map(place)) = source.parse() else {
        panic!("{source} is a ConfigMap");
    };
    MapWatch::through(&place, server.client())
}

#[tokio::test]
async fn a_config_map_is_watched_and_each_change_is_told() {
    let server = ApiServer::new().await;
    server.set(Some(("bundle.bin", b"one\xff")));
    let mut watch = map(&server);
    assert_eq!(bytes(watch.look().await), b"one\xff");
    server.set(Some(("bundle.bin", b"two\xff")));
    assert_eq!(bytes(watch.look().await), b"two\xff");
    server.set(Some(("other.bin", b"three")));
    let error = watch.look().await.expect_err("the key is gone").to_string();
    assert!(
        error.ends_with("has no such key; it has `other.bin`"),
        "{error}"
    );
    server.set(None);
    let error = watch.look().await.expect_err("it is gone");
    assert!(matches!(error, MapError::Missing(_)), "{error:?}");
    server.set(Some(("bundle.bin", b"four")));
    assert_eq!(bytes(watch.look().await), b"four");
}

#[tokio::test]
async fn who_may_not_watch_a_config_map_is_told_which_verbs_are_missing() {
    let server = ApiServer::new().await;
    server.forbid(true);
    let mut watch = map(&server);
    let error = watch.look().await.expect_err("it is forbidden");
    assert!(error.to_string().contains("get, list and watch"), "{error}");
    server.forbid(false);
    let error = watch.look().await.expect_err("there is none");
    assert!(matches!(error, MapError::Missing(_)), "{error:?}");
    server.set(Some(("bundle.bin", b"one")));
    assert_eq!(bytes(watch.look().await), b"one");
}
