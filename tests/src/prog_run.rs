//! Runs a loaded TC program on one frame, with BPF_PROG_TEST_RUN.
#![expect(unsafe_code, reason = "bpf() takes pointers in a struct")]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use anyhow::{Context, Result};

const BPF_PROG_TEST_RUN: libc::c_long = 10;
/// Bytes of the kernel's `__sk_buff`, and offsets of its fields.
const CONTEXT_BYTES: usize = 192;
const INGRESS_IFINDEX: usize = 36;
const IFINDEX: usize = 40;

/// The fields of `bpf_attr` for this command. `repr(C)` without padding.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    program: u32,
    answer: u32,
    data_in_bytes: u32,
    data_out_bytes: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    nanoseconds: u32,
    context_in_bytes: u32,
    context_out_bytes: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch: u32,
    padding: u32,
}

/// What a run gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The program's return value.
    pub answer: i32,
    /// Mean duration of one run.
    pub nanoseconds: u32,
}

/// Runs `program` `repeat` times on `frame` as seen at `interface`, having come in at `ingress`.
///
/// # Errors
/// What the kernel answers: EINVAL for frames below 34 bytes of IPv4 or 54 of IPv6.
pub fn run(
    program: BorrowedFd<'_>,
    frame: &[u8],
    interface: u32,
    ingress: u32,
    repeat: u32,
) -> Result<Outcome> {
    let mut context = [0u8; CONTEXT_BYTES];
    context[IFINDEX..IFINDEX + 4].copy_from_slice(&interface.to_ne_bytes());
    context[INGRESS_IFINDEX..INGRESS_IFINDEX + 4].copy_from_slice(&ingress.to_ne_bytes());
    let mut attributes = Attributes {
        program: u32::try_from(program.as_raw_fd()).context("a file descriptor is not negative")?,
        data_in_bytes: u32::try_from(frame.len()).context("a frame is short")?,
        data_in: frame.as_ptr() as u64,
        repeat,
        context_in_bytes: u32::try_from(CONTEXT_BYTES).context("a context is short")?,
        context_in: context.as_ptr() as u64,
        ..Attributes::default()
    };
    // SAFETY: the attributes point to a frame and a context that live through the call, with their
    // sizes; the kernel writes only to `attributes`.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_TEST_RUN,
            &raw mut attributes,
            size_of::<Attributes>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error()).context("BPF_PROG_TEST_RUN");
    }
    Ok(Outcome {
        answer: attributes.answer.cast_signed(),
        nanoseconds: attributes.nanoseconds,
    })
}
