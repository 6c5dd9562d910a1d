//! Keys, signatures and generations as a user meets them on the command line, and as openssl does.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
};

use tempfile::TempDir;

const POLICY: &str = r"
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nothing, namespace: a}
spec: {}
";

/// A folder with a policy, two key pairs and a bundle of generation 3.
fn folder() -> TempDir {
    let folder = TempDir::new().expect("a folder");
    fs::write(folder.path().join("p.yaml"), POLICY).expect("it can be written");
    for arguments in [
        &["keygen"][..],
        &["keygen", "-o", "other.key"],
        &[
            "compile",
            "-f",
            "p.yaml",
            "-o",
            "b.bin",
            "--generation",
            "3",
        ],
    ] {
        let output = policyc(folder.path(), arguments);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{arguments:?}: {}",
            said(&output)
        );
    }
    folder
}

fn policyc(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_policyc"))
        .current_dir(folder)
        .args(arguments)
        .output()
        .expect("policyc should start")
}

fn said(output: &Output) -> String {
    [&output.stdout[..], &output.stderr]
        .map(String::from_utf8_lossy)
        .concat()
}

/// Runs policyc and expects an exit code and words.
fn expect(folder: &TempDir, arguments: &[&str], code: i32, words: &str) {
    let output = policyc(folder.path(), arguments);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    assert!(
        said.contains(words),
        "{arguments:?} should say `{words}`: {said}"
    );
}

#[test]
fn a_private_key_is_its_owners_and_is_never_overwritten() {
    let folder = folder();
    let mode = |name: &str| {
        let meta = fs::metadata(folder.path().join(name)).expect("it was made");
        meta.permissions().mode() & 0o777
    };
    assert_eq!(mode("policyc.key"), 0o600);
    assert_eq!(
        mode("other.pub") & 0o444,
        0o444,
        "everybody may read the public key"
    );
    let before = fs::read(folder.path().join("policyc.key")).expect("it is there");
    expect(&folder, &["keygen"], 2, "is there already");
    assert_eq!(
        fs::read(folder.path().join("policyc.key")).expect("it is there"),
        before
    );
    // Where the public one is in the way, no private one is left behind.
    expect(
        &folder,
        &["keygen", "-o", "new.key", "--public", "other.pub"],
        2,
        "is there already",
    );
    assert!(!folder.path().join("new.key").exists(), "half a pair");
}

#[test]
fn a_signature_says_yes_to_its_bundle_alone() {
    let folder = folder();
    let verify = ["verify", "--signature", "policyc.pub", "b.bin"];
    expect(&folder, &verify, 1, "not signed");
    expect(
        &folder,
        &["sign", "b.bin", "--key", "policyc.key"],
        0,
        "signed by key",
    );
    expect(&folder, &verify, 0, "generation 3");
    expect(&folder, &["inspect", "b.bin"], 0, "signed by key");
    // Any of several keys, and together with the sources.
    let both = ["--signature", "other.pub", "--signature", "policyc.pub"];
    let arguments = [&["verify", "b.bin", "-f", "p.yaml"][..], &both].concat();
    expect(&folder, &arguments, 0, "the same");
    expect(
        &folder,
        &["verify", "--signature", "other.pub", "b.bin"],
        1,
        "not one of the trusted keys",
    );
    // A file may hold several keys.
    let keys = ["other.pub", "policyc.pub"]
        .map(|name| fs::read_to_string(folder.path().join(name)).expect("it is there"));
    fs::write(folder.path().join("all.pub"), keys.concat()).expect("it can be written");
    expect(
        &folder,
        &["verify", "--signature", "all.pub", "b.bin"],
        0,
        "signed by key",
    );

    let path = folder.path().join("b.bin");
    let signed = fs::read(&path).expect("it is there");
    for (bytes, words) in [
        (signed[..signed.len() - 1].to_vec(), "ends early"),
        (signed[..40].to_vec(), "ends early"),
        ([&signed[..], b"x"].concat(), "follow the end"),
        // The generation.
        (
            [&signed[..16], &[9], &signed[17..]].concat(),
            "changed after it was signed",
        ),
    ] {
        fs::write(&path, bytes).expect("it can be written");
        expect(&folder, &verify, 1, words);
    }
}

