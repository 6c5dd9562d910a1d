//! `/metrics` for Prometheus, `/healthz` and `/readyz` for kubelet. Nothing is counted here: a scrape
//! reads what the kernel, the proxy and the agent have counted.

mod cluster;

use std::{
    collections::HashMap, convert::Infallible, fmt, io, net::SocketAddr, sync::Arc, time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet, text::encode},
    metrics::MetricType,
    registry::Registry,
};
use tokio::{net::TcpListener, sync::Semaphore};

use crate::{
    agent::{Agent, Status},
    proxy::stats::BOUNDS,
};

use super::asked::Asked;

/// Scrapes and probes that are served at the same time.
const AT_ONCE: usize = 16;
/// How long a client may take for its request.
const PATIENCE: Duration = Duration::from_secs(10);

/// Binds the address at which [`serve`] answers.
///
/// # Errors
/// When it cannot be had.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

impl Asked {
    /// Why pods of this node are not enforced as they should be.
    fn unready(&self) -> Option<String> {
        if let Some(agent) = self.agent() {
            return unready(agent);
        }
        let mut text = String::from("starting: what an earlier agent enforced stays in force\n");
        for line in self.waiting().awaited {
            text.push_str(&line);
            text.push('\n');
        }
        Some(text)
    }

    fn metrics(&self) -> Result<String, String> {
        let mut registry = Registry::with_prefix("enforcer");
        if let Some(cluster) = self.cluster() {
            registry.register_collector(Box::new(cluster::Scrape(cluster.clone())));
        }
        if let Some(agent) = self.agent() {
            let status = agent.status().map_err(|error| format!("{error}\n"))?;
            registry.register_collector(Box::new(Scrape {
                status,
                agent: Arc::clone(agent),
            }));
        }
        let mut text = String::new();
        encode(&mut text, &registry).map_err(|error| format!("{error}\n"))?;
        Ok(text)
    }
}

/// Serves until the agent ends.
pub async fn serve(listener: TcpListener, asked: Arc<Asked>) -> io::Result<()> {
    let seats = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let (stream, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Ok(seat) = Arc::clone(&seats).try_acquire_owned() else {
            continue;
        };
        let asked = Arc::clone(&asked);
        tokio::spawn(async move {
            let _seat = seat;
            let service = service_fn(move |request| {
                let asked = Arc::clone(&asked);
                async move { Ok::<_, Infallible>(answer(&asked, &request)) }
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(error) = served {
                tracing::debug!(%error, "metrics");
            }
        });
    }
}

fn answer(asked: &Asked, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "GET only\n".into());
    }
    match request.uri().path() {
        // That it answers says that it lives.
        "/healthz" => plain(StatusCode::OK, "ok\n".into()),
        "/readyz" => match asked.unready() {
            None => plain(StatusCode::OK, "ok\n".into()),
            Some(why) => plain(StatusCode::SERVICE_UNAVAILABLE, why),
        },
        "/metrics" => match asked.metrics() {
            Ok(text) => {
                let mut response = plain(StatusCode::OK, text);
                let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                let kind = http::HeaderValue::from_static(kind);
                response.headers_mut().insert(CONTENT_TYPE, kind);
                response
            }
            Err(why) => plain(StatusCode::INTERNAL_SERVER_ERROR, why),
        },
        _ => plain(
            StatusCode::NOT_FOUND,
            "/metrics, /healthz or /readyz\n".into(),
        ),
    }
}

fn plain(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response
}

/// Why pods of this node are not enforced as they should be.
fn unready(agent: &Agent) -> Option<String> {
    let status = match agent.status() {
        Ok(status) => status,
        Err(error) => return Some(format!("{error}\n")),
    };
    let troubles = agent.cluster.iter().flat_map(|cluster| cluster.troubles());
    let troubles: String = troubles.map(|line| format!("{line}\n")).collect();
    if !troubles.is_empty() {
        return Some(troubles);
    }
    let lost = agent.lost();
    if !lost.is_empty() {
        return Some(format!("not enforced: {}\n", lost.join(", ")));
    }
    let asks = status.pods.iter().find(|pod| pod.asks);
    match (asks, status.proxy) {
        (Some(pod), None) => Some(format!("{} needs the proxy, and none runs\n", pod.name)),
        _ => None,
    }
}

