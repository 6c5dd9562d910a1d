//! A socket buffer as a [`Frame`], and the fields of its context.
#![expect(
    unsafe_code,
    reason = "packet bytes and context fields are reached through raw pointers"
)]

use core::{arch::asm, mem::MaybeUninit, ptr::read_volatile};

use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use enforcer_ebpf::{
    judge::{Place, features},
    packet::{ETHERTYPE_AT, ETHERTYPE_IPV4, Frame, NEAR_BYTES, NEAR_BYTES_V4},
};

use super::{
    globals::{FEATURES, INTERFACE, L7_IFINDEX, REJ_IFINDEX},
    run::Run,
};

/// A socket buffer whose headers lie in its linear part.
pub struct Skb<'a> {
    ctx: &'a TcContext,
    run: *mut Run,
    data: usize,
    end: usize,
    length: usize,
}

impl<'a> Skb<'a> {
    /// Pulls the headers into the linear part where they are not.
    #[inline(always)]
    pub fn new(ctx: &'a TcContext, run: *mut Run) -> Self {
        let length = ctx.len();
        let (mut data, mut end) = (ctx.data(), ctx.data_end());
        // A pull that is not needed costs more than the verdict: a segment that TCP sends has its
        // headers alone in the linear part, and is shared with the sender, so that it would be
        // copied for the sake of a few bytes of its data.
        let wanted = length.min(u32::from(NEAR_BYTES));
        if data + wanted as usize > end && !is_ipv4_within(data, end) {
            // A failure leaves the linear part as it was: what is not there reads as absent.
            let _ = ctx.pull_data(wanted);
            (data, end) = (ctx.data(), ctx.data_end());
        }
        Self {
            ctx,
            run,
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
        // Whole words: the target takes no pointer for aligned, and would load byte by byte.
        const { assert!(N.is_multiple_of(2)) };
        let mut words = Words::<N>(MaybeUninit::uninit());
        let bytes = words.0.as_mut_ptr().cast::<u8>();
        let mut i = 0;
        while i + 4 <= N {
            // SAFETY: within the array, and aligned: the array is, and so are steps of four.
            unsafe { bytes.add(i).cast::<u32>().write(load_u32(start + i)) };
            i += 4;
        }
        if i < N {
            // SAFETY: as above; two bytes are left.
            unsafe { bytes.add(i).cast::<u16>().write(load_u16(start + i)) };
        }
        // SAFETY: every byte has been written.
        Some(unsafe { words.0.assume_init() })
    }
    #[inline(always)]
    fn near_words<const N: usize>(&self, at: usize) -> Option<[u32; N]> {
        words_within(self.data, self.end, at)
    }
    #[inline(always)]
    fn far<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.ctx.load(at).ok()
    }
    #[inline(always)]
    fn length(&self) -> usize {
        self.length
    }
    #[inline(always)]
    fn wants_ports(&self) -> bool {
        FEATURES.load() & features::NON_TCP != 0
    }
    #[inline(always)]
    fn opaque(&self, number: u32) -> u32 {
        // SAFETY: the run outlives this value.
        number ^ unsafe { (*self.run).blank() }
    }
}

/// A frame whose headers are read by their offsets only, for what is rare.
pub struct Far<'a> {
    ctx: &'a TcContext,
    run: *mut Run,
}

impl<'a> Far<'a> {
    #[inline(always)]
    pub fn new(ctx: &'a TcContext, run: *mut Run) -> Self {
        Self { ctx, run }
    }
}

impl Frame for Far<'_> {
    #[inline(always)]
    fn near<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.far(at)
    }
    /// Nobody asks a frame like this for them.
    #[inline(always)]
    fn near_words<const N: usize>(&self, _at: usize) -> Option<[u32; N]> {
        None
    }
    #[inline(always)]
    fn far<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.ctx.load(at).ok()
    }
    #[inline(always)]
    fn length(&self) -> usize {
        self.ctx.len() as usize
    }
    #[inline(always)]
    fn wants_ports(&self) -> bool {
        FEATURES.load() & features::NON_TCP != 0
    }
    #[inline(always)]
    fn opaque(&self, number: u32) -> u32 {
        // SAFETY: the run outlives this value.
        number ^ unsafe { (*self.run).blank() }
    }
}

