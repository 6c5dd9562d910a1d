//! The decision: a handful of reads from the table, the same on the host and in the kernel.
//!
//! Cost does not depend on the number of policies, rules, identities or pods: every function here
//! makes a fixed number of reads. What is not found reads as 0, and 0 denies.

use crate::words::{
    Address, BUCKET, Cell, INTERFACE_ENTRY, LEAF, V4_ROOT, V6_ENTRY, V6_RANGE_STEPS, Words, header,
    index_bits, index_offset, interface_bucket, pod, scope, v6_buckets,
};

/// The verdict for a source of `class` that wants `port` of a destination under the scope at offset
/// `scope`. `port` is in host order. Ends in deny: a missing scope, row or cell is [`Cell::NOTHING`].
#[inline(always)]
pub fn decide<W: Words + ?Sized>(words: &W, scope: u32, class: u32, port: u32) -> Cell {
    if scope == 0 {
        return Cell::NOTHING;
    }
    // VERIFIER: one bound for the four of them, and before anything else: what Linux 6.1 learns of a
    // number by a comparison it forgets when the compiler puts the number aside in between.
    const { assert!(scope::WORDS == 4) };
    let of = words.four(scope);
    let column = index(words, of[scope::PORTS as usize], port);
    let row = index(words, of[scope::CLASSES as usize], class);
    let (cells, width) = (of[scope::CELLS as usize], of[scope::WIDTH as usize]);
    let cell = words.at(cells
        .wrapping_add(row.wrapping_mul(width))
        .wrapping_add(column));
    Cell(words.opaque(cell))
}

/// Looks a 16-bit key up in an index; 0, the default, when it is not there.
#[inline(always)]
pub fn index<W: Words + ?Sized>(words: &W, reference: u32, key: u32) -> u32 {
    let bucket = key & ((1 << index_bits(reference)) - 1);
    let at = index_offset(reference).wrapping_add(bucket * BUCKET);
    let mut found = 0;
    for entry in words.four(at) {
        found |= entry & equal(entry >> 16, key);
    }
    // Reference 0 leads to the header's words, which are no entries.
    words.opaque(found & 0xffff & !equal(reference, 0))
}

/// All ones where two numbers are the same, else 0.
// VERIFIER: a comparison would be a branch, and the ways through a bucket would multiply with all
// that follows; four entries in one cache line are read faster than a branch is mispredicted.
#[inline(always)]
pub fn equal(a: u32, b: u32) -> u32 {
    let borrow = ((a ^ b) as u64).wrapping_sub(1) >> 32;
    (borrow & 0xffff_ffff) as u32
}

/// What the table knows about an IPv4 address, given in host order.
#[inline(always)]
pub fn address_v4<W: Words + ?Sized>(words: &W, address: u32) -> Address {
    let mut word = words.at(V4_ROOT + (address >> 16));
    if word & LEAF == 0 {
        word = words.at(word.wrapping_add((address >> 8) & 0xff));
        if word & LEAF == 0 {
            word = words.at(word.wrapping_add(address & 0xff));
        }
    }
    known(word)
}

/// What the table knows about an IPv6 address, most significant word first, each in host order:
/// first the hosts (pods), then the ranges (IP blocks, pod ranges).
#[inline(always)]
pub fn address_v6<W: Words + ?Sized>(words: &W, address: &[u32; 4]) -> Address {
    let hosts = words.at(header::V6_HOSTS);
    if hosts != 0 {
        for bucket in v6_buckets(address, words.at(header::V6_HOSTS_BITS)) {
            let mut i = 0;
            while i < BUCKET {
                let at = hosts.wrapping_add((bucket * BUCKET + i) * V6_ENTRY);
                // An entry that was never written says nothing of `::`.
                let word = words.at(at.wrapping_add(4));
                if word != 0 && halves(&words.four(at)) == halves(address) {
                    return known(word);
                }
                i += 1;
            }
        }
    }
    range_v6(words, address)
}

/// The last range that starts at or before `address`. The first range starts at `::`.
#[inline(always)]
fn range_v6<W: Words + ?Sized>(words: &W, address: &[u32; 4]) -> Address {
    if words.at(header::V6_RANGES) == 0 || words.at(header::V6_RANGES_COUNT) == 0 {
        return known(0);
    }
    // INVARIANT: the entry `low` starts at or before the address. The steps reach every entry up to
    // V6_RANGES_MAX.
    let mut low = 0u32;
    let mut step = 1 << (V6_RANGE_STEPS - 1);
    while step != 0 {
        low = words.narrow_v6(address, low, step);
        step >>= 1;
    }
    let ranges = words.at(header::V6_RANGES);
    known(words.at(ranges.wrapping_add(low.wrapping_mul(V6_ENTRY) + 4)))
}

/// One step of the search among the IPv6 ranges: `low + step` if that range exists and starts at or
/// before `address`, else `low`.
#[inline(always)]
pub fn narrow_v6<W: Words + ?Sized>(words: &W, address: &[u32; 4], low: u32, step: u32) -> u32 {
    let probe = low.wrapping_add(step);
    if probe >= words.at(header::V6_RANGES_COUNT) {
        return low;
    }
    let at = words
        .at(header::V6_RANGES)
        .wrapping_add(probe.wrapping_mul(V6_ENTRY));
    if halves(&words.four(at)) > halves(address) {
        low
    } else {
        probe
    }
}

