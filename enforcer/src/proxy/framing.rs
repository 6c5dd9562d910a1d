//! Follows the raw bytes of an HTTP/1 client to where each request ends, and stops at what two servers
//! might frame in two ways.
//!
//! The library behind parses the same bytes again, and resolves some of these cases by rule: it reads
//! `Transfer-Encoding` alone where `Content-Length` stands beside it, and takes a lone line feed for
//! an end of line. No reading of such a request is forwarded. Nothing depends on this module for
//! safety, for what the library forwards it frames anew; it makes of "one reading" "no reading".

use memchr::memchr;

/// Why the bytes are not read on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum Ambiguity {
    #[error("a line that ends in a line feed alone")]
    BareLineFeed,
    #[error("a carriage return in the middle of a line")]
    BareCarriageReturn,
    #[error("a header line that goes on in the next")]
    Folded,
    #[error("several Content-Length, or one that is no number")]
    ContentLength,
    #[error("both Content-Length and Transfer-Encoding")]
    BothLengths,
    #[error("a Transfer-Encoding other than chunked")]
    TransferEncoding,
    #[error("a chunk whose size is no number")]
    ChunkSize,
    #[error("a chunk that does not end where it says")]
    ChunkEnd,
    #[error("a line that is too long")]
    LongLine,
    #[error("more lines than a head may have")]
    ManyLines,
}

/// Where in the stream the next byte lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum At {
    /// Before or in a head.
    Head,
    /// That many bytes before the end of a body.
    Body(u64),
    ChunkSize,
    Chunk(u64),
    /// That many bytes of the line end that closes a chunk are there.
    ChunkEnd(u8),
    Trailers,
    /// What an upgrade made of it: no HTTP any more.
    Opaque,
}

/// What the lines of a head have said of the body so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Lengths {
    lines: usize,
    length: Option<u64>,
    chunked: bool,
}

/// Follows one client's bytes.
#[derive(Debug)]
pub(super) struct Framing {
    at: At,
    head: Lengths,
    /// Of the line that is not complete yet.
    line: Vec<u8>,
    line_max: usize,
    lines_max: usize,
}

/// What a client owes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Owes {
    /// Nothing: the next request may come or not.
    Nothing,
    RestOfHead,
    RestOfBody,
}

impl Framing {
    /// At the beginning of a connection. Limits: bytes of a line, lines of a head.
    pub fn new(line_max: usize, lines_max: usize) -> Self {
        Self {
            at: At::Head,
            head: Lengths::default(),
            line: Vec::new(),
            line_max,
            lines_max,
        }
    }

    /// From now on the bytes are not HTTP.
    pub fn switch(&mut self) {
        self.at = At::Opaque;
    }

    /// What the client must send before it may be silent.
    pub fn owes(&self) -> Owes {
        match self.at {
            At::Head if self.head.lines == 0 && self.line.is_empty() => Owes::Nothing,
            At::Head => Owes::RestOfHead,
            At::Opaque => Owes::Nothing,
            _ => Owes::RestOfBody,
        }
    }

