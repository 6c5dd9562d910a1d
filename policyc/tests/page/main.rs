//! The page of `policyc graph --html` in a real browser: clicked, walked by keys, filtered, printed.

mod chromium;
mod world;

use std::{fs, path::Path, process::Command};

use chromium::Tab;

#[test]
fn look() {
    let Some(mut browser) = chromium::browser() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    for (name, shops) in [("small", 2), ("large", 223)] {
        let manifests = folder.path().join(format!("{name}.yaml"));
        fs::write(&manifests, world::shops(shops)).unwrap();
        let old = folder.path().join(format!("{name}-old.yaml"));
        fs::write(
            &old,
            world::shops(shops)
                .replace("sa/users\"", "sa/web\"")
                .replace("methods: [POST], ", ""),
        )
        .unwrap();
        let page = folder.path().join(format!("{name}.html"));
        let start = std::time::Instant::now();
        let out = Command::new(env!("CARGO_BIN_EXE_policyc"))
            .args(["graph", "-f"])
            .arg(&manifests)
            .arg("--html")
            .arg(&page)
            .arg("--old")
            .arg(&old)
            .output()
            .unwrap();
        assert!(
            out.status.success(),
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
        println!(
            "{name}: {:?} {} bytes",
            start.elapsed(),
            fs::metadata(&page).unwrap().len()
        );
        let start = std::time::Instant::now();
        let mut tab = browser.open(&page, 1440, 900);
        println!("open {:?}", start.elapsed());
        tab.picture(&format!("{name}-matrix"));
        tab.click(".cell[data-r=\"2\"][data-c=\"4\"]");
        tab.picture(&format!("{name}-cell"));
        for (i, view) in [(2, "graph"), (3, "list"), (4, "changes")] {
            tab.key("Escape");
            tab.key(&i.to_string());
            tab.picture(&format!("{name}-{view}"));
        }
        println!("{:?}", tab.complaints());
        tab.key("t");
        tab.key("t");
        tab.key("1");
        tab.picture(&format!("{name}-dark"));
        fs::write(format!("/tmp/h/graph/shots/{name}.pdf"), tab.pdf()).unwrap();
        println!("{:?}", tab.complaints());
    }
}
