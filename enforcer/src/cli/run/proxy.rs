//! The options of `enforcer run` that concern the proxy and what it tells and asks.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Args;

use crate::{key_sets::Freshness, proxy::ProxyConfig};

/// Limits of the proxy, and where it is seen.
#[derive(Debug, Args)]
#[command(next_help_heading = "Proxy")]
pub struct ProxyArgs {
    /// Threads that serve connections
    #[arg(long, value_name = "N", env = "ENFORCER_PROXY_WORKERS", default_value = "2",
          value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=256))]
    proxy_workers: usize,
    /// Connections that may be open; fewer where descriptors are fewer
    #[arg(long, value_name = "N", env = "ENFORCER_PROXY_CONNECTIONS", default_value = "16384",
          value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=1_000_000))]
    proxy_connections: usize,
    /// Connections that one source address may have open
    #[arg(long, value_name = "N", env = "ENFORCER_PROXY_CONNECTIONS_PER_SOURCE",
          default_value = "4096",
          value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=1_000_000))]
    proxy_connections_per_source: usize,
    /// Bytes of a request's head, target included
    #[arg(long, value_name = "BYTES", env = "ENFORCER_PROXY_HEAD_BYTES", default_value = "65536",
          value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(8_192..=1_048_576))]
    proxy_head_bytes: usize,
    /// Header lines of a request
    #[arg(long, value_name = "N", env = "ENFORCER_PROXY_HEADERS", default_value = "100",
          value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=10_000))]
    proxy_headers: usize,
    /// Streams that one HTTP/2 connection may have open
    #[arg(long, value_name = "N", env = "ENFORCER_PROXY_STREAMS", default_value = "256",
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    proxy_streams: u32,
    /// How long a client may be silent before the pod may speak first: then it is TCP
    #[arg(long, value_name = "TIME", env = "ENFORCER_PROXY_SNIFF_TIMEOUT", default_value = "3s",
          value_parser = time)]
    proxy_sniff_timeout: Duration,
    /// How long a request's head may take from its first byte
    #[arg(long, value_name = "TIME", env = "ENFORCER_PROXY_HEAD_TIMEOUT", default_value = "30s",
          value_parser = time)]
    proxy_head_timeout: Duration,
    /// How long a client may neither send a byte of a body that it owes nor take one of an answer
    #[arg(long, value_name = "TIME", env = "ENFORCER_PROXY_BODY_TIMEOUT", default_value = "5m",
          value_parser = time)]
    proxy_body_timeout: Duration,
    /// How long a pod may take to accept a connection
    #[arg(long, value_name = "TIME", env = "ENFORCER_PROXY_CONNECT_TIMEOUT", default_value = "5s",
          value_parser = time)]
    proxy_connect_timeout: Duration,
    /// How long a tunnel may carry nothing, a connection wait for a request, a pod for its answer
    #[arg(long, value_name = "TIME", env = "ENFORCER_PROXY_IDLE_TIMEOUT", default_value = "1h",
          value_parser = time)]
    proxy_idle_timeout: Duration,
    /// How often key sets of token issuers are fetched again
    #[arg(long, value_name = "TIME", env = "ENFORCER_JWKS_REFRESH", default_value = "20m",
          value_parser = time)]
    jwks_refresh: Duration,
    /// How long a key set is good that cannot be fetched again; then its tokens are refused
    #[arg(long, value_name = "TIME", env = "ENFORCER_JWKS_STALE", default_value = "24h",
          value_parser = time)]
    jwks_stale: Duration,
    /// Append a JSON line to this file for each request and connection of the proxy; `-` prints it
    #[arg(long, value_name = "FILE", env = "ENFORCER_ACCESS_LOG")]
    pub(super) access_log: Option<PathBuf>,
    /// Serve /metrics, /healthz and /readyz at this address and port
    #[arg(long, value_name = "ADDRESS", env = "ENFORCER_METRICS_LISTEN")]
    pub(super) metrics_listen: Option<SocketAddr>,
}

impl ProxyArgs {
    pub(super) fn config(&self) -> ProxyConfig {
        ProxyConfig {
            workers: self.proxy_workers,
            connections_max: self.proxy_connections,
            connections_per_source_max: self.proxy_connections_per_source,
            head_bytes_max: self.proxy_head_bytes,
            headers_max: self.proxy_headers,
            streams_max: self.proxy_streams,
            sniff_timeout: self.proxy_sniff_timeout,
            head_timeout: self.proxy_head_timeout,
            body_timeout: self.proxy_body_timeout,
            connect_timeout: self.proxy_connect_timeout,
            idle_timeout: self.proxy_idle_timeout,
            ..ProxyConfig::default()
        }
    }

    pub(super) fn freshness(&self) -> Freshness {
        Freshness {
            refresh: self.jwks_refresh,
            stale: self.jwks_stale,
            ..Freshness::default()
        }
    }
}

/// `500ms`, `30s`, `5m`, `1h`.
fn time(text: &str) -> Result<Duration, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number
        .parse()
        .map_err(|_| "write a time as 500ms, 30s, 5m or 1h".to_owned())?;
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err("write a time as 500ms, 30s, 5m or 1h".into()),
    };
    // Longer than a year is a mistake; nothing at all would end everything at once.
    let most = 366 * 24 * 3_600_000;
    match number.checked_mul(milliseconds) {
        Some(time @ 1..) if time <= most => Ok(Duration::from_millis(time)),
        _ => Err("write a time between 1ms and a year".into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Only {
        #[command(flatten)]
        args: ProxyArgs,
    }

    #[test]
    fn times_have_a_unit() {
        for (text, expected) in [
            ("500ms", Some(Duration::from_millis(500))),
            ("30s", Some(Duration::from_secs(30))),
            ("5m", Some(Duration::from_secs(300))),
            ("1h", Some(Duration::from_secs(3_600))),
            ("0s", None),
            ("30", None),
            ("s", None),
            ("-1s", None),
            ("99999h", None),
            ("18446744073709551615h", None),
        ] {
            assert_eq!(time(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn without_options_the_limits_are_the_defaults() {
        let args = Only::parse_from(["x"]).args;
        assert_eq!(
            format!("{:?}", args.config()),
            format!("{:?}", ProxyConfig::default())
        );
        assert_eq!(args.freshness(), Freshness::default());
        let args = Only::parse_from(["x", "--proxy-head-timeout=2s", "--proxy-connections=7"]).args;
        let config = args.config();
        assert_eq!(
            (config.head_timeout.as_secs(), config.connections_max),
            (2, 7)
        );
        assert!(Only::try_parse_from(["x", "--proxy-connections=0"]).is_err());
    }
}
