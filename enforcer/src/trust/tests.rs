//! Which bundles are accepted, and that it is not forgotten.

use policyc::{
    bundle,
    inventory::Inventory,
    ir::{Atom, Program},
    sign::{SigningKey, private_key},
};
use tempfile::TempDir;

use super::*;

/// A node: its trusted key, and its memory.
struct Node {
    folder: TempDir,
    key: SigningKey,
}

impl Node {
    fn new() -> Self {
        let folder = TempDir::new().expect("a folder");
        let (private, public) = sign::generate().expect("random bytes");
        fs::write(folder.path().join("key.pub"), public).expect("it can be written");
        let key = private_key(&private).expect("it was just made");
        Self { folder, key }
    }

    fn memory(&self) -> PathBuf {
        self.folder.path().join("deep/accepted.json")
    }

    fn trust(&self) -> Result<Trust, TrustError> {
        Trust::open(&[self.folder.path().join("key.pub")], &self.memory())
    }

    /// A signed bundle of that generation; `ports` makes one differ from another.
    fn bundle(&self, generation: u64, port: u16) -> Vec<u8> {
        sign::sign(&unsigned(generation, port), &self.key, false).expect("a whole bundle")
    }
}

fn unsigned(generation: u64, port: u16) -> Vec<u8> {
    let program = Program {
        atoms: vec![Atom::DestinationPort(port)],
        ..Program::default()
    };
    bundle::write(&program, &Inventory::default(), generation).expect("it is small")
}

/// As the agent takes a bundle: signature, order, memory.
fn accept(trust: &Trust, bytes: &[u8]) -> Result<(), TrustError> {
    trust.check_signature(bytes)?;
    let bundle = bundle::read(bytes).expect("a whole bundle");
    trust.check_order(bundle.generation, &bundle.hash)?;
    trust.remember(bundle.generation, &bundle.hash)
}

#[test]
fn only_newer_bundles_of_the_trusted_key_are_accepted() {
    let node = Node::new();
    let trust = node.trust().expect("a key, and no memory yet");
    let unsigned = accept(&trust, &unsigned(1, 80));
    assert!(
        matches!(unsigned, Err(TrustError::Signature(SignError::Unsigned))),
        "{unsigned:?}"
    );
    let stranger = accept(&trust, &Node::new().bundle(1, 80));
    assert!(
        matches!(stranger, Err(TrustError::Signature(SignError::Stranger(_)))),
        "{stranger:?}"
    );
    let unordered = accept(&trust, &node.bundle(0, 80));
    assert!(
        matches!(unordered, Err(TrustError::Unordered)),
        "{unordered:?}"
    );
    accept(&trust, &node.bundle(5, 80)).expect("the first one");
    accept(&trust, &node.bundle(5, 80)).expect("the same one again");
    let twin = accept(&trust, &node.bundle(5, 81));
    assert!(
        matches!(twin, Err(TrustError::Twin { generation: 5, .. })),
        "{twin:?}"
    );
    let older = accept(&trust, &node.bundle(4, 80));
    assert!(
        matches!(
            older,
            Err(TrustError::Older {
                found: 4,
                highest: 5
            })
        ),
        "{older:?}"
    );
    accept(&trust, &node.bundle(6, 81)).expect("a newer one");
}

#[test]
fn what_was_accepted_outlives_the_agent() {
    let node = Node::new();
    accept(&node.trust().expect("no memory yet"), &node.bundle(7, 80)).expect("the first one");
    let next = node.trust().expect("what was written can be read");
    let older = accept(&next, &node.bundle(6, 80));
    assert!(
        matches!(older, Err(TrustError::Older { highest: 7, .. })),
        "{older:?}"
    );
    let twin = accept(&next, &node.bundle(7, 81));
    assert!(matches!(twin, Err(TrustError::Twin { .. })), "{twin:?}");
    accept(&next, &node.bundle(7, 80)).expect("the one that was active");
}

#[test]
fn a_rollback_asks_for_the_signature_alone_and_lets_nothing_be_forgotten() {
    let node = Node::new();
    let trust = node.trust().expect("no memory yet");
    accept(&trust, &node.bundle(9, 80)).expect("the first one");
    let older = node.bundle(8, 80);
    trust.check_signature(&older).expect("it is signed");
    let read = bundle::read(&older).expect("a whole bundle");
    trust
        .remember(read.generation, &read.hash)
        .expect("nothing is to be written");
    assert!(matches!(
        accept(&trust, &older),
        Err(TrustError::Older { highest: 9, .. })
    ));
    assert!(trust.check_signature(&unsigned(8, 80)).is_err());
}

#[test]
fn a_memory_that_cannot_be_read_or_written_accepts_nothing() {
    let node = Node::new();
    accept(&node.trust().expect("no memory yet"), &node.bundle(2, 80)).expect("the first one");
    for damaged in [
        "",
        "{}",
        "{\"generation\":1,\"hash\":\"\",\"more\":1}",
        "\u{0}",
    ] {
        fs::write(node.memory(), damaged).expect("it is ours");
        let opened = node.trust();
        assert!(
            matches!(opened, Err(TrustError::Memory(MemoryError::Damaged { .. }))),
            "`{damaged}`: {opened:?}"
        );
    }
    // A file where the folder should be: root may write anything else.
    let other = Node::new();
    fs::write(other.folder.path().join("deep"), "").expect("it is ours");
    assert!(other.trust().is_err(), "the memory lies below a file");
    fs::remove_file(other.folder.path().join("deep")).expect("it is ours");
    let trust = other.trust().expect("no memory yet");
    fs::write(other.folder.path().join("deep"), "").expect("it is ours");
    let answer = accept(&trust, &other.bundle(1, 80));
    assert!(matches!(answer, Err(TrustError::Memory(_))), "{answer:?}");
}

#[test]
fn without_keys_every_bundle_is_accepted_and_nothing_is_written() {
    let folder = TempDir::new().expect("a folder");
    let memory = folder.path().join("accepted.json");
    let trust = Trust::open(&[], &memory).expect("nothing to read");
    assert!(!trust.is_required());
    for generation in [5, 0, 3] {
        accept(&trust, &unsigned(generation, 80)).expect("nothing is required");
    }
    assert!(!memory.exists());
}

#[test]
fn keys_are_read_strictly() {
    let folder = TempDir::new().expect("a folder");
    let memory = folder.path().join("accepted.json");
    let private = folder.path().join("private.pem");
    fs::write(&private, sign::generate().expect("random bytes").0).expect("it is ours");
    for (path, words) in [
        (private, "is no public key"),
        (folder.path().join("absent"), "cannot read the public key"),
    ] {
        let error = Trust::open(&[path], &memory).expect_err("no public key");
        assert!(error.to_string().contains(words), "{error}");
    }
}
