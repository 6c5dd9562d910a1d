//! YAML documents read by several threads. Each document is read by itself, and results come in the
//! order of the texts, so that nothing depends on how many threads there are.

use std::{num::NonZero, panic, thread};

use super::{
    value::{Fault, Value},
    yaml::{self, Failure},
};
use crate::diagnostic::Path;

/// More threads would wait for memory rather than for the processor.
const THREADS_MAX: usize = 4;
/// Texts of fewer bytes in all are read before a thread has started.
const BYTES_MIN: usize = 256 << 10;

pub type Read = Result<(Value, Vec<(Fault, Path)>), Failure>;

/// Reads all texts.
pub fn read_all(texts: &[&str]) -> Vec<Read> {
    let bytes: usize = texts.iter().map(|text| text.len()).sum();
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let threads = threads.min(THREADS_MAX);
    if threads == 1 || bytes < BYTES_MIN {
        return texts.iter().map(|text| yaml::read(text)).collect();
    }
    thread::scope(|scope| {
        let shares: Vec<_> = shares(texts, bytes.div_ceil(threads))
            .into_iter()
            .map(|share| scope.spawn(move || share.iter().map(|text| yaml::read(text)).collect()))
            .collect();
        let mut read = Vec::with_capacity(texts.len());
        for share in shares {
            let part: Vec<Read> = share.join().unwrap_or_else(|e| panic::resume_unwind(e));
            read.extend(part);
        }
        read
    })
}

/// Cuts the texts into runs of about so many bytes each.
fn shares<'a, 't>(texts: &'a [&'t str], bytes: usize) -> Vec<&'a [&'t str]> {
    let mut shares = Vec::new();
    let (mut start, mut sum) = (0, 0);
    for (i, text) in texts.iter().enumerate() {
        sum += text.len();
        if sum >= bytes {
            shares.push(&texts[start..=i]);
            (start, sum) = (i + 1, 0);
        }
    }
    shares.push(&texts[start..]);
    shares
}

#[cfg(test)]
mod tests {
    use super::{read_all, shares};

    #[test]
    fn shares_hold_every_text_once_and_in_order() {
        let texts = ["a", "bbbb", "c", "dd", "", "e"];
        for bytes in 1..12 {
            let joined: Vec<&str> = shares(&texts, bytes).concat();
            assert_eq!(joined, texts, "{bytes} bytes a share");
        }
    }

    #[test]
    fn many_threads_read_what_one_does() {
        let texts: Vec<String> = (0..3_000)
            .map(|i| format!("number: {i}\ntext: {}\n", "x".repeat(i % 300)))
            .collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let values = read_all(&texts).into_iter().map(|r| r.expect("YAML").0);
        for (text, value) in texts.iter().zip(values) {
            assert_eq!(value, super::yaml::read(text).expect("YAML").0);
        }
    }
}
