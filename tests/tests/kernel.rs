use enforcer_ebpf::maps::{global, program};
use tests::bpf::{Bpf, L7_IFINDEX, REJ_IFINDEX, unavailable};
#[test]
fn loads() {
    if unavailable().is_some() {
        return;
    }
    let bpf = Bpf::load(
        "enforcer-ebpf",
        &[
            (global::L7_IFINDEX, L7_IFINDEX),
            (global::REJ_IFINDEX, REJ_IFINDEX),
        ],
    )
    .unwrap_or_else(|e| panic!("load: {e:?}"));
    for name in [
        program::TO_POD,
        program::FROM_POD,
        program::FROM_L7,
        program::PROXY_LOOKUP,
    ] {
        println!(
            "{name}: {} instructions verified",
            bpf.verified(name).unwrap_or(0)
        );
    }
}
