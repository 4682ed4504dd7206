//! `fp8gemm verify`: recompute a recorded D and say which policies give its bits.

mod difference;
mod policies;
mod report;
mod search;
mod tiles;

pub(super) use tiles::{RecordedTiles, recorded_tiles};

use std::str::FromStr;

use super::{DIFFERENT, SUCCESS, print};
use crate::args::{Engine, VerifyArgs};
use crate::engine::Engines;
use crate::error::{CliError, InFile, note};
use crate::files::TensorFile;
use crate::operands::{Files, Sources, expect_shape, load, named};

/// Runs the command: [`SUCCESS`] only if every bit is equal.
pub(crate) fn run(args: &VerifyArgs, json: bool) -> Result<u8, CliError> {
    let operands = &args.operands;
    let flags = [&args.a, &args.b, &operands.scale_a, &operands.scale_b, &operands.c];
    let files = Files::open([&args.file].into_iter().chain(flags.into_iter().flatten()))?;
    let file = files.get(&args.file).ok_or_else(|| unopened(&args.file))?;
    let engines = Engines::open(args.engine, args.policy)?;
    if tiles::is_tile_file(file) {
        if args.policy.is_some() {
            let what = "--policy: the file holds single instructions, which have no accumulation policy";
            return Err(CliError::Usage(format!("{}: {what}", file.path().display())));
        }
        if args.engine.engine == Engine::Hopper {
            note("the file holds single instructions, which the CPU twin computes");
        }
        return tiles::run(file, json);
    }

    let flag = |path: &Option<_>| path.as_ref().and_then(|path: &std::path::PathBuf| files.get(path));
    let sources = Sources {
        a: flag(&args.a).unwrap_or(file),
        b: flag(&args.b).unwrap_or(file),
        scale_a: flag(&operands.scale_a),
        scale_b: flag(&operands.scale_b),
        c: flag(&operands.c),
        beside: [file, file],
        may_be_empty: false,
    };
    if !named(file) && (args.a.is_none() || args.b.is_none()) {
        let what = "an .npy file holds D alone: name the files of the operands with --a and --b";
        return Err(CliError::Usage(format!("{}: {what}", file.path().display())));
    }
    // D first: a file without it is not one to verify, whatever else is wrong with it.
    let recorded = file.require("d").in_file(file.path())?;
    let epilogue =
        (operands.alpha.or(metadata_number(file, "alpha")?), operands.beta.or(metadata_number(file, "beta")?));
    let inputs = load(&sources, operands, epilogue, None)?;
    let (a, b) = (inputs.a.view()?, inputs.b.view()?);
    expect_shape(&recorded, (a.rows(), b.rows()), "D is [M, N]").in_file(file.path())?;
    let recorded = recorded.matrix().in_file(file.path())?;
    let found = search::search(&inputs, &recorded, args.policy, &engines)?;
    let report = report::Report::new(file, &inputs, &recorded, found)?;
    print(json, &report, || report.text())?;
    Ok(if report.equal { SUCCESS } else { DIFFERENT })
}

/// A number in the metadata.
fn metadata_number<T: FromStr>(file: &TensorFile, key: &str) -> Result<Option<T>, CliError> {
    let Some(text) = file.metadata().get(key) else { return Ok(None) };
    let usage = || {
        let text = text.escape_debug();
        CliError::Usage(format!("{}: metadata `{key}` is \"{text}\", expected a number", file.path().display()))
    };
    text.parse().map(Some).map_err(|_| usage())
}

/// Never seen: every path that is looked up was opened before.
fn unopened(path: &std::path::Path) -> CliError {
    CliError::file(path, crate::files::FileError::NotFound)
}
