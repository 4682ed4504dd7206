//! Flags and the choice of a GPU, for subcommands that ask the hardware.

use std::path::PathBuf;

use clap::Args;
use fp8gemm_difftest::{DifftestError, HopperSubject};

use super::case_file;
use crate::engine::{self, one_line};
use crate::error::CliError;

/// What every question to a GPU takes.
#[derive(Debug, Args)]
pub(super) struct GpuArgs {
    /// Seed of the operands
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(super) seed: u64,
    /// Ordinal of the GPU [default: the first Hopper]
    #[arg(long, value_name = "N")]
    pub(super) device: Option<u32>,
    /// Also write operands and results into files of this folder, for `verify`
    #[arg(long, value_name = "DIR")]
    pub(super) record: Option<PathBuf>,
}

impl GpuArgs {
    /// Makes the folder of the recordings, if there is to be one.
    pub(super) fn ready(&self) -> Result<(), CliError> {
        self.record.as_deref().map_or(Ok(()), case_file::ready)
    }
}

/// The ordinal of this GPU, or of the first Hopper; `engine` is what lacks it.
pub(super) fn ordinal(device: Option<u32>, engine: &'static str) -> Result<usize, CliError> {
    engine::ordinal(device).map_err(|error| CliError::Missing { engine, reason: one_line(&error) })
}

/// The GPU of this ordinal, or the first Hopper, with our kernels.
pub(super) fn open(device: Option<u32>) -> Result<HopperSubject, CliError> {
    HopperSubject::open(ordinal(device, "hopper")?).map_err(|error| match error {
        DifftestError::NoGpu { reason } => CliError::Missing { engine: "hopper", reason },
        error => error.into(),
    })
}
