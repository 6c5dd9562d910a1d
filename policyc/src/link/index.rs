//! The u16 index: ports to port classes, source classes to rows.

use enforcer_ebpf::words::{BUCKET, INDEX_BITS_MAX, index_reference};

use super::{LinkError, addresses::offset};

/// Appends an index of these entries and returns its reference. The smallest number of buckets that
/// none overflows is taken; with the most of them, none can.
pub(crate) fn write(words: &mut Vec<u32>, entries: &[(u16, u16)]) -> Result<u32, LinkError> {
    if entries.is_empty() {
        return Ok(0);
    }
    let mut bits = 0;
    while (BUCKET as usize) << bits < entries.len() {
        bits += 1;
    }
    while bits < INDEX_BITS_MAX && overflows(entries, bits) {
        bits += 1;
    }
    let at = offset(words)?;
    let mut buckets: Vec<Vec<u32>> = vec![Vec::new(); 1 << bits];
    for &(key, value) in entries {
        let bucket = usize::from(key) & ((1 << bits) - 1);
        if let Some(bucket) = buckets.get_mut(bucket) {
            bucket.push(u32::from(key) << 16 | u32::from(value));
        }
    }
    for bucket in buckets {
        // INVARIANT: free entries stand last, so that the all-zero one never hides key 0.
        let free = BUCKET as usize - bucket.len();
        words.extend(bucket);
        words.extend(std::iter::repeat_n(0, free));
    }
    Ok(index_reference(at, bits))
}

fn overflows(entries: &[(u16, u16)], bits: u32) -> bool {
    let mut lengths = vec![0u32; 1 << bits];
    entries.iter().any(
        |(key, _)| match lengths.get_mut(usize::from(*key) & ((1 << bits) - 1)) {
            Some(length) => {
                *length += 1;
                *length > BUCKET
            }
            None => true,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use enforcer_ebpf::decide::index;

    #[test]
    fn every_set_of_keys_fits_and_is_found() {
        let all: Vec<(u16, u16)> = (0..=u16::MAX).map(|k| (k, !k)).collect();
        let same_low_bits: Vec<(u16, u16)> = (0..4).map(|i| (i << 14 | 7, i + 1)).collect();
        let few = [(0, 9), (80, 1), (443, 2), (8080, 3), (15090, 4)];
        for entries in [&all[..], &same_low_bits, &few] {
            let mut words = vec![0; 64];
            let reference = write(&mut words, entries).unwrap();
            for &(key, value) in entries {
                assert_eq!(
                    index(&words[..], reference, u32::from(key)),
                    u32::from(value),
                    "key {key}"
                );
            }
        }
        let mut words = vec![0; 64];
        let reference = write(&mut words, &few).unwrap();
        assert_eq!(
            index(&words[..], reference, 81),
            0,
            "a key that is not there"
        );
        assert_eq!(
            write(&mut words, &[]).unwrap(),
            0,
            "the empty index has no words"
        );
    }
}
