//! The end of a connection that policy has ceased to allow, at the first that the pod answers in it: both
//! sides are told. A peer that only listens sends nothing that could be refused, and would wait.

use aya_ebpf::{
    EbpfContext as _, bindings::__sk_buff, helpers::bpf_skb_change_tail, programs::TcContext,
};
use enforcer_ebpf::{
    judge::Action,
    packet::{AT, BYTES_V4, BYTES_V6, Part, WORDS_V4, WORDS_V6, ending_v4, ending_v6},
    reason::Reason,
};

use super::{
    frame::vlan_present,
    globals::{REJ_IFINDEX, REJ_MAC},
    report,
    run::Run,
};

/// The frame is to be refused like any other.
pub const AS_EVER: u32 = 0;
/// The pod is being told, and the frame has become the reset for its peer.
pub const TELLS_PEER: u32 = 1;
/// The pod is being told, the peer cannot be.
pub const TELLS_POD: u32 = 2;

/// Whether a segment from a pod is refused that its peer waits for.
#[inline(always)]
pub fn leaves_waiting(run: &Run) -> bool {
    let judgement = &run.finding.judgement;
    let answers = matches!(
        judgement.reason,
        Reason::ReplyRefused | Reason::UnknownIdentity
    );
    matches!(judgement.action, Action::Refuse)
        && answers
        && matches!(run.packet.part, Part::Whole)
        && !run.packet.opens()
}

/// Sends the frame's double to be answered with a reset, and makes the frame itself one.
// VERIFIER: a global function, checked once and by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn end_both(skb: *mut __sk_buff, v6: u32) -> u32 {
    let ctx = TcContext::new(skb);
    if vlan_present(&ctx) {
        return AS_EVER;
    }
    if v6 != 0 {
        match load::<WORDS_V6>(&ctx).and_then(|words| ending_v6(words, ctx.len())) {
            Some(words) => end(&ctx, words, BYTES_V6),
            None => AS_EVER,
        }
    } else {
        match load::<WORDS_V4>(&ctx).and_then(|words| ending_v4(words, ctx.len())) {
            Some(words) => end(&ctx, words, BYTES_V4),
            None => AS_EVER,
        }
    }
}

#[inline(always)]
fn load<const N: usize>(ctx: &TcContext) -> Option<[u32; N]> {
    let words: [u32; N] = ctx.load(AT).ok()?;
    Some(words.map(u32::from_be))
}

#[inline(always)]
fn end<const N: usize>(ctx: &TcContext, words: [u32; N], length: u32) -> u32 {
    let Ok(destination) = ctx.load::<[u8; 6]>(0) else {
        return AS_EVER;
    };
    // Each side has a reset of its own.
    if !report::may_reset() {
        return AS_EVER;
    }
    let mac = REJ_MAC.load();
    let rejects = [mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]];
    let sent =
        ctx.store(0, &rejects, 0).is_ok() && ctx.clone_redirect(REJ_IFINDEX.load(), 0).is_ok();
    if ctx.store(0, &destination, 0).is_err() || !sent {
        return if sent { TELLS_POD } else { AS_EVER };
    }
    // SAFETY: the context is this run's; packet pointers are not used after this.
    let cut = unsafe { bpf_skb_change_tail(ctx.as_ptr().cast(), length, 0) };
    if cut == 0 && ctx.store(AT, &words.map(u32::to_be), 0).is_ok() {
        TELLS_PEER
    } else {
        TELLS_POD
    }
}
