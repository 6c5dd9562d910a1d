//! The node's interfaces, and who else has programs on them: CNIs whose packets skip the hook.

use std::{collections::BTreeSet, fs, path::Path};

use super::{Finding, missing, note, ok};
use crate::{
    attach::{Attach, others_programs},
    chain,
    cni::{self, Reach},
    netlink::{self, NetlinkError},
    netns::Netns,
};

/// Where a container runtime finds the node's CNI.
const CONFIGURATIONS: &str = "/etc/cni/net.d";

/// An interface, and the names of the programs on it that are not ours.
struct Seen {
    name: String,
    kind: String,
    others: BTreeSet<String>,
}

pub(super) async fn examine() -> Vec<Finding> {
    let mut findings = configured(&plugins(Path::new(CONFIGURATIONS)));
    match look().await {
        Ok(seen) => findings.extend(of_interfaces(&seen, Attach::best())),
        Err(error) => findings.push(note(
            "interfaces",
            format!("not looked at: {}", chain(&error)),
            "CAP_NET_ADMIN and CAP_SYS_ADMIN are needed",
        )),
    }
    findings
}

async fn look() -> Result<Vec<Seen>, NetlinkError> {
    let handle = netlink::connect(&Netns::current()?)?;
    let mut all = Vec::new();
    for link in netlink::links(&handle).await? {
        let others = others_programs(&handle, &link).await?;
        all.push(Seen {
            name: link.name,
            kind: link.kind,
            others,
        });
    }
    Ok(all)
}

fn of_interfaces(seen: &[Seen], attach: Attach) -> Vec<Finding> {
    let mut findings = Vec::new();
    let netkits: Vec<&str> = seen
        .iter()
        .filter(|link| link.kind == "netkit")
        .map(|link| link.name.as_str())
        .collect();
    if !netkits.is_empty() {
        findings.push(skips("netkit devices", &netkits.join(", "), attach));
    }
    let others: BTreeSet<&str> = seen
        .iter()
        .flat_map(|link| link.others.iter().map(String::as_str))
        .collect();
    let listed = others.iter().copied().collect::<Vec<_>>().join(", ");
    if others.iter().any(|name| cni::redirects(name)) {
        findings.push(skips("programs that redirect", &listed, attach));
    } else if others.is_empty() {
        findings.push(ok("others' programs", "none on any interface"));
    } else {
        findings.push(note(
            "others' programs",
            listed,
            "ours run first; `enforcer status` says whether the hook sees a pod's packets",
        ));
    }
    findings
}

/// Something whose packets may pass the hook on the node's end of a pod's link by.
fn skips(what: &str, found: &str, attach: Attach) -> Finding {
    let found = format!("{found}: packets may skip the pods' interfaces of the node");
    match attach {
        Attach::Tcx => note(
            what,
            found,
            "--hook=auto, the default, finds out and guards such pods from inside their namespaces; \
             rules that need the proxy are refused there",
        ),
        Attach::Clsact => missing(
            what,
            found,
            "run Linux 6.6 or later, where pods can be guarded from inside, or turn the CNI's host \
             routing off",
        ),
    }
}

/// Types of the plugins in a folder of CNI configurations.
fn plugins(folder: &Path) -> BTreeSet<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return BTreeSet::new(); // no CNI is configured where the agent looks
    };
    let texts = entries
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path()).ok());
    texts.flat_map(|text| types(&text)).collect()
}

/// The plugins that one configuration names, alone or in a list.
fn types(text: &str) -> Vec<String> {
    let Ok(value) = serde_json::from_str::<serde_json::Value>(text) else {
        return Vec::new(); // another's file, for another program
    };
    let list = value["plugins"].as_array().cloned();
    list.unwrap_or_else(|| vec![value])
        .iter()
        .filter_map(|plugin| Some(plugin["type"].as_str()?.to_owned()))
        .collect()
}

fn configured(plugins: &BTreeSet<String>) -> Vec<Finding> {
    let networks = cni::NETWORKS.iter().filter_map(|network| {
        let named = network.plugins.iter().find(|name| plugins.contains(**name));
        Some((network, named?))
    });
    networks
        .map(|(network, plugin)| {
            let what = format!("CNI plugin {plugin}");
            let found = format!("{}: {}", network.name, network.reach.meaning());
            match network.reach {
                Reach::Host => ok(&what, found),
                Reach::Pod => note(&what, found, "see the matrix of networks in the README"),
                Reach::None => note(
                    &what,
                    found,
                    "give such pods another network, or police them elsewhere: `enforcer status` \
                     names them",
                ),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::State;

    fn seen(name: &str, kind: &str, others: &[&str]) -> Seen {
        Seen {
            name: name.into(),
            kind: kind.into(),
            others: others.iter().map(|name| (*name).into()).collect(),
        }
    }

    #[track_caller]
    fn check(seen: &[Seen], attach: Attach, expected: &[(&str, State)]) {
        let findings = of_interfaces(seen, attach);
        let found: Vec<(&str, State)> = findings
            .iter()
            .map(|finding| (finding.what.as_str(), finding.state))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn networks_that_skip_the_hook_are_named() {
        let plain = seen("veth0", "veth", &[]);
        check(&[plain], Attach::Tcx, &[("others' programs", State::Ok)]);
        let cilium = || seen("eth0", "", &["cil_from_netdev"]);
        let what = "programs that redirect";
        check(&[cilium()], Attach::Tcx, &[(what, State::Note)]);
        check(&[cilium()], Attach::Clsact, &[(what, State::Missing)]);
        let netkit = seen("nk0", "netkit", &["unknown"]);
        let expected = [
            ("netkit devices", State::Note),
            ("others' programs", State::Note),
        ];
        check(&[netkit], Attach::Tcx, &expected);
    }

    #[test]
    fn plugins_are_read_from_both_kinds_of_configuration() {
        assert_eq!(types(r#"{"name": "n", "type": "macvlan"}"#), ["macvlan"]);
        let list = r#"{"plugins": [{"type": "calico"}, {"type": "portmap"}]}"#;
        assert_eq!(types(list), ["calico", "portmap"]);
        assert!(types("not JSON").is_empty());
        let found = configured(&["macvlan".into(), "portmap".into()].into());
        assert_eq!(found.len(), 1, "portmap makes no interface: {found:?}");
        assert_eq!(found[0].state, State::Note);
    }
}