/// An IPv6 address as two numbers that compare as it does.
#[inline(always)]
fn halves(address: &[u32; 4]) -> (u64, u64) {
    (
        (address[0] as u64) << 32 | address[1] as u64,
        (address[2] as u64) << 32 | address[3] as u64,
    )
}

/// A word that is not an address (never written, or torn) is held by an unknown, of class 0.
#[inline(always)]
fn known(word: u32) -> Address {
    if word & LEAF == 0 {
        Address(LEAF | 3 << 16)
    } else {
        Address(word)
    }
}

/// The offset of the pod behind a host interface, or 0: the interface is not a pod's.
#[inline(always)]
pub fn pod_by_interface<W: Words + ?Sized>(words: &W, ifindex: u32) -> u32 {
    let buckets = words.at(header::INTERFACES);
    let bucket = interface_bucket(ifindex, words.at(header::INTERFACES_BITS));
    let at = buckets.wrapping_add(bucket * BUCKET * INTERFACE_ENTRY);
    let [one, its, other, others] = words.four(at);
    let mut found = its & equal(one, ifindex) | others & equal(other, ifindex);
    let [one, its, other, others] = words.four(at.wrapping_add(4));
    found |= its & equal(one, ifindex) | others & equal(other, ifindex);
    // Without buckets these were the header's words, and an empty entry is of no interface.
    found &= !equal(buckets, 0) & !equal(ifindex, 0);
    if words.within(found, pod::WORDS) {
        found
    } else {
        0
    }
}

/// Whether some pod is behind a host interface, for who need not know which.
// VERIFIER: by comparisons, each of which ends it: that is half of what finding the pod takes.
#[inline(always)]
pub fn is_a_pods<W: Words + ?Sized>(words: &W, ifindex: u32) -> bool {
    let buckets = words.at(header::INTERFACES);
    if ifindex == 0 || buckets == 0 {
        return false;
    }
    let bucket = interface_bucket(ifindex, words.at(header::INTERFACES_BITS));
    let at = buckets.wrapping_add(bucket * BUCKET * INTERFACE_ENTRY);
    let [one, _, two, _] = words.four(at);
    let [three, _, four, _] = words.four(at.wrapping_add(4));
    one == ifindex || two == ifindex || three == ifindex || four == ifindex
}

const _: () = assert!(scope::PORTS == 0 && scope::CLASSES == 1);
const _: () = assert!(scope::CELLS == 2 && scope::WIDTH == 3);

const _: () = assert!(BUCKET * INTERFACE_ENTRY == 8);

/// The offset of the pod in a slot, or 0.
#[inline(always)]
pub fn pod_by_slot<W: Words + ?Sized>(words: &W, slot: u32) -> u32 {
    let at = words
        .at(header::PODS)
        .wrapping_add(slot.wrapping_mul(pod::WORDS));
    if slot < words.at(header::PODS_COUNT) && words.within(at, pod::WORDS) {
        at
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::{Holder, Verdict, index_reference};

    #[test]
    fn an_empty_table_denies_everything() {
        let words: &[u32] = &[];
        assert_eq!(decide(words, 0, 0, 80), Cell::NOTHING, "no scope: deny");
        assert_eq!(
            decide(words, 64, 1, 80).verdict(),
            Verdict::Deny,
            "scope outside the table"
        );
        assert_eq!(address_v4(words, 0x0a00_0001).holder(), Holder::Unknown);
        assert_eq!(address_v6(words, &[0, 0, 0, 1]).holder(), Holder::Unknown);
        assert_eq!(pod_by_interface(words, 7), 0);
    }

    #[test]
    fn an_index_answers_its_keys_and_the_default_for_all_others() {
        let mut words = [0u32; 16];
        words[8] = 80 << 16 | 3;
        words[9] = 8080 << 16 | 4;
        let reference = index_reference(8, 0);
        assert_eq!(index(&words[..], reference, 80), 3);
        assert_eq!(index(&words[..], reference, 8080), 4);
        assert_eq!(
            index(&words[..], reference, 443),
            0,
            "a port nobody names is class 0"
        );
        assert_eq!(
            index(&words[..], 0, 80),
            0,
            "reference 0 is the empty index"
        );
    }

    #[test]
    fn cells_and_addresses_round_trip() {
        let cell = Cell::new(Verdict::Ask, true, false, 65_535);
        assert_eq!(
            (cell.verdict(), cell.audit(), cell.dry_run(), cell.record()),
            (Verdict::Ask, true, false, 65_535)
        );
        for holder in [
            Holder::Outside,
            Holder::RemotePod,
            Holder::Node,
            Holder::Unknown,
            Holder::LocalPod(0),
            Holder::LocalPod(8_191),
        ] {
            let address = Address::new(holder, 65_535);
            assert_eq!((address.holder(), address.class()), (holder, 65_535));
        }
    }
}
