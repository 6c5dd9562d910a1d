//! The contract with the kernel, shared by every other crate and importing none of them.
//!
//! - [`words`]: how the flat decision table is laid out;
//! - [`decide`](mod@decide): the only decision function there is, compiled for the kernel and for the host;
//! - [`packet`]: bytes to a [`packet::Packet`], or a named reject;
//! - [`judge`]: the order of judgement for one packet, as a pure function;
//! - [`flow`]: keys and values of the few maps that hold state;
//! - [`reason`], [`event`]: what the kernel can say;
//! - [`maps`]: the names of maps, programs and globals.
#![no_std]

pub mod decide;
pub mod event;
pub mod flow;
pub mod judge;
pub mod maps;
pub mod packet;
pub mod reason;
pub mod words;
