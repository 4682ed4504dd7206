//! The report as Markdown, its drawings linked from the folders of the studies.

use core::fmt::Write;

use super::{INTRODUCTION, LONG, commands, comparable, made_by, provenance, shown};
use crate::{ColumnKind, Outcome, Table};

/// Writing to a string does not fail.
macro_rules! line {
    ($text:expr, $($format:tt)*) => { let _ = writeln!($text, $($format)*); };
}

/// The text. Links are relative to the folder of results.
pub fn markdown(outcomes: &[Outcome]) -> String {
    let mut text = format!("# FP8 numerics: studies\n\n{INTRODUCTION}\n");
    line!(text, "\n{} studies; {}. Made again by\n", outcomes.len(), made_by(outcomes));
    line!(text, "```console\n$ {}\n```\n\n## Contents and main findings\n", commands(outcomes).join("\n$ "));
    for outcome in outcomes {
        let finding = outcome.findings.first().map_or("", String::as_str);
        line!(text, "1. [{}](#{}): {}", outcome.title, outcome.study, escaped(finding));
    }
    for outcome in outcomes {
        section(&mut text, outcome);
    }
    text
}

fn section(text: &mut String, outcome: &Outcome) {
    line!(text, "\n<a id=\"{}\"></a>\n\n## {}\n\n*{}*", outcome.study, outcome.title, outcome.question);
    for finding in &outcome.findings {
        line!(text, "\n{}", escaped(finding));
    }
    for figure in &outcome.figures {
        line!(text, "\n![{}]({}/{}.svg)", figure.title(), outcome.study, figure.name());
    }
    for published in &outcome.published {
        line!(text, "\n| published beside ours | |\n|---|---|\n| quantity | {} |", escaped(&published.quantity));
        line!(text, "| published | {} ({}) |", escaped(&published.published), escaped(&published.source));
        line!(text, "| ours | {} |", escaped(&published.ours));
        line!(text, "| comparable | {}. {} |", comparable(published.comparable), escaped(&published.note));
    }
    for table in &outcome.tables {
        line!(text, "\n{} ([{name}.csv]({}/{name}.csv)):\n", table.title(), outcome.study, name = table.name());
        rows(text, table);
    }
    let parameters: Vec<String> = outcome.parameters.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    line!(text, "\nReproduce with `{}`. {}; {}.", outcome.command(), parameters.join("; "), provenance(outcome));
}

fn rows(text: &mut String, table: &Table) {
    let headings: Vec<String> = table.columns().iter().map(|column| escaped(&column.heading())).collect();
    let rule = |kind| if matches!(kind, ColumnKind::Count | ColumnKind::Float) { "---:" } else { "---" };
    let rules: Vec<&str> = table.columns().iter().map(|column| rule(column.kind)).collect();
    line!(text, "| {} |\n|{}|", headings.join(" | "), rules.join("|"));
    for row in table.rows().iter().take(LONG) {
        let cells: Vec<String> = row.iter().map(|cell| escaped(&shown(cell))).collect();
        line!(text, "| {} |", cells.join(" | "));
    }
    if table.rows().len() > LONG {
        line!(text, "\nThe first {LONG} of {} rows; the CSV has them all.", table.rows().len());
    }
}

/// A bar would end the cell, a star begin emphasis, and `<` an element.
fn escaped(text: &str) -> String {
    text.replace('|', "\\|").replace('*', "\\*").replace('<', "&lt;")
}
