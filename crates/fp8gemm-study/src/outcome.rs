//! What a study leaves: an [`Outcome`] of text, parameters, tables, figures and published figures.

use serde::{Deserialize, Serialize};

use crate::{Figure, Settings, Study, Table};

/// Whether our figure can be held against the published one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Comparable {
    /// Same quantity, data and metric, as far as the source says.
    Yes,
    /// The source leaves something open, or differs in something named in the note.
    Partly,
    /// Another quantity; beside ours for orientation.
    No,
}

/// A figure from the literature with ours beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// What is measured.
    pub quantity: String,
    /// The published figure, as its source words it.
    pub published: String,
    /// Where it is published.
    pub source: String,
    /// Ours.
    pub ours: String,
    /// Whether the two can be compared.
    pub comparable: Comparable,
    /// What the source leaves open, and what differs.
    pub note: String,
}

/// The results of a study.
///
/// Names of tables and figures are those of their files: letters, digits and hyphens, unique in the
/// study.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Name of the study.
    pub study: String,
    /// Its title.
    pub title: String,
    /// The question it answers.
    pub question: String,
    /// The seed of its samples.
    pub seed: u64,
    /// Whether it was computed at the smaller sizes of `--quick`.
    pub quick: bool,
    /// Version of this crate.
    pub version: String,
    /// The command that computes it again, where it is not `study run`: own tensors have no seed and
    /// no sizes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_command: Option<String>,
    /// What was found, a paragraph each, most important first.
    pub findings: Vec<String>,
    /// Sizes, distributions, recipes: name and value.
    pub parameters: Vec<(String, String)>,
    /// Published figures beside ours.
    pub published: Vec<Published>,
    /// The tables.
    pub tables: Vec<Table>,
    /// The figures, drawn from the tables.
    pub figures: Vec<Figure>,
}

impl Outcome {
    /// An empty outcome of the study under the settings.
    pub fn new(study: &Study, settings: &Settings) -> Self {
        Self {
            study: study.name.to_owned(),
            title: study.title.to_owned(),
            question: study.question.to_owned(),
            seed: settings.seed,
            quick: settings.quick,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            own_command: None,
            findings: Vec::new(),
            parameters: Vec::new(),
            published: Vec::new(),
            tables: Vec::new(),
            figures: Vec::new(),
        }
    }

    /// Adds a parameter.
    pub fn parameter(&mut self, name: &str, value: impl ToString) {
        self.parameters.push((name.to_owned(), value.to_string()));
    }

    /// Adds a finding.
    pub fn finding(&mut self, text: impl Into<String>) {
        self.findings.push(text.into());
    }

    /// The command that computes it again.
    pub fn command(&self) -> String {
        if let Some(command) = &self.own_command {
            return command.clone();
        }
        let quick = if self.quick { " --quick" } else { "" };
        format!("fp8gemm study run {} --seed {}{quick}", self.study, self.seed)
    }

    /// The table of that name.
    pub fn table(&self, name: &str) -> Option<&Table> {
        self.tables.iter().find(|table| table.name() == name)
    }
}
