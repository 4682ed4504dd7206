//! Configurations that were found by measuring: a table beside the cache of kernels, and what is chosen
//! with it.
//!
//! The cost model of [`choose`](crate::choose) ranks configurations without a GPU. `fp8gemm tune` times them
//! on one and keeps the order in a table. [`Compiler::choose`](crate::Compiler::choose) takes the table's where
//! it fits, else the model's. No bit of a result depends on which.
//!
//! | item | what it is |
//! |---|---|
//! | [`Machine`] | what a table was measured on and with; a table holds for an equal one only |
//! | [`Tuning`] | tables of one or more machines, as one file holds them |
//! | [`Tuned`] | one problem: its configurations, fastest first |
//! | [`Timed`] | one of them, with the [pattern](crate::sass::Interleave) in its promotion |
//! | [`Selection`] | what is chosen for a problem, and whether by table or by model |
//! | [`first_candidates`], [`neighbours`] | what is worth timing |
//!
//! A table never leads to an illegal kernel: a name in it counts only if the configuration is one of
//! [`all_candidates`] of the tuned problem, and legal for the problem at hand.

mod candidates;
mod file;
mod machine;
mod select;
mod table;

use std::path::PathBuf;

pub use candidates::{all_candidates, first_candidates, neighbours};
pub use file::FILE;
pub use machine::{Device, Machine, kernel_version};
pub use select::{Selection, Source, Untuned, bucket};
pub use table::{Table, Timed, Tuned, Tuning};

/// The environment variable that switches tuning tables off (`off`), or names the file of another table
/// than the one beside the cache.
pub const TUNING_VARIABLE: &str = "FP8GEMM_TUNING";

/// What [`TUNING_VARIABLE`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Named {
    Nothing,
    Off,
    File(PathBuf),
}

/// The tuning tables that count.
#[derive(Debug)]
pub(crate) enum Loaded {
    /// None is asked for.
    Off,
    /// Those of the file; none where there is no file.
    Tables(Tuning),
    /// The file cannot be used: why, and that there are no tables.
    Ignored(String, Tuning),
}

/// What the environment says of tables.
pub(crate) fn named() -> Named {
    match std::env::var_os(TUNING_VARIABLE).filter(|value| !value.is_empty()) {
        None => Named::Nothing,
        Some(value) if value == "off" => Named::Off,
        Some(value) => Named::File(value.into()),
    }
}
