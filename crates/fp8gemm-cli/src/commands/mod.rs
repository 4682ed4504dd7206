//! The subcommands. Each returns its exit code and prints once, at its end.

pub(crate) mod bench;
pub(crate) mod cache;
pub(crate) mod difftest;
pub(crate) mod doctor;
pub(crate) mod gemm;
pub(crate) mod kernels;
pub(crate) mod problem;
pub(crate) mod quantize;
pub(crate) mod shape_list;
pub(crate) mod study;
pub(crate) mod tune;
pub(crate) mod verify;

use std::io::{self, Write};
use std::path::Path;

use fp8gemm::jit::Destination;
use serde::Serialize;

use crate::error::CliError;

/// Every bit equal, or done.
pub(crate) const SUCCESS: u8 = 0;
/// Bits differ.
pub(crate) const DIFFERENT: u8 = 1;

/// Ended by Ctrl-C, with what it had: the code that shells have for that.
pub(crate) const INTERRUPTED: u8 = 130;

/// Prints the report, or the same as one JSON document.
pub(crate) fn print(json: bool, document: &impl Serialize, report: impl FnOnce() -> String) -> Result<(), CliError> {
    let text = if json {
        // Keys are strings and numbers are finite: this cannot fail.
        let mut text = serde_json::to_string_pretty(document).map_err(|error| CliError::Stdout(error.into()))?;
        text.push('\n');
        text
    } else {
        report()
    };
    // Colours go where they are understood.
    let mut out = anstream::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // `fp8gemm ... | head` has seen enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(CliError::Stdout(error)),
        _ => Ok(()),
    }
}

/// A file that can be written, which is better learnt before the work for it than after. What is there stays as it is
/// until there is something to replace it.
///
/// # Errors
/// [`CliError::Jit`] for a folder, a device, and where the system says no.
pub(crate) fn destination(path: &Path) -> Result<Destination, CliError> {
    let destination = Destination::new(path)?;
    destination.probe()?;
    Ok(destination)
}

/// Bold green.
pub(crate) fn good(text: &str) -> String {
    format!("\u{1b}[1;32m{text}\u{1b}[0m")
}

/// Bold red.
pub(crate) fn bad(text: &str) -> String {
    format!("\u{1b}[1;31m{text}\u{1b}[0m")
}
