//! One document of many outcomes: [`html`], one page that needs nothing else, and [`markdown`].
//!
//! ```
//! use fp8gemm_study::{Settings, report, studies};
//!
//! let outcomes = [studies::formats(&Settings::quick())?];
//! let page = report::html(&outcomes)?;
//! assert!(page.starts_with("<!DOCTYPE html>") && page.contains("<svg"));
//! # Ok::<(), fp8gemm_study::StudyError>(())
//! ```

mod html;
mod markdown;

pub use html::html;
pub use markdown::markdown;

use crate::{Cell, Comparable, Outcome};

/// What both documents say first.
const INTRODUCTION: &str = "What FP8 formats, scalings and accumulators do to a matrix product, computed on a CPU by \
    a model that has the bits of Hopper's tensor cores. Samples have fixed seeds and are the same on every platform; \
    each study names the command that computes it again.";

/// A cell for readers: four significant digits; the CSV has all of them.
fn shown(cell: &Cell) -> String {
    match cell {
        Cell::Float(figure) => significant(*figure),
        Cell::Count(count) => grouped(*count),
        Cell::Missing => "\u{2013}".to_owned(),
        other => other.to_string(),
    }
}

fn significant(figure: f64) -> String {
    if figure == 0.0 || !figure.is_finite() {
        return figure.to_string().replace("inf", "\u{221e}").replace('-', "\u{2212}");
    }
    let scientific = format!("{figure:.3e}");
    let exponent: i32 = scientific.split_once('e').and_then(|(_, exponent)| exponent.parse().ok()).unwrap_or(0);
    let text = match exponent {
        -4..=5 => format!("{figure:.*}", usize::try_from(3 - exponent).unwrap_or(0)),
        _ => scientific,
    };
    text.replace('-', "\u{2212}")
}

/// `1 048 576`, with spaces that do not break.
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push('\u{a0}');
        }
        text.push(digit);
    }
    text
}

fn comparable(comparable: Comparable) -> &'static str {
    match comparable {
        Comparable::Yes => "yes",
        Comparable::Partly => "partly",
        Comparable::No => "no",
    }
}

/// Size, seed and version in one line.
fn provenance(outcome: &Outcome) -> String {
    if outcome.own_command.is_some() {
        return format!("own data, fp8gemm-study {}", outcome.version);
    }
    let size = if outcome.quick { "quick sizes" } else { "full sizes" };
    format!("{size}, seed {}, fp8gemm-study {}", outcome.seed, outcome.version)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Breaks if the report shows figures that cannot be read or have lost their sign or size.
    #[test]
    fn figures_for_readers() {
        let shown = |figure| shown(&Cell::Float(figure));
        assert_eq!(shown(-7.4553), "\u{2212}7.455");
        assert_eq!(shown(0.0123456), "0.01235");
        assert_eq!(shown(123_456.7), "123457");
        assert_eq!(shown(1.23456e-9), "1.235e\u{2212}9");
        assert_eq!(shown(f64::NEG_INFINITY), "\u{2212}\u{221e}");
        assert_eq!(shown(0.0), "0");
        assert_eq!(super::shown(&Cell::Count(1_048_576)), "1\u{a0}048\u{a0}576");
    }
}
