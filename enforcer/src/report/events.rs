//! Reads the programs' ring buffers: events for the reporter, and their log, where it is wanted.

use std::{io, sync::Arc};

use aya::maps::{MapData, RingBuf};
use aya_log::EbpfLogger;
use enforcer_ebpf::event::Event;
use tokio::io::unix::AsyncFd;

use super::Reporter;

/// The log of the programs, forwarded to ours.
pub type Log = EbpfLogger<&'static dyn log::Log>;

/// Reads events until the agent ends.
pub async fn run(ring: RingBuf<MapData>, reporter: Arc<Reporter>) -> io::Result<()> {
    let mut ring = watch_events(ring)?;
    loop {
        let mut guard = ring.readable_mut().await?;
        let events = guard.get_inner_mut();
        while let Some(item) = events.next() {
            match parse(&item) {
                Some(event) => reporter.event(&event),
                None => tracing::warn!(bytes = item.len(), "an event of another version"),
            }
        }
        guard.clear_ready();
    }
}

/// Forwards the programs' log until the agent ends.
pub async fn forward(log: Log) -> io::Result<()> {
    let mut log = watch_log(log)?;
    loop {
        let mut guard = log.readable_mut().await?;
        guard.get_inner_mut().flush();
        guard.clear_ready();
    }
}

#[expect(unsafe_code, reason = "tokio takes the caller's word for a descriptor")]
fn watch_events(ring: RingBuf<MapData>) -> io::Result<AsyncFd<RingBuf<MapData>>> {
    // SAFETY: the ring owns its descriptor, always gives the same one, and keeps it open while it lives.
    Ok(unsafe { AsyncFd::register(ring) }?)
}

#[expect(unsafe_code, reason = "tokio takes the caller's word for a descriptor")]
fn watch_log(log: Log) -> io::Result<AsyncFd<Log>> {
    // SAFETY: the logger owns its ring, for which the same holds.
    Ok(unsafe { AsyncFd::register(log) }?)
}

/// An event from its bytes.
pub fn parse(bytes: &[u8]) -> Option<Event> {
    let bytes: &[u8; size_of::<Event>()] = bytes.try_into().ok()?;
    let word = |at: usize| {
        let mut four = [0; 4];
        four.copy_from_slice(&bytes[at..at + 4]);
        u32::from_ne_bytes(four)
    };
    let half = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
    let address = |at: usize| [word(at), word(at + 4), word(at + 8), word(at + 12)];
    Some(Event {
        epoch: word(0),
        cell: word(4),
        ifindex: word(8),
        reason: bytes[12],
        hook: bytes[13],
        protocol: bytes[14],
        tcp_flags: bytes[15],
        source: address(16),
        destination: address(32),
        source_port: half(48),
        destination_port: half(50),
        time_low: word(52),
        time_high: word(56),
        slot: word(60),
        shadow_epoch: word(64),
        shadow_cell: word(68),
    })
}

// INVARIANT: the offsets in `parse` are those of the kernel contract.
const _: () = {
    use std::mem::offset_of;
    assert!(offset_of!(Event, cell) == 4);
    assert!(offset_of!(Event, ifindex) == 8);
    assert!(offset_of!(Event, reason) == 12);
    assert!(offset_of!(Event, hook) == 13);
    assert!(offset_of!(Event, protocol) == 14);
    assert!(offset_of!(Event, tcp_flags) == 15);
    assert!(offset_of!(Event, source) == 16);
    assert!(offset_of!(Event, destination) == 32);
    assert!(offset_of!(Event, source_port) == 48);
    assert!(offset_of!(Event, destination_port) == 50);
    assert!(offset_of!(Event, time_low) == 52);
    assert!(offset_of!(Event, time_high) == 56);
    assert!(offset_of!(Event, slot) == 60);
    assert!(offset_of!(Event, shadow_epoch) == 64);
    assert!(offset_of!(Event, shadow_cell) == 68);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_events_are_read() {
        let mut bytes = [0u8; 72];
        bytes[12] = 7;
        bytes[48..50].copy_from_slice(&8080u16.to_ne_bytes());
        let event = parse(&bytes).expect("72 bytes are an event");
        assert_eq!((event.reason, event.source_port), (7, 8080));
        assert!(parse(&bytes[..71]).is_none(), "a byte is missing");
        assert!(parse(&[0; 73]).is_none(), "a byte too many");
    }
}
