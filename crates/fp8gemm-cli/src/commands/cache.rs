//! `fp8gemm cache`: being written in this session; the command is refused until then.

use clap::Args;

use crate::error::CliError;

/// Flags of the command.
#[derive(Debug, Args)]
pub(crate) struct CacheArgs {}

/// Runs the command.
pub(crate) fn run(_args: &CacheArgs, _json: bool) -> Result<u8, CliError> {
    Err(CliError::Usage("cache: not in this version".to_owned()))
}