/// The linear part of a frame as it is, of which no more is read than words.
pub struct Linear<'a> {
    ctx: &'a TcContext,
    data: usize,
    end: usize,
}

impl<'a> Linear<'a> {
    #[inline(always)]
    pub fn new(ctx: &'a TcContext) -> Self {
        Self {
            ctx,
            data: ctx.data(),
            end: ctx.data_end(),
        }
    }
}

impl Frame for Linear<'_> {
    #[inline(always)]
    fn near<const N: usize>(&self, _at: usize) -> Option<[u8; N]> {
        None
    }
    #[inline(always)]
    fn near_words<const N: usize>(&self, at: usize) -> Option<[u32; N]> {
        words_within(self.data, self.end, at)
    }
    #[inline(always)]
    fn far<const N: usize>(&self, _at: usize) -> Option<[u8; N]> {
        None
    }
    #[inline(always)]
    fn length(&self) -> usize {
        self.ctx.len() as usize
    }
}

/// Words of the linear part, checked all at once. What nobody looks at is not read.
#[inline(always)]
fn words_within<const N: usize>(data: usize, end: usize, at: usize) -> Option<[u32; N]> {
    let start = data + at;
    if start + N * 4 > end {
        return None;
    }
    let mut words = [0; N];
    let mut i = 0;
    while i < N {
        words[i] = u32::from_be(load_u32(start + i * 4));
        i += 1;
    }
    Some(words)
}

/// Bytes that are written a word at a time. Zeros to begin with would be a call, and take the stack
/// of one.
#[repr(align(4))]
struct Words<const N: usize>(MaybeUninit<[u8; N]>);

/// The linear part holds the headers of an untagged IPv4 segment.
#[inline(always)]
fn is_ipv4_within(data: usize, end: usize) -> bool {
    data + usize::from(NEAR_BYTES_V4) <= end
        && u16::from_be_bytes(load_u16(data + ETHERTYPE_AT).to_ne_bytes()) == ETHERTYPE_IPV4
}

/// Four bytes of the packet. They lie within its linear part: the kernel refuses a program that has
/// not made sure of it, and every kernel that can run this one reads them at any address.
#[inline(always)]
fn load_u32(at: usize) -> u32 {
    let word: u32;
    // SAFETY: as above.
    unsafe {
        asm!(
            "{word} = *(u32 *)({at} + 0)",
            at = in(reg) at,
            word = lateout(wreg) word,
            options(nostack, pure, readonly)
        );
    }
    word
}

/// Two bytes of the packet, as above.
#[inline(always)]
fn load_u16(at: usize) -> u16 {
    let word: u32;
    // SAFETY: as above.
    unsafe {
        asm!(
            "{word} = *(u16 *)({at} + 0)",
            at = in(reg) at,
            word = lateout(wreg) word,
            options(nostack, pure, readonly)
        );
    }
    (word & 0xffff) as u16
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

/// Index of the interface whose hook runs, as the table knows it.
#[inline(always)]
pub fn interface(ctx: &TcContext) -> u32 {
    match INTERFACE.load() {
        0 => field!(ctx, ifindex),
        known => known,
    }
}

/// Index of the interface by which the packet came into the node, where that is to be seen.
#[inline(always)]
fn ingress(ctx: &TcContext) -> u32 {
    match INTERFACE.load() {
        0 => field!(ctx, ingress_ifindex),
        _ => 0,
    }
}

/// Where the hook runs.
#[inline(always)]
pub fn place(ctx: &TcContext) -> Place {
    Place {
        interface: interface(ctx),
        ingress: ingress(ctx),
        l7: L7_IFINDEX.load(),
        rejects: REJ_IFINDEX.load(),
        features: FEATURES.load(),
    }
}

/// The frame has a VLAN tag beside its bytes.
#[inline(always)]
pub fn vlan_present(ctx: &TcContext) -> bool {
    field!(ctx, vlan_present) != 0
}
