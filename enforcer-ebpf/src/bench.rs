//! Programs that measure the parts of a decision, each with a random source address among
//! [`SOURCES`], or a fixed one. They return what they found, so that nothing is left out.
//! Two more are filters, to be attached beside ours.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)] // in the modules shared with the programs proper
#![expect(dead_code, reason = "the shared modules hold more than is measured")]
#![expect(
    unsafe_code,
    reason = "helpers and map values of the kernel are raw pointers"
)]

mod kernel;

use aya_ebpf::{
    Global,
    bindings::{BPF_F_NO_PREALLOC, TC_ACT_SHOT},
    btf_maps::{HashMap, LpmTrie, lpm_trie::Key},
    helpers::bpf_get_prandom_u32,
    macros::{btf_map, classifier},
    programs::TcContext,
};
use enforcer_ebpf::{
    decide::{address_v4, decide, pod_by_interface},
    words::{Words as _, pod},
};
use kernel::table::Table;

const ENTRIES: usize = 131_072;
const DESTINATION: u32 = 0x0a00_0001;
const PORT: u32 = 8_080;
const INTERFACE: u32 = 1;
/// Go on with the next program.
const TCX_NEXT: i32 = -1;

/// Sources among which a random one is taken; 0 takes the same one every time.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata.globals")]
static SOURCES: Global<u32> = Global::new(0);

#[btf_map]
static HASH: HashMap<u32, u32, ENTRIES> = HashMap::new();
#[btf_map]
static LPM: LpmTrie<[u8; 16], u32, ENTRIES, { BPF_F_NO_PREALLOC as usize }> = LpmTrie::new();

/// The pods' addresses, a hundred in each /24.
#[inline(always)]
fn source() -> u32 {
    let sources = SOURCES.load();
    let i = if sources == 0 {
        1
    } else {
        // SAFETY: a plain helper call.
        unsafe { bpf_get_prandom_u32() % sources }
    };
    0x0a00_0000 | (i / 100) << 8 | (i % 100)
}

/// Nothing.
#[classifier]
pub fn empty(_ctx: TcContext) -> i32 {
    0
}

/// The source alone: what the others are to be compared with.
#[classifier]
pub fn random(_ctx: TcContext) -> i32 {
    (source() & 0xffff) as i32
}

/// One hash lookup, key of four bytes.
#[classifier]
pub fn hash(_ctx: TcContext) -> i32 {
    let key = source();
    // SAFETY: the value is copied at once.
    HASH.get_ptr(key)
        .map_or(-1, |value| unsafe { *value } as i32)
}

/// Two hash lookups, as for source and destination.
#[classifier]
pub fn two_hashes(_ctx: TcContext) -> i32 {
    let (key, other) = (source(), DESTINATION);
    // SAFETY: the values are copied at once.
    let one = HASH.get_ptr(key).map_or(0, |value| unsafe { *value });
    // SAFETY: as above.
    let two = HASH.get_ptr(other).map_or(0, |value| unsafe { *value });
    (one ^ two) as i32
}

/// One longest-prefix lookup, key of sixteen bytes.
#[classifier]
pub fn lpm(_ctx: TcContext) -> i32 {
    LPM.get(&mapped(source())).map_or(-1, |value| *value as i32)
}

/// A filter of one hash lookup: packets of sources that are not in the map are dropped.
#[classifier]
pub fn hash_filter(ctx: TcContext) -> i32 {
    match ipv4_source(&ctx) {
        Some(source) if HASH.get_ptr(source).is_none() => TC_ACT_SHOT,
        _ => TCX_NEXT,
    }
}

/// The same with a longest-prefix lookup.
#[classifier]
pub fn lpm_filter(ctx: TcContext) -> i32 {
    match ipv4_source(&ctx) {
        Some(source) if LPM.get(&mapped(source)).is_none() => TC_ACT_SHOT,
        _ => TCX_NEXT,
    }
}

/// Source of an IPv4 packet behind an Ethernet header, in host order.
#[inline(always)]
fn ipv4_source(ctx: &TcContext) -> Option<u32> {
    const ETHERTYPE: usize = 12;
    const SOURCE: usize = 14 + 12;
    let start = ctx.data();
    if start + SOURCE + size_of::<u32>() > ctx.data_end() {
        return None;
    }
    // SAFETY: the bounds were looked at.
    let ethertype = unsafe { ((start + ETHERTYPE) as *const u16).read_unaligned() };
    if u16::from_be(ethertype) != 0x0800 {
        return None;
    }
    // SAFETY: as above.
    let source = unsafe { ((start + SOURCE) as *const u32).read_unaligned() };
    Some(u32::from_be(source))
}

#[inline(always)]
fn mapped(v4: u32) -> Key<[u8; 16]> {
    let mut bytes = [0; 16];
    bytes[10] = 0xff;
    bytes[11] = 0xff;
    bytes[12..].copy_from_slice(&v4.to_be_bytes());
    Key::new(128, bytes)
}

/// The whole decision: pod by interface, both addresses, port, class, row, cell.
#[classifier]
pub fn decision(_ctx: TcContext) -> i32 {
    let table = Table::active();
    let at = pod_by_interface(&table, INTERFACE);
    let destination = address_v4(&table, DESTINATION);
    let source = address_v4(&table, source());
    let cell = decide(&table, table.at(at + pod::SCOPE_V4), source.class(), PORT);
    (cell.0 ^ destination.class()) as i32
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
