//! Cost against table size, as an SVG that reads on light and on dark pages.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use plotters::prelude::*;

use crate::{
    Variant,
    filter::{Filter, Kind},
    measure::Metric,
};

const SIZE: (u32, u32) = (720, 400);
/// Readable on white and on black.
const GREY: RGBColor = RGBColor(128, 128, 128);

/// Nanoseconds added to a packet whose source is any of the table's, by the table's size; both
/// scales logarithmic.
pub fn cost_by_size(variants: &[Variant]) -> Result<String> {
    let mut lines: BTreeMap<(u8, &str), Vec<(f64, f64)>> = BTreeMap::new();
    for variant in variants {
        let Some(name) = line(variant.filter) else {
            continue;
        };
        if let Some(spread) = variant.samples.spread(Metric::Random) {
            // What is lost in the noise is drawn at the lower edge.
            let point = (f64::from(variant.filter.entries()), spread.median.max(10.0));
            lines.entry(name).or_default().push(point);
        }
    }
    let highest = lines
        .values()
        .flatten()
        .map(|(_, cost)| *cost)
        .fold(1_000.0, f64::max);
    let mut svg = String::new();
    draw(&mut svg, &lines, highest).map_err(|error| anyhow::anyhow!("{error}"))?;
    // A picture that people can compare: no trailing blanks, one line end.
    let lines: Vec<&str> = svg.lines().map(str::trim_end).collect();
    lines.first().context("the picture is empty")?;
    Ok(lines.join("\n") + "\n")
}

fn line(filter: Filter) -> Option<(u8, &'static str)> {
    use crate::agent::{Policed, Refusal};
    Some(match filter {
        Filter::Agent(Policed::Server, Refusal::Drop, _) => (0, "enforcer"),
        Filter::Map(Kind::Hash, _) => (1, "BPF hash, one lookup"),
        Filter::Map(Kind::Lpm, _) => (2, "BPF LPM, one lookup"),
        Filter::NftEgress(_) => (3, "nft verdict map"),
        Filter::Iptables(_) => (4, "iptables"),
        _ => return None,
    })
}

fn draw(
    svg: &mut String,
    lines: &BTreeMap<(u8, &str), Vec<(f64, f64)>>,
    highest: f64,
) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    let text = ("sans-serif", 14).into_font().color(&GREY);
    let mut chart = ChartBuilder::on(&root)
        .margin(12)
        .margin_right(40)
        .x_label_area_size(40)
        .y_label_area_size(64)
        .build_cartesian_2d((1e3..1e6).log_scale(), (10.0..highest * 1.5).log_scale())?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GREY.mix(0.3))
        .axis_style(GREY)
        .label_style(text.clone())
        .x_desc("allowed sources")
        .y_desc("ns added to a packet")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.0}"))
        .draw()?;
    for ((colour, name), points) in lines {
        let colour = Palette99::pick(usize::from(*colour));
        let width = if *name == "enforcer" { 3 } else { 2 };
        let style = colour.stroke_width(width);
        chart
            .draw_series(LineSeries::new(points.iter().copied(), style).point_size(3))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .label_font(text)
        .border_style(TRANSPARENT)
        .draw()?;
    root.present()?;
    Ok(())
}
