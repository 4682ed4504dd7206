//! `fp8gemm bench`: being written in this session; the command is refused until then.

use clap::Args;

use crate::error::CliError;

/// Flags of the command.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {}

/// Runs the command.
pub(crate) fn run(_args: &BenchArgs, _json: bool) -> Result<u8, CliError> {
    Err(CliError::Usage("bench: not in this version".to_owned()))
}
