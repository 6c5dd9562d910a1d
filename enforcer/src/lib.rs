//! The node agent: loads the TC programs, keeps the table that they read, reports what they decide.
//!
//! Read in the order in which data flows: [`inventory`] (which pods live here, behind which
//! interfaces), [`delivery`] (where bundles come from), [`apply`] (bundle and inventory to words), [`table`] (words into the kernel),
//! [`attach`] (programs onto interfaces), [`report`] (verdicts out), [`control`] (orders in).
//! [`state`] is what one agent leaves to the next beside what the kernel holds.
//! [`object`] owns the loaded programs and maps, [`proxy_netns`] the namespace that the proxy lives
//! in, [`fleet`] the way to all agents of a cluster, [`ext_authz`] and [`key_sets`] what it needs of others, [`flows`] what is remembered about connections, [`rights`] what the agent must be allowed.

pub mod addresses;
pub mod agent;
pub mod apply;
pub mod attach;
pub mod cli;
pub mod cni;
pub mod conditions;
pub mod control;
pub mod delivery;
pub mod detach;
#[cfg(test)]
mod double;
pub mod ext_authz;
pub mod fleet;
pub mod flows;
pub mod inventory;
pub mod key_sets;
pub mod kube;
pub mod netlink;
pub mod netns;
pub mod object;
pub mod pins;
pub mod places;
pub mod plain;
pub mod proxy;
pub mod proxy_flows;
pub mod proxy_host;
pub mod proxy_netns;
pub mod report;
pub mod rights;
pub mod state;
pub mod table;
pub mod trust;
pub mod uplinks;
pub mod world;

/// An error with all that caused it, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Some libraries repeat their cause in their own words.
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}
