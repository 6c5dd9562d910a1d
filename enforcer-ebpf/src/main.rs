//! The TC programs: they connect the kernel's packets and maps to the pure functions of the library
//! and carry out what those decide. Whatever can be decided without a map or a helper is not here.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)] // the one atomic addition
#![expect(
    unsafe_code,
    reason = "contexts, helpers and map values of the kernel are raw pointers"
)]

mod kernel;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{__sk_buff, TC_ACT_SHOT, bpf_sk_lookup},
    helpers::{bpf_redirect, bpf_redirect_peer, bpf_skb_vlan_pop},
    macros::{classifier, sk_lookup},
    programs::{SkLookupContext, TcContext},
};
use enforcer_ebpf::{
    event::Hook,
    judge::{Action, Judgement},
    packet::{Kind, Unread},
    reason::Reason,
};
use kernel::{
    ending::{AS_EVER, TELLS_PEER, end_both, leaves_waiting},
    frame::{interface, vlan_present},
    globals::{L7_IFINDEX, L7_MAC, L7_PEER_IFINDEX, REJ_IFINDEX, REJ_MAC},
    maps::LISTENERS,
    report,
    run::{
        Memory, NOT_STRAIGHT, Run, conclude_run, decide_from_l7, decide_from_pod,
        decide_other_from_pod, decide_other_to_pod, decide_to_pod, read_extended, read_far,
        read_frame, read_icmp, straight_into_pod, straight_out_of_pod,
    },
};

/// On to the next program: a plain "ok" would end the chain and skip whoever comes after.
const NEXT: i32 = -1;
const SHOT: i32 = TC_ACT_SHOT;
const PASS: u32 = Action::Pass as u32;
const SK_DROP: u32 = 0;
const SK_PASS: u32 = 1;

/// Egress of a pod's host interface: every packet into the pod.
#[classifier]
pub fn to_pod(ctx: TcContext) -> i32 {
    if !report::is_logged() {
        match straight_into_pod(ctx.skb.skb) {
            PASS => return NEXT,
            NOT_STRAIGHT => {}
            _ => return SHOT,
        }
    }
    let mut memory = Memory::new();
    let run = Run::begin(&mut memory);
    read(ctx.skb.skb, run);
    if matches!(run.packet.kind, Kind::Tcp) {
        decide_to_pod(ctx.skb.skb, run);
        conclude_run(ctx.skb.skb, run, Hook::ToPod as u32);
        report::shadow(ctx.skb.skb, run);
    } else {
        decide_other_to_pod(ctx.skb.skb, run);
        conclude_run(ctx.skb.skb, run, Hook::ToPod as u32);
    }
    report::report(run, interface(&ctx), Hook::ToPod as u32);
    carry_out(&ctx, &run.finding.judgement)
}

/// Ingress of a pod's host interface: every packet out of the pod.
#[classifier]
pub fn from_pod(ctx: TcContext) -> i32 {
    if !report::is_logged() {
        match straight_out_of_pod(ctx.skb.skb) {
            PASS => return NEXT,
            NOT_STRAIGHT => {}
            _ => return SHOT,
        }
    }
    let mut memory = Memory::new();
    let run = Run::begin(&mut memory);
    read(ctx.skb.skb, run);
    if matches!(run.packet.kind, Kind::Tcp) {
        decide_from_pod(ctx.skb.skb, run);
    } else {
        decide_other_from_pod(ctx.skb.skb, run);
    }
    conclude_run(ctx.skb.skb, run, Hook::FromPod as u32);
    report::report(run, interface(&ctx), Hook::FromPod as u32);
    if leaves_waiting(run) && report::may_reset() {
        match end_both(ctx.skb.skb, u32::from(run.packet.v6)) {
            AS_EVER => {}
            TELLS_PEER => return NEXT,
            _ => return SHOT,
        }
    }
    carry_out(&ctx, &run.finding.judgement)
}

/// Ingress of the node's ends of the proxy's interfaces: every packet out of the proxy's namespace.
#[classifier]
pub fn from_l7(ctx: TcContext) -> i32 {
    let mut memory = Memory::new();
    let run = Run::begin(&mut memory);
    read(ctx.skb.skb, run);
    decide_from_l7(run);
    report::report(run, interface(&ctx), Hook::FromL7 as u32);
    carry_out(&ctx, &run.finding.judgement)
}

/// Socket lookup in the proxy's namespace: what was steered there to be judged goes to the one
/// listener, whatever its destination. What was steered there to be refused finds no socket, and
/// the kernel answers it with a reset; so does what comes while no listener is there.
#[sk_lookup]
pub fn proxy_lookup(ctx: SkLookupContext) -> u32 {
    // VERIFIER: one volatile read for each field of the context.
    // SAFETY: the kernel hands a valid context to each run.
    let ingress = unsafe {
        core::ptr::read_volatile(&raw const (*ctx.as_ptr().cast::<bpf_sk_lookup>()).ingress_ifindex)
    };
    if ingress == 0 {
        return SK_PASS;
    }
    if ingress != L7_PEER_IFINDEX.load() {
        return SK_DROP;
    }
    match LISTENERS.redirect_sk_lookup(&ctx, 0, 0) {
        Ok(()) => SK_PASS,
        Err(_) => {
            report::count(Reason::RedirectUnavailable);
            SK_DROP
        }
    }
}

#[inline(always)]
fn read(skb: *mut __sk_buff, run: &mut Run) {
    read_frame(skb, run);
    if matches!(run.rest.what, Unread::Nothing) {
        return;
    }
    if matches!(run.rest.what, Unread::Far) {
        read_far(skb, run);
    }
    if matches!(run.rest.what, Unread::Extended) {
        read_extended(skb, run);
    }
    if matches!(run.rest.what, Unread::Icmp) {
        read_icmp(skb, run);
    }
}

#[inline(always)]
fn carry_out(ctx: &TcContext, judgement: &Judgement) -> i32 {
    match judgement.action {
        Action::Pass => NEXT,
        Action::Drop => SHOT,
        Action::Refuse if report::may_reset() => send(ctx, REJ_MAC.load(), REJ_IFINDEX.load()),
        Action::Refuse => {
            report::count(Reason::ResetLimited);
            SHOT
        }
        Action::Steer => send(ctx, L7_MAC.load(), L7_IFINDEX.load()),
        Action::ToProxy => into_namespace_behind(L7_IFINDEX.load()),
        Action::ToPod => into_namespace_behind(judgement.target),
    }
}

/// Sends the frame out of one of the proxy's interfaces, addressed to its far end.
#[inline(always)]
fn send(ctx: &TcContext, mac: [u8; 8], ifindex: u32) -> i32 {
    if vlan_present(ctx) {
        // SAFETY: the context is this run's; packet pointers are not used after this.
        let popped = unsafe { bpf_skb_vlan_pop(ctx.skb.skb) };
        if popped != 0 {
            return SHOT;
        }
    }
    let destination = [mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]];
    if ctx.store(0, &destination, 0).is_err() {
        return SHOT;
    }
    // SAFETY: a plain helper call without pointers.
    verdict(unsafe { bpf_redirect(ifindex, 0) })
}

#[inline(always)]
fn into_namespace_behind(ifindex: u32) -> i32 {
    // SAFETY: a plain helper call without pointers.
    verdict(unsafe { bpf_redirect_peer(ifindex, 0) })
}

#[inline(always)]
fn verdict(answer: i64) -> i32 {
    i32::try_from(answer).unwrap_or(SHOT)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
