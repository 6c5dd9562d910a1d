//! Bytes to requests, a line at a time, with a limit on the length of a line.

use std::io::{BufRead, Read};

use anyhow::{Context, bail};
use policyc::{
    replay::flow::{self, Line as Recorded},
    request::Request,
};

/// Longest line, in bytes. A request with a large token fits many times over.
const LINE_MAX: u64 = 16 << 20;

/// One line of the input.
pub enum Line {
    Request(Box<Request>),
    /// No request; `id` is its own where it has one, else the number of the line.
    Broken {
        id: String,
        why: String,
    },
}

impl Line {
    pub fn request(&self) -> Option<&Request> {
        match self {
            Self::Request(request) => Some(request),
            Self::Broken { .. } => None,
        }
    }
}

/// Reads up to `limit` lines that are not empty; none at the end of the input. `number` counts all
/// lines read so far.
pub fn read(
    input: &mut impl BufRead,
    number: &mut usize,
    limit: usize,
) -> anyhow::Result<Vec<Line>> {
    let mut lines = Vec::new();
    while lines.len() < limit {
        let mut bytes = Vec::new();
        let mut bounded = Read::take(&mut *input, LINE_MAX + 1);
        let length = bounded.read_until(b'\n', &mut bytes);
        *number += 1;
        match length.with_context(|| format!("cannot read line {number} of the requests"))? {
            0 => break,
            _ if bytes.last() != Some(&b'\n') && bytes.len() as u64 > LINE_MAX => {
                bail!("line {number} of the requests is longer than {LINE_MAX} bytes")
            }
            _ if bytes.trim_ascii().is_empty() => {}
            _ => lines.push(parse(&bytes, *number)),
        }
    }
    Ok(lines)
}

/// A request, or a monitor's line, of which the request is a part.
fn parse(bytes: &[u8], number: usize) -> Line {
    let broken = |why: String| Line::Broken {
        id: id_of(bytes).unwrap_or_else(|| format!("line {number}")),
        why: format!("line {number} is not a request: {why}"),
    };
    match flow::parse(bytes) {
        Ok(Recorded::Flow(flow)) => match flow.seen {
            flow::Seen::Other(flow::Skipped::NotTcp) => broken("it is not TCP".into()),
            _ => Line::Request(Box::new(flow.request)),
        },
        Ok(Recorded::Notice) => broken("it says what an operator has done".into()),
        Ok(Recorded::Lost(lost)) => broken(format!("{lost} verdicts were lost here")),
        Err(why) => broken(without_position(&why)),
    }
}

/// The parser counts lines within the one line that it was given.
fn without_position(why: &serde_json::Error) -> String {
    let position = format!("at line {} column {}", why.line(), why.column());
    let text = why.to_string();
    text.replace(&position, &format!("at column {}", why.column()))
}

fn id_of(bytes: &[u8]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    Some(value.get("id")?.as_str()?.to_owned())
}
