//! `fp8gemm quantize`: tensors to FP8 codes and scales, and what that costs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fp8gemm::formats::quantize::{Element, Quantizer};
use fp8gemm::formats::{Fp8Format, ScaledMatrix};
use fp8gemm::sim::Matrix;
use indicatif::{ProgressBar, ProgressDrawTarget};
use ndarray::ArrayView2;
use rayon::prelude::*;
use serde::Serialize;

use super::gemm::operand_tensors;
use super::{SUCCESS, print};
use crate::args::QuantizeArgs;
use crate::error::{CliError, InFile};
use crate::files::{Container, Output, TensorFile, TensorView, check_names, write};
use crate::operands::{named, quantize, scale_name, usual_layout};
use crate::text::{Number, count, duration, list, percent, table, value};

/// Elements from which on a spinner shows that something is done.
const PATIENCE: usize = 1 << 26;

#[derive(Serialize)]
struct Report {
    command: &'static str,
    input: String,
    output: String,
    recipe: String,
    dtype: String,
    tensors: Vec<TensorReport>,
    /// Tensors of the input that are not in the output, where --tensor does not choose.
    not_written: Vec<String>,
    seconds: Number,
    #[serde(skip)]
    time: Duration,
}

#[derive(Serialize)]
struct TensorReport {
    name: String,
    /// Name of the tensor of the scales.
    scales: String,
    rows: usize,
    columns: usize,
    from: String,
    layout: String,
    scale_shape: (usize, usize),
    elements: u64,
    /// Largest magnitude of a number in the input; infinity counts, NaN does not.
    amax: Number,
    /// Elements that are NaN or infinite in the input.
    non_finite: u64,
    /// Elements that round beyond the largest value of the type at their scale, and were clipped
    /// to it.
    saturated: u64,
    /// Elements that are not zero and became zero.
    flushed: u64,
    /// Elements that became subnormal codes.
    subnormal: u64,
    /// `10 log10(sum x^2 / sum (x - code * scale)^2)` over the finite elements.
    snr_db: Number,
}

/// Runs the command.
pub(crate) fn run(args: &QuantizeArgs, json: bool) -> Result<u8, CliError> {
    let start = Instant::now();
    let output = Output::new(&args.output).in_file(&args.output)?;
    if output.container() == Container::Npy {
        let what = "-o: codes and scales are two arrays, and .npy holds one; name the output .safetensors";
        return Err(CliError::Usage(what.to_owned()));
    }
    let file = TensorFile::open(&args.input).in_file(&args.input)?;
    let selected = select(&file, &args.tensor)?;
    let outputs: Vec<String> = selected.iter().flat_map(|(name, _)| [name.clone(), scale_name(name)]).collect();
    check_names(outputs.iter().map(String::as_str)).in_file(&args.output)?;
    let not_written: Vec<String> = if args.tensor.is_empty() && named(&file) {
        let taken = |name: &str| selected.iter().any(|(known, _)| known == name);
        file.tensors().map(|tensor| tensor.name().to_owned()).filter(|name| !taken(name)).collect()
    } else {
        Vec::new()
    };
    let elements = selected.iter().map(|(_, tensor)| tensor.shape().iter().product::<usize>()).sum::<usize>();
    let spinner = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
    if elements >= PATIENCE {
        // Draws nothing where standard error is no terminal.
        spinner.set_draw_target(ProgressDrawTarget::stderr());
        spinner.enable_steady_tick(Duration::from_millis(100));
    }

    let mut reports = Vec::new();
    let mut quantized = Vec::new();
    let mut metadata = BTreeMap::new();
    for (name, tensor) in &selected {
        spinner.set_message(format!("quantising {}", name.escape_debug()));
        let weight = name == "b" || name.ends_with(".weight");
        let layout = args.layout.unwrap_or_else(|| usual_layout(args.recipe, weight));
        let quantizer = Quantizer { recipe: args.recipe, layout, ty: args.dtype };
        tensor.matrix_shape().in_file(file.path())?;
        let matrix = tensor.matrix().in_file(file.path())?;
        let scaled =
            quantize(&matrix, quantizer).map_err(|source| CliError::Quantize { tensor: name.clone(), source })?;
        reports.push(TensorReport::new(name, tensor, &matrix, &scaled));
        metadata.insert(format!("recipe.{name}"), args.recipe.to_string());
        metadata.insert(format!("scale_layout.{name}"), layout.to_string());
        if scaled.view().first_nonfinite_scale().is_some() {
            metadata.insert("allow_nonfinite_scales".to_owned(), "true".to_owned());
        }
        quantized.push((name, scaled));
    }
    spinner.finish_and_clear();
    let tensors = quantized.iter().flat_map(|(name, scaled)| operand_tensors(name, scaled.view())).collect();
    write(&output, &metadata, tensors).in_file(&args.output)?;

    let time = start.elapsed();
    let report = Report {
        command: "quantize",
        input: args.input.display().to_string(),
        output: args.output.display().to_string(),
        recipe: args.recipe.to_string(),
        dtype: args.dtype.to_string(),
        tensors: reports,
        not_written,
        seconds: Number(time.as_secs_f64()),
        time,
    };
    print(json, &report, || report.text())?;
    Ok(SUCCESS)
}

