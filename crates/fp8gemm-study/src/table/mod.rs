//! A [`Table`]: typed columns, labelled rows; as CSV and JSON the same bytes for the same content.
//!
//! Exact columns (text, counts, bit patterns) are what a study's results are compared by; floats are
//! derived figures, in the column's unit.
//!
//! ```
//! use fp8gemm_study::{Cell, Table};
//!
//! let mut table = Table::new("rounding", "One number in two formats")
//!     .text("format", "the format")
//!     .bits("code", "its code")
//!     .float("error", "%", "relative error");
//! table.push([Cell::from("e4m3"), Cell::bits(0x2A, 2), Cell::from(4.1667)])?;
//! assert_eq!(table.csv(), "format,code,error [%]\ne4m3,0x2A,4.1667\n");
//! # Ok::<(), fp8gemm_study::StudyError>(())
//! ```

mod cell;
mod json;

pub use cell::Cell;

use serde::{Deserialize, Serialize};

use crate::StudyError;

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ColumnKind {
    /// Names: exact.
    Text,
    /// Whole numbers: exact.
    Count,
    /// Bit patterns: exact.
    Bits,
    /// Derived figures; the platform may change their last digits.
    Float,
}

/// One column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its name, unique in the table.
    pub name: String,
    /// What it holds.
    pub kind: ColumnKind,
    /// Unit of the figures, empty for none: `%`, `dB`.
    pub unit: String,
    /// What is meant, as a formula where there is one.
    pub meaning: String,
}

impl Column {
    /// `name [unit]`.
    pub fn heading(&self) -> String {
        if self.unit.is_empty() { self.name.clone() } else { format!("{} [{}]", self.name, self.unit) }
    }
}

/// Rows of cells under typed columns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "json::Stored", into = "json::Stored")]
pub struct Table {
    name: String,
    title: String,
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table without columns. `name` is that of its CSV file; see [`crate::Outcome`] for the rule.
    pub fn new(name: impl Into<String>, title: impl Into<String>) -> Self {
        Self { name: name.into(), title: title.into(), columns: Vec::new(), rows: Vec::new() }
    }

    fn column(mut self, kind: ColumnKind, name: &str, unit: &str, meaning: &str) -> Self {
        let text = str::to_owned;
        self.columns.push(Column { name: text(name), kind, unit: text(unit), meaning: text(meaning) });
        self
    }

    /// Adds a column of text. Columns come before rows: a row pushed earlier would be too short.
    #[must_use]
    pub fn text(self, name: &str, meaning: &str) -> Self {
        self.column(ColumnKind::Text, name, "", meaning)
    }

    /// Adds a column of whole numbers.
    #[must_use]
    pub fn count(self, name: &str, meaning: &str) -> Self {
        self.column(ColumnKind::Count, name, "", meaning)
    }

    /// Adds a column of bit patterns.
    #[must_use]
    pub fn bits(self, name: &str, meaning: &str) -> Self {
        self.column(ColumnKind::Bits, name, "", meaning)
    }

    /// Adds a column of derived figures.
    #[must_use]
    pub fn float(self, name: &str, unit: &str, meaning: &str) -> Self {
        self.column(ColumnKind::Float, name, unit, meaning)
    }

    /// Adds a row.
    ///
    /// # Errors
    /// [`StudyError::Table`] where there are more or fewer cells than columns, or a cell is not of its
    /// column's kind ([`Cell::Missing`] is of every kind).
    pub fn push(&mut self, row: impl IntoIterator<Item = Cell>) -> Result<(), StudyError> {
        let row: Vec<Cell> = row.into_iter().collect();
        if row.len() != self.columns.len() {
            let fault = format!("a row has {} cells, but there are {} columns", row.len(), self.columns.len());
            return Err(StudyError::table(&self.name, fault));
        }
        for (column, cell) in self.columns.iter().zip(&row) {
            if cell.kind().is_some_and(|kind| kind != column.kind) {
                let fault = format!("`{cell}` is no {:?} of column `{}`", column.kind, column.name);
                return Err(StudyError::table(&self.name, fault));
            }
        }
        self.rows.push(row);
        Ok(())
    }

    /// Name of the table and of its file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is in it.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// The columns.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The rows, each with a cell for each column.
    pub fn rows(&self) -> &[Vec<Cell>] {
        &self.rows
    }

    /// Position of a column.
    ///
    /// # Errors
    /// [`StudyError::Table`] where there is none of that name.
    pub fn index(&self, column: &str) -> Result<usize, StudyError> {
        let found = self.columns.iter().position(|candidate| candidate.name == column);
        found.ok_or_else(|| StudyError::table(&self.name, format!("there is no column `{column}`")))
    }

    /// The figure in a float or count column of the first row whose cells print as the `labels`
    /// (pairs of column and text) say: how a finding quotes a table.
    ///
    /// # Errors
    /// [`StudyError::Table`] where there is no such column, row or figure.
    pub fn figure(&self, labels: &[(&str, &str)], column: &str) -> Result<f64, StudyError> {
        let wanted = self.index(column)?;
        let labels =
            labels.iter().map(|&(name, text)| Ok((self.index(name)?, text))).collect::<Result<Vec<_>, StudyError>>()?;
        let matches = |row: &&Vec<Cell>| labels.iter().all(|&(index, text)| row[index].to_string() == text);
        self.rows
            .iter()
            .find(matches)
            .and_then(|row| row[wanted].number())
            .ok_or_else(|| StudyError::table(&self.name, format!("no row has `{column}` for these labels")))
    }

    /// The table as CSV (RFC 4180, line feeds, headings `name [unit]`). Floats are as short as they
    /// can be read back; a missing cell is empty.
    pub fn csv(&self) -> String {
        let mut writer = csv::Writer::from_writer(Vec::new());
        let headings = self.columns.iter().map(Column::heading);
        let rows = self.rows.iter().map(|row| row.iter().map(Cell::to_string).collect::<Vec<_>>());
        // Writing to memory fails for rows of unequal length alone, and `push` admits none.
        let mut written = writer.write_record(headings);
        for row in rows {
            written = written.and_then(|()| writer.write_record(row));
        }
        debug_assert!(written.is_ok());
        String::from_utf8(writer.into_inner().unwrap_or_default()).unwrap_or_default()
    }
}
