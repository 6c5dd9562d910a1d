//! A segment made into the reset that ends its connection for who was to get it. What was to be said is
//! cut off; the sequence number stays, so that a receiver that waits for just this segment takes the
//! reset (RFC 9293, 3.5.3), and one that waits for an earlier one asks back (RFC 5961, 3.2).

use super::{flag, protocol};

/// Where the IP header begins.
pub const AT: usize = 14;
/// Words of both headers, without options.
pub const WORDS_V4: usize = 5 + TCP;
pub const WORDS_V6: usize = 10 + TCP;

/// Bytes of a frame that holds no more than these.
pub const BYTES_V4: u32 = BEFORE_TCP_V4 + TCP_BYTES;
pub const BYTES_V6: u32 = BEFORE_TCP_V6 + TCP_BYTES;

/// Words of the TCP header, its bytes, and those before it.
const TCP: usize = 5;
const TCP_BYTES: u32 = 20;
const BEFORE_TCP_V4: u32 = ETHERNET + IPV4;
const BEFORE_TCP_V6: u32 = ETHERNET + 40;
const ETHERNET: u32 = 14;
const IPV4: u32 = 20;

/// The headers of the reset for the segment whose headers these are, of a frame of `length` bytes; both
/// most significant word first. `None` where there is more between the headers than is read here, and
/// for a reset, which is to be answered by none.
#[inline(always)]
pub fn ending_v4(mut words: [u32; WORDS_V4], length: u32) -> Option<[u32; WORDS_V4]> {
    const IP: usize = WORDS_V4 - TCP;
    let plain = words[0] >> 24 == 0x45 && (words[2] >> 16) & 0xff == u32::from(protocol::TCP);
    if !plain {
        return None;
    }
    let addresses = halves(words[3]) + halves(words[4]);
    let whole = length.wrapping_sub(BEFORE_TCP_V4);
    end(&mut words, IP, addresses, whole)?;
    words[0] = words[0] & 0xffff_0000 | (IPV4 + TCP_BYTES);
    words[2] &= 0xffff_0000;
    let mut sum = 0;
    let mut i = 0;
    while i < IP {
        sum += halves(words[i]);
        i += 1;
    }
    words[2] |= !fold(sum) & 0xffff;
    Some(words)
}

/// The same of IPv6.
#[inline(always)]
pub fn ending_v6(mut words: [u32; WORDS_V6], length: u32) -> Option<[u32; WORDS_V6]> {
    const IP: usize = WORDS_V6 - TCP;
    if (words[1] >> 8) & 0xff != u32::from(protocol::TCP) {
        return None;
    }
    let mut addresses = 0u32;
    let mut i = 2;
    while i < IP {
        addresses += halves(words[i]);
        i += 1;
    }
    let whole = length.wrapping_sub(BEFORE_TCP_V6);
    end(&mut words, IP, addresses, whole)?;
    words[1] = words[1] & 0xffff | TCP_BYTES << 16;
    Some(words)
}

/// Makes the TCP header at word `at` one of a reset. `whole` is how long the segment was.
#[inline(always)]
fn end<const N: usize>(words: &mut [u32; N], at: usize, addresses: u32, whole: u32) -> Option<()> {
    let flags = words[at + 3] >> 16 & 0xff;
    if flags & u32::from(flag::RST) != 0 {
        return None;
    }
    let pseudo = addresses + u32::from(protocol::TCP);
    // The sender may have left the sum over the segment to the device, and put the one over the addresses
    // in its place. It is to be left so, with the new length.
    let left = words[at + 4] >> 16 == fold(pseudo + halves(whole));
    let flags = u32::from(flag::RST) | flags & u32::from(flag::ACK);
    words[at + 3] = 5 << 28 | flags << 16;
    words[at + 4] = 0;
    let mut sum = pseudo + TCP_BYTES;
    let sum = if left {
        fold(sum)
    } else {
        let mut i = at;
        while i < at + TCP {
            sum += halves(words[i]);
            i += 1;
        }
        !fold(sum) & 0xffff
    };
    words[at + 4] = sum << 16;
    Some(())
}

