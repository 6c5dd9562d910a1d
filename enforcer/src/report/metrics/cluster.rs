//! How well the API server is followed, and what its policies compile to.

use std::{fmt, sync::Arc};

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder, metrics::MetricType};

use super::{Label, Labels, counter, family, gauge};
use crate::kube::{Health, KindStatus};

/// What is counted at the moment of a scrape.
#[derive(Debug)]
pub struct Scrape(pub Arc<Health>);

impl Collector for Scrape {
    fn encode(&self, mut to: DescriptorEncoder) -> fmt::Result {
        let status = self.0.status();
        let of = |kind: &KindStatus| vec![("kind", kind.kind.clone())];
        let kinds = &status.kinds;
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        gauges(
            &mut to,
            "watch_up",
            "Whether changes of a kind are heard of as they happen",
            kinds
                .iter()
                .map(|kind| (of(kind), u64::from(kind.is_followed()))),
        )?;
        gauges(
            &mut to,
            "watch_behind_seconds",
            "How long changes of a kind may have gone unheard of",
            kinds.iter().map(|kind| (of(kind), kind.behind_seconds)),
        )?;
        gauges(
            &mut to,
            "watch_heard_seconds",
            "Seconds since the API server last said anything of a kind",
            kinds
                .iter()
                .filter_map(|kind| Some((of(kind), kind.heard_seconds?))),
        )?;
        gauges(
            &mut to,
            "watch_objects",
            "Objects of a kind that are known",
            kinds.iter().map(|kind| (of(kind), count(kind.objects))),
        )?;
        family(
            &mut to,
            "watch_events",
            "Changes of a kind that were heard of",
            kinds.iter().map(|kind| (of(kind), kind.events)),
        )?;
        family(
            &mut to,
            "watch_lists",
            "Times that all objects of a kind were listed",
            kinds.iter().map(|kind| (of(kind), kind.lists)),
        )?;
        let help = "Objects that cannot be read, and are taken as they were before or not at all";
        gauge(&mut to, "wrong_objects", help, count(status.wrong_objects))?;
        let Some(compiled) = &status.compiled else {
            return Ok(());
        };
        let help = "Errors that keep the cluster's policies as they are now from being in force";
        let errors = count(compiled.errors_count);
        gauge(&mut to, "policy_errors", help, errors)?;
        let help = "Policies that were compiled last";
        gauge(&mut to, "policies", help, count(compiled.policies))?;
        let help = "Compilations of the cluster's policies";
        counter(&mut to, "compilations", help, compiled.times)?;
        let help = "Compilations that failed";
        counter(&mut to, "compilations_failed", help, compiled.failed)?;
        let mut metric = to.encode_descriptor(
            "compile_seconds",
            "How long the last compilation took",
            None,
            MetricType::Gauge,
        )?;
        let took = std::time::Duration::from_micros(compiled.took_us);
        metric.encode_gauge(&took.as_secs_f64())
    }
}

fn gauges(
    to: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    members: impl Iterator<Item = (Vec<Label>, u64)>,
) -> fmt::Result {
    let mut metric = to.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in members {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        metric
            .encode_family(&Labels(&labels))?
            .encode_gauge(&value)?;
    }
    Ok(())
}
