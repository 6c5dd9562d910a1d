//! `policyc check --watch` as a user runs it: what it prints after a change, and how it ends.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use crate::{ALLOW, WRONG, folder, policyc};

/// Generous: the machine may be busy with other things.
const WITHIN: Duration = Duration::from_secs(60);

struct Watching {
    child: Child,
    lines: Receiver<String>,
}

impl Watching {
    fn start(folder: &Path, args: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_policyc"))
            .args(["check", "--watch", "-f", "."])
            .args(args)
            .current_dir(folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("policyc starts");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        let (send, lines) = channel();
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    /// Reads lines until one has the text.
    fn until(&self, text: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(WITHIN);
            let line = line.unwrap_or_else(|_| panic!("no line with `{text}`"));
            if line.contains(text) {
                return line;
            }
        }
    }

    /// As Ctrl-C does.
    fn interrupt(mut self) -> Option<i32> {
        let id = self.child.id().to_string();
        let kill = Command::new("kill").args(["-INT", &id]).status();
        assert!(kill.expect("kill is there").success());
        self.child.wait().expect("it ends").code()
    }
}

#[test]
fn it_tells_what_is_new_and_what_is_mended_and_ends_as_things_stand() {
    let folder = folder(&[("a.yaml", ALLOW)]);
    let watching = Watching::start(folder.path(), &[]);
    watching.until("watching");
    fs::write(folder.path().join("b.yaml"), WRONG).expect("a file");
    let line = watching.until("1 new");
    assert!(line.contains("1 error; 1 new, 0 mended"), "{line}");
    fs::write(
        folder.path().join("b.yaml"),
        WRONG.replace("BLOCK", "ALLOW"),
    )
    .expect("a file");
    let line = watching.until("mended: ");
    assert!(
        line.contains("b.yaml P101 there is no action `BLOCK`"),
        "{line}"
    );
    watching.until("no problems; 0 new, 1 mended");
    assert_eq!(watching.interrupt(), Some(0));
}

#[test]
fn it_ends_with_1_while_something_is_wrong() {
    let folder = folder(&[("a.yaml", ALLOW)]);
    let watching = Watching::start(folder.path(), &["--format", "json"]);
    watching.until("[]");
    // As editors save: a new file takes the place of the old one.
    fs::write(folder.path().join("a.tmp"), WRONG).expect("a file");
    fs::rename(folder.path().join("a.tmp"), folder.path().join("a.yaml")).expect("renamed");
    let line = watching.until("P101");
    assert!(
        line.starts_with("[{") && line.ends_with("}]"),
        "a line an outcome: {line}"
    );
    assert_eq!(watching.interrupt(), Some(1));
}

#[test]
fn what_cannot_be_watched_is_refused() {
    let folder = folder(&[("a.yaml", ALLOW)]);
    for args in [
        &["check", "--watch", "-f", "-"][..],
        &["check", "--watch", "-f", ".", "--format", "sarif"],
    ] {
        assert_eq!(
            policyc(folder.path(), args, "").status.code(),
            Some(2),
            "{args:?}"
        );
    }
}