/// The sum of a word's halves.
#[inline(always)]
fn halves(word: u32) -> u32 {
    (word >> 16) + (word & 0xffff)
}

/// A sum of few halves in sixteen bits, what it carries added to it.
#[inline(always)]
fn fold(sum: u32) -> u32 {
    let once = (sum >> 16) + (sum & 0xffff);
    (once >> 16) + (once & 0xffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From a capture: 10.0.0.2:40000 to 10.0.1.2:7000, ten bytes of data, its sum left to the device.
    const V4: [u32; WORDS_V4] = [
        0x4500_0032,
        0x1234_4000,
        0x4006_0000,
        0x0a00_0002,
        0x0a00_0102,
        0x9c40_1b58,
        0x1111_2222,
        0x3333_4444,
        0x5018_01f6,
        0,
    ];
    const LENGTH: u32 = 14 + 20 + 20 + 10;

    /// What a receiver sums up: all ones where nothing was changed on the way.
    fn received(words: &[u32], pseudo: u32) -> u32 {
        fold(words.iter().map(|word| halves(*word)).sum::<u32>() + pseudo)
    }

    fn pseudo(addresses: &[u32], length: u32) -> u32 {
        addresses.iter().map(|word| halves(*word)).sum::<u32>() + 6 + length
    }

    #[test]
    fn it_ends_the_connection_where_the_segment_would_have_gone_on() {
        let reset = ending_v4(V4, LENGTH).expect("a plain segment");
        assert_eq!(reset[..2], [0x4500_0028, 0x1234_4000], "headers alone");
        assert_eq!(received(&reset[..5], 0), 0xffff, "the header's sum");
        assert_eq!(reset[3..8], V4[3..8], "who, and where in the stream");
        assert_eq!(reset[8], 0x5014_0000, "RST, ACK");
        assert_eq!(
            received(&reset[5..], pseudo(&reset[3..5], 20)),
            0xffff,
            "a whole sum"
        );
    }

    #[test]
    fn a_sum_that_is_left_to_the_device_is_left_to_it() {
        let mut segment = V4;
        segment[9] = fold(pseudo(&V4[3..5], 30)) << 16;
        let reset = ending_v4(segment, LENGTH).expect("a plain segment");
        assert_eq!(reset[9], fold(pseudo(&V4[3..5], 20)) << 16);
    }

    #[test]
    fn the_same_of_ipv6() {
        let mut segment = [0; WORDS_V6];
        segment[..2].copy_from_slice(&[0x6000_0000, 0x001e_0640]);
        segment[2..10].copy_from_slice(&[0xfd00_0000, 0, 0, 1, 0xfd00_0000, 0, 0, 2]);
        segment[10..].copy_from_slice(&V4[5..]);
        let length = LENGTH + 20;
        let reset = ending_v6(segment, length).expect("a plain segment");
        assert_eq!(reset[..2], [0x6000_0000, 0x0014_0640]);
        assert_eq!(reset[2..13], segment[2..13]);
        let sum = pseudo(&reset[2..10], 20);
        assert_eq!(received(&reset[10..], sum), 0xffff);
        segment[14] = fold(pseudo(&segment[2..10], 30)) << 16;
        let reset = ending_v6(segment, length).expect("a plain segment");
        assert_eq!(reset[14], fold(sum) << 16);
    }

    #[test]
    fn what_is_not_plain_is_not_made_into_a_reset() {
        let but = |at: usize, word| {
            let mut words = V4;
            words[at] = word;
            ending_v4(words, LENGTH)
        };
        assert_eq!(but(0, 0x4600_0032), None, "options");
        assert_eq!(but(2, 0x4011_0000), None, "UDP");
        assert_eq!(but(8, 0x5014_01f6), None, "a reset already");
        let mut extended = [0; WORDS_V6];
        extended[1] = 0x001e_0040;
        assert_eq!(ending_v6(extended, LENGTH), None, "an extension header");
    }
}
