//! The command line `fp8gemm`, as a library so that its file readers can be tested and fuzzed.
//!
//! Internal: nothing here is a stable interface except what the command does. For the arithmetic
//! use the crate [`fp8gemm`].
//!
//! | module | what it does |
//! |---|---|
//! | [`files`] | safetensors and `.npy`: parse, map, write |
//! | [`main`] | the command |
#![deny(unsafe_code)]

mod args;
mod commands;
mod engine;
mod error;
pub mod files;
mod interrupt;
mod operands;
mod sample;
mod text;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use tracing::level_filters::LevelFilter;

pub use error::CliError;

use crate::args::{Cli, Command};

/// Runs the command with the process's arguments.
///
/// The exit code is 0 for success (and bits that are equal), 1 for bits that differ, 2 for wrong
/// usage or input, 3 where the machine lacks something.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Help and version go to standard output, as clap prints them; a bare `fp8gemm` is help too.
        Err(error) if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            error.exit()
        }
        Err(error) => {
            // The first paragraph says what is wrong.
            let text = error.to_string();
            let lines: Vec<&str> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
            let message: String = lines.join(" ").chars().map(printable).collect();
            let _ = writeln!(io::stderr(), "{message} (see --help)");
            return ExitCode::from(2);
        }
    };
    start_logging(cli.global.verbose);
    interrupt::install();
    let json = cli.global.json;
    let result = match &cli.command {
        Command::Verify(args) => commands::verify::run(args, json),
        Command::Gemm(args) => commands::gemm::run(args, json),
        Command::Quantize(args) => commands::quantize::run(args, json),
        Command::Kernels(args) => commands::kernels::run(args, json),
        Command::Cache(args) => commands::cache::run(args, json),
        Command::Bench(args) => commands::bench::run(args, json),
        Command::Tune(args) => commands::tune::run(args, json),
        Command::Study(args) => commands::study::run(args, json),
        Command::Difftest(args) => commands::difftest::run(args, json),
        Command::Doctor => commands::doctor::run(json),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            // Names in files may hold line feeds and escape sequences; the message is one line.
            let message: String = error.to_string().chars().map(printable).collect();
            // Nobody is left to tell if this fails.
            let _ = writeln!(io::stderr(), "error: {message}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn printable(character: char) -> char {
    if character.is_control() { '\u{FFFD}' } else { character }
}

fn start_logging(verbose: u8) {
    let level = match verbose {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        _ => LevelFilter::DEBUG,
    };
    let subscriber = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_max_level(level)
        .with_target(false)
        .without_time()
        .finish();
    // Fails only if a subscriber is set already, which then is the one to use.
    let _ = tracing::subscriber::set_global_default(subscriber);
}
