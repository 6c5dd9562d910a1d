//! Sources that no pod of the inventory is: identities that are only named, and addresses outside.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::{
    super::{Family, Party, PartyKind},
    Draft,
};
use crate::{
    cluster::Cluster,
    ir::{Atom, Pattern, Program},
    link::{Identity, LinkError, Source, blocks::Blocks, classes::Classes},
};

/// Identities that no pod runs as and that rules tell from everybody else: service accounts of the
/// inventory, and those that policies name in full.
pub(super) fn identities(
    program: &Program,
    cluster: &Cluster,
    classes: &mut Classes<'_>,
    mut taken: BTreeSet<u16>,
) -> Result<Vec<Draft>, LinkError> {
    let own = &cluster.mesh.trust_domain;
    let identity = |trust_domain: &str, namespace: &str, service_account: &str| Identity {
        trust_domain: trust_domain.into(),
        namespace: namespace.into(),
        service_account: service_account.into(),
    };
    let mut known: BTreeSet<Identity> = cluster
        .service_accounts
        .iter()
        .map(|(namespace, name)| identity(own, namespace, name))
        .collect();
    for atom in &program.atoms {
        match atom {
            Atom::Principal(Pattern::Exact(principal)) => {
                let parts: Vec<&str> = principal.split('/').collect();
                if let [domain, "ns", namespace, "sa", account] = parts.as_slice() {
                    known.insert(identity(domain, namespace, account));
                }
            }
            Atom::ServiceAccount { namespace, name } => {
                known.insert(identity(own, namespace, name));
            }
            _ => {}
        }
    }
    let mut drafts = Vec::new();
    for identity in known {
        let class = classes.class(&Source {
            identity: Some(identity.clone()),
            address: None,
        })?;
        if !taken.insert(class) {
            continue;
        }
        let elsewhere = identity.trust_domain != *own;
        let name = match elsewhere {
            false => format!("sa:{}", identity.service_account),
            true => format!(
                "sa:{} of {}",
                identity.service_account, identity.trust_domain
            ),
        };
        drafts.push(source(
            identity.namespace,
            name,
            PartyKind::Identity,
            identity.service_account,
            class,
            None,
        ));
    }
    Ok(drafts)
}

/// Everybody without an identity: one party for each set of blocks that some address is in, named
/// by the narrowest of them.
pub(super) fn outside(classes: &mut Classes<'_>) -> Result<Vec<Draft>, LinkError> {
    let mut found: Vec<(u16, Option<ipnet::IpNet>)> = Vec::new();
    let mut seen = BTreeSet::new();
    for v6 in [false, true] {
        let mut pieces = classes.blocks().pieces_of(v6).to_vec();
        // A block that reaches to the last address is followed by a piece without any.
        pieces.retain(|piece| v6 || piece.start <= u128::from(u32::MAX));
        for piece in pieces {
            let class = classes.anonymous(piece)?;
            if seen.insert(class) {
                found.push((class, narrowest(classes.blocks(), piece.start, v6)));
            }
        }
    }
    found.sort_by_key(|(class, block)| (block.is_none(), *block, *class));
    let mut drafts = Vec::new();
    for (class, block) in found {
        let family = block.map(|block| Family::of(matches!(block, ipnet::IpNet::V6(_))));
        let (name, kind) = match block {
            Some(block) => (block.to_string(), PartyKind::Block),
            None => ("any other address".to_string(), PartyKind::Elsewhere),
        };
        drafts.push(source(
            String::new(),
            name,
            kind,
            String::new(),
            class,
            family,
        ));
    }
    Ok(drafts)
}

fn narrowest(blocks: &Blocks, start: u128, v6: bool) -> Option<ipnet::IpNet> {
    let address = if v6 {
        IpAddr::V6(Ipv6Addr::from(start))
    } else {
        IpAddr::V4(Ipv4Addr::from(u32::try_from(start).unwrap_or(u32::MAX)))
    };
    // Shortest prefix first.
    let mut narrowest = blocks.nets.iter().rev();
    narrowest.find(|net| net.contains(&address)).copied()
}

fn source(
    namespace: String,
    name: String,
    kind: PartyKind,
    service_account: String,
    class: u16,
    family: Option<Family>,
) -> Draft {
    Draft {
        party: Party {
            namespace,
            name,
            kind,
            service_account,
            members: Vec::new(),
            family,
            addressless: false,
            class,
            destination: None,
        },
        scope: None,
        ports: Vec::new(),
    }
}
