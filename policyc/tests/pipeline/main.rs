//! policyc in pipelines and editors: formats that other programs read, and the examples of how it is
//! called, each run as it is written.

mod examples;
mod formats;
mod schema;
mod watch;

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

pub const ALLOW: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: allow
  namespace: shop
spec:
  rules:
  - from:
    - source:
        principals: [cluster.local/ns/shop/sa/web]
";
pub const WARNED: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: warned
  namespace: shop
spec:
  selector: {}
";
pub const WRONG: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: wrong
  namespace: shop
spec:
  action: BLOCK
";

pub fn policyc(folder: &Path, args: &[&str], stdin: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_policyc"))
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("policyc starts");
    let mut input = child.stdin.take().expect("a pipe");
    // A command that does not read its input closes the pipe early.
    let _ = input.write_all(stdin.as_bytes());
    drop(input);
    child.wait_with_output().expect("policyc ends")
}

/// Standard output of a command that ends with that code.
pub fn output(folder: &Path, args: &[&str], stdin: &str, code: i32) -> String {
    let output = policyc(folder, args, stdin);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {errors}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// A folder of these files.
pub fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, text) in files {
        let file = folder.path().join(name);
        fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
        fs::write(file, text).expect("a file");
    }
    folder
}

/// The repository's root.
pub fn root() -> PathBuf {
    let crate_ = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_.parent().expect("a workspace").into()
}
