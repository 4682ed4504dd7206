//! `fp8gemm kernels`: being written in this session; the command is refused until then.

use clap::Args;

use crate::error::CliError;

/// Flags of the command.
#[derive(Debug, Args)]
pub(crate) struct KernelsArgs {}

/// Runs the command.
pub(crate) fn run(_args: &KernelsArgs, _json: bool) -> Result<u8, CliError> {
    Err(CliError::Usage("kernels: not in this version".to_owned()))
}
