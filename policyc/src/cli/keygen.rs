//! `policyc keygen`: a key pair to sign bundles with.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write, stdout},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use policyc::sign;

use super::Outcome;

/// Makes a key pair to sign bundles with
///
/// The private key is for whoever compiles, the public one for the nodes.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  policyc keygen                          # policyc.key and policyc.pub
  policyc keygen -o ci.key --public ci.pub

Both files are PEM, PKCS#8 and SubjectPublicKeyInfo, as openssl reads them. A file that is there
already is never overwritten.")]
pub struct Args {
    /// Where the private key goes; nobody but the owner may read it
    #[arg(short, long, value_name = "FILE", default_value = "policyc.key")]
    output: PathBuf,

    /// Where the public key goes; default: beside the private one, ending in .pub
    #[arg(long, value_name = "FILE")]
    public: Option<PathBuf>,
}

pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let beside = || args.output.with_extension("pub");
    let public = args.public.clone().unwrap_or_else(beside);
    if public == args.output {
        bail!("both keys would go to {}", public.display());
    }
    let (private_pem, public_pem) = sign::generate()?;
    let keys = sign::public_keys(&public_pem)?;
    create(&args.output, 0o600, &private_pem)?;
    if let Err(error) = create(&public, 0o644, &public_pem) {
        // Half a pair is of no use; the first error is the one to report.
        let _ = fs::remove_file(&args.output);
        return Err(error);
    }
    let names = keys.iter().map(|key| sign::fingerprint(key.as_bytes()));
    writeln!(
        stdout(),
        "key {}: private {}, public {}",
        names.collect::<Vec<_>>().join(" "),
        args.output.display(),
        public.display()
    )?;
    Ok(Outcome::Good)
}

/// Makes a file that is not there yet. What cannot be written whole is taken away again.
fn create(path: &Path, mode: u32, text: &str) -> anyhow::Result<()> {
    let name = path.display();
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => {
                anyhow::anyhow!("{name} is there already: a key is never overwritten")
            }
            _ => anyhow::Error::from(error).context(format!("cannot make {name}")),
        })?;
    let written = file
        .write_all(text.as_bytes())
        .and_then(|()| file.sync_all());
    if written.is_err() {
        let _ = fs::remove_file(path);
    }
    written.with_context(|| format!("cannot write {name}"))
}
