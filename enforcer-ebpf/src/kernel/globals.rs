//! Read-only globals. They are set before loading and frozen, so that the verifier knows them.

use aya_ebpf::Global;
use enforcer_ebpf::maps::CAPACITY_COMPILED;

#[unsafe(no_mangle)]
pub static CAPACITY: Global<u32> = Global::new(CAPACITY_COMPILED);
#[unsafe(no_mangle)]
pub static L7_IFINDEX: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub static REJ_IFINDEX: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub static L7_MAC: Global<[u8; 8]> = Global::new([0; 8]);
#[unsafe(no_mangle)]
pub static REJ_MAC: Global<[u8; 8]> = Global::new([0; 8]);
#[unsafe(no_mangle)]
pub static L7_PEER_IFINDEX: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub static L7_NETNS_ID: Global<u32> = Global::new(0);
