//! The report as one HTML page: style and drawings inline, nothing loaded.

use maud::{DOCTYPE, Markup, PreEscaped, html as markup};

use super::{INTRODUCTION, LONG, commands, comparable, made_by, provenance, shown};
use crate::{Cell, ColumnKind, Outcome, StudyError, Table};

const STYLE: &str = include_str!("style.css");

/// The page. Drawings are made anew from the tables.
///
/// # Errors
/// [`StudyError::Table`] where an outcome's figure does not fit its table.
pub fn html(outcomes: &[Outcome]) -> Result<String, StudyError> {
    let sections = outcomes.iter().map(section).collect::<Result<Vec<_>, _>>()?;
    let page = markup! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="generator" content="fp8gemm study report";
                title { "FP8 numerics: studies" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header id="contents" {
                    h1 { "FP8 numerics: studies" }
                    p { (INTRODUCTION) }
                    p.made { (outcomes.len()) " studies; " (made_by(outcomes)) ". Made again by" }
                    pre { code { (commands(outcomes).join("\n")) } }
                    nav {
                        h2 { "Contents and main findings" }
                        ol { @for outcome in outcomes {
                            li {
                                a href=(format!("#{}", outcome.study)) { (outcome.title) }
                                @if let Some(finding) = outcome.findings.first() { p { (finding) } }
                            }
                        } }
                    }
                }
                main { @for section in &sections { (section) } }
            }
        }
    };
    Ok(page.into_string() + "\n")
}

fn section(outcome: &Outcome) -> Result<Markup, StudyError> {
    let mut figures = Vec::new();
    for figure in &outcome.figures {
        let table = outcome
            .table(figure.table())
            .ok_or_else(|| StudyError::table(figure.table(), format!("figure `{}` is of no table", figure.name())))?;
        // Identifiers in a drawing are unique in its study; in the page, with the study's name.
        figures.push(figure.svg(table)?.replace("-clip-", &format!("-{}-clip-", outcome.study)));
    }
    Ok(markup! {
        section id=(outcome.study) {
            h2 { (outcome.title) " " a.up href="#contents" title="to the contents" { "contents" } }
            p.question { (outcome.question) }
            @for finding in &outcome.findings { p { (finding) } }
            @for figure in &figures { figure { (PreEscaped(figure)) } }
            @if !outcome.published.is_empty() {
                h3 { "Published figures beside ours" }
                @for published in &outcome.published {
                    dl.published {
                        dt { "quantity" } dd { (published.quantity) }
                        dt { "published" } dd { (published.published) span.source { " (" (published.source) ")" } }
                        dt { "ours" } dd { (published.ours) }
                        dt { "comparable" } dd { b { (comparable(published.comparable)) } ". " (published.note) }
                    }
                }
            }
            @for table in &outcome.tables { (self::table(table)) }
            h3 { "How to reproduce" }
            pre { code { (outcome.command()) } }
            dl.parameters {
                @for (name, value) in &outcome.parameters { dt { (name) } dd { (value) } }
                dt { "run" } dd { (provenance(outcome)) }
            }
        }
    })
}

fn table(table: &Table) -> Markup {
    let number = |kind: ColumnKind| matches!(kind, ColumnKind::Count | ColumnKind::Float).then_some("number");
    let class = |kind: ColumnKind, cell: &Cell| match cell {
        Cell::Bits { .. } => Some("bits"),
        _ => number(kind),
    };
    markup! {
        @let long = table.rows().len() > LONG;
        details open[!long] {
            summary { (table.title()) " (" (table.rows().len()) " rows, " code { (table.name()) ".csv" } ")" }
            div.scroll {
                table {
                    thead { tr { @for column in table.columns() {
                        th class=[number(column.kind)] title=(column.meaning) { (column.heading()) }
                    } } }
                    tbody { @for row in table.rows() {
                        tr { @for (column, cell) in table.columns().iter().zip(row) {
                            td class=[class(column.kind, cell)] { (shown(cell)) }
                        } }
                    } }
                }
            }
            p.columns { @for column in table.columns().iter().filter(|column| !column.meaning.is_empty()) {
                span { b { (column.name) } ": " (column.meaning) } " "
            } }
        }
    }
}