    /// Follows the next bytes. On an ambiguity says before which byte it shows: what comes before may
    /// be handed on, and is not a complete head with it.
    pub fn follow(&mut self, bytes: &[u8]) -> Result<(), (usize, Ambiguity)> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let taken = self
                .step(rest)
                .map_err(|(at, why)| (bytes.len() - rest.len() + at, why))?;
            rest = &rest[taken..];
        }
        Ok(())
    }

    /// Follows at least one of the bytes; how many.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, (usize, Ambiguity)> {
        match self.at {
            At::Opaque => Ok(bytes.len()),
            At::Body(left) => {
                let taken = within(left, bytes.len());
                self.at = match left - taken as u64 {
                    0 => At::Head,
                    left => At::Body(left),
                };
                Ok(taken)
            }
            At::Chunk(left) => {
                let taken = within(left, bytes.len());
                self.at = match left - taken as u64 {
                    0 => At::ChunkEnd(0),
                    left => At::Chunk(left),
                };
                Ok(taken)
            }
            At::ChunkEnd(seen) => {
                let expected = if seen == 0 { b'\r' } else { b'\n' };
                if bytes[0] != expected {
                    return Err((0, Ambiguity::ChunkEnd));
                }
                self.at = if seen == 0 {
                    At::ChunkEnd(1)
                } else {
                    At::ChunkSize
                };
                Ok(1)
            }
            At::Head | At::ChunkSize | At::Trailers => self.line(bytes),
        }
    }

    /// Follows to the end of a line, or to the end of the bytes.
    fn line(&mut self, bytes: &[u8]) -> Result<usize, (usize, Ambiguity)> {
        let Some(end) = memchr(b'\n', bytes) else {
            if self.line.len() + bytes.len() > self.line_max {
                return Err((0, Ambiguity::LongLine));
            }
            self.line.extend_from_slice(bytes);
            return Ok(bytes.len());
        };
        let read = if self.line.is_empty() {
            self.complete(&bytes[..end])
        } else {
            let mut line = std::mem::take(&mut self.line);
            line.extend_from_slice(&bytes[..end]);
            let read = self.complete(&line);
            line.clear();
            // Its room is used again, unless somebody's line was very long.
            if line.capacity() <= 4 << 10 {
                self.line = line;
            }
            read
        };
        read.map_err(|why| (end, why))?;
        Ok(end + 1)
    }

    /// Reads a line without its line feed.
    fn complete(&mut self, line: &[u8]) -> Result<(), Ambiguity> {
        if line.len() > self.line_max {
            return Err(Ambiguity::LongLine);
        }
        let line = line.strip_suffix(b"\r").ok_or(Ambiguity::BareLineFeed)?;
        if memchr(b'\r', line).is_some() {
            return Err(Ambiguity::BareCarriageReturn);
        }
        match self.at {
            At::ChunkSize => {
                self.at = match chunk_size(line).ok_or(Ambiguity::ChunkSize)? {
                    0 => At::Trailers,
                    size => At::Chunk(size),
                };
                Ok(())
            }
            At::Trailers if line.is_empty() => {
                self.at = At::Head;
                self.head = Lengths::default();
                Ok(())
            }
            At::Head if line.is_empty() => {
                if self.head.lines > 0 {
                    self.at = self.head.body();
                }
                // RFC 9112, 2.2: an empty line before a request is ignored.
                self.head = Lengths::default();
                Ok(())
            }
            _ => {
                if line.first().is_some_and(|b| *b == b' ' || *b == b'\t') {
                    return Err(Ambiguity::Folded);
                }
                self.head.lines += 1;
                if self.head.lines > self.lines_max {
                    return Err(Ambiguity::ManyLines);
                }
                if self.at == At::Trailers || self.head.lines == 1 {
                    return Ok(());
                }
                self.head.line(line)
            }
        }
    }
}

impl Lengths {
    fn line(&mut self, line: &[u8]) -> Result<(), Ambiguity> {
        let named = |name: &str| {
            let (found, value) = line.split_at_checked(name.len())?;
            let value = value.strip_prefix(b":")?;
            let same = found.eq_ignore_ascii_case(name.as_bytes());
            same.then(|| value.trim_ascii())
        };
        // Both names begin so, and few others.
        match line.first() {
            Some(b'c' | b'C') => {
                let Some(value) = named("content-length") else {
                    return Ok(());
                };
                if self.chunked {
                    return Err(Ambiguity::BothLengths);
                }
                let length = decimal(value).filter(|_| self.length.is_none());
                self.length = Some(length.ok_or(Ambiguity::ContentLength)?);
            }
            Some(b't' | b'T') => {
                let Some(value) = named("transfer-encoding") else {
                    return Ok(());
                };
                if self.length.is_some() {
                    return Err(Ambiguity::BothLengths);
                }
                if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Ambiguity::TransferEncoding);
                }
                self.chunked = true;
            }
            _ => {}
        }
        Ok(())
    }

    fn body(self) -> At {
        match (self.chunked, self.length) {
            (true, _) => At::ChunkSize,
            (false, None | Some(0)) => At::Head,
            (false, Some(length)) => At::Body(length),
        }
    }
}

fn within(left: u64, available: usize) -> usize {
    usize::try_from(left).map_or(available, |left| left.min(available))
}

/// Digits and nothing else.
fn decimal(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(text).ok().filter(|_| digits)?;
    text.parse().ok()
}

