//! How long compiling and linking take, by size.

use std::time::Instant;

use policyc::link::{Local, NodeView};
use tests::generate::{Size, cluster};

fn main() -> anyhow::Result<()> {
    for (name, size) in [("medium", Size::MEDIUM), ("large", Size::LARGE)] {
        let cluster = cluster(size);
        let start = Instant::now();
        let program = policyc::resolve::resolve(
            &cluster,
            policyc::options::CatchAllDeny::DenyAll,
            &Default::default(),
            &|_| (String::new(), 1),
        )?;
        let resolved = start.elapsed();
        let bytes =
            policyc::bundle::write(&program, &policyc::inventory::Inventory::of(&cluster), 1)?;
        let written = start.elapsed();
        policyc::bundle::read(&bytes)?;
        let read = start.elapsed();
        let node = NodeView {
            local: Local::Node("node-0001".into()),
            ..NodeView::default()
        };
        let linked = policyc::link::link(&program, &cluster, &node, &[])?;
        let all = start.elapsed();
        println!(
            "{name}: resolve {resolved:?} bundle {:?} ({} bytes) read {:?} link {:?} {:?}",
            written - resolved,
            bytes.len(),
            read - written,
            all - read,
            linked.summary
        );
    }
    Ok(())
}
