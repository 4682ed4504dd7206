//! Points to SVG, by kuva.

use std::sync::Arc;

use kuva::plot::annotations::ReferenceLine;
use kuva::plot::bar::BarPlot;
use kuva::plot::legend::{LegendEntry, LegendPosition, LegendShape};
use kuva::plot::line::{LinePlot, LineStyle};
use kuva::plot::scatter::ScatterPlot;
use kuva::render::layout::{Layout, TickFormat};
use kuva::render::plots::Plot;

use super::series::Series;
use super::{Figure, FigureKind, Scale};

/// Okabe and Ito's colours, which those who see fewer colours can tell apart; yellow is too light.
const COLOURS: [&str; 7] = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000"];
/// A horizontal mark, and its dashes.
const MARK: &str = "#555";
const MARK_DASHES: &str = "2 3";
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 420.0;

pub(super) fn svg(figure: &Figure, series: &[Series], x_label: &str, y_label: &str) -> String {
    let plots = match figure.kind {
        FigureKind::Lines => lines(figure, series),
        FigureKind::Bars => vec![bars(series).into()],
    };
    let mut layout = Layout::auto_from_plots(&plots)
        .with_title(figure.title.as_str())
        .with_title_size(15)
        .with_label_size(13)
        .with_tick_size(11)
        .with_body_size(12)
        .with_font_family("system-ui, Helvetica, Arial, sans-serif")
        .with_y_label(y_label)
        .with_y_label_offset(4.0, 0.0)
        .with_x_label(x_label)
        .with_width(WIDTH)
        .with_height(HEIGHT)
        .with_legend_entries(legend(figure, series))
        .with_legend_position(LegendPosition::OutsideBottomColumns)
        .with_legend_box(false);
    if figure.y_scale != Scale::Linear {
        layout = layout.with_log_y().with_y_tick_format(TickFormat::Custom(Arc::new(tick)));
    }
    layout = match figure.kind {
        FigureKind::Lines => x_axis(figure, series, layout),
        FigureKind::Bars if crowded(series) => layout.with_x_tick_rotate(-20.0),
        FigureKind::Bars => layout,
    };
    for (y, _) in &figure.marks {
        layout = layout.with_reference_line(ReferenceLine::horizontal(*y).with_color(MARK).with_dasharray(MARK_DASHES));
    }
    finish(figure, &kuva::render_to_svg(plots, layout))
}

/// Whether the texts below the bars would run into one another: at about 7 units a character.
fn crowded(series: &[Series]) -> bool {
    let groups = groups(series);
    let room = (WIDTH - 80.0) / groups.len() as f64;
    groups.iter().any(|group| group.chars().count() as f64 * 7.0 > room)
}

fn x_axis(figure: &Figure, series: &[Series], layout: Layout) -> Layout {
    match figure.x_scale {
        Scale::Linear => layout,
        Scale::Log10 => layout.with_log_x().with_x_tick_format(TickFormat::Custom(Arc::new(tick))),
        // The points are the logarithms themselves.
        Scale::Log2 => {
            let exponents = || series.iter().flat_map(|series| &series.points).map(|&(_, x, _)| x.log2());
            let first = exponents().fold(f64::INFINITY, f64::min).floor();
            let last = exponents().fold(f64::NEG_INFINITY, f64::max).ceil();
            // Room for the marks of the first and last points.
            let room = 0.02 * (last - first).max(1.0);
            let power = |exponent: f64| tick(exponent.exp2());
            layout
                .with_x_axis_min(first - room)
                .with_x_axis_max(last.max(first + 1.0) + room)
                .with_x_tick_step(((last - first) / 12.0).ceil().max(1.0))
                .with_x_tick_format(TickFormat::Custom(Arc::new(power)))
        }
    }
}

