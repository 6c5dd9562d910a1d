//! The maps. Their names and meaning are in [`enforcer_ebpf::maps`].

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::{Array, ArrayOfMaps, HashMap, LruHashMap, PerCpuArray, RingBuf, SockMap},
    macros::btf_map,
};
use enforcer_ebpf::{
    event::{Event, EventBudget},
    flow::{
        DATAGRAMS_IN_MAX, DATAGRAMS_OUT_MAX, DatagramKey, DatagramValue, FRAGMENTS_MAX, FlowKey,
        FragmentKey, FragmentValue, Hits, OUT_MAX, OutValue, PROXY_MAX, ProxyValue, SWITCHED_MAX,
    },
    maps::{ACTIVE_WORDS, CAPACITY_COMPILED, EVENTS_BYTES, HITS_MAX},
    reason::REASONS_MAX,
    words::{LOCAL_PODS_MAX, SLOTS},
};

/// One element, whose value is the whole table: array elements take 8 bytes at least, so a table of
/// u32 elements would be twice as large.
pub type TableMap = Array<[u32; CAPACITY_COMPILED as usize], 1, { BPF_F_MMAPABLE as usize }>;

#[btf_map]
pub static TABLES: ArrayOfMaps<TableMap, { SLOTS as usize }> = ArrayOfMaps::new();
#[btf_map]
pub static ACTIVE: Array<u32, { ACTIVE_WORDS as usize }, { BPF_F_MMAPABLE as usize }> =
    Array::new();
// The flow hashes are not allocated ahead: they are sized for the worst case, 25 MB for OUT alone,
// which most nodes never see.
#[btf_map]
pub static OUT: HashMap<FlowKey, OutValue, { OUT_MAX as usize }, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();
#[btf_map]
pub static OUT_COUNT: Array<u64, { LOCAL_PODS_MAX as usize }, { BPF_F_MMAPABLE as usize }> =
    Array::new();
#[btf_map]
pub static PROXY: HashMap<
    FlowKey,
    ProxyValue,
    { PROXY_MAX as usize },
    { BPF_F_NO_PREALLOC as usize },
> = HashMap::new();
#[btf_map]
pub static UPSTREAM: HashMap<
    FlowKey,
    ProxyValue,
    { PROXY_MAX as usize },
    { BPF_F_NO_PREALLOC as usize },
> = HashMap::new();
#[btf_map]
pub static SWITCHED: LruHashMap<FlowKey, u32, { SWITCHED_MAX as usize }> = LruHashMap::new();
#[btf_map]
pub static MASQUERADED: LruHashMap<FlowKey, u32, { SWITCHED_MAX as usize }> = LruHashMap::new();
#[btf_map]
pub static FRAGMENTS: LruHashMap<FragmentKey, FragmentValue, { FRAGMENTS_MAX as usize }> =
    LruHashMap::new();
#[btf_map]
pub static DATAGRAMS_OUT: HashMap<
    DatagramKey,
    DatagramValue,
    { DATAGRAMS_OUT_MAX as usize },
    { BPF_F_NO_PREALLOC as usize },
> = HashMap::new();
#[btf_map]
pub static DATAGRAMS_COUNT: Array<u64, { LOCAL_PODS_MAX as usize }, { BPF_F_MMAPABLE as usize }> =
    Array::new();
#[btf_map]
pub static DATAGRAMS_IN: LruHashMap<DatagramKey, DatagramValue, { DATAGRAMS_IN_MAX as usize }> =
    LruHashMap::new();
#[btf_map]
pub static RESET_BUDGET: PerCpuArray<EventBudget, 1> = PerCpuArray::new();
#[btf_map]
pub static REASONS: PerCpuArray<u64, { REASONS_MAX as usize }> = PerCpuArray::new();
#[btf_map]
pub static HITS: PerCpuArray<Hits, { HITS_MAX as usize }> = PerCpuArray::new();
#[btf_map]
pub static EVENTS: RingBuf<Event, { EVENTS_BYTES as usize }> = RingBuf::new();
#[btf_map]
pub static EVENT_BUDGET: PerCpuArray<EventBudget, 1> = PerCpuArray::new();
#[btf_map]
pub static LISTENERS: SockMap<1> = SockMap::new();
