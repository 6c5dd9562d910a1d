//! What the agent must be allowed to do: capabilities, and what each one serves. Root has them all;
//! a container's root may not.

/// A capability, as the kernel numbers it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capability {
    pub bit: u32,
    pub name: &'static str,
    /// What the agent does by it.
    pub serves: &'static str,
    /// The agent does not start without it.
    pub needed: bool,
}

/// Every capability that the agent makes use of.
pub const CAPABILITIES: [Capability; 7] = [
    Capability {
        bit: 39,
        name: "CAP_BPF",
        serves: "it loads programs and makes maps",
        needed: true,
    },
    Capability {
        bit: 38,
        name: "CAP_PERFMON",
        serves: "the programs read packets by pointer",
        needed: true,
    },
    Capability {
        bit: 12,
        name: "CAP_NET_ADMIN",
        serves: "it attaches programs, makes interfaces, and lets the proxy answer for pods",
        needed: true,
    },
    Capability {
        bit: 21,
        name: "CAP_SYS_ADMIN",
        serves: "it makes network namespaces and enters those of pods",
        needed: true,
    },
    Capability {
        bit: 10,
        name: "CAP_NET_BIND_SERVICE",
        serves: "the proxy keeps a client's port, also one below 1024",
        needed: false,
    },
    Capability {
        bit: 13,
        name: "CAP_NET_RAW",
        serves: "it asks whether the programs are on the pods' paths",
        needed: false,
    },
    Capability {
        bit: 19,
        name: "CAP_SYS_PTRACE",
        serves: "it finds the namespaces of pods by processes that are not root's",
        needed: false,
    },
];

/// What the calling process may not do.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("run it as root: it lacks {0} (`enforcer doctor` says what each is for)")]
pub struct RightsError(String);

/// Checks that the calling process has the needed capabilities.
pub fn check() -> Result<(), RightsError> {
    let effective = effective();
    let missing: Vec<&str> = CAPABILITIES
        .iter()
        .filter(|capability| capability.needed && !capability.is_in(effective))
        .map(|capability| capability.name)
        .collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(RightsError(missing.join(", ")))
    }
}

/// The effective capabilities of the calling process, as bits.
pub fn effective() -> u64 {
    // What cannot be read is taken for not granted: the agent then says so and does not start.
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .as_deref()
        .and_then(of_status)
        .unwrap_or(0)
}

impl Capability {
    pub fn is_in(self, effective: u64) -> bool {
        effective >> self.bit & 1 == 1
    }
}

/// The table as the README shows it.
pub fn markdown() -> String {
    let mut text = String::from("| capability | what for | without it |\n|---|---|---|\n");
    for Capability {
        name,
        serves,
        needed,
        ..
    } in CAPABILITIES
    {
        let without = match needed {
            true => "it does not start",
            false => "it runs, without that",
        };
        text += &format!("| {name} | {serves} | {without} |\n");
    }
    text
}

fn of_status(status: &str) -> Option<u64> {
    let hex = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(hex.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_by_their_bits() {
        let effective = of_status("Name:\tx\nCapEff:\t0000008000001000\n").expect("a whole line");
        let granted: Vec<&str> = CAPABILITIES
            .iter()
            .filter(|c| c.is_in(effective))
            .map(|c| c.name)
            .collect();
        assert_eq!(granted, ["CAP_BPF", "CAP_NET_ADMIN"]);
        assert_eq!(of_status("Name:\tx\n"), None, "no such line");
    }
}
