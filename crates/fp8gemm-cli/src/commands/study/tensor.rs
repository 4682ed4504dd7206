//! `fp8gemm study tensor`: tensors of a checkpoint, one after the other.

mod data;
mod report;
mod select;

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use fp8gemm::formats::quantize::Quantizer;
use fp8gemm_study::tensor::{self, Pair, Survey, attribute, codes, profile};
use fp8gemm_study::{StudyError, results};

use super::check_directory;
use crate::commands::print;
use crate::engine::Progress;
use crate::error::CliError;
use crate::files::TensorFault;
use crate::operands::Files;
use data::Data;
use report::{Report, Row};
use select::{Selected, open, select};

const AFTER: &str = "\
Examples:
  fp8gemm study tensor model.safetensors
  fp8gemm study tensor model.safetensors.index.json --names 'model.layers.0.*' --out studies
  fp8gemm study tensor --a x.safetensors --b model.safetensors \\
      --b-tensor model.layers.0.mlp.up_proj.weight

Matrices of f32, f16 and bf16 are quantised by each recipe; FP8 matrices X with scales X_scale_inv, \
X_scale or scale_X are dequantised first, and what they hold is counted too. Everything else is left out \
and said so. Tensors are read from the mapped file in pieces: one larger than memory is no problem.

SNR = 10 log10(sum x^2 / sum e^2). Best is the quantiser with the fewest scales within 0.1 dB of the \
highest SNR, then the first named.

With --a and --b, the sources of the error of A B^T, on at most 64 rows of each.";

/// Flags of the command.
#[derive(Debug, Args)]
#[command(after_help = AFTER)]
pub(super) struct TensorArgs {
    /// Checkpoints: safetensors, .npy, or the index of a sharded one (.safetensors.index.json)
    #[arg(value_name = "FILE", required_unless_present = "a")]
    files: Vec<PathBuf>,
    /// Only these tensors: names or patterns with * ? [ ]
    #[arg(long, value_name = "NAME", num_args = 1.., requires = "files")]
    names: Vec<String>,
    /// Try these quantisers: a recipe, with its layout and type where they are not the usual ones, e.g.
    /// deepgemm, deepgemm:128x128, te-current:tensor:e5m2; may be repeated [default: twenty]
    #[arg(long, value_name = "RECIPE", value_delimiter = ',')]
    recipe: Vec<Quantizer>,
    /// A of a product whose error is attributed: [M, K]
    #[arg(long, value_name = "FILE", requires = "b")]
    a: Option<PathBuf>,
    /// B: [N, K]
    #[arg(long, value_name = "FILE", requires = "a")]
    b: Option<PathBuf>,
    /// Name of A in its file
    #[arg(long, value_name = "NAME", default_value = "a")]
    a_tensor: String,
    /// Name of B in its file
    #[arg(long, value_name = "NAME", default_value = "b")]
    b_tensor: String,
    /// Leave tables (CSV), plots (SVG) and everything (study.json) in DIR/tensor
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Replace results that are there
    #[arg(long, requires = "out")]
    force: bool,
}

/// Runs the command.
pub(super) fn run(args: &TensorArgs, json: bool) -> Result<(), CliError> {
    let start = Instant::now();
    if let Some(directory) = &args.out {
        check_directory(directory)?;
        if !args.force {
            results::check_absent(directory, "tensor")?;
        }
    }
    let default = args.recipe.is_empty();
    let quantizers = if default { tensor::default_quantizers() } else { args.recipe.clone() };
    tensor::check(&quantizers)?;
    let files = open(&args.files)?;
    let products = Files::open(args.a.iter().chain(&args.b))?;
    let product = match (&args.a, &args.b) {
        (Some(a), Some(b)) => {
            Some((select::operand(&products, a, &args.a_tensor)?, select::operand(&products, b, &args.b_tensor)?))
        }
        _ => None,
    };
    let mut survey = Survey::new();
    let selected = select(&files, &args.names, &mut survey)?;
    if let Some(directory) = &args.out {
        // Before the work, which takes minutes for a large checkpoint.
        results::check_writable(directory)?;
    }

    let elements: u128 = selected.iter().map(|chosen| u128::from(chosen.elements())).sum();
    let progress = Progress::new("profile", 2 * elements);
    let mut rows = Vec::new();
    for (place, chosen) in selected.iter().enumerate() {
        progress.about(format!("{} of {}", place + 1, selected.len()));
        let data = chosen.data()?;
        let source = data.source()?;
        let found = profile(source.as_ref(), &quantizers, &|done| progress.advance(done));
        let found = found.map_err(|error| in_tensor(error, chosen))?;
        tracing::info!(tensor = chosen.name(), rows = found.rows, columns = found.columns, "profiled");
        let ty = chosen.tensor.ty().to_string();
        survey.tensor(chosen.name(), &ty, &found)?;
        if let Data::Codes(operand) = &data {
            let view = operand.view()?;
            let layout = operand.scale_tensor.is_some().then(|| view.layout());
            survey.codes(chosen.name(), layout, &codes(&view))?;
        }
        rows.push(Row::new(chosen.name(), &ty, &found));
    }
    progress.finish();
    if let Some((a, b)) = &product {
        let pairs = if default { tensor::default_pairs() } else { quantizers.iter().copied().map(Pair::of).collect() };
        survey.attribution(attribution(a, b, &pairs)?);
    }
    let mut outcome = survey.outcome()?;
    outcome.own_command = Some(command());
    let written = match &args.out {
        Some(directory) => results::write(directory, &outcome, args.force)?,
        None => Vec::new(),
    };
    let report = Report::new(start.elapsed(), written, outcome, rows);
    print(json, &report, || report.text())
}

fn attribution(a: &Selected<'_>, b: &Selected<'_>, pairs: &[Pair]) -> Result<fp8gemm_study::Table, CliError> {
    const STEPS: u128 = 1000;
    let (data_a, data_b) = (a.data()?, b.data()?);
    let (source_a, source_b) = (data_a.source()?, data_b.source()?);
    // Here, because only here it is known which of the two it is.
    for (chosen, source) in [(a, &source_a), (b, &source_b)] {
        profile(source.as_ref(), &[], &|_| {}).map_err(|error| in_tensor(error, chosen))?;
    }
    let progress = Progress::new("attribution", STEPS);
    let step = |share: f64| progress.set((share * STEPS as f64) as u64);
    let table = attribute(source_a.as_ref(), source_b.as_ref(), pairs, &step)?;
    progress.finish();
    Ok(table)
}

/// Names the tensor that an error is about.
fn in_tensor(error: StudyError, chosen: &Selected<'_>) -> CliError {
    match error {
        StudyError::NonFinite { row, column, value } => {
            let fault = TensorFault::NonFinite { row, column, value }.at(&chosen.tensor);
            CliError::file(chosen.file.path(), fault)
        }
        StudyError::Format(source) => CliError::Quantize { tensor: chosen.name().to_owned(), source },
        other => CliError::Study(other),
    }
}

/// The command as it was given, for a shell.
fn command() -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@".contains(c);
    let quote = |word: String| match word.is_empty() || !word.chars().all(plain) {
        true => format!("'{}'", word.replace('\'', "'\\''")),
        false => word,
    };
    let words = std::env::args_os().skip(1).map(|word| quote(word.to_string_lossy().into_owned()));
    ["fp8gemm".to_owned()].into_iter().chain(words).collect::<Vec<_>>().join(" ")
}
