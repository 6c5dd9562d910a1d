//! The proxy beside Envoy: processor time of a request and of a connection, latency, memory. Both run
//! as processes of one worker thread with the same policies, before the same backend, in the same
//! run; `cargo xtask bench l7` installs Envoy and runs this.
//!
//! Slices of one proxy follow slices of the other, several rounds of them; what counts is the median.
//! Processor time is the proxy's own, of all its threads, from the scheduler: it does not move when
//! other jobs share the machine, as rates and latencies do.

mod envoy;
mod load;
mod ours;
mod policies;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};

use load::{Load, Slice};
use policies::Kind;

// What the agent is built with.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Goals.
const SHARE_OF_ENVOY_MAX: f64 = 0.62;
/// With 1 000 policies, of our own figure with one.
const GROWTH_MAX: f64 = 1.05;
const TIMES_BETTER_BY_PATH: f64 = 4.5;
const TIMES_BETTER_BY_PRINCIPAL: f64 = 7.0;
const CONNECT_RATE_MIN: f64 = 2.0;
const DENIED_US_MAX: f64 = 25.0;
const RSS_MIB_MAX: f64 = 30.0;

const ROUNDS: usize = 5;
const SLICE: Duration = Duration::from_millis(1_500);
const CONNECTIONS: usize = 32;
/// How long a proxy may take to listen.
const READY: Duration = Duration::from_secs(60);

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Part>,
    /// Envoy's program
    #[arg(long)]
    envoy: Option<PathBuf>,
    /// Write the figures there, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Part {
    /// Run our proxy alone: what is measured
    Proxy(ours::Options),
}

/// A proxy as a process.
struct Proxy {
    name: &'static str,
    process: Child,
    at: SocketAddr,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _killed = self.process.kill();
        let _gone = self.process.wait();
    }
}

impl Proxy {
    fn start(name: &'static str, mut command: Command, at: SocketAddr) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let process = command
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let mut proxy = Self { name, process, at };
        let deadline = Instant::now() + READY;
        while std::net::TcpStream::connect(at).is_err() {
            let ended = proxy.process.try_wait()?;
            ensure!(ended.is_none(), "{name} has ended: {ended:?}");
            ensure!(Instant::now() < deadline, "{name} does not listen");
            thread::sleep(Duration::from_millis(20));
        }
        Ok(proxy)
    }

    /// Processor time of all its threads.
    fn cpu(&self) -> Result<Duration> {
        let mut total = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.process.id()))? {
            let spent = fs::read_to_string(task?.path().join("schedstat"))?;
            let spent: u64 = spent.split(' ').next().unwrap_or("0").parse()?;
            total += spent;
        }
        Ok(Duration::from_nanos(total))
    }

    fn rss_mib(&self) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().split(' ').next());
        Ok(kib.context("VmRSS")?.parse::<f64>()? / 1_024.0)
    }
}

/// What one proxy gave, a value for each slice.
#[derive(Default)]
struct Figures {
    cpu_us: Vec<f64>,
    rate: Vec<f64>,
    p99_us: Vec<f64>,
}

