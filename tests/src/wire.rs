//! Whole frames on a device: sent as they are, and seen as they come.
#![expect(unsafe_code, reason = "packet sockets have addresses of their own")]

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::netns::Netns;

/// Length of the header that may go before a frame, see [`Wire::send_scattered`].
const VNET_HEADER: usize = 10;
/// Frames of every protocol.
const ETH_P_ALL: u16 = 3;
const PACKET_VNET_HDR: libc::c_int = 15;
/// Frames of a burst that wait to be received.
const QUEUE_BYTES: libc::c_int = 8 << 20;

/// A packet socket on one device of a namespace. It sees what goes both ways.
#[derive(Debug)]
pub struct Wire {
    socket: OwnedFd,
    /// Link address of the device.
    pub mac: [u8; 6],
}

impl Wire {
    /// Opens the device; frames are seen from now on.
    ///
    /// # Errors
    /// Without root, or when there is no such device.
    pub fn open(netns: &Netns, device: &str) -> Result<Self> {
        let mac = mac_of(netns, device)?;
        let index = index_of(netns, device)?;
        let socket = netns
            .enter(|| bound(index))
            .with_context(|| format!("a packet socket on {device}"))?;
        Ok(Self { socket, mac })
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: the frame lives through the call.
        let sent = unsafe {
            libc::send(
                self.socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
            )
        };
        ok(sent).map(drop)
    }

    /// Sends a frame longer than a page so that only its first bytes lie in the linear part of the
    /// socket buffer. The device's MTU must allow for it. Afterwards this socket is of no other use.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn send_scattered(&self, frame: &[u8]) -> io::Result<()> {
        option(&self.socket, libc::SOL_PACKET, PACKET_VNET_HDR, 1)?;
        // All zero: no checksum to be filled in, no segments to be made, no header to be copied.
        let mut bytes = vec![0; VNET_HEADER];
        bytes.extend(frame);
        self.send(&bytes)
    }

    /// The first frame within `limit` that `wanted` wants, others passed over.
    ///
    /// # Panics
    /// When the kernel does not let us read.
    #[must_use]
    pub fn receive(&self, limit: Duration, wanted: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        let deadline = Instant::now() + limit;
        let mut buffer = vec![0; 1 << 18];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut poll = libc::pollfd {
                fd: self.socket.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            };
            // Less than one is not none.
            let milliseconds = left.as_micros().div_ceil(1_000);
            let milliseconds = i32::try_from(milliseconds).unwrap_or(i32::MAX);
            // SAFETY: one entry, which lives through the call.
            let ready = unsafe { libc::poll(&raw mut poll, 1, milliseconds) };
            if ready == 0 {
                return None;
            }
            // SAFETY: the buffer lives through the call, and its length is told.
            let read = unsafe {
                libc::recv(
                    self.socket.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    libc::MSG_DONTWAIT,
                )
            };
            match ok(read) {
                Ok(length) if wanted(&buffer[..length]) => {
                    buffer.truncate(length);
                    return Some(buffer);
                }
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    panic!("a packet socket: {error}")
                }
                _ if Instant::now() >= deadline => return None,
                _ => {}
            }
        }
    }
}

/// Link address of a device.
///
/// # Errors
/// When there is no such device.
pub fn mac_of(netns: &Netns, device: &str) -> Result<[u8; 6]> {
    let line = show(netns, device)?;
    let mut words = line.split_whitespace();
    let text = words
        .find(|word| *word == "link/ether")
        .and_then(|_| words.next())
        .with_context(|| format!("no link address in `{line}`"))?;
    let bytes: Result<Vec<u8>, _> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16))
        .collect();
    let bytes = bytes.with_context(|| format!("`{text}` is no link address"))?;
    bytes.as_slice().try_into().context("it has six bytes")
}

/// Number of a device.
///
/// # Errors
/// When there is no such device.
pub fn index_of(netns: &Netns, device: &str) -> Result<u32> {
    let line = show(netns, device)?;
    let number = line.split(':').next().unwrap_or_default();
    number
        .trim()
        .parse()
        .with_context(|| format!("no number in `{line}`"))
}

fn show(netns: &Netns, device: &str) -> Result<String> {
    netns.output(Command::new("ip").args(["-o", "link", "show", "dev", device]))
}

fn bound(index: u32) -> io::Result<OwnedFd> {
    let every = ETH_P_ALL.to_be();
    // SAFETY: a plain call.
    let socket = unsafe {
        libc::socket(
            libc::AF_PACKET,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            i32::from(every),
        )
    };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given it to us.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: all-zero is a valid address.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    address.sll_protocol = every;
    address.sll_ifindex = i32::try_from(index).map_err(io::Error::other)?;
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>());
    let length = length.map_err(io::Error::other)?;
    // SAFETY: the address lives through the call, with its length.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    ok(bound as isize)?;
    option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, QUEUE_BYTES)?;
    Ok(socket)
}

fn option(socket: &OwnedFd, level: i32, name: i32, value: libc::c_int) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).map_err(io::Error::other)?;
    // SAFETY: the value lives through the call, with its length.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            length,
        )
    };
    ok(set as isize).map(drop)
}

fn ok(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