#[test]
fn another_keys_signature_is_replaced_only_when_told() {
    let folder = folder();
    expect(&folder, &["sign", "b.bin", "--key", "policyc.key"], 0, "");
    expect(&folder, &["sign", "b.bin", "--key", "policyc.key"], 0, "");
    expect(
        &folder,
        &["sign", "b.bin", "--key", "other.key"],
        1,
        "--replace",
    );
    expect(
        &folder,
        &["verify", "--signature", "policyc.pub", "b.bin"],
        0,
        "",
    );
    let replace = [
        "sign",
        "b.bin",
        "--key",
        "other.key",
        "--replace",
        "-o",
        "c.bin",
    ];
    expect(&folder, &replace, 0, "c.bin");
    expect(
        &folder,
        &["verify", "--signature", "other.pub", "c.bin"],
        0,
        "",
    );
    expect(
        &folder,
        &["sign", "b.bin", "--key", "policyc.pub"],
        2,
        "public key",
    );
    expect(
        &folder,
        &["verify", "--signature", "policyc.key", "b.bin"],
        2,
        "private key",
    );
    expect(&folder, &["verify", "b.bin"], 2, "--signature");
}

#[test]
fn a_bundle_without_generation_is_signed_with_a_warning() {
    let folder = folder();
    expect(&folder, &["compile", "-f", "p.yaml", "-o", "b.bin"], 0, "");
    expect(
        &folder,
        &["sign", "b.bin", "--key", "policyc.key"],
        0,
        "--generation",
    );
}

/// openssl reads the keys, makes keys that are read, and checks the signature as it stands in the
/// bundle.
#[test]
fn openssl_agrees() {
    let folder = folder();
    let openssl = |arguments: &[&str]| {
        let mut command = Command::new("openssl");
        command.current_dir(folder.path()).args(arguments).output()
    };
    if let Err(why) = openssl(&["version"]) {
        assert!(std::env::var_os("CI").is_none(), "openssl: {why}");
        println!("skipped: openssl cannot be run: {why}");
        return;
    }
    let ok = |arguments: &[&str]| {
        let output = openssl(arguments).expect("it started before");
        assert!(
            output.status.success(),
            "openssl {arguments:?}: {}",
            said(&output)
        );
        output.stdout
    };
    let public = fs::read(folder.path().join("policyc.pub")).expect("it is there");
    assert_eq!(ok(&["pkey", "-in", "policyc.key", "-pubout"]), public);
    expect(&folder, &["sign", "b.bin", "--key", "policyc.key"], 0, "");
    let signed = fs::read(folder.path().join("b.bin")).expect("it is there");
    let (content, trailer) = signed.split_at(signed.len() - policyc::sign::TRAILER);
    fs::write(folder.path().join("content"), content).expect("it can be written");
    fs::write(folder.path().join("signature"), &trailer[40..]).expect("it can be written");
    ok(&[
        "pkeyutl",
        "-verify",
        "-pubin",
        "-inkey",
        "policyc.pub",
        "-rawin",
        "-in",
        "content",
        "-sigfile",
        "signature",
    ]);
    ok(&["genpkey", "-algorithm", "ed25519", "-out", "theirs.key"]);
    ok(&["pkey", "-in", "theirs.key", "-pubout", "-out", "theirs.pub"]);
    let theirs = folder.path().join("theirs.key");
    fs::set_permissions(theirs, fs::Permissions::from_mode(0o644)).expect("it is ours");
    let sign = ["sign", "b.bin", "--key", "theirs.key", "--replace"];
    expect(&folder, &sign, 0, "others than the owner may read");
    expect(
        &folder,
        &["verify", "--signature", "theirs.pub", "b.bin"],
        0,
        "",
    );
}
