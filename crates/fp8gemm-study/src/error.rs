//! The one error type of this crate.

use std::io;
use std::path::{Path, PathBuf};

use fp8gemm_formats::FormatError;
use fp8gemm_problem::ProblemError;
use fp8gemm_sim::SimError;

/// Why a study, a sample, a table or a file was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StudyError {
    /// A product that cannot be computed.
    #[error(transparent)]
    Sim(#[from] SimError),
    /// A matrix that cannot be quantised.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A problem that is not legal.
    #[error(transparent)]
    Problem(#[from] ProblemError),
    /// No study has this name.
    #[error("no study is called `{name}`; there are {known}")]
    Unknown {
        /// The name.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// A distribution whose text or parameters have no meaning.
    #[error("distribution `{text}`: {rule}")]
    Distribution {
        /// As printed, or as given.
        text: String,
        /// The rule it breaks.
        rule: &'static str,
    },
    /// An argument outside what is allowed.
    #[error("{argument} is {value}, but {rule}")]
    Argument {
        /// Its name.
        argument: &'static str,
        /// Its value.
        value: String,
        /// The rule it breaks.
        rule: &'static str,
    },
    /// A matrix that holds NaN or infinity.
    #[error("holds {value} at row {row}, column {column}: only finite numbers can be studied")]
    NonFinite {
        /// Row of the first one.
        row: usize,
        /// Its column.
        column: usize,
        /// What it is.
        value: f32,
    },
    /// A table or figure that does not hold together.
    #[error("table `{table}`: {fault}")]
    Table {
        /// Name of the table.
        table: String,
        /// What is wrong.
        fault: String,
    },
    /// Results that exist are not overwritten.
    #[error("{} exists", path.display())]
    Exists {
        /// Where.
        path: PathBuf,
    },
    /// A folder in which no study has left results.
    #[error("{} holds no results of studies", path.display())]
    NoResults {
        /// The folder.
        path: PathBuf,
    },
    /// The file system.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// A file of results that cannot be read back.
    #[error("{}: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
}

impl StudyError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    pub(crate) fn table(table: &str, fault: impl Into<String>) -> Self {
        Self::Table { table: table.to_owned(), fault: fault.into() }
    }
}
