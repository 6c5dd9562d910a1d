//! Takes away everything that an agent made on this node: links, maps, classifiers, the proxy's
//! namespace and its interfaces.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    attach::remove_clsact,
    netlink::{self, NetlinkError},
    netns::{Netns, NetnsError},
    pins::{Pins, PinsError},
    proxy_netns::{self, ProxyNetnsError},
};

/// What was there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Removed {
    pub links: usize,
    /// Interfaces with classifiers of ours.
    pub classifiers: usize,
    pub netns: bool,
}

/// What could not be taken away.
#[derive(Debug, thiserror::Error)]
pub enum DetachError {
    #[error(transparent)]
    Pins(#[from] PinsError),
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    ProxyNetns(#[from] ProxyNetnsError),
}

/// Takes everything away. Refuses while an agent is running. Must be called within a tokio runtime.
pub async fn everything(pins: &Pins, netns: &str) -> Result<Removed, DetachError> {
    let lock = pins.take_what_is_there()?;
    let removed = all(pins, netns).await;
    drop(lock);
    removed
}

/// As [`everything`], for the agent that holds the lock.
pub async fn all(pins: &Pins, netns: &str) -> Result<Removed, DetachError> {
    // Programs that refuse go first, and what they steer to goes last.
    let links = pins.remove_all()?;
    let node = netlink::connect(&Netns::current()?)?;
    let classifiers = netlink::links(&node)
        .await?
        .iter()
        .filter(|link| remove_clsact(&link.name))
        .count();
    let netns = proxy_netns::remove(netns).await?;
    Ok(Removed {
        links,
        classifiers,
        netns,
    })
}

impl fmt::Display for Removed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::default() {
            return f.write_str("nothing was attached");
        }
        write!(f, "detached: {} links", self.links)?;
        if self.classifiers > 0 {
            write!(f, ", classifiers of {} interfaces", self.classifiers)?;
        }
        if self.netns {
            f.write_str(", the proxy's namespace")?;
        }
        Ok(())
    }
}
