//! What ends a command early, and with which exit code.

use std::fmt::Display;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use fp8gemm::formats::FormatError;
use fp8gemm::jit::JitError;
use fp8gemm::problem::ProblemError;
use fp8gemm::sim::SimError;
use fp8gemm_difftest::DifftestError;
use fp8gemm_study::StudyError;

use crate::files::FileError;

/// Why a command did not do what it was asked. Prints as one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CliError {
    /// A file, or a tensor in it.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: FileError,
    },
    /// Tensors that make no legal problem.
    #[error(transparent)]
    Problem(#[from] ProblemError),
    /// Tensors that do not fit together.
    #[error(transparent)]
    Sim(#[from] SimError),
    /// A matrix that cannot be quantised.
    #[error("tensor `{}`: {source}", tensor.escape_debug())]
    Quantize {
        /// Name of the tensor.
        tensor: String,
        /// What is wrong.
        source: FormatError,
    },
    /// Flags that contradict each other or the files.
    #[error("{0}")]
    Usage(String),
    /// Something that this machine, or this build, does not have.
    #[error("engine {engine}: {reason}")]
    Missing {
        /// The engine asked for.
        engine: &'static str,
        /// What is missing.
        reason: String,
    },
    /// Kernels: their choice, compiler, machine code or cache.
    #[error("{}", one_line(.0))]
    Jit(#[from] JitError),
    /// A study, its results or their files.
    #[error("{}{}", .0, advice(.0))]
    Study(#[from] StudyError),
    /// What could not be tested: regimes, libraries, recordings.
    #[error(transparent)]
    Difftest(#[from] DifftestError),
    /// Standard output is gone or full.
    #[error("standard output cannot be written: {0}")]
    Stdout(#[source] io::Error),
}

impl CliError {
    /// 3 where the machine lacks something, else 2: wrong usage or input.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Missing { .. } | Self::Difftest(DifftestError::NoGpu { .. }) => 3,
            Self::Jit(JitError::NvrtcNotFound { .. } | JitError::NoDisassembler { .. }) => 3,
            _ => 2,
        }
    }

    pub(crate) fn file(path: &Path, source: FileError) -> Self {
        Self::File { path: path.to_owned(), source }
    }
}

/// Adds the path to an error of a file.
pub(crate) trait InFile<T> {
    fn in_file(self, path: &Path) -> Result<T, CliError>;
}

impl<T> InFile<T> for Result<T, FileError> {
    fn in_file(self, path: &Path) -> Result<T, CliError> {
        self.map_err(|source| CliError::file(path, source))
    }
}

/// Tells the user something on standard error, whatever the log level.
pub(crate) fn note(what: impl Display) {
    // Names in files may hold line feeds and escape sequences; a note is one line.
    let text: String = what.to_string().chars().map(crate::printable).collect();
    // Nobody is left to tell if this fails.
    let _ = writeln!(io::stderr(), "note: {text}");
}

/// What was tried, or a compiler's log, has lines of its own.
fn one_line(error: &JitError) -> String {
    error.to_string().lines().map(str::trim).collect::<Vec<_>>().join("; ").replace(":; ", ": ")
}

/// What to do about it, where there is an answer.
fn advice(error: &StudyError) -> &'static str {
    match error {
        StudyError::Exists { .. } => ": --force replaces it",
        StudyError::NoResults { .. } => ": `fp8gemm study all` makes some, --out names another folder",
        _ => "",
    }
}
