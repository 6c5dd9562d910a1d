//! What is fuzzed: everything that reads bytes from elsewhere. Whatever they are, it ends soon,
//! without a panic, and what was taken for good goes through the rest of the compiler as well.
//!
//! `cargo xtask fuzz` looks for new inputs; `tests/fuzz.rs` runs these functions on the seeds and on
//! every input that was ever found.

use std::collections::BTreeMap;

use policyc::{
    bundle,
    compile::compile,
    diagnostic::{self, any_error},
    inspect,
    inventory::Inventory,
    link::{self, NodeView},
    lint,
    options::CatchAllDeny,
    read,
    report::with_workloads,
};

/// Manifests.
pub fn manifests(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        // Bytes that are no text are refused before anything reads them.
        return;
    };
    let (loaded, mut found) = read::load_str("fuzz.yaml", text, None);
    if !any_error(&found) {
        if let Ok(lints) = lint::lint(&loaded, CatchAllDeny::DenyAll) {
            found.extend(lints);
        }
        if let Ok(program) = compile(&loaded, CatchAllDeny::DenyAll, &BTreeMap::new()) {
            let inventory = Inventory::of(&loaded.cluster);
            let bytes = bundle::write(&program, &inventory, 1).expect("small inputs fit");
            assert_eq!(
                bundle::read(&bytes).expect("it was just written").program,
                program,
                "a bundle gives back what it was made from"
            );
        }
    }
    // Every place that a diagnostic names must exist.
    let _ = diagnostic::human(&found, &loaded.sources, false);
    let _ = diagnostic::json(&found, &loaded.sources);
}

/// A bundle: the input as it is, and as the payload of a header that fits it, for a checksum tells
/// damage from intent only.
pub fn bundle_bytes(data: &[u8]) {
    accept(data);
    accept(&bundle::sealed(data, 1));
}

fn accept(bytes: &[u8]) {
    let (Ok(bundle), Ok(inventory)) = (bundle::read(bytes), bundle::read_inventory(bytes)) else {
        return;
    };
    let written = bundle::write(&bundle.program, &inventory, bundle.generation);
    assert!(written.is_ok(), "what was read can be written");
    let _ = inspect::program(&bundle, 50);
    let cluster = inventory.into_cluster(bundle.program.mesh.clone());
    let world = with_workloads(&cluster);
    if let Ok(linked) = link::link(&bundle.program, &world, &NodeView::default(), &[]) {
        let _ = inspect::table(&bundle.program, &world, &linked, 50);
    }
}
