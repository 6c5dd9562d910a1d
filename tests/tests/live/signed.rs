//! Bundles that must be signed: what is not accepted changes nothing, and nothing is forgotten.

use policyc::sign::{self, SigningKey};

use super::*;

const TRUSTED: [u8; 32] = [1; 32];
const STRANGER: [u8; 32] = [2; 32];

/// A signed bundle with these policies.
fn signed(world: &World, policies: &str, generation: u64, key: [u8; 32]) -> Vec<u8> {
    let bytes = compile(&world.manifests, policies, generation).expect("the test's own policies");
    sign::sign(&bytes, &SigningKey::from_bytes(&key), false).expect("a whole bundle")
}

/// Public keys as PEM: DER's header of an ed25519 key, and the key.
fn public(key: [u8; 32]) -> String {
    let public = SigningKey::from_bytes(&key).verifying_key();
    let der = [
        &[
            0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
        ][..],
        public.as_bytes(),
    ]
    .concat();
    format!(
        "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
        base64(&der)
    )
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    // 44 bytes: the last group lacks one.
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let mut bits = 0u32;
        for i in 0..3 {
            bits = bits << 8 | u32::from(group.get(i).copied().unwrap_or(0));
        }
        for i in 0..4 {
            let digit = bits >> (18 - 6 * i) & 63;
            text.push(match i <= group.len() {
                true => char::from(DIGITS[digit as usize]),
                false => '=',
            });
        }
    }
    text
}

#[test]
fn only_newer_bundles_that_a_trusted_key_has_signed_become_active() {
    if !possible() {
        return;
    }
    let world = World::new("lv-signed");
    let file = |name: &str, bytes: &[u8]| world.home.bundle(name, bytes).expect("a file");
    let key = file("key.pub", public(TRUSTED).as_bytes());
    let text = |path: &Path| path.to_str().expect("plain text").to_owned();
    let (key, accepted) = (text(&key), text(&world.home.file("accepted.json")));
    let options = ["--require-signature", &key, "--accepted", &accepted];

    let unsigned = world.bundle("unsigned.bin", ONLY_FRONTEND);
    let refused = world.home.start(&world.net.node, &unsigned, &options);
    let error = refused.expect_err("it is not signed").to_string();
    assert!(error.contains("not signed"), "{error}");

    let five = signed(&world, ONLY_FRONTEND, 5, TRUSTED);
    let first = file("5.bin", &five);
    let started = world.home.start(&world.net.node, &first, &options);
    let agent = started.expect("a signed bundle with a generation");
    let good = signed(&world, NOBODY, 6, TRUSTED);
    let cases = [
        (
            "4.bin",
            signed(&world, NOBODY, 4, TRUSTED),
            "5 was accepted before",
        ),
        (
            "5b.bin",
            signed(&world, NOBODY, 5, TRUSTED),
            "is another one",
        ),
        ("0.bin", signed(&world, NOBODY, 0, TRUSTED), "no generation"),
        (
            "stranger.bin",
            signed(&world, NOBODY, 6, STRANGER),
            "not one of the trusted keys",
        ),
        (
            "plain.bin",
            good[..good.len() - sign::TRAILER].to_vec(),
            "not signed",
        ),
        ("short.bin", good[..good.len() - 1].to_vec(), "ends early"),
        ("long.bin", [&good[..], b"more"].concat(), "follow the end"),
        (
            "tampered.bin",
            [&good[..100], &[good[100] ^ 1], &good[101..]].concat(),
            "was changed",
        ),
    ];
    for (name, bytes, why) in &cases {
        let error = world
            .home
            .load(&file(name, bytes))
            .expect_err(name)
            .to_string();
        assert!(
            error.contains(why) && error.contains(name),
            "`{why}`: {error}"
        );
    }
    world.expect("frontend", Met::Answer, "the old bundle is still in force");
    world.expect("other", Met::Refusal, "the old bundle is still in force");
    let status = world.home.status().expect("the agent answers");
    assert_eq!(
        (&status["epoch"], &status["generation"]),
        (&1.into(), &5.into())
    );

    world
        .home
        .load(&file("6.bin", &good))
        .expect("signed and newer");
    world.expect("frontend", Met::Refusal, "nobody may");
    world
        .home
        .load(&file("6.bin", &good))
        .expect("the same one again");

    // The next agent remembers, and what is enforced stays so while none starts.
    agent.kill().expect("our own process");
    let again = world.home.start(&world.net.node, &first, &options);
    let error = again.expect_err("6 was accepted").to_string();
    assert!(error.contains("6 was accepted before"), "{error}");
    world.expect(
        "frontend",
        Met::Refusal,
        "the last bundle is still in force",
    );
    let six = world.home.file("6.bin");
    let started = world.home.start(&world.net.node, &six, &options);
    let _agent = started.expect("the one that was accepted");
    world.expect("frontend", Met::Refusal, "nobody may");
}
