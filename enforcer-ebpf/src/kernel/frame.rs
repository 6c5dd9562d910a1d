//! A socket buffer as a [`Frame`], and the fields of its context.
#![expect(
    unsafe_code,
    reason = "packet bytes and context fields are reached through raw pointers"
)]

use core::ptr::{read_unaligned, read_volatile};

use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use enforcer_ebpf::{
    judge::Place,
    packet::{Frame, NEAR_BYTES},
};

use super::globals::{L7_IFINDEX, REJ_IFINDEX};

/// A socket buffer whose headers lie in its linear part.
pub struct Skb<'a> {
    ctx: &'a TcContext,
    data: usize,
    end: usize,
    length: usize,
}

impl<'a> Skb<'a> {
    /// Pulls the headers into the linear part where they are not.
    #[inline(always)]
    pub fn new(ctx: &'a TcContext) -> Self {
        let length = ctx.len();
        let (mut data, mut end) = (ctx.data(), ctx.data_end());
        if data + usize::from(NEAR_BYTES) > end {
            let wanted = length.min(u32::from(NEAR_BYTES));
            // A failure leaves the linear part as it was: what is not there reads as absent.
            let _ = ctx.pull_data(wanted);
            (data, end) = (ctx.data(), ctx.data_end());
        }
        Self {
            ctx,
            data,
            end,
            length: length as usize,
        }
    }
}

impl Frame for Skb<'_> {
    #[inline(always)]
    fn near<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        let start = self.data + at;
        if start + N > self.end {
            return None;
        }
        // SAFETY: start..start + N lies within the packet's linear part.
        Some(unsafe { read_unaligned(start as *const [u8; N]) })
    }
    #[inline(always)]
    fn far<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.ctx.load(at).ok()
    }
    #[inline(always)]
    fn length(&self) -> usize {
        self.length
    }
}

// VERIFIER: one volatile read for each field; the compiler would otherwise select between the
// addresses of two, which the kernel refuses.
macro_rules! field {
    ($ctx:expr, $name:ident) => {{
        let skb: *mut __sk_buff = $ctx.skb.skb;
        // SAFETY: the kernel hands a valid context to each run.
        unsafe { read_volatile(&raw const (*skb).$name) }
    }};
}

/// Index of the interface whose hook runs.
#[inline(always)]
pub fn interface(ctx: &TcContext) -> u32 {
    field!(ctx, ifindex)
}

/// Where the hook runs.
#[inline(always)]
pub fn place(ctx: &TcContext) -> Place {
    Place {
        interface: interface(ctx),
        ingress: field!(ctx, ingress_ifindex),
        l7: L7_IFINDEX.load(),
        rejects: REJ_IFINDEX.load(),
    }
}

/// The frame has a VLAN tag beside its bytes.
#[inline(always)]
pub fn vlan_present(ctx: &TcContext) -> bool {
    field!(ctx, vlan_present) != 0
}
