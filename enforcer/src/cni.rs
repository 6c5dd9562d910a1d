//! How pods hang on a node, and where their packets can be met: one table, which `enforcer doctor`
//! and the README show.

/// Where the packets of a pod can be met.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// At the node's end of the pod's link.
    Host,
    /// Only in the pod's own network namespace, at its end of the link.
    Pod,
    /// Nowhere.
    None,
}

/// A way in which pods hang on a node.
#[derive(Clone, Copy, Debug)]
pub struct Network {
    pub name: &'static str,
    /// CNI plugins that make it, by their `type`.
    pub plugins: &'static [&'static str],
    pub reach: Reach,
    /// What a refused connection meets.
    pub refused: &'static str,
    /// Whether rules that need the proxy work.
    pub l7: &'static str,
    /// Where it was run: with the real kernel's devices, laid out as the plugin does.
    pub run: &'static str,
}

/// The matrix.
pub const NETWORKS: [Network; 6] = [
    Network {
        name: "routed veth (Calico, kindnet, ptp)",
        plugins: &["calico", "ptp", "aws-cni", "kindnet"],
        reach: Reach::Host,
        refused: "reset",
        l7: "yes",
        run: "yes",
    },
    Network {
        name: "bridge (flannel, bridge)",
        plugins: &["bridge", "flannel"],
        reach: Reach::Host,
        refused: "reset",
        l7: "yes",
        run: "yes",
    },
    Network {
        name: "redirect into the pod (Cilium host routing)",
        plugins: &["cilium-cni", "cilium"],
        reach: Reach::Pod,
        refused: "silence",
        l7: "refused",
        run: "a program that redirects as Cilium's does",
    },
    Network {
        name: "netkit (Cilium)",
        plugins: &[],
        reach: Reach::Pod,
        refused: "silence",
        l7: "refused",
        run: "Linux 6.12 and newest, in a VM",
    },
    Network {
        name: "macvlan, ipvlan, SR-IOV",
        plugins: &["macvlan", "ipvlan", "sriov", "host-device"],
        reach: Reach::None,
        refused: "not enforced",
        l7: "no",
        run: "not run",
    },
    Network {
        name: "the node's own (hostNetwork)",
        plugins: &[],
        reach: Reach::None,
        refused: "not enforced",
        l7: "no",
        run: "yes: `status` says so",
    },
];

impl Reach {
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Host => "met at the node's end of the link",
            Self::Pod => "met in the pod's namespace",
            Self::None => "not met: policies are not enforced",
        }
    }

    /// The value of `--hook`, where there is one.
    fn hook(self) -> &'static str {
        match self {
            Self::Host => "`host`",
            Self::Pod => "`pod`, from Linux 6.6",
            Self::None => "none",
        }
    }
}

/// Whether a program of that name sends packets straight into pods, past the node's interfaces.
pub fn redirects(program: &str) -> bool {
    program.starts_with("cil_")
}

/// The matrix as the README shows it.
pub fn markdown() -> String {
    let mut text = String::from(
        "| pods hang on | hook | a refusal meets | L7 | run |\n|---|---|---|---|---|\n",
    );
    for network in &NETWORKS {
        text += &format!(
            "| {} | {} | {} | {} | {} |\n",
            network.name,
            network.reach.hook(),
            network.refused,
            network.l7,
            network.run
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_shows_the_matrix_and_the_capabilities() {
        let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
        let readme = std::fs::read_to_string(readme).expect("it is there");
        for table in [markdown(), crate::rights::markdown()] {
            assert!(readme.contains(&table), "README.md lacks\n{table}");
        }
    }
}
