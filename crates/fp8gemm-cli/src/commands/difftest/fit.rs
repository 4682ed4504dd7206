//! `fp8gemm difftest fit`: a tensor core's parameters from recorded single instructions.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use fp8gemm::problem::OutputType;
use fp8gemm::sim::tensor_core::TensorCore;
use fp8gemm_difftest::fit::{Fit, Recording, fit};
use serde::Serialize;

use crate::commands::verify::{RecordedTiles, recorded_tiles};
use crate::commands::{DIFFERENT, SUCCESS, bad, good, print};
use crate::error::{CliError, InFile};
use crate::files::TensorFile;
use crate::text::{Number, count, duration, grouped, list, table};

#[derive(Debug, Args)]
pub(super) struct FitArgs {
    /// Recorded instructions, as vectors/wgmma_m64n8k32.safetensors
    file: PathBuf,
    /// Use only tiles of these kinds of data: indices into the file's distributions
    #[arg(long, value_name = "INDEX", value_delimiter = ',')]
    distribution: Vec<u8>,
    /// Use only these variants, e.g. e4m3_e4m3_f32
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    variant: Vec<String>,
}

#[derive(Serialize)]
struct Report {
    command: &'static str,
    file: String,
    /// Whether every accumulator has a model.
    equal: bool,
    fits: Vec<FitReport>,
    seconds: Number,
    #[serde(skip)]
    time: String,
}

#[derive(Serialize)]
struct FitReport {
    accumulator: String,
    variants: Vec<String>,
    outputs: usize,
    models_tried: usize,
    models: usize,
    /// A constant of `TensorCore` that is among the models.
    recovers: Option<&'static str>,
    parameters: Vec<ParameterReport>,
    /// The exponent floor is this or anything lower.
    largest_exponent_floor: Option<i32>,
    refuted: Vec<Refuted>,
}

#[derive(Serialize)]
struct ParameterReport {
    name: &'static str,
    values: Vec<String>,
    tried: usize,
}

#[derive(Serialize)]
struct Refuted {
    alternative: String,
    outputs: usize,
}

/// Runs the command: [`SUCCESS`] only if there is a model for each accumulator.
pub(super) fn run(args: &FitArgs, json: bool) -> Result<u8, CliError> {
    let start = Instant::now();
    let file = TensorFile::open(&args.file).in_file(&args.file)?;
    let mut tiles = recorded_tiles(&file, &args.distribution)?;
    let names: Vec<String> = tiles.iter().map(|tiles| tiles.name.clone()).collect();
    if let Some(unknown) = args.variant.iter().find(|name| !names.contains(name)) {
        let all = list(&names);
        return Err(CliError::Usage(format!("--variant {unknown}: {} holds {all}", args.file.display())));
    }
    if !args.variant.is_empty() {
        tiles.retain(|tiles| args.variant.contains(&tiles.name));
    }
    if tiles.iter().all(|tiles| tiles.d.is_empty()) {
        let kinds = args.distribution.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        return Err(CliError::Usage(format!("--distribution {kinds}: {} has no such tiles", args.file.display())));
    }
    let mut fits = Vec::new();
    for accumulator in [OutputType::F32, OutputType::F16] {
        let these: Vec<&RecordedTiles> =
            tiles.iter().filter(|tiles| tiles.accumulator == accumulator && !tiles.d.is_empty()).collect();
        if these.is_empty() {
            continue;
        }
        let recordings: Vec<Recording<'_>> = these.iter().map(|tiles| recording(tiles)).collect();
        let found = fit(&recordings)?;
        fits.push(FitReport::new(accumulator, these.iter().map(|tiles| tiles.name.clone()).collect(), found));
    }
    let equal = fits.iter().all(|fit| fit.models > 0);
    let time = start.elapsed();
    let report = Report {
        command: "difftest fit",
        file: args.file.display().to_string(),
        equal,
        fits,
        seconds: Number(time.as_secs_f64()),
        time: duration(time),
    };
    print(json, &report, || report.text())?;
    Ok(if equal { SUCCESS } else { DIFFERENT })
}

fn recording(tiles: &RecordedTiles) -> Recording<'_> {
    Recording {
        a_type: tiles.a_type,
        b_type: tiles.b_type,
        accumulator: tiles.accumulator,
        m: tiles.m,
        n: tiles.n,
        a: &tiles.a,
        b: &tiles.b,
        c: &tiles.c,
        d: &tiles.d,
    }
}

impl FitReport {
    fn new(accumulator: OutputType, variants: Vec<String>, found: Fit) -> Self {
        let known = [
            ("HOPPER_FP8_F32", TensorCore::HOPPER_FP8_F32),
            ("HOPPER_FP8_F16", TensorCore::HOPPER_FP8_F16),
            ("ADA_FP8_F32", TensorCore::ADA_FP8_F32),
            ("BLACKWELL_FP8_F32", TensorCore::BLACKWELL_FP8_F32),
        ];
        Self {
            accumulator: accumulator.to_string(),
            variants,
            outputs: found.outputs,
            models_tried: found.tried,
            models: found.models.len(),
            recovers: known.into_iter().find(|(_, core)| found.models.contains(core)).map(|(name, _)| name),
            parameters: found
                .parameters
                .into_iter()
                .map(|parameter| ParameterReport {
                    name: parameter.name,
                    values: parameter.values,
                    tried: parameter.tried,
                })
                .collect(),
            largest_exponent_floor: found.largest_floor,
            refuted: found.refuted.into_iter().map(|(alternative, outputs)| Refuted { alternative, outputs }).collect(),
        }
    }
}

impl Report {
    fn text(&self) -> String {
        let mut text = format!("{}\n", self.file);
        for fit in &self.fits {
            let (variants, outputs) = (list(&fit.variants), count(fit.outputs as u64, "output"));
            text += &format!("\n{} accumulator: {outputs} of {variants}\n", fit.accumulator);
            let models = count(fit.models as u64, "model");
            let tried = grouped(fit.models_tried as u64);
            if fit.models == 0 {
                text += &format!("  {}: none of {tried} models gives all of them\n", bad("NO MODEL"));
                continue;
            }
            let mut rows = vec![["parameter", "value", "of"].map(str::to_owned).to_vec()];
            for parameter in &fit.parameters {
                let open = if parameter.values.len() > 1 { " (cannot be told apart)" } else { "" };
                let value = format!("{}{open}", parameter.values.join(" or "));
                rows.push(vec![parameter.name.to_owned(), value, parameter.tried.to_string()]);
            }
            if let Some(floor) = fit.largest_exponent_floor {
                rows.push(vec!["exponent floor".to_owned(), format!("{floor} or lower"), "264".to_owned()]);
            }
            text += &table(2, &rows);
            let mut rows = vec![["if instead", "outputs that refute it"].map(str::to_owned).to_vec()];
            rows.extend(fit.refuted.iter().map(|refuted| {
                let outputs = match refuted.outputs {
                    0 => "none: cannot be told apart".to_owned(),
                    number => grouped(number as u64),
                };
                vec![refuted.alternative.clone(), outputs]
            }));
            text += &table(2, &rows);
            let known = fit.recovers.map_or_else(String::new, |name| format!(", TensorCore::{name} among them"));
            let verdict = if fit.models == 1 { good("ONE MODEL") } else { "SEVERAL MODELS".to_owned() };
            text += &format!("  {verdict}: {models} of {tried} give every output{known}\n");
        }
        text + &format!("({})\n", self.time)
    }
}
