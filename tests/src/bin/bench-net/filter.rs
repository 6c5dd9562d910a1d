//! The filters compared. Each lets the same sources reach the server's port, and nobody else.

use std::{fmt::Write as _, fs, net::Ipv4Addr, path::Path, process::Command};

use anyhow::{Context, Result};
use aya::{
    Ebpf, EbpfLoader,
    maps::{
        HashMap as BpfHashMap,
        lpm_trie::{Key, LpmTrie},
    },
    programs::{LinkOrder, SchedClassifier, TcAttachType, tc::TcAttachOptions},
};
use tests::bpf;

use crate::{
    agent::{self, Policed, Refusal},
    measure::Metric,
    triplet::{CLIENT, PORT, SERVER, TO_SERVER, Triplet},
};

/// A source that nothing allows.
pub const DENIED: Ipv4Addr = Ipv4Addr::new(11, 255, 255, 1);

/// The `i`th source: a hundred addresses in each /24, as nodes give them to their pods.
pub fn source(i: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0b00_0000 | (i / 100) << 8 | (i % 100))
}

#[derive(Clone, Copy)]
pub enum Filter {
    /// No filter at all, a second time: what differs from the base is noise.
    None,
    Agent(Policed, Refusal, u32),
    /// A verdict map at netfilter's forward hook, where nft users put it.
    NftForward(u32),
    /// The same at the server's device, where the agent's program sits.
    NftEgress(u32),
    Iptables(u32),
    /// One lookup of the source in a BPF map, at the server's device.
    Map(Kind, u32),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Hash,
    Lpm,
}

/// What a slice sends.
pub struct Traffic {
    /// Number of sources among which a flood takes its own.
    pub sources: u32,
}

impl Default for Traffic {
    fn default() -> Self {
        Self { sources: 100_000 }
    }
}

/// Keeps a filter in place.
#[expect(dead_code, reason = "held for what ends with it")]
pub enum Installed {
    Nothing,
    /// Ends with its namespace.
    Rules,
    Agent(agent::Running),
    Programs(Ebpf),
}

impl Filter {
    pub fn all() -> Vec<Self> {
        let agent = |entries| Self::Agent(Policed::Server, Refusal::Drop, entries);
        let map = |kind| move |entries| Self::Map(kind, entries);
        let sizes = [1_000, 100_000, 1_000_000];
        let mut all = vec![Self::None];
        all.extend(sizes.map(agent));
        all.extend([
            Self::Agent(Policed::Both, Refusal::Drop, 100_000),
            Self::Agent(Policed::ClientDeniesAll, Refusal::Drop, 100_000),
            Self::Agent(Policed::Server, Refusal::Reset, 100_000),
            Self::NftForward(100_000),
        ]);
        all.extend(sizes.map(Self::NftEgress));
        all.extend([1_000, 10_000].map(Self::Iptables));
        all.extend(sizes.map(map(Kind::Hash)));
        all.extend(sizes.map(map(Kind::Lpm)));
        all
    }

    pub fn name(self) -> String {
        match self {
            Self::None => "none".into(),
            Self::Agent(policed, refusal, entries) => {
                let what = match (policed, refusal) {
                    (Policed::Server, Refusal::Drop) => "",
                    (Policed::Server, Refusal::Reset) => " resets",
                    (Policed::Both, _) => " both pods",
                    (Policed::ClientDeniesAll, _) => " replies",
                };
                format!("enforcer{what} {entries}")
            }
            Self::NftForward(entries) => format!("nft forward {entries}"),
            Self::NftEgress(entries) => format!("nft egress {entries}"),
            Self::Iptables(entries) => format!("iptables {entries}"),
            Self::Map(Kind::Hash, entries) => format!("BPF hash {entries}"),
            Self::Map(Kind::Lpm, entries) => format!("BPF LPM {entries}"),
        }
    }