fn lines(figure: &Figure, series: &[Series]) -> Vec<Plot> {
    let mut plots: Vec<Plot> = Vec::new();
    for (index, series) in series.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let place = |&(_, x, y): &(String, f64, f64)| (if figure.x_scale == Scale::Log2 { x.log2() } else { x }, y);
        let points: Vec<(f64, f64)> = series.points.iter().map(place).collect();
        let line = LinePlot::new().with_data(points.clone()).with_color(colour).with_stroke_width(2.0);
        plots.push(line.with_line_style(style(index)).into());
        plots.push(ScatterPlot::new().with_data(points).with_color(colour).with_size(3.5).into());
    }
    plots
}

/// Neighbours differ, so that lines in one place are all seen.
fn style(index: usize) -> LineStyle {
    match index % 4 {
        0 => LineStyle::Solid,
        1 => LineStyle::Dashed,
        2 => LineStyle::Dotted,
        _ => LineStyle::DashDot,
    }
}

/// The texts of x, in the order in which they first occur.
fn groups(series: &[Series]) -> Vec<&str> {
    let mut groups: Vec<&str> = Vec::new();
    for (group, ..) in series.iter().flat_map(|series| &series.points) {
        if !groups.contains(&group.as_str()) {
            groups.push(group);
        }
    }
    groups
}

fn bars(series: &[Series]) -> BarPlot {
    let mut plot = BarPlot::new();
    for group in groups(series) {
        let bars: Vec<(f64, &str)> = series
            .iter()
            .enumerate()
            .map(|(index, series)| {
                let height = series.points.iter().find(|(name, ..)| name == group).map_or(0.0, |&(.., y)| y);
                (height, COLOURS[index % COLOURS.len()])
            })
            .collect();
        plot = plot.with_group(group, bars);
    }
    plot
}

/// Every series by name, where there is more than one, and every mark: a label beside the mark itself
/// would lie over a bar. Written out here, because the room that kuva leaves for a legend it collects
/// itself is too small for many or long names.
fn legend(figure: &Figure, series: &[Series]) -> Vec<LegendEntry> {
    let shape = match figure.kind {
        FigureKind::Lines => LegendShape::Line,
        FigureKind::Bars => LegendShape::Rect,
    };
    let named = series.iter().enumerate().filter(|_| series.len() > 1).map(|(index, series)| LegendEntry {
        label: series.name.clone(),
        color: COLOURS[index % COLOURS.len()].to_owned(),
        shape,
        dasharray: style(index).dasharray().filter(|_| figure.kind == FigureKind::Lines),
    });
    let marks = figure.marks.iter().map(|(_, label)| LegendEntry {
        label: label.clone(),
        color: MARK.to_owned(),
        shape: LegendShape::Line,
        dasharray: Some(MARK_DASHES.to_owned()),
    });
    named.chain(marks).collect()
}

/// `4096`, `0.01`, `1e-6`.
fn tick(value: f64) -> String {
    // Ticks are round numbers with the noise of a logarithm.
    let rounded: f64 = format!("{value:.6e}").parse().unwrap_or(value);
    if (1e-3..1e6).contains(&rounded.abs()) { rounded.to_string() } else { format!("{rounded:e}") }
}

/// Identifiers of its own, so that several figures can stand in one page; a title for screen readers;
/// a view box, so that a page can make it smaller.
fn finish(figure: &Figure, svg: &str) -> String {
    let svg = svg.replace("kuva-clip", &format!("{}-{}-clip", figure.table, figure.name));
    let title = figure.title.replace('&', "&amp;").replace('<', "&lt;");
    let Some((open, rest)) = svg.split_once('>') else { return svg };
    let size = |name: &str| {
        let (_, value) = open.split_once(&format!(" {name}=\""))?;
        value.split('"').next()
    };
    let (width, height) = (size("width").unwrap_or("720"), size("height").unwrap_or("420"));
    format!("{open} viewBox=\"0 0 {width} {height}\" role=\"img\"><title>{title}</title>{rest}\n")
}
