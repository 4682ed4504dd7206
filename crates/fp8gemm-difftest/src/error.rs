//! The one error type of this crate.

use std::path::PathBuf;

use fp8gemm_formats::FormatError;
use fp8gemm_problem::{Problem, ProblemError};
use fp8gemm_sim::SimError;

use crate::Only;

/// Why something was not tested. That bits differ is no error but a [`Finding`](crate::Finding).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DifftestError {
    /// A name of no regime.
    #[error("no regime is named `{}`; there are {}", name.escape_debug(), Only::names().join(", "))]
    UnknownRegime {
        /// The name.
        name: String,
    },
    /// A strategy that gave no value.
    #[error("case {index} of seed {seed} cannot be generated: {reason}")]
    Generate {
        /// The seed.
        seed: u64,
        /// The case.
        index: u64,
        /// What the strategy said.
        reason: String,
    },
    /// A problem that is legal and that the subject does not compute.
    #[error("{subject} does not compute {problem}: {rule}")]
    Unsupported {
        /// What is under test.
        subject: String,
        /// The problem.
        problem: Problem,
        /// Why not.
        rule: String,
    },
    /// A subject that failed: no result, as opposed to a wrong one.
    #[error("{subject} failed on {problem}: {reason}")]
    Subject {
        /// What is under test.
        subject: String,
        /// The problem.
        problem: Problem,
        /// What it said.
        reason: String,
    },
    /// A configuration that the subject does not have for a problem.
    #[error("{subject} has {configurations} configurations for this problem, and number {index} was asked for")]
    Configuration {
        /// What is under test.
        subject: String,
        /// The number asked for, from 0.
        index: usize,
        /// How many there are.
        configurations: usize,
    },
    /// A library that cannot be loaded.
    #[error("{}: cannot be loaded: {reason}", path.display())]
    Library {
        /// The file.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// A library without a function of the interface.
    #[error("{}: no symbol `{symbol}` (fp8gemm_external.h declares what a library must export)", path.display())]
    Symbol {
        /// The file.
        path: PathBuf,
        /// The function.
        symbol: &'static str,
    },
    /// A library for another version of the interface.
    #[error("{}: made for version {found} of fp8gemm_external.h, this is version {expected}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// What it says.
        found: u32,
        /// What is needed.
        expected: u32,
    },
    /// A GPU that cannot be used.
    #[error("no Hopper GPU: {reason}")]
    NoGpu {
        /// What was tried.
        reason: String,
    },
    /// A single instruction that did not run.
    #[cfg(feature = "hopper")]
    #[error("instruction {kernel} did not run: {reason}")]
    Probe {
        /// The kernel.
        kernel: fp8gemm_jit::ProbeKernel,
        /// What the GPU's side said.
        reason: String,
    },
    /// Recorded single instructions that make no sense.
    #[error("recorded instructions: {what} has {found} elements, expected {expected}")]
    Recording {
        /// Which part.
        what: &'static str,
        /// Its elements.
        found: usize,
        /// The elements it must have.
        expected: usize,
    },
    /// An illegal problem.
    #[error(transparent)]
    Problem(#[from] ProblemError),
    /// Operands that are not well formed.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// What the twin refuses.
    #[error(transparent)]
    Sim(#[from] SimError),
}