/// Hexadecimal digits, and perhaps an extension, which nobody forwards.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.split(|b| *b == b';').next().unwrap_or(line);
    let digits = digits.trim_ascii_end();
    let all = !digits.is_empty() && digits.len() <= 16 && digits.iter().all(u8::is_ascii_hexdigit);
    let text = std::str::from_utf8(digits).ok().filter(|_| all)?;
    u64::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framing() -> Framing {
        Framing::new(1_024, 20)
    }

    /// What becomes of the bytes, however they are cut.
    fn follow(bytes: &[u8]) -> Result<Owes, Ambiguity> {
        let mut results = Vec::new();
        for size in [1, 2, 3, 7, bytes.len().max(1)] {
            let mut framing = framing();
            let followed = bytes.chunks(size).try_for_each(|part| {
                let followed = framing.follow(part);
                followed.map_err(|(at, why)| {
                    assert!(at < part.len(), "some byte shows it");
                    why
                })
            });
            results.push(followed.map(|()| framing.owes()));
        }
        let first = results[0];
        assert!(
            results.iter().all(|r| *r == first),
            "{:?} is read in several ways: {results:?}",
            String::from_utf8_lossy(bytes)
        );
        first
    }

    #[test]
    fn what_is_followed_to_its_end() {
        for (text, owes) in [
            ("", Owes::Nothing),
            ("\r\n", Owes::Nothing),
            ("GET / HTTP/1.1\r\n", Owes::RestOfHead),
            ("GET / HT", Owes::RestOfHead),
            ("GET / HTTP/1.1\r\nhost: a\r\n\r\n", Owes::Nothing),
            (
                "POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\nab",
                Owes::RestOfBody,
            ),
            (
                "POST / HTTP/1.1\r\nContent-Length: 3 \r\n\r\nab\n",
                Owes::Nothing,
            ),
            (
                "POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
                Owes::Nothing,
            ),
            (
                "POST / HTTP/1.1\r\ntransfer-encoding: Chunked\r\n\r\n3;a=b\r\na\nb\r\n",
                Owes::RestOfBody,
            ),
            (
                "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx: y\r\n\r\n",
                Owes::Nothing,
            ),
            (
                "GET / HTTP/1.1\r\ncontent-language: 1\r\nte: trailers\r\n\r\n",
                Owes::Nothing,
            ),
        ] {
            assert_eq!(follow(text.as_bytes()), Ok(owes), "{text:?}");
        }
    }

    #[test]
    fn what_is_not_read_on() {
        let post = "POST / HTTP/1.1\r\n";
        let chunked = "transfer-encoding: chunked\r\n\r\n";
        for (rest, why) in [
            ("host: a\n", Ambiguity::BareLineFeed),
            ("host: a\rb\r\n", Ambiguity::BareCarriageReturn),
            ("x: 1\r\n y\r\n", Ambiguity::Folded),
            (
                "content-length: 1\r\ncontent-length: 1\r\n",
                Ambiguity::ContentLength,
            ),
            ("content-length: 1, 1\r\n", Ambiguity::ContentLength),
            ("content-length: +1\r\n", Ambiguity::ContentLength),
            ("content-length:\r\n", Ambiguity::ContentLength),
            (
                "content-length: 99999999999999999999\r\n",
                Ambiguity::ContentLength,
            ),
            (
                "content-length: 1\r\ntransfer-encoding: chunked\r\n",
                Ambiguity::BothLengths,
            ),
            (
                "transfer-encoding: chunked\r\ncontent-length: 1\r\n",
                Ambiguity::BothLengths,
            ),
            (
                "transfer-encoding: gzip, chunked\r\n",
                Ambiguity::TransferEncoding,
            ),
            (
                "transfer-encoding: identity\r\n",
                Ambiguity::TransferEncoding,
            ),
            (&format!("{chunked}x\r\n"), Ambiguity::ChunkSize),
            (&format!("{chunked}3\n"), Ambiguity::BareLineFeed),
            (
                &format!("{chunked}11111111111111111\r\n"),
                Ambiguity::ChunkSize,
            ),
            (&format!("{chunked}3\r\nabcd"), Ambiguity::ChunkEnd),
            (&format!("{chunked}3\r\nabc\n"), Ambiguity::ChunkEnd),
            (&format!("{chunked}0\r\nx: y\n"), Ambiguity::BareLineFeed),
            (
                &format!("x: {}\r\n", "a".repeat(1_100)),
                Ambiguity::LongLine,
            ),
            (&"x: y\r\n".repeat(30), Ambiguity::ManyLines),
        ] {
            let text = format!("{post}{rest}");
            assert_eq!(follow(text.as_bytes()), Err(why), "{text:?}");
        }
        let line = "GET / HTTP/1.1\n";
        assert_eq!(follow(line.as_bytes()), Err(Ambiguity::BareLineFeed));
    }

    #[test]
    fn after_a_switch_nothing_is_looked_at() {
        let mut framing = framing();
        framing.switch();
        assert_eq!(framing.follow(b"\n\n\r\0"), Ok(()));
        assert_eq!(framing.owes(), Owes::Nothing);
    }
}
