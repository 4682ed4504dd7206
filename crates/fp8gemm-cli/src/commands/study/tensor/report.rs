//! What `study tensor` says.

use std::path::PathBuf;
use std::time::Duration;

use fp8gemm::problem::ScaleLayout;
use fp8gemm_study::tensor::{Profile, SAMPLE_ROWS};
use fp8gemm_study::{Cell, Outcome, Table};
use serde::Serialize;

use crate::text::{count, duration, list, percent, table, value};

/// The granularities that have a column of their own.
const LAYOUTS: [ScaleLayout; 5] =
    [ScaleLayout::Tensor, ScaleLayout::Row, ScaleLayout::Block128x128, ScaleLayout::Block1x128, ScaleLayout::Block1x32];

/// Reasons and names that are shown of what was left out.
const SHOWN: usize = 4;

/// The result of the command, in the form of its JSON document.
#[derive(Serialize)]
pub(super) struct Report {
    command: &'static str,
    seconds: f64,
    files: Vec<String>,
    outcome: Outcome,
    #[serde(skip)]
    rows: Vec<Row>,
    #[serde(skip)]
    time: Duration,
}

/// A line of the table.
pub(super) struct Row {
    cells: Vec<String>,
    snr: Vec<Option<f64>>,
    best: String,
}

impl Row {
    pub(super) fn new(name: &str, ty: &str, profile: &Profile) -> Self {
        let [.., (_, pieces)] = &profile.blocks;
        let best = profile.best();
        let to_zero = best.map_or_else(String::new, |best| percent(best.flushed, profile.elements()));
        Self {
            cells: vec![
                name.escape_debug().to_string(),
                ty.to_owned(),
                format!("{} x {}", profile.rows, profile.columns),
                value(profile.amax),
                format!("{:.1}", pieces.binades()),
            ],
            snr: LAYOUTS.map(|layout| Some(profile.best_with(layout)?.snr_db)).to_vec(),
            best: best.map_or_else(String::new, |best| format!("{}, {to_zero} to zero", best.quantizer)),
        }
    }
}

impl Report {
    pub(super) fn new(time: Duration, written: Vec<PathBuf>, outcome: Outcome, rows: Vec<Row>) -> Self {
        let files = written.iter().map(|path| path.display().to_string()).collect();
        Self { command: "study tensor", seconds: time.as_secs_f64(), files, outcome, rows, time }
    }

    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        if !self.rows.is_empty() {
            text +=
                "amax, range of the amax of 1x128 blocks in binades, SNR in dB of the best quantiser with scales for\n";
            text += &self.table();
        }
        // What one tensor is like in full; of many it is in the files and in the JSON document.
        let full: &[&str] = if self.rows.len() == 1 { &["quantisation", "amax"] } else { &[] };
        for name in full.iter().chain(&["codes", "attribution"]) {
            if let Some(table) = self.outcome.table(name) {
                text += &format!("\n{}\n{}", table.title(), shown(table, self.rows.len() == 1));
            }
        }
        if self.outcome.table("attribution").is_some() {
            text += &format!("  (beyond {SAMPLE_ROWS} rows of an operand, a sample of its rows)\n");
        }
        text.push('\n');
        for finding in self.outcome.findings.iter().filter(|_| self.rows.len() > 1) {
            text += &format!("{finding}\n");
        }
        text += &self.skipped();
        let what = if self.rows.is_empty() { "1 product".to_owned() } else { count(self.rows.len() as u64, "tensor") };
        text += &format!("{what} in {}", duration(self.time));
        match self.files.first() {
            Some(first) => {
                let folder = PathBuf::from(first);
                let folder = folder.parent().unwrap_or(&folder).display();
                text += &format!(
                    "; {} in {folder}, `study report` makes a page of them\n",
                    count(self.files.len() as u64, "file")
                );
            }
            None => text += "; --out keeps every figure as CSV and JSON, with plots\n",
        }
        text
    }

    fn table(&self) -> String {
        let used: Vec<usize> =
            (0..LAYOUTS.len()).filter(|&layout| self.rows.iter().any(|row| row.snr[layout].is_some())).collect();
        let mut header: Vec<String> = ["tensor", "type", "shape", "amax", "range"].map(str::to_owned).to_vec();
        header.extend(used.iter().map(|&layout| LAYOUTS[layout].to_string()));
        header.push("best of all".to_owned());
        let mut rows = vec![header];
        for row in &self.rows {
            let mut cells = row.cells.clone();
            cells
                .extend(used.iter().map(|&layout| row.snr[layout].map_or_else(String::new, |snr| format!("{snr:.2}"))));
            cells.push(row.best.clone());
            rows.push(cells);
        }
        table(2, &rows)
    }

    /// How many tensors were left out, for which reasons.
    fn skipped(&self) -> String {
        let Some(skipped) = self.outcome.table("skipped") else { return String::new() };
        let mut reasons: Vec<(String, Vec<String>)> = Vec::new();
        for row in skipped.rows() {
            let [name, .., reason] = &row[..] else { continue };
            // Scales are named by their tensor.
            let reason = reason.to_string();
            let reason = if reason.starts_with("scales of ") { "scales".to_owned() } else { reason };
            let name = name.to_string().escape_debug().to_string();
            match reasons.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, names)) => names.push(name),
                None => reasons.push((reason, vec![name])),
            }
        }
        let mut text = String::new();
        for (reason, mut names) in reasons {
            let tensors = count(names.len() as u64, "tensor");
            if names.len() > SHOWN {
                let more = names.len() - (SHOWN - 1);
                names.truncate(SHOWN - 1);
                names.push(format!("{more} more"));
            }
            text += &format!("left out: {tensors} ({reason}): {}\n", list(&names));
        }
        text
    }
}

/// A table of results for readers: shares and not the counts that they are of, errors of stages and not
/// their biases; without the name of the tensor where there is but one.
fn shown(results: &Table, one: bool) -> String {
    let columns = results.columns();
    let share = |name: &str| columns.iter().any(|column| column.name == format!("{name} share"));
    let kept = |name: &str| !(share(name) || name.ends_with(" bias") || (one && name == "tensor"));
    let kept: Vec<usize> = (0..columns.len()).filter(|&index| kept(&columns[index].name)).collect();
    let cell = |cell: &Cell| match *cell {
        // Magnitudes far from 1 keep their digits.
        Cell::Float(figure) if figure != 0.0 && figure.is_finite() && !(0.01..1e5).contains(&figure.abs()) => {
            format!("{figure:.1e}")
        }
        Cell::Float(figure) => format!("{figure:.2}"),
        ref other => other.to_string().escape_debug().to_string(),
    };
    let mut rows = vec![kept.iter().map(|&index| columns[index].heading()).collect::<Vec<_>>()];
    rows.extend(results.rows().iter().map(|row| kept.iter().map(|&index| cell(&row[index])).collect::<Vec<_>>()));
    table(2, &rows)
}
