//! What the filter must reach, each against a figure of the same run.

use crate::{Variant, measure::Metric};

/// Time of a request, and of a connection, without a filter against that with one policed pod; and
/// of both with two policed pods.
const REQUEST_MIN: f64 = 0.98;
const CONNECT_MIN: f64 = 0.98;
const BOTH_MIN: f64 = 0.96;
/// Nanoseconds that a packet of one source takes longer, and of one of 100 000; and the latter
/// against nft's verdict map at the same place.
const HOT_NS_MAX: f64 = 150.0;
const RANDOM_NS_MAX: f64 = 300.0;
const RANDOM_SHARE_MAX: f64 = 0.4;
/// Packets refused against packets forwarded without a filter.
const DENIED_MIN: f64 = 1.5;
/// How far requests at 1 000 and at 1 000 000 entries may be apart.
const SIZE_MAX: f64 = 0.01;

pub fn missed(variants: &[Variant]) -> Vec<String> {
    let mut missed = Vec::new();
    let median = |name: &str, metric| {
        let variant = variants.iter().find(|v| v.filter.name() == name)?;
        Some(variant.samples.spread(metric)?.median)
    };
    let mut least = |name: &str, metric: Metric, least: f64, what: &str| {
        if let Some(value) = median(name, metric)
            && value < least
        {
            missed.push(format!(
                "{name}, {}: {value:.3}, less than {least:.3}{what}",
                metric.name()
            ));
        }
    };
    let (ours, nft) = ("enforcer 100000", "nft egress 100000");
    least(ours, Metric::Request, REQUEST_MIN, "");
    least(ours, Metric::Connect, CONNECT_MIN, "");
    for metric in [Metric::Request, Metric::Connect] {
        least("enforcer both pods 100000", metric, BOTH_MIN, "");
        if let Some(theirs) = median(nft, metric) {
            least(ours, metric, theirs, ", which nft reaches");
        }
    }
    least(ours, Metric::Denied, DENIED_MIN, "");
    if let Some(theirs) = median(nft, Metric::Denied) {
        least(ours, Metric::Denied, theirs, ", which nft reaches");
    }
    let mut most = |metric: Metric, most: f64, what: &str| {
        if let Some(value) = median(ours, metric)
            && value > most
        {
            missed.push(format!(
                "{ours}, {}: {value:.0} ns, more than {most:.0}{what}",
                metric.name()
            ));
        }
    };
    most(Metric::Hot, HOT_NS_MAX, "");
    most(Metric::Random, RANDOM_NS_MAX, "");
    if let Some(theirs) = median(nft, Metric::Random) {
        most(
            Metric::Random,
            theirs * RANDOM_SHARE_MAX,
            &format!(", {RANDOM_SHARE_MAX} of nft's"),
        );
    }
    if let (Some(small), Some(large)) = (
        median("enforcer 1000", Metric::Request),
        median("enforcer 1000000", Metric::Request),
    ) && (small - large).abs() > SIZE_MAX
    {
        missed.push(format!(
            "requests at 1 000 entries {small:.3}, at 1 000 000 {large:.3}: more than {SIZE_MAX} apart"
        ));
    }
    missed
}