/// What is counted at the moment of a scrape.
struct Scrape {
    status: Status,
    agent: Arc<Agent>,
}

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scrape").finish_non_exhaustive()
    }
}

impl Collector for Scrape {
    fn encode(&self, mut to: DescriptorEncoder) -> fmt::Result {
        let status = &self.status;
        let packets = status.counters.iter();
        family(
            &mut to,
            "packets",
            "Packets of policed pods, by the reason of what became of them",
            packets.map(|(reason, count)| (vec![("reason", reason.clone())], *count)),
        )?;
        let labels = |hit: &crate::report::counters::HitCount| {
            let name = &hit.name;
            vec![
                ("reason", name.reason.clone()),
                ("policy", name.policy.clone().unwrap_or_default()),
                ("rule", name.rule.map(|r| r.to_string()).unwrap_or_default()),
            ]
        };
        family(
            &mut to,
            "hits",
            "Opening segments that the kernel has judged, by reason, policy and rule",
            status
                .hits
                .iter()
                .map(|hit| (labels(hit), hit.count.opened)),
        )?;
        gauge(
            &mut to,
            "epoch",
            "Activations on this node",
            status.epoch.into(),
        )?;
        let age = self.agent.active.load();
        let age = age.as_ref().and_then(|active| active.since.elapsed().ok());
        gauge(
            &mut to,
            "active_age_seconds",
            "Seconds since the active table became so",
            age.map_or(0, |age| age.as_secs()),
        )?;
        let times = status.times;
        let took = Duration::from_micros(times.read_us + times.link_us + times.publish_us);
        let mut metric = to.encode_descriptor(
            "apply_seconds",
            "How long the last activation took, from its bundle or change to the table",
            None,
            MetricType::Gauge,
        )?;
        metric.encode_gauge(&took.as_secs_f64())?;
        let words = u64::try_from(status.table.words).unwrap_or(u64::MAX);
        gauge(&mut to, "table_words", "Words of the active table", words)?;
        let policed = status.pods.iter().filter(|pod| pod.enrolled).count();
        gauge(&mut to, "pods", "Pods that are policed", policed as u64)?;
        let lost = self.agent.lost().len();
        gauge(
            &mut to,
            "pods_lost",
            "Pods that should be policed and are not",
            lost as u64,
        )?;
        gauge(
            &mut to,
            "pods_unknown",
            "Interfaces that look like a pod's, of which no pod is known, with --unknown-pod=deny",
            status.unknown.len() as u64,
        )?;
        self.delivery(&mut to)?;
        self.key_sets(&mut to)?;
        self.proxy(&mut to)
    }
}

impl Scrape {
    fn delivery(&self, to: &mut DescriptorEncoder) -> fmt::Result {
        let Some(delivery) = &self.status.delivery else {
            return Ok(());
        };
        family(
            to,
            "deliveries",
            "Bundles put in force, times that what came was refused, times that none could be had",
            [
                ("applied", delivery.applied),
                ("refused", delivery.refused),
                ("failed", delivery.failed),
            ]
            .map(|(outcome, count)| (vec![("outcome", outcome.to_owned())], count))
            .into_iter(),
        )?;
        gauge(
            to,
            "delivery_trouble",
            "1 where what came last is not in force, or nothing comes; `enforcer status` says why",
            delivery.trouble.is_some().into(),
        )
    }

