//! What a table says, whatever its layout: two tables of the same meaning are equal here. Every part
//! that a reader can reach is followed; classes are numbered in the order in which addresses are met,
//! records are what they stand for, and blocks and entries that nobody reaches are left out.

use std::collections::BTreeMap;

use enforcer_ebpf::{
    decide::{address_v4, address_v6, decide, index, pod_by_interface, pod_by_slot},
    words::{
        Address, BUCKET, Cell, INTERFACE_ENTRY, LEAF, V4_ROOT, V6_ENTRY, Words, header, index_bits,
        index_offset, pod, scope,
    },
};

use super::{Linked, addresses::parts};

/// The meaning of a table.
#[derive(PartialEq, Eq, Debug, Default)]
pub(crate) struct Meaning {
    header: Vec<u32>,
    /// Where another word begins.
    v4: Vec<(u32, String)>,
    v6: Vec<(u128, String)>,
    /// By slot.
    pods: Vec<Vec<String>>,
    interfaces: BTreeMap<u32, u32>,
}

/// `words` are those of `linked`, or what has become of them.
pub(crate) fn meaning(words: &[u32], linked: &Linked) -> Meaning {
    let mut reader = Reader {
        words,
        linked,
        classes: BTreeMap::new(),
    };
    let mut meaning = Meaning {
        header: [header::MAGIC, header::ABI, header::EPOCH, header::OPTIONS]
            .map(|at| words.at(at))
            .into(),
        ..Meaning::default()
    };
    let starts = reader.v4_starts();
    for start in starts {
        let told = reader.address(address_v4(words, start));
        if meaning.v4.last().is_none_or(|(_, before)| *before != told) {
            meaning.v4.push((start, told));
        }
    }
    for start in reader.v6_starts() {
        let told = reader.address(address_v6(words, &parts(start)));
        if meaning.v6.last().is_none_or(|(_, before)| *before != told) {
            meaning.v6.push((start, told));
        }
    }
    for slot in 0..words.at(header::PODS_COUNT) {
        meaning.pods.push(reader.pod(pod_by_slot(words, slot)));
    }
    let first = words.at(header::INTERFACES);
    let entries = (1 << words.at(header::INTERFACES_BITS)) * BUCKET;
    for entry in (0..entries).filter(|_| first != 0) {
        let ifindex = words.at(first + entry * INTERFACE_ENTRY);
        if ifindex != 0 {
            let at = pod_by_interface(words, ifindex);
            let slot = (at - words.at(header::PODS)) / pod::WORDS;
            meaning.interfaces.insert(ifindex, slot);
        }
    }
    meaning
}

struct Reader<'a> {
    words: &'a [u32],
    linked: &'a Linked,
    /// The class's own number to the one in the order of addresses.
    classes: BTreeMap<u32, usize>,
}

impl Reader<'_> {
    fn address(&mut self, address: Address) -> String {
        let next = self.classes.len();
        let class = *self.classes.entry(address.class()).or_insert(next);
        format!("{:?} {class}", address.holder())
    }

    fn v4_starts(&self) -> Vec<u32> {
        let mut starts = Vec::new();
        for high in 0..=0xffff_u32 {
            let word = self.words.at(V4_ROOT + high);
            starts.push(high << 16);
            if word & LEAF != 0 {
                continue;
            }
            for middle in 0..256 {
                starts.push(high << 16 | middle << 8);
                if self.words.at(word + middle) & LEAF == 0 {
                    starts.extend((1..256).map(|low| high << 16 | middle << 8 | low));
                }
            }
        }
        starts
    }

    fn v6_starts(&self) -> Vec<u128> {
        let mut starts = Vec::new();
        let number = |at: u32| {
            let four = self.words.four(at);
            four.iter()
                .fold(0u128, |all, part| all << 32 | u128::from(*part))
        };
        let hosts = self.words.at(header::V6_HOSTS);
        let entries = (1 << self.words.at(header::V6_HOSTS_BITS)) * BUCKET;
        for entry in (0..entries).filter(|_| hosts != 0) {
            let at = hosts + entry * V6_ENTRY;
            if self.words.at(at + 4) != 0 {
                let host = number(at);
                starts.extend([host, host + 1]);
            }
        }
        let ranges = self.words.at(header::V6_RANGES);
        for range in 0..self.words.at(header::V6_RANGES_COUNT) {
            starts.push(number(ranges + range * V6_ENTRY));
        }
        starts.sort_unstable();
        starts.dedup();
        starts
    }

    fn pod(&mut self, at: u32) -> Vec<String> {
        let word = |index: u32| self.words.at(at + index);
        let mut told = vec![format!(
            "{:?}",
            [pod::FLAGS, pod::BRIDGE, pod::NETNS_ID, pod::INTERFACE].map(word)
        )];
        for class in [pod::CLASS_V4, pod::CLASS_V6] {
            told.push(format!("{:?}", self.classes.get(&word(class))));
        }
        for scope in [pod::SCOPE_V4, pod::SCOPE_V6] {
            told.push(self.scope(word(scope)));
        }
        let host = word(pod::HOST_SCOPE);
        told.push(format!("{:?}", self.row(host, 0)));
        told
    }

    /// Of every class that some address has.
    fn scope(&self, at: u32) -> String {
        let mut classes: Vec<(usize, u32)> = self
            .classes
            .iter()
            .map(|(class, met)| (*met, *class))
            .collect();
        classes.sort_unstable();
        let rows: Vec<_> = classes
            .into_iter()
            .map(|(met, class)| (met, self.row(at, class)))
            .collect();
        format!("{rows:?}")
    }

    /// What most ports are answered, and the ports that are answered something else.
    fn row(&self, at: u32, class: u32) -> (String, BTreeMap<u32, String>) {
        if at == 0 {
            return Default::default();
        }
        let reference = self.words.at(at + scope::PORTS);
        let entries = match reference {
            0 => 0,
            _ => (1 << index_bits(reference)) * BUCKET,
        };
        let ports: Vec<u32> = (0..entries)
            .map(|entry| self.words.at(index_offset(reference) + entry))
            .filter(|entry| *entry != 0)
            .map(|entry| entry >> 16)
            .collect();
        let unnamed = (0..).find(|port| index(self.words, reference, *port) == 0);
        let most = self.cell(decide(self.words, at, class, unnamed.unwrap_or(0)));
        let others = ports
            .into_iter()
            .map(|port| (port, self.cell(decide(self.words, at, class, port))))
            .filter(|(_, cell)| *cell != most)
            .collect();
        (most, others)
    }

    fn cell(&self, cell: Cell) -> String {
        let record = &self.linked.records[cell.record() as usize];
        let residual = &self.linked.residuals[record.residual as usize];
        format!(
            "{:?} {} {} {:?} {:?} {:?} {:?} {residual:?}",
            cell.verdict(),
            cell.audit(),
            cell.dry_run(),
            record.cause,
            record.rule,
            record.audit,
            record.dry_run,
        )
    }
}
