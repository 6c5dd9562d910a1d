//! `enforcer pause` and `enforcer resume`: break-glass.

use std::{process::ExitCode, time::Duration};

use clap::Args;

use super::{Failure, SocketArgs, socket::Client};
use crate::control::{Answer, Request};

/// Stop refusing what goes to and from a pod, for a time
///
/// Verdicts are still given, counted and shown, under the reason `paused`. The kernel ends a pause by
/// itself, whatever becomes of the agent; a pod may still not send from another's address. At most
/// 24 hours; a pause of a paused pod replaces the earlier one.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  enforcer pause default/backend --for 10m --reason \"incident 42\"\n  enforcer pause all --for 90s"
)]
pub struct Pause {
    /// Whom: a pod, or `all`
    #[arg(value_name = "NAMESPACE/NAME|all", value_parser = whom)]
    pod: Whom,
    /// How long: a number with s, m or h
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    time: Duration,
    /// Why; it is shown and logged
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    socket: SocketArgs,
}

/// End a pause
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  enforcer resume default/backend\n  enforcer resume all")]
pub struct Resume {
    /// Whose: a pod's, or `all`: every pause there is
    #[arg(value_name = "NAMESPACE/NAME|all", value_parser = whom)]
    pod: Whom,
    #[command(flatten)]
    socket: SocketArgs,
}

/// A pod, or every pod.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Whom(Option<String>);

impl Pause {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let mut client = Client::connect(&self.socket.socket)?;
        let request = Request::Pause {
            pod: self.pod.0,
            seconds: self.time.as_secs(),
            reason: self.reason,
        };
        let Answer::Paused(pause) = client.ask(&request)? else {
            return Err(client.unexpected().into());
        };
        println!(
            "paused: {} for {} s",
            pause.pod.as_deref().unwrap_or("all"),
            pause.left_seconds
        );
        Ok(ExitCode::SUCCESS)
    }
}

impl Resume {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let mut client = Client::connect(&self.socket.socket)?;
        let Answer::Resumed(ended) = client.ask(&Request::Resume { pod: self.pod.0 })? else {
            return Err(client.unexpected().into());
        };
        println!("resumed: {ended}");
        Ok(ExitCode::SUCCESS)
    }
}

fn whom(text: &str) -> Result<Whom, String> {
    match text.split_once('/') {
        None if text == "all" => Ok(Whom(None)),
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
            Ok(Whom(Some(text.into())))
        }
        _ => Err(format!("`{text}` is neither NAMESPACE/NAME nor `all`")),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no time: write a number with s, m or h, such as 10m");
    let (number, factor) = [("s", 1), ("m", 60), ("h", 3_600)]
        .into_iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))
        .ok_or_else(wrong)?;
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let seconds = number.checked_mul(factor).ok_or_else(wrong)?;
    Ok(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_names_are_read_strictly() {
        for (text, seconds) in [("90s", 90), ("10m", 600), ("2h", 7_200), ("0s", 0)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in [
            "",
            "10",
            "m",
            "-1m",
            "1.5h",
            "10 m",
            "10d",
            "99999999999999999999h",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert_eq!(whom("all"), Ok(Whom(None)));
        assert_eq!(whom("a/b"), Ok(Whom(Some("a/b".into()))));
        for text in ["", "backend", "/b", "a/"] {
            assert!(whom(text).is_err(), "{text}");
        }
    }
}
