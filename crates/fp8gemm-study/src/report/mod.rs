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

/// Rows beyond which a table is folded (HTML) or cut short (Markdown); the CSV has them all.
const LONG: usize = 24;

/// The commands that make these outcomes and the report again.
fn commands(outcomes: &[Outcome]) -> Vec<String> {
    let Some(first) = outcomes.first() else { return Vec::new() };
    let alike = outcomes.iter().all(|outcome| (outcome.seed, outcome.quick) == (first.seed, first.quick));
    let mut commands = if alike {
        let every = crate::studies::ALL.iter().all(|study| outcomes.iter().any(|outcome| outcome.study == study.name));
        let names: Vec<&str> = outcomes.iter().map(|outcome| outcome.study.as_str()).collect();
        let what = if every && names.len() == crate::studies::ALL.len() {
            "all".to_owned()
        } else {
            format!("run {}", names.join(" "))
        };
        let quick = if first.quick { " --quick" } else { "" };
        vec![format!("fp8gemm study {what} --seed {}{quick}", first.seed)]
    } else {
        outcomes.iter().map(Outcome::command).collect()
    };
    commands.push("fp8gemm study report".to_owned());
    commands
}

/// What made the outcomes, each combination of sizes, seed and version once.
fn made_by(outcomes: &[Outcome]) -> String {
    let mut lines: Vec<String> = Vec::new();
    for line in outcomes.iter().map(provenance) {
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines.join("; ")
}

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
    use crate::{Settings, studies};

    /// Breaks if the commands of a report do not make it again: a seed, `--quick` or a study left out.
    #[test]
    fn commands_make_the_outcomes_again() {
        let all: Vec<Outcome> = studies::ALL.iter().map(|study| Outcome::new(study, &Settings::full())).collect();
        assert_eq!(commands(&all), ["fp8gemm study all --seed 1", "fp8gemm study report"]);
        assert_eq!(commands(&all[..1])[0], "fp8gemm study run accumulation --seed 1");
        let mut other = Settings::quick();
        other.seed = 7;
        let mixed = [all[0].clone(), Outcome::new(&studies::ALL[1], &other)];
        assert_eq!(commands(&mixed)[1], "fp8gemm study run promotion-interval --seed 7 --quick");
        assert_eq!(made_by(&mixed).matches("seed").count(), 2);
        assert_eq!(made_by(&all).matches("seed").count(), 1);
        assert!(commands(&[]).is_empty());
    }

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