/// The tensors to quantise, with the names to write them under.
fn select<'f>(file: &'f TensorFile, names: &[String]) -> Result<Vec<(String, TensorView<'f>)>, CliError> {
    let usage = |what: String| CliError::Usage(format!("{}: {what}", file.path().display()));
    if !named(file) {
        let name = match names {
            [] => "a".to_owned(),
            [name] => name.clone(),
            _ => return Err(usage("an .npy file holds one array, and --tensor names several".to_owned())),
        };
        let tensor = file.require(&name).in_file(file.path())?;
        return Ok(vec![(name, tensor)]);
    }
    if names.is_empty() {
        // What the names say is a result or a scale is not an operand.
        let operand = |name: &str| {
            let scale = name.starts_with("scale_") || name.ends_with("_scale_inv") || name.ends_with("_scale");
            !matches!(name, "c" | "d") && !scale
        };
        let mut selected: Vec<_> = file
            .tensors()
            .filter(|tensor| tensor.ty().is_float() && tensor.matrix_shape().is_ok() && operand(tensor.name()))
            .map(|tensor| (tensor.name().to_owned(), tensor))
            .collect();
        if selected.is_empty() {
            let held: Vec<_> = file.tensors().take(6).map(|tensor| tensor.to_string()).collect();
            return Err(usage(format!("no f32, f16 or bf16 matrix to quantise; it holds {}", list(&held))));
        }
        selected.sort_by(|(x, _), (y, _)| x.cmp(y));
        return Ok(selected);
    }
    let mut selected: Vec<(String, TensorView<'f>)> = Vec::new();
    for name in names {
        if selected.iter().any(|(known, _)| known == name) {
            return Err(usage(format!("--tensor {}: the output would hold that name twice", name.escape_debug())));
        }
        selected.push((name.clone(), file.require(name).in_file(file.path())?));
    }
    Ok(selected)
}

impl Report {
    fn text(&self) -> String {
        let tensors = count(self.tensors.len() as u64, "tensor");
        let time = duration(self.time);
        let mut text = format!("{}: {tensors} quantised to {} by {} in {time}\n", self.output, self.dtype, self.recipe);
        let header = ["tensor", "shape", "from", "scales", "amax", "clipped", "to zero", "subnormal", "SNR"];
        let mut rows = vec![header.map(str::to_owned).to_vec()];
        for tensor in &self.tensors {
            let share = |part| percent(part, tensor.elements);
            rows.push(vec![
                tensor.name.escape_debug().to_string(),
                format!("{} x {}", tensor.rows, tensor.columns),
                tensor.from.clone(),
                format!("{} ({} x {})", tensor.layout, tensor.scale_shape.0, tensor.scale_shape.1),
                value(tensor.amax.0 as f32),
                share(tensor.saturated),
                share(tensor.flushed),
                share(tensor.subnormal),
                format!("{:.2} dB", tensor.snr_db.0),
            ]);
        }
        text += &table(2, &rows);
        for tensor in self.tensors.iter().filter(|tensor| tensor.non_finite > 0) {
            let elements = count(tensor.non_finite, "NaN or infinite element");
            text += &format!("  {} holds {elements}\n", tensor.name.escape_debug());
        }
        if !self.not_written.is_empty() {
            let names: Vec<_> = self.not_written.iter().map(|name| name.escape_debug().to_string()).collect();
            let tensors = count(names.len() as u64, "tensor");
            text += &format!("  {tensors} not quantised and not written: {}\n", list(&names));
        }
        text
    }
}

impl TensorReport {
    fn new(name: &str, tensor: &TensorView<'_>, matrix: &Matrix, scaled: &ScaledMatrix) -> Self {
        let sums = match matrix {
            Matrix::Bf16(x) => Sums::of(x.view(), scaled),
            Matrix::F16(x) => Sums::of(x.view(), scaled),
            Matrix::F32(x) => Sums::of(x.view(), scaled),
        };
        let (rows, columns) = matrix.dim();
        let snr_db = if sums.error == 0.0 { f64::INFINITY } else { 10.0 * (sums.signal / sums.error).log10() };
        Self {
            name: name.to_owned(),
            scales: scale_name(name),
            rows,
            columns,
            from: tensor.ty().to_string(),
            layout: scaled.layout().to_string(),
            scale_shape: scaled.scales().dim(),
            elements: rows as u64 * columns as u64,
            amax: Number(sums.amax.into()),
            non_finite: sums.non_finite,
            saturated: sums.saturated,
            flushed: sums.flushed,
            subnormal: sums.subnormal,
            snr_db: Number(snr_db),
        }
    }
}

/// What is counted and summed over the elements of a tensor.
#[derive(Clone, Copy, Default)]
struct Sums {
    amax: f32,
    non_finite: u64,
    saturated: u64,
    flushed: u64,
    subnormal: u64,
    /// Sums of the squares of the input and of the error.
    signal: f64,
    error: f64,
}

impl Sums {
    /// Each row from the left, then the rows from the top, so that the number of threads does not
    /// matter.
    fn of<T: Element>(x: ArrayView2<'_, T>, scaled: &ScaledMatrix) -> Self {
        let rows: Vec<Self> = (0..x.nrows()).into_par_iter().map(|row| Self::of_row(x, scaled, row)).collect();
        rows.iter().fold(Self::default(), |sums, row| Self {
            amax: sums.amax.max(row.amax),
            non_finite: sums.non_finite + row.non_finite,
            saturated: sums.saturated + row.saturated,
            flushed: sums.flushed + row.flushed,
            subnormal: sums.subnormal + row.subnormal,
            signal: sums.signal + row.signal,
            error: sums.error + row.error,
        })
    }

    fn of_row<T: Element>(x: ArrayView2<'_, T>, scaled: &ScaledMatrix, row: usize) -> Self {
        let format = Fp8Format::from(scaled.ty());
        // From half a unit above the largest value on, rounding would go beyond it.
        let below = f64::from(format.decode(format.max_code() - 1));
        let largest = f64::from(format.max_finite());
        let overflow = largest + (largest - below) / 2.0;
        let (block_rows, block_columns) = scaled.layout().block(scaled.rows(), scaled.columns());
        let (codes, scales) = (scaled.codes(), scaled.scales());
        let mut sums = Self::default();
        for (column, (x, &code)) in x.row(row).iter().zip(codes.row(row)).enumerate() {
            let x = x.widen();
            sums.amax = sums.amax.max(x.abs());
            sums.subnormal += u64::from(format.is_subnormal(code));
            if !x.is_finite() {
                sums.non_finite += 1;
                continue;
            }
            // Products of an FP8 value and an f32 are exact in f64.
            let scale = f64::from(scales[(row / block_rows, column / block_columns)]);
            let wide = f64::from(x);
            sums.saturated += u64::from(wide.abs() > overflow * scale);
            sums.flushed += u64::from(x != 0.0 && format.is_zero(code));
            let error = f64::from(format.decode(code)) * scale - wide;
            sums.signal += wide * wide;
            sums.error += error * error;
        }
        sums
    }
}
