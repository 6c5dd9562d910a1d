//! The node's own addresses come and go: a lease, a failover, a second uplink. Whoever sends from one
//! of them is the node, so that the table must know them all.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;
use rtnetlink::MulticastGroup;
use tokio::time::{sleep, timeout};

use crate::{
    agent::Agent,
    inventory::{InventoryError, node_addresses},
    netlink::NetlinkError,
};

/// How often the kernel is asked when it tells nothing, and when it could not be asked.
const ASK_EVERY: Duration = Duration::from_secs(30);
/// Addresses seldom come alone.
const SETTLE: Duration = Duration::from_millis(200);

/// Keeps the agent's table up to date with the node's addresses. Never ends.
pub async fn watch(agent: Arc<Agent>) {
    loop {
        if let Err(error) = follow(&agent).await {
            tracing::error!(
                error = crate::chain(&error),
                "the node's addresses cannot be watched; those that are known stay in force"
            );
        }
        sleep(ASK_EVERY).await;
    }
}

/// Returns with an error, or when the kernel's messages end.
async fn follow(agent: &Arc<Agent>) -> Result<(), InventoryError> {
    let failed = |source| NetlinkError::Socket {
        netns: "the node".into(),
        source,
    };
    let groups = [MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
    let (connection, handle, mut changes) =
        rtnetlink::new_multicast_connection(&groups).map_err(failed)?;
    let task = tokio::spawn(connection);
    let result = loop {
        let found = match node_addresses(&handle).await {
            Ok(found) => found,
            Err(error) => break Err(error),
        };
        let told = agent.clone();
        match tokio::task::spawn_blocking(move || told.readdress(found)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::error!(
                error = crate::chain(&error),
                "the node's new addresses are not in force"
            ),
            Err(error) => tracing::error!(%error, "linking broke off"),
        }
        if let Ok(None) = timeout(ASK_EVERY, changes.next()).await {
            break Ok(());
        }
        sleep(SETTLE).await;
        // What else has come in the meantime is known with the next answer. A lost message is, too.
        while let Ok(Some(_)) = timeout(Duration::ZERO, changes.next()).await {}
    };
    task.abort();
    result
}
