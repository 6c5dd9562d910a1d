//! The scope that packets of the node itself are asked first: the ports that probes declare.

use std::collections::{BTreeMap, BTreeSet};

use enforcer_ebpf::words::{Cell, Verdict};

use super::{HostMode, LinkError, addresses::offset, index};

/// Host scopes that were written already, by their ports.
#[derive(Debug, Default)]
pub(crate) struct HostScopes {
    written: BTreeMap<BTreeSet<u16>, u32>,
    all: Option<u32>,
}

impl HostScopes {
    /// The offset of the host scope for a pod, or 0 where policy alone decides.
    pub fn write(
        &mut self,
        words: &mut Vec<u32>,
        mode: HostMode,
        probes: &BTreeSet<u16>,
    ) -> Result<u32, LinkError> {
        let allow = Cell::new(Verdict::Allow, false, false, 0).0;
        match mode {
            HostMode::Enforce => Ok(0),
            HostMode::Probes if probes.is_empty() => Ok(0),
            HostMode::All => match self.all {
                Some(at) => Ok(at),
                None => {
                    let at = scope(words, 0, &[allow])?;
                    self.all = Some(at);
                    Ok(at)
                }
            },
            HostMode::Probes => match self.written.get(probes) {
                Some(&at) => Ok(at),
                None => {
                    let ports: Vec<(u16, u16)> = probes.iter().map(|port| (*port, 1)).collect();
                    let reference = index::write(words, &ports)?;
                    let at = scope(words, reference, &[0, allow])?;
                    self.written.insert(probes.clone(), at);
                    Ok(at)
                }
            },
        }
    }
}

/// A scope of one row.
fn scope(words: &mut Vec<u32>, ports: u32, row: &[u32]) -> Result<u32, LinkError> {
    let cells = offset(words)?;
    words.extend(row);
    let at = offset(words)?;
    words.extend([ports, 0, cells, super::addresses::count(row.len())]);
    Ok(at)
}
