//! `policyc sign`: a signature at the end of a bundle; and the keys that commands are given as files.

use std::{
    fs,
    io::{Read, Write, stdin, stdout},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::Context;
use policyc::{
    bundle,
    sign::{self, SigningKey, VerifyingKey},
};

use super::{Outcome, files::replace};

/// Signs a bundle
///
/// The signature covers every byte of the bundle and stands at its end. The same bundle and key give
/// the same bytes.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  policyc sign bundle.bin --key policyc.key
  openssl pkey -in encrypted.key | policyc sign bundle.bin --key - -o signed.bin

An agent that requires signatures wants a generation, too: `policyc compile --generation N`.")]
pub struct Args {
    /// The bundle
    bundle: PathBuf,

    /// Private key, PEM; `-` for standard input
    #[arg(long, value_name = "FILE")]
    key: PathBuf,

    /// Where the signed bundle goes; default: in the place of the other
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Put the signature in the place of another key's
    #[arg(long)]
    replace: bool,
}

pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let name = args.bundle.display();
    let bytes = fs::read(&args.bundle).with_context(|| format!("cannot read {name}"))?;
    let key = private_key(&args.key)?;
    let signed = match sign::sign(&bytes, &key, args.replace) {
        Ok(signed) => signed,
        Err(error) => {
            eprintln!("policyc: {name}: {error}");
            return Ok(Outcome::Bad);
        }
    };
    if bundle::read(&signed)?.generation == 0 {
        eprintln!(
            "policyc: {name} has no generation, and agents that require signatures refuse it: compile it with --generation"
        );
    }
    let output = args.output.as_ref().unwrap_or(&args.bundle);
    replace(output, &signed).with_context(|| format!("cannot write {}", output.display()))?;
    let signer = sign::fingerprint(key.verifying_key().as_bytes());
    writeln!(stdout(), "{} signed by key {signer}", output.display())?;
    Ok(Outcome::Good)
}

fn private_key(path: &Path) -> anyhow::Result<SigningKey> {
    if path == Path::new("-") {
        let mut text = String::new();
        stdin()
            .read_to_string(&mut text)
            .context("cannot read standard input")?;
        return sign::private_key(&text).context("standard input");
    }
    let name = path.display();
    let cannot = || format!("cannot read {name}");
    if fs::metadata(path).with_context(cannot)?.mode() & 0o077 != 0 {
        eprintln!("policyc: others than the owner may read the private key {name}: chmod 600");
    }
    let text = fs::read_to_string(path).with_context(cannot)?;
    sign::private_key(&text).with_context(|| name.to_string())
}

/// Reads public keys: every one that the files hold.
pub fn public_keys(paths: &[PathBuf]) -> anyhow::Result<Vec<VerifyingKey>> {
    let mut keys = Vec::new();
    for path in paths {
        let name = path.display();
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
        keys.extend(sign::public_keys(&text).with_context(|| name.to_string())?);
    }
    Ok(keys)
}
