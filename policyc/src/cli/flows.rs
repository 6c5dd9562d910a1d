//! `--flows FILE`: recorded traffic, a JSON object a line.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, stdin},
};

use anyhow::{Context, bail};
use policyc::replay::{Recording, flow};

use super::sources::SourceArgs;

/// Longest line, in bytes.
const LINE_MAX: u64 = 16 << 20;

/// Where the traffic comes from.
#[derive(clap::Args, Debug)]
pub struct FlowArgs {
    /// Recorded traffic: lines of `enforcer monitor --format json`, or requests as `eval` reads them;
    /// `-` for standard input
    #[arg(long, value_name = "FILE")]
    pub flows: String,
}

impl FlowArgs {
    /// Reads all of it. A line that cannot be read is an error: what is left out must be told.
    pub fn read(&self, sources: &SourceArgs) -> anyhow::Result<Recording> {
        let name = self.flows.as_str();
        let mut input: Box<dyn BufRead> = match name {
            "-" if sources.files.iter().any(|file| file == "-") => {
                bail!("manifests and flows cannot both come from standard input")
            }
            "-" => Box::new(stdin().lock()),
            path => Box::new(BufReader::new(
                File::open(path).with_context(|| format!("cannot read {path}"))?,
            )),
        };
        let mut recording = Recording::default();
        for number in 1.. {
            let mut line = Vec::new();
            let mut bounded = Read::take(&mut input, LINE_MAX + 1);
            let length = bounded.read_until(b'\n', &mut line);
            if length.with_context(|| format!("cannot read line {number} of {name}"))? == 0 {
                break;
            }
            if line.len() as u64 > LINE_MAX {
                bail!("line {number} of {name} is longer than {LINE_MAX} bytes");
            }
            if line.trim_ascii().is_empty() {
                continue;
            }
            let read = flow::parse(&line).with_context(|| format!("line {number} of {name}"))?;
            recording.add(read)?;
        }
        Ok(recording)
    }
}
