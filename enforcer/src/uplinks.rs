//! `--trusted-uplink`: the interfaces whose packets may speak for pods of other nodes, by their
//! present indices.
//!
//! A device may not be there yet, go away, and come back under another index. The kernel is asked
//! whenever it tells of a link that has changed, and every [`ASK_EVERY`] besides; what is not there
//! is trusted under no index, and so are all of them while the kernel does not answer.

use std::{sync::Arc, time::Duration};

use enforcer_ebpf::words::UPLINKS_MAX;
use futures_util::StreamExt;
use rtnetlink::{Handle, MulticastGroup};
use tokio::time::timeout;

use crate::{
    agent::Agent,
    netlink::{self, NetlinkError},
    netns::Netns,
};

/// How often the kernel is asked when it tells nothing.
const ASK_EVERY: Duration = Duration::from_secs(5);

/// Why a list of interfaces cannot be trusted ones.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UplinksError {
    #[error("--trusted-uplink: {count} devices are named, and at most {UPLINKS_MAX} can be")]
    Many { count: usize },
    #[error("--trusted-uplink `{0}`: names of devices have 1 to 15 bytes, no slash and no space")]
    Name(String),
}

/// Whether all of these can be names of devices.
pub fn check(names: &[String]) -> Result<(), UplinksError> {
    if names.len() > UPLINKS_MAX as usize {
        return Err(UplinksError::Many { count: names.len() });
    }
    let good = |name: &String| {
        (1..=15).contains(&name.len()) && !name.contains(|c: char| c == '/' || c.is_whitespace())
    };
    match names.iter().find(|name| !good(name)) {
        Some(name) => Err(UplinksError::Name(name.clone())),
        None => Ok(()),
    }
}

/// The indices that these devices have now; of those that are not there, none.
pub async fn indices(names: &[String]) -> Result<Vec<u32>, NetlinkError> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    find(&netlink::connect(&Netns::current()?)?, names).await
}

async fn find(handle: &Handle, names: &[String]) -> Result<Vec<u32>, NetlinkError> {
    let mut found = Vec::new();
    for name in names {
        found.extend(netlink::link(handle, name).await?.map(|link| link.index));
    }
    Ok(found)
}

/// Keeps the agent's table up to date with the devices. Never ends.
pub async fn watch(agent: Arc<Agent>, names: Vec<String>) {
    loop {
        if let Err(error) = follow(&agent, &names).await {
            agent.trust_uplinks(&[]);
            tracing::error!(
                error = crate::chain(&error),
                "no uplink is trusted until the kernel tells of its links again"
            );
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// Returns with an error, or when the kernel's messages end.
async fn follow(agent: &Agent, names: &[String]) -> Result<(), NetlinkError> {
    let failed = |source| NetlinkError::Socket {
        netns: "the node".into(),
        source,
    };
    let (connection, handle, mut changes) =
        rtnetlink::new_multicast_connection(&[MulticastGroup::Link]).map_err(failed)?;
    let task = tokio::spawn(connection);
    let result = loop {
        match find(&handle, names).await {
            Ok(indices) => agent.trust_uplinks(&indices),
            Err(error) => break Err(error),
        }
        if let Ok(None) = timeout(ASK_EVERY, changes.next()).await {
            break Ok(());
        }
    };
    task.abort();
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_device_can_have_are_refused() {
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        assert_eq!(check(&names(&["wg0", "a.b-c_d:15bytes"])), Ok(()));
        for bad in ["", "sixteen_bytes_xx", "a/b", "a b", "a,b\n"] {
            assert_eq!(check(&names(&[bad])), Err(UplinksError::Name(bad.into())));
        }
        let many = vec!["wg0".to_owned(); 17];
        assert_eq!(check(&many), Err(UplinksError::Many { count: 17 }));
    }
}