    fn proxy(&self, to: &mut DescriptorEncoder) -> fmt::Result {
        let Some(proxy) = &self.status.proxy else {
            return Ok(());
        };
        let open = proxy.open as u64;
        gauge(
            to,
            "proxy_connections",
            "Connections through the proxy",
            open,
        )?;
        let max = proxy.connections_max as u64;
        gauge(to, "proxy_connections_max", "The most there may be", max)?;
        counter(to, "proxy_accepted", "Connections accepted", proxy.accepted)?;
        family(
            to,
            "proxy_verdicts",
            "Requests and connections that the proxy has judged",
            [("allow", proxy.allowed), ("deny", proxy.refused)]
                .map(|(verdict, count)| (vec![("verdict", verdict.to_owned())], count))
                .into_iter(),
        )?;
        let broken_off = proxy.broken_off;
        let help = "Requests and connections that lost their permission while they were carried";
        counter(to, "proxy_broken_off", help, broken_off)?;
        family(
            to,
            "proxy_refusals",
            "What the proxy itself has refused or broken off, by reason",
            proxy
                .refusals
                .iter()
                .map(|(reason, count)| (vec![("reason", reason.clone())], *count)),
        )?;
        let lost = self.agent.access_lines_lost();
        counter(
            to,
            "access_lines_lost",
            "Lines that the access log lacks",
            lost,
        )?;
        let Some(watched) = self.agent.proxy.get() else {
            return Ok(());
        };
        let asked = watched.asked();
        counter(
            to,
            "authorizer_questions",
            "Times that an authorizer was asked",
            asked,
        )?;
        let (buckets, sum) = watched.latency();
        // What the library writes as `+Inf`.
        let bounds = BOUNDS.iter().copied().chain([f64::MAX]);
        let count = buckets.iter().sum();
        let buckets: Vec<(f64, u64)> = bounds.zip(buckets).collect();
        let mut metric = to.encode_descriptor(
            "proxy_request_seconds",
            "From the head of a request to the last byte of its answer",
            None,
            MetricType::Histogram,
        )?;
        let exemplars: Option<&HashMap<usize, _>> = None;
        metric.encode_histogram::<NoLabelSet>(sum, count, &buckets, exemplars)
    }

    fn key_sets(&self, to: &mut DescriptorEncoder) -> fmt::Result {
        let sets = self.agent.key_sets();
        let mut metric = to.encode_descriptor(
            "key_set_keys",
            "Keys that tokens of a source are verified with; with none, every token is refused",
            None,
            MetricType::Gauge,
        )?;
        for set in &sets {
            let labels = vec![("source", set.source.clone())];
            let keys = i64::try_from(set.keys).unwrap_or(i64::MAX);
            metric
                .encode_family(&Labels(&labels))?
                .encode_gauge(&keys)?;
        }
        Ok(())
    }
}

type Label = (&'static str, String);

#[derive(Debug)]
struct Labels<'a>(&'a [Label]);

impl prometheus_client::encoding::EncodeLabelSet for Labels<'_> {
    fn encode(&self, to: &mut prometheus_client::encoding::LabelSetEncoder) -> fmt::Result {
        use prometheus_client::encoding::EncodeLabel;
        for (name, value) in self.0 {
            (*name, value.as_str()).encode(to.encode_label())?;
        }
        Ok(())
    }
}

fn family(
    to: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    members: impl Iterator<Item = (Vec<Label>, u64)>,
) -> fmt::Result {
    let mut metric = to.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, count) in members {
        metric
            .encode_family(&Labels(&labels))?
            .encode_counter::<NoLabelSet, u64, f64>(&count, None)?;
    }
    Ok(())
}

fn counter(to: &mut DescriptorEncoder, name: &str, help: &str, count: u64) -> fmt::Result {
    let mut metric = to.encode_descriptor(name, help, None, MetricType::Counter)?;
    metric.encode_counter::<NoLabelSet, u64, f64>(&count, None)
}

fn gauge(to: &mut DescriptorEncoder, name: &str, help: &str, value: u64) -> fmt::Result {
    let value = i64::try_from(value).unwrap_or(i64::MAX);
    let mut metric = to.encode_descriptor(name, help, None, MetricType::Gauge)?;
    metric.encode_gauge(&value)
}
