//! Read-only globals. They are set before loading and frozen, so that the verifier knows them.
//!
//! They have a section of their own: the compiler takes them for constants, and in the common one it
//! lets literals of the same value share their place. A literal 0 would then become an interface
//! index when the loader sets that.
#![expect(unsafe_code, reason = "names and sections of symbols")]

use aya_ebpf::Global;
use enforcer_ebpf::maps::CAPACITY_COMPILED;

#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata.globals")]
pub static CAPACITY: Global<u32> = Global::new(CAPACITY_COMPILED);
#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata.globals")]
pub static L7_IFINDEX: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata.globals")]
pub static REJ_IFINDEX: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata.globals")]
pub static L7_MAC: Global<[u8; 8]> = Global::new([0; 8]);
#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata.globals")]
pub static REJ_MAC: Global<[u8; 8]> = Global::new([0; 8]);
#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata.globals")]
pub static L7_PEER_IFINDEX: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata.globals")]
pub static FEATURES: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata.globals")]
pub static INTERFACE: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata.globals")]
pub static L7_NETNS_ID: Global<u32> = Global::new(0);