impl Figures {
    fn add(&mut self, slice: &Slice, cpu: Duration) {
        self.cpu_us
            .push(cpu.as_secs_f64() * 1e6 / slice.count.max(1) as f64);
        self.rate
            .push(slice.count as f64 / slice.time.as_secs_f64());
        self.p99_us.push(slice.percentile_us(99));
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// One of the proxies and what is asked of it.
struct Variant {
    name: &'static str,
    proxy: usize,
    load: Load,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    if let Some(Part::Proxy(options)) = arguments.command {
        ours::run(&options)?;
        return Ok(ExitCode::SUCCESS);
    }
    let envoy = arguments.envoy.context("--envoy names Envoy's program")?;
    let folder = std::env::temp_dir().join(format!("bench-l7-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let measured = measure(&envoy, &folder);
    fs::remove_dir_all(&folder)?;
    let (lines, goals) = measured?;
    for line in &lines {
        println!("{line}");
    }
    let mut met = true;
    for goal in &goals {
        let word = if goal.met { "ok" } else { "MISSED" };
        println!(
            "{word:>7}  {}: {:.2} (goal {})",
            goal.what, goal.found, goal.wanted
        );
        met &= goal.met;
    }
    if let Some(path) = arguments.json {
        let goals = goals.iter().map(|goal| {
            serde_json::json!({"goal": goal.what, "found": goal.found, "wanted": goal.wanted, "met": goal.met})
        });
        let report = serde_json::json!({"goals": goals.collect::<Vec<_>>(), "table": lines});
        fs::write(path, serde_json::to_string_pretty(&report)?)?;
    }
    Ok(if met {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

struct Goal {
    what: &'static str,
    found: f64,
    wanted: String,
    met: bool,
}

fn at_most(what: &'static str, found: f64, most: f64) -> Goal {
    Goal {
        what,
        found,
        wanted: format!("at most {most}"),
        met: found <= most,
    }
}

fn at_least(what: &'static str, found: f64, least: f64) -> Goal {
    Goal {
        what,
        found,
        wanted: format!("at least {least}"),
        met: found >= least,
    }
}

fn measure(envoy: &Path, folder: &Path) -> Result<(Vec<String>, Vec<Goal>)> {
    let backend = load::backend()?;
    let mut proxies = Vec::new();
    for (name, kind, count) in [
        ("Envoy, no policy", Kind::Path, 0),
        ("Envoy, 1 policy", Kind::Path, 1),
        ("Envoy, 1 000 by path", Kind::Path, 1_000),
        ("Envoy, 1 000 by principal", Kind::Principal, 1_000),
        ("Envoy, tcp_proxy", Kind::Tcp, 0),
    ] {
        let (command, at) = envoy::command(envoy, folder, kind, count, backend)?;
        proxies.push(Proxy::start(name, command, at)?);
    }
    for (name, kind, count) in [
        ("ours, 1 policy", Kind::Path, 1),
        ("ours, 1 000 by path", Kind::Path, 1_000),
        ("ours, 1 000 by principal", Kind::Principal, 1_000),
        ("ours, tcp", Kind::Tcp, 1),
        ("ours, 10 000 by path", Kind::Path, 10_000),
    ] {
        let (command, at) = ours::command(folder, kind, count, backend)?;
        proxies.push(Proxy::start(name, command, at)?);
    }
    let index = |name: &str| {
        let found = proxies.iter().position(|proxy| proxy.name == name);
        found.with_context(|| format!("no proxy is called `{name}`"))
    };
    let mut variants = Vec::new();
    for proxy in &proxies {
        let load = match proxy.name.contains("tcp") {
            true => Load::Connect,
            false => Load::Allowed,
        };
        variants.push(Variant {
            name: proxy.name,
            proxy: index(proxy.name)?,
            load,
        });
    }
    for (name, of) in [
        ("Envoy, 1 policy, denied", "Envoy, 1 policy"),
        ("ours, 1 policy, denied", "ours, 1 policy"),
        ("ours, 1 000, denied", "ours, 1 000 by path"),
    ] {
        variants.push(Variant {
            name,
            proxy: index(of)?,
            load: Load::Denied,
        });
    }
    // Once unmeasured: pools are filled, pages touched.
    for variant in &variants {
        load::slice(
            variant.load,
            proxies[variant.proxy].at,
            CONNECTIONS,
            SLICE / 5,
        )?;
    }
    let mut figures: Vec<Figures> = variants.iter().map(|_| Figures::default()).collect();
    for _ in 0..ROUNDS {
        for (variant, figures) in variants.iter().zip(&mut figures) {
            let proxy = &proxies[variant.proxy];
            let before = proxy.cpu()?;
            let slice = load::slice(variant.load, proxy.at, CONNECTIONS, SLICE)?;
            figures.add(&slice, proxy.cpu()?.saturating_sub(before));
        }
    }
    let mut lines = vec![format!(
        "{:<28} {:>12} {:>10} {:>10} {:>10}",
        "", "CPU us each", "each/s", "p99 us", "RSS MiB"
    )];
    for (variant, figures) in variants.iter().zip(&figures) {
        lines.push(format!(
            "{:<28} {:>12.1} {:>10.0} {:>10.0} {:>10.1}",
            variant.name,
            median(&figures.cpu_us),
            median(&figures.rate),
            median(&figures.p99_us),
            proxies[variant.proxy].rss_mib()?,
        ));
    }
    let of = |name: &str| {
        let found = variants.iter().position(|variant| variant.name == name);
        found.map_or_else(Figures::default, |at| Figures {
            cpu_us: figures[at].cpu_us.clone(),
            rate: figures[at].rate.clone(),
            p99_us: figures[at].p99_us.clone(),
        })
    };
    let cpu = |name: &str| median(&of(name).cpu_us);
    let one = cpu("ours, 1 policy");
    let rss = proxies[index("ours, 10 000 by path")?].rss_mib()?;
    let goals = vec![
        at_most(
            "CPU per request, of Envoy's, 1 policy",
            one / cpu("Envoy, 1 policy"),
            SHARE_OF_ENVOY_MAX,
        ),
        at_most(
            "1 000 policies by path, of our own with 1",
            cpu("ours, 1 000 by path") / one,
            GROWTH_MAX,
        ),
        at_most(
            "1 000 policies by principal, of our own with 1",
            cpu("ours, 1 000 by principal") / one,
            GROWTH_MAX,
        ),
        at_least(
            "1 000 policies by path, times better than Envoy",
            cpu("Envoy, 1 000 by path") / cpu("ours, 1 000 by path"),
            TIMES_BETTER_BY_PATH,
        ),
        at_least(
            "1 000 policies by principal, times better than Envoy",
            cpu("Envoy, 1 000 by principal") / cpu("ours, 1 000 by principal"),
            TIMES_BETTER_BY_PRINCIPAL,
        ),
        at_most(
            "p99 at 32 connections, of Envoy's, 1 policy",
            median(&of("ours, 1 policy").p99_us) / median(&of("Envoy, 1 policy").p99_us),
            1.0,
        ),
        at_least(
            "connections per second of processor time, times Envoy's tcp_proxy",
            cpu("Envoy, tcp_proxy") / cpu("ours, tcp"),
            CONNECT_RATE_MIN,
        ),
        at_most(
            "us of CPU for a denied request, 1 policy",
            cpu("ours, 1 policy, denied"),
            DENIED_US_MAX,
        ),
        at_most(
            "us of CPU for a denied request, 1 000 policies",
            cpu("ours, 1 000, denied"),
            DENIED_US_MAX,
        ),
        at_most("MiB of memory with 10 000 policies", rss, RSS_MIB_MAX),
    ];
    Ok((lines, goals))
}
