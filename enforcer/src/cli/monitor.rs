//! `enforcer monitor`: verdicts as they fall.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Args;

use super::{
    Failure, Format, SocketArgs,
    all_nodes::{FleetArgs, monitor},
    socket::Client,
};
use crate::{
    control::{Answer, Filter, Line, Request},
    report::Verdict,
};

/// Show verdicts as they fall
///
/// Opening segments that were refused or steered, requests that were judged in userspace, and
/// allowed connections where the agent was started with --events=all. With --format=json each line
/// has the fields of a request to `policyc eval`, and more. A processor tells of at most 1024 verdicts
/// a second; `{"dropped": N}` says how many more there were. A monitor that is too slow is told with
/// `{"lost": N}` how many lines have passed it by. Changes of what is enforced are lines, too.
///
/// With --all-nodes the lines of all nodes by time, each with its node; what is not heard is said on
/// standard error. You need the verbs list on pods and get and create on pods/exec in the agents'
/// namespace, and list on nodes.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  enforcer monitor --verdict deny\n  enforcer monitor --pod default/backend --format json\n  enforcer monitor --all-nodes --verdict deny"
)]
pub struct Monitor {
    /// Only where the source or the destination is in this namespace
    #[arg(long, short, value_name = "NAME")]
    namespace: Option<String>,
    /// Only where the source or the destination is this pod
    #[arg(long, short, value_name = "[NAMESPACE/]NAME")]
    pod: Option<String>,
    /// Only this verdict
    #[arg(long, value_enum)]
    verdict: Option<Verdict>,
    /// Only where this policy decided, audited or was tried
    #[arg(long, value_name = "NAMESPACE/NAME")]
    policy: Option<String>,
    /// Only for this reason, of the policies or of the datapath
    #[arg(long, value_name = "REASON")]
    reason: Option<String>,
    /// Only from this source
    #[arg(long, value_name = "NAMESPACE/NAME|IP|PRINCIPAL")]
    source: Option<String>,
    #[arg(long, value_enum, default_value = "human")]
    format: Format,
    #[command(flatten)]
    socket: SocketArgs,
    /// Ends when standard input does: whoever has begun it is gone
    #[arg(long, hide = true)]
    while_stdin: bool,
    #[command(flatten)]
    fleet: FleetArgs,
}

impl Monitor {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let filter = Filter {
            namespace: self.namespace,
            pod: self.pod,
            verdict: self.verdict,
            policy: self.policy,
            reason: self.reason,
            source: self.source,
        };
        if self.fleet.all_nodes {
            let format = self.format;
            return self.fleet.run(|fleet| monitor::run(fleet, &filter, format));
        }
        let mut client = Client::connect(&self.socket.socket)?;
        if self.while_stdin {
            std::thread::spawn(|| {
                let _ended = io::copy(&mut io::stdin().lock(), &mut io::sink());
                std::process::exit(0);
            });
        }
        if !matches!(
            client.ask(&Request::Monitor { filter })?,
            Answer::Monitoring {}
        ) {
            return Err(client.unexpected().into());
        }
        let mut out = io::stdout().lock();
        while let Some(line) = client.line()? {
            let written = match self.format {
                Format::Json => out.write_all(line.as_bytes()),
                Format::Human => {
                    let line: Line = serde_json::from_str(&line)?;
                    writeln!(out, "{line}")
                }
            };
            match written.and_then(|()| out.flush()) {
                // `monitor | head` has seen enough.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
                other => other?,
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
