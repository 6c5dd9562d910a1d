//! Text to documents: YAML and JSON of the same objects, in MB a second of one core.

use anyhow::{Result, ensure};
use policyc::read;
use tests::{
    cpu,
    generate::{Size, cluster, manifests},
};

use crate::{Figures, median};

const ROUNDS: usize = 3;

pub fn measure() -> Result<Figures> {
    let cluster = cluster(Size::MEDIUM);
    let mut figures = Figures::default();
    for (name, text) in [
        ("yaml", manifests::yaml(manifests::objects(&cluster))),
        ("json", manifests::json(manifests::objects(&cluster))),
    ] {
        let mut rates = Vec::new();
        for _ in 0..ROUNDS {
            let ((loaded, found), time) =
                cpu::spent(|| read::load_str(&format!("generated.{name}"), &text, None));
            ensure!(
                found.is_empty(),
                "the generator writes what is valid: {found:?}"
            );
            ensure!(
                loaded.cluster.pods.len() == cluster.pods.len()
                    && loaded.cluster.policies.len() == cluster.policies.len(),
                "everything that was written is read"
            );
            rates.push(text.len() as f64 / 1e6 / time.as_secs_f64());
        }
        figures.add(&format!("{name}_mb"), text.len() as f64 / 1e6);
        figures.add(&format!("{name}_mb_per_s"), median(rates));
    }
    Ok(figures)
}
