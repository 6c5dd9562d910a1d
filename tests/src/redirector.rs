//! A TC program of four instructions that sends every packet straight into a pod, as a network with
//! host routing does: `return bpf_redirect_peer(interface, 0)`.
#![expect(unsafe_code, reason = "bpf() takes pointers in a struct")]

use std::{ffi::CString, io, os::unix::ffi::OsStrExt, path::Path};

use anyhow::{Context, Result};
use aya::programs::{
    LinkOrder, SchedClassifier, TcAttachType,
    tc::{SchedClassifierLink, TcAttachOptions},
};

use crate::netns::Netns;

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_OBJ_PIN: libc::c_long = 6;
const SCHED_CLS: u32 = 3;
const REDIRECT_PEER: u32 = 155;

/// An instruction, as the kernel reads it.
#[repr(C)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: u32,
}

/// The fields of `bpf_attr` for loading, as far as they are needed.
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log: [u64; 2],
    version_and_flags: [u32; 2],
    name: [u8; 16],
}

/// The fields of `bpf_attr` for pinning.
#[repr(C)]
struct Pin {
    path: u64,
    program: u32,
    flags: u32,
}

/// Attaches the program to what comes in by `interface` of `netns`, under that name, until the link is
/// dropped. Everything goes to the pod behind the interface of index `target`. `pin` is a file on a
/// BPF file system, for a moment.
///
/// # Errors
/// What the kernel has against it; TCX links are needed.
pub fn attach(
    netns: &Netns,
    interface: &str,
    name: &str,
    target: u32,
    pin: &Path,
) -> Result<SchedClassifierLink> {
    load(name, target, pin).context("load a program that redirects")?;
    let mut program = SchedClassifier::from_pin(pin)?;
    std::fs::remove_file(pin)?;
    let order = TcAttachOptions::TcxOrder(LinkOrder::default());
    let id =
        netns.enter(|| program.attach_with_options(interface, TcAttachType::Ingress, order))?;
    Ok(program.take_link(id)?)
}

fn load(name: &str, target: u32, pin: &Path) -> io::Result<()> {
    let instruction = |code, registers, immediate| Instruction {
        code,
        registers,
        offset: 0,
        immediate,
    };
    let program = [
        instruction(0xb7, 1, target), // r1 = target
        instruction(0xb7, 2, 0),      // r2 = 0
        instruction(0x85, 0, REDIRECT_PEER),
        instruction(0x95, 0, 0), // return r0
    ];
    let mut padded = [0; 16];
    padded[..name.len()].copy_from_slice(name.as_bytes());
    let load = Load {
        kind: SCHED_CLS,
        count: 4,
        instructions: program.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log: [0; 2],
        version_and_flags: [0; 2],
        name: padded,
    };
    let program = bpf(BPF_PROG_LOAD, &load)?;
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let pinned = bpf(
        BPF_OBJ_PIN,
        &Pin {
            path: path.as_ptr() as u64,
            program: u32::try_from(program).map_err(io::Error::other)?,
            flags: 0,
        },
    );
    let descriptor = i32::try_from(program).map_err(io::Error::other)?;
    // SAFETY: the descriptor that was just made, which nobody else has.
    unsafe { libc::close(descriptor) };
    pinned.map(drop)
}

fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<libc::c_long> {
    // SAFETY: the attributes live through the call, and so does what they point to.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    match answer {
        ..0 => Err(io::Error::last_os_error()),
        answer => Ok(answer),
    }
}