    /// Sources that it knows.
    pub fn entries(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Agent(_, _, entries)
            | Self::NftForward(entries)
            | Self::NftEgress(entries)
            | Self::Iptables(entries)
            | Self::Map(_, entries) => entries,
        }
    }

    /// What it is measured with; `None` where the metric says nothing about it.
    pub fn traffic(self, metric: Metric) -> Option<Traffic> {
        let measured = match self {
            // A pod that is policed may not send from other people's addresses, and a filter of
            // answers has nothing to refuse.
            Self::Agent(Policed::Both | Policed::ClientDeniesAll, ..) => {
                matches!(metric, Metric::Request | Metric::Connect)
            }
            Self::Agent(_, Refusal::Reset, _) => metric == Metric::Denied,
            // It forwards all it gets.
            Self::None => metric != Metric::Denied,
            _ => true,
        };
        measured.then(|| match self {
            Self::None => Traffic::default(),
            _ => Traffic {
                sources: self.entries() - agent::OTHERS,
            },
        })
    }

    /// Puts it to work in a network.
    pub fn install(self, triplet: &Triplet, enforcer: &Path) -> Result<Installed> {
        let sources = self.entries().saturating_sub(agent::OTHERS);
        match self {
            Self::None => Ok(Installed::Nothing),
            Self::Agent(policed, refusal, _) => {
                agent::start(triplet, enforcer, policed, refusal, sources).map(Installed::Agent)
            }
            Self::NftForward(_) => {
                let chain = format!(
                    "type filter hook forward priority 0; policy drop; iifname \"{TO_SERVER}\" accept;"
                );
                nft(triplet, "inet", &chain, sources)
            }
            Self::NftEgress(_) => {
                let chain = format!(
                    "type filter hook egress device {TO_SERVER} priority 0; policy drop; ether type arp accept;"
                );
                nft(triplet, "netdev", &chain, sources)
            }
            Self::Iptables(_) => iptables(triplet, sources),
            Self::Map(kind, entries) => map(triplet, kind, entries, sources),
        }
    }
}

/// All sources, the client last: a list that is read from its beginning ends with what is asked.
fn addresses(sources: u32) -> impl Iterator<Item = Ipv4Addr> {
    (0..sources).rev().map(source).chain([CLIENT])
}

fn nft(triplet: &Triplet, family: &str, chain: &str, sources: u32) -> Result<Installed> {
    let mut rules = format!(
        "table {family} bench {{\n map verdicts {{\n  type ipv4_addr . ipv4_addr . inet_service : verdict\n  elements = {{\n"
    );
    for address in addresses(sources) {
        writeln!(rules, "{address} . {SERVER} . {PORT} : accept,")?;
    }
    writeln!(
        rules,
        " }}\n }}\n chain judge {{ {chain}\n meta l4proto tcp ip saddr . ip daddr . th dport vmap @verdicts\n }}\n}}"
    )?;
    feed(triplet, &rules, &["nft", "-f"])
}

fn iptables(triplet: &Triplet, sources: u32) -> Result<Installed> {
    let mut rules = format!(
        "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n-A FORWARD -i {TO_SERVER} -j ACCEPT\n"
    );
    for address in addresses(sources) {
        writeln!(
            rules,
            "-A FORWARD -s {address}/32 -p tcp -m tcp --dport {PORT} -j ACCEPT"
        )?;
    }
    rules += "COMMIT\n";
    feed(triplet, &rules, &["iptables-nft-restore"])
}

/// Gives a program the rules in a file.
fn feed(triplet: &Triplet, rules: &str, command: &[&str]) -> Result<Installed> {
    let file = std::env::temp_dir().join(format!("{}.rules", triplet.node.name()));
    fs::write(&file, rules)?;
    let done = triplet
        .node
        .output(Command::new(command[0]).args(&command[1..]).arg(&file));
    fs::remove_file(&file)?;
    done.map(|_| Installed::Rules)
}

fn map(triplet: &Triplet, kind: Kind, entries: u32, sources: u32) -> Result<Installed> {
    let path = bpf::object_path("enforcer-ebpf-bench");
    let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    // The map that is not measured stays small.
    let size = |other| if other == kind { entries } else { 1 };
    let mut programs = EbpfLoader::new()
        .map_max_entries("HASH", size(Kind::Hash))
        .map_max_entries("LPM", size(Kind::Lpm))
        .load(&bytes)?;
    let name = match kind {
        Kind::Hash => {
            let map = programs.map_mut("HASH").context("the bench has its map")?;
            let mut map: BpfHashMap<_, u32, u32> = map.try_into()?;
            for address in addresses(sources) {
                map.insert(address.to_bits(), 1, 0)?;
            }
            "hash_filter"
        }
        Kind::Lpm => {
            let map = programs.map_mut("LPM").context("the bench has its map")?;
            let mut map: LpmTrie<_, [u8; 16], u32> = map.try_into()?;
            for address in addresses(sources) {
                map.insert(&Key::new(128, address.to_ipv6_mapped().octets()), 1, 0)?;
            }
            "lpm_filter"
        }
    };
    let program: &mut SchedClassifier = programs
        .program_mut(name)
        .context("the bench has its program")?
        .try_into()?;
    program.load()?;
    triplet.node.enter(|| {
        program.attach_with_options(
            TO_SERVER,
            TcAttachType::Egress,
            TcAttachOptions::TcxOrder(LinkOrder::first()),
        )
    })?;
    Ok(Installed::Programs(programs))
}
