//! The fuzz targets on what is there already: their seeds, and every input that once went wrong.

#[path = "../fuzz/targets.rs"]
mod targets;

use std::{fs, path::Path};

use policyc::{bundle, compile::compile, inventory::Inventory, options::CatchAllDeny, read};

/// Files of a folder beside this one.
fn inputs(folder: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    entries
        .map(|entry| entry.expect("an entry of a folder").path())
        .filter(|path| path.is_file())
        .map(|path| fs::read(path).expect("a file of the repository"))
        .collect()
}

#[test]
fn manifests_end_without_a_panic() {
    let seeds = [inputs("tests/validation"), inputs("fuzz/found/manifests")].concat();
    assert!(seeds.len() > 60, "only {} seeds", seeds.len());
    for seed in &seeds {
        targets::manifests(seed);
        // The same, broken off and with one bit turned, as a fuzzer begins.
        for part in 1..8 {
            let mut broken = seed.clone();
            broken.truncate(seed.len() * part / 8);
            targets::manifests(&broken);
            if let Some(byte) = broken.last_mut() {
                *byte ^= 1 << (part % 7);
                targets::manifests(&broken);
            }
        }
    }
}

#[test]
fn bundles_end_without_a_panic() {
    let mut seeds = inputs("fuzz/found/bundle");
    for seed in inputs("tests/validation") {
        let text = String::from_utf8_lossy(&seed);
        let (loaded, _) = read::load_str("seed.yaml", &text, None);
        if let Ok(program) = compile(&loaded, CatchAllDeny::DenyAll, &Default::default()) {
            let inventory = Inventory::of(&loaded.cluster);
            let bytes = bundle::write(&program, &inventory, 1).expect("it is small");
            seeds.push(bytes);
        }
    }
    assert!(seeds.len() > 60, "only {} seeds", seeds.len());
    for seed in &seeds {
        targets::bundle_bytes(seed);
        let payload = seed.get(bundle::HEADER..).unwrap_or_default();
        targets::bundle_bytes(payload);
        for at in (0..payload.len()).step_by(payload.len() / 64 + 1) {
            let mut broken = payload.to_vec();
            broken[at] ^= 0x81;
            targets::bundle_bytes(&broken);
        }
    }
}
