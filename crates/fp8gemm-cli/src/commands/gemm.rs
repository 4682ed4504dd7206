//! `fp8gemm gemm`: multiply as a Hopper kernel would, and say how far that is from exact.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Instant;

use fp8gemm::formats::ScaledView;
use fp8gemm::problem::{OutputType, Policy, Problem, ScaleLayout, Side};
use fp8gemm::sim::metrics::Metrics;
use fp8gemm::sim::reference::ExactGemm;
use fp8gemm::sim::{Gemm, Matrix, Path};
use ndarray::{Array2, ArrayView2};
use serde::Serialize;

use super::{SUCCESS, print};
use crate::args::{Engine, GemmArgs};
use crate::engine::{self, Chosen, Progress};
use crate::error::{CliError, InFile};
use crate::files::{Container, Output, OutputTensor, StoredType, write};
use crate::operands::{Files, Inputs, Operand, Sources, load, scale_name};
use crate::sample;
use crate::text::{Number, count, duration, gmacs, path_name, speed, table};

/// Multiply-adds of an exact product that are always done; beyond, rows are sampled.
const EXACT: u128 = 1 << 30;

/// The same where an operand is f32 and every product is added on its own.
const EXACT_PLAIN: u128 = 1 << 28;

#[derive(Serialize)]
struct Report {
    command: &'static str,
    output: String,
    /// The problem, as `Problem` prints and parses it.
    problem: String,
    m: usize,
    n: usize,
    k: usize,
    /// `recipe:layout:type` of operands that were quantised in this run.
    quantized_a: Option<String>,
    quantized_b: Option<String>,
    engine: Chosen,
    path: &'static str,
    threads: usize,
    macs: u128,
    seconds: Number,
    gmac_per_s: Number,
    errors: Vec<ErrorReport>,
    #[serde(skip)]
    head: Vec<Vec<String>>,
}

/// The error of D against one reference.
#[derive(Serialize)]
struct ErrorReport {
    against: Reference,
    /// Rows compared, and whether they are a sample of D's.
    rows: usize,
    sampled: bool,
    elements: usize,
    /// Pairs left out because a side is NaN or infinite, and those of them that disagree.
    non_finite: usize,
    non_finite_differing: usize,
    snr_db: Number,
    relative_frobenius: Number,
    calc_diff: Number,
    max_relative: Number,
    max_over_mean: Number,
    bias: Number,
}

/// What D is compared with.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Reference {
    /// The exact product of the FP8 operands with their scales: the error of the multiplication.
    Fp8Operands,
    /// The exact product of the operands before quantisation: the error of everything.
    Inputs,
}

/// Runs the command.
pub(crate) fn run(args: &GemmArgs, json: bool) -> Result<u8, CliError> {
    let engine = engine::choose(args.engine)?;
    let output = Output::new(&args.output).in_file(&args.output)?;
    let npy = output.container() == Container::Npy;
    if npy && args.with_inputs {
        return Err(CliError::Usage("--with-inputs: .npy holds one array; name the output .safetensors".to_owned()));
    }
    let operands = &args.operands;
    let flags = [&operands.scale_a, &operands.scale_b, &operands.c];
    let files = Files::open([&args.a, &args.b].into_iter().chain(flags.into_iter().flatten()))?;
    let open = |path| files.get(path).ok_or_else(|| CliError::file(path, crate::files::FileError::NotFound));
    let flag = |path: &Option<std::path::PathBuf>| path.as_ref().and_then(|path| files.get(path));
    let sources = Sources {
        a: open(&args.a)?,
        b: open(&args.b)?,
        scale_a: flag(&operands.scale_a),
        scale_b: flag(&operands.scale_b),
        c: flag(&operands.c),
        beside: [open(&args.a)?, open(&args.b)?],
    };
    let inputs = load(&sources, operands, (operands.alpha, operands.beta), args.recipe)?;
    if inputs.readings.len() > 1 {
        let flags: Vec<String> =
            inputs.readings[1..].iter().map(|(a, b)| format!("--scale-layout-a {a} --scale-layout-b {b}")).collect();
        let (a, b) = inputs.readings[0];
        let what = format!("the shapes of the scales are ambiguous; read as A {a}, B {b}");
        let _ = writeln!(io::stderr(), "note: {what} (for the other reading: {})", flags.join(" or "));
    }
    let of_c = inputs.c.as_ref().map(Matrix::ty);
    let ty = args.output_type.or(of_c).unwrap_or(OutputType::Bf16);
    if npy && ty == OutputType::Bf16 {
        let what = "--output-type: .npy has no bf16; use f32 or f16, or name the output .safetensors";
        return Err(CliError::Usage(what.to_owned()));
    }
    let policy = policy(args.policy, inputs.a.view()?.layout(), inputs.b.view()?.layout());
    let mut gemm = Gemm::new(inputs.a.view()?, inputs.b.view()?).output(ty).policy(policy).epilogue(inputs.epilogue);
    if let Some(c) = &inputs.c {
        gemm = gemm.c(c.view());
    }
    gemm.check()?;
    expect_memory(&gemm.problem())?;
    if args.engine.engine == Engine::Auto {
        // A note, whatever the log level.
        let _ = writeln!(io::stderr(), "note: engine auto is the CPU twin; this version has no GPU kernels");
    }
    let problem = gemm.problem();
    let (d, time) = engine::run(&gemm, &policy.to_string())?;
    write(&output, &metadata(&inputs, &problem)?, tensors(&inputs, &d, args.with_inputs)?).in_file(&args.output)?;

    let errors = errors(&inputs, &problem, &d)?;
    let quantized = |operand: &Operand<'_>| operand.original().map(|(_, quantizer)| quantizer.to_string());
    let macs = problem.macs();
    let mut report = Report {
        command: "gemm",
        output: args.output.display().to_string(),
        problem: problem.to_string(),
        m: problem.m,
        n: problem.n,
        k: problem.k,
        quantized_a: quantized(&inputs.a),
        quantized_b: quantized(&inputs.b),
        engine,
        path: path_name(Path::best()),
        threads: rayon::current_num_threads(),
        macs,
        seconds: Number(time.as_secs_f64()),
        gmac_per_s: Number(gmacs(macs, time)),
        errors,
        head: Vec::new(),
    };
    report.head = head(&inputs, &problem, &report, speed(macs, time));
    print(json, &report, || report.text())?;
    Ok(SUCCESS)
}

/// The policy asked for, else the default, else the first that is legal for the scales.
fn policy(asked: Option<Policy>, a: ScaleLayout, b: ScaleLayout) -> Policy {
    let default = Policy::default();
    if asked.is_some() || default.check(a, b).is_ok() {
        return asked.unwrap_or(default);
    }
    // Where none is legal, the check of the default says why.
    let Some(legal) = Policy::COMMON.into_iter().find(|policy| policy.check(a, b).is_ok()) else { return default };
    let what = format!("{default} is not legal for A {a} and B {b} scales; using --policy {legal}");
    let _ = writeln!(io::stderr(), "note: {what}");
    legal
}

/// Checks that D can be allocated: two small files may ask for terabytes, and a failed allocation
/// ends the process.
fn expect_memory(problem: &Problem) -> Result<(), CliError> {
    let Problem { m, n, d, .. } = *problem;
    let bytes = m.checked_mul(n).and_then(|elements| elements.checked_mul(d.size()));
    if bytes.is_some_and(|bytes| Vec::<u8>::new().try_reserve_exact(bytes).is_ok()) {
        return Ok(());
    }
    Err(CliError::Usage(format!("D is [{m}, {n}] of type {d}, which does not fit into memory")))
}

fn head(inputs: &Inputs<'_>, problem: &Problem, report: &Report, speed: String) -> Vec<Vec<String>> {
    let operand = |operand: &Operand<'_>, layout: ScaleLayout| match (operand.original(), &operand.scale_tensor) {
        (Some((_, quantizer)), _) => format!("{} {layout}, quantised by {}", quantizer.ty, quantizer.recipe),
        (None, Some(_)) => layout.to_string(),
        (None, None) => "no scales (1.0)".to_owned(),
    };
    let describe = |side: &Operand<'_>, spec: fp8gemm::problem::OperandSpec| match side.original() {
        Some(_) => operand(side, spec.scales),
        None => format!("{} {}", spec.ty, operand(side, spec.scales)),
    };
    let mut epilogue = vec![format!("{} of type {}", problem.policy, problem.d)];
    if problem.epilogue.alpha != 1.0 {
        epilogue.push(format!("alpha {}", problem.epilogue.alpha));
    }
    if let Some(c) = problem.c {
        epilogue.push(format!("C {c} with beta {}", problem.epilogue.beta));
    }
    let row = |name: &str, what: String| vec![name.to_owned(), what];
    vec![
        row("problem", format!("{} x {} x {}", problem.m, problem.n, problem.k)),
        row("A", describe(&inputs.a, problem.a)),
        row("B", describe(&inputs.b, problem.b)),
        row("D", epilogue.join(", ")),
        row("engine", format!("CPU twin ({}, {})", report.path, count(report.threads as u64, "thread"))),
        row("time", speed),
    ]
}

impl Report {
    fn text(&self) -> String {
        let mut text = format!("{}\n{}\n", self.output, table(2, &self.head));
        let header = ["error against the exact product", "rows", "SNR", "calc_diff", "max |e/x|", "bias"];
        let mut rows = vec![header.map(str::to_owned).to_vec()];
        for error in &self.errors {
            let against = match error.against {
                Reference::Fp8Operands => "of the FP8 operands",
                Reference::Inputs => "of the inputs, before quantisation",
            };
            let of = if error.sampled { format!("{} of {}", error.rows, self.m) } else { error.rows.to_string() };
            rows.push(vec![
                against.to_owned(),
                of,
                format!("{:.2} dB", error.snr_db.0),
                format!("{:.3e}", error.calc_diff.0),
                format!("{:.3e}", error.max_relative.0),
                format!("{:+.3e}", error.bias.0),
            ]);
        }
        text += &table(2, &rows);
        for error in &self.errors {
            if error.non_finite > 0 {
                let elements = count(error.non_finite as u64, "element");
                let what = format!("{elements} left out as NaN or infinite, {} disagree", error.non_finite_differing);
                text += &format!("  {what}\n");
                break;
            }
        }
        if self.errors.iter().any(|error| error.sampled) {
            text +=
                "  (beyond 2^30 multiply-adds, 2^28 from f32, the exact product is computed for evenly spaced rows)\n";
        }
        text
    }
}

/// The errors of D: of the multiplication, and of everything where this run quantised.
fn errors(inputs: &Inputs<'_>, problem: &Problem, d: &Matrix) -> Result<Vec<ErrorReport>, CliError> {
    let (a, b) = (inputs.a.view()?, inputs.b.view()?);
    let rows = affordable_rows(problem, EXACT);
    let mut errors = vec![error(Reference::Fp8Operands, ExactGemm::new(a, b), &rows, inputs, problem, d)?];
    let plain = |operand: &Operand<'_>| operand.original().map(|(original, _)| original.to_f32());
    let (plain_a, plain_b) = (plain(&inputs.a), plain(&inputs.b));
    let exact = match (&plain_a, &plain_b) {
        (Some(a), Some(b)) => ExactGemm::new(a.view(), b.view()),
        (Some(a), None) => ExactGemm::new(a.view(), b),
        (None, Some(b)) => ExactGemm::new(a, b.view()),
        (None, None) => return Ok(errors),
    };
    let rows = affordable_rows(problem, EXACT_PLAIN);
    errors.push(error(Reference::Inputs, exact, &rows, inputs, problem, d)?);
    Ok(errors)
}

/// All rows, or as many as `limit` multiply-adds are enough for; at least the first and the last.
fn affordable_rows(problem: &Problem, limit: u128) -> Vec<usize> {
    let row = problem.n as u128 * problem.k as u128;
    let affordable = usize::try_from(limit / row.max(1)).unwrap_or(usize::MAX);
    sample::rows(problem.m, affordable.max(2))
}

fn error<'a>(
    against: Reference,
    exact: ExactGemm<'a>,
    rows: &'a [usize],
    inputs: &'a Inputs<'_>,
    problem: &Problem,
    d: &Matrix,
) -> Result<ErrorReport, CliError> {
    let progress = Progress::new("exact product", problem.n as u128 * problem.k as u128 * rows.len() as u128);
    let exact = exact.epilogue(inputs.epilogue).rows(rows);
    let exact = match &inputs.c {
        Some(c) => exact.c(c.view()),
        None => exact,
    };
    let start = Instant::now();
    let exact = exact.run_with(&|macs| progress.advance(macs))?;
    progress.finish();
    tracing::info!(rows = rows.len(), time = %duration(start.elapsed()), "exact product");
    let metrics = metrics(exact.view(), &d.view().gather_rows(rows))?;
    Ok(ErrorReport {
        against,
        rows: rows.len(),
        sampled: rows.len() < problem.m,
        elements: metrics.elements,
        non_finite: metrics.non_finite,
        non_finite_differing: metrics.non_finite_differing,
        snr_db: Number(metrics.snr_db),
        relative_frobenius: Number(metrics.relative_frobenius),
        calc_diff: Number(metrics.calc_diff),
        max_relative: Number(metrics.max_relative),
        max_over_mean: Number(metrics.max_over_mean),
        bias: Number(metrics.bias),
    })
}

fn metrics(exact: ArrayView2<'_, f64>, d: &Matrix) -> Result<Metrics, CliError> {
    Ok(match d {
        Matrix::Bf16(d) => Metrics::new(exact, d.view())?,
        Matrix::F16(d) => Metrics::new(exact, d.view())?,
        Matrix::F32(d) => Metrics::new(exact, d.view())?,
    })
}

/// What a reader of the output needs to reproduce it.
fn metadata(inputs: &Inputs<'_>, problem: &Problem) -> Result<BTreeMap<String, String>, CliError> {
    let mut metadata = BTreeMap::new();
    let mut insert = |key: &str, value: String| metadata.insert(key.to_owned(), value);
    insert("kernel", format!("fp8gemm {} CPU twin, {}", env!("CARGO_PKG_VERSION"), problem.policy));
    insert("problem", problem.to_string());
    insert("policy", problem.policy.to_string());
    insert("alpha", problem.epilogue.alpha.to_string());
    insert("beta", problem.epilogue.beta.to_string());
    for (side, operand) in [(Side::A, &inputs.a), (Side::B, &inputs.b)] {
        let side = side.to_string().to_lowercase();
        let view = operand.view()?;
        insert(&format!("scale_layout.{side}"), view.layout().to_string());
        if let Some((_, quantizer)) = operand.original() {
            insert(&format!("recipe.{side}"), quantizer.recipe.to_string());
        }
        if view.first_nonfinite_scale().is_some() {
            insert("allow_nonfinite_scales", "true".to_owned());
        }
    }
    Ok(metadata)
}

fn tensors<'a>(inputs: &'a Inputs<'_>, d: &'a Matrix, with_inputs: bool) -> Result<Vec<OutputTensor<'a>>, CliError> {
    let mut tensors = vec![matrix_tensor("d", d)];
    if with_inputs {
        for (name, operand) in [("a", &inputs.a), ("b", &inputs.b)] {
            tensors.extend(operand_tensors(name, operand.view()?));
        }
        tensors.extend(inputs.c.as_ref().map(|c| matrix_tensor("c", c)));
    }
    Ok(tensors)
}

/// Codes and scales as tensors.
pub(super) fn operand_tensors<'a>(name: &str, view: ScaledView<'a>) -> [OutputTensor<'a>; 2] {
    let codes = match view.codes().to_slice() {
        Some(codes) => Cow::Borrowed(codes),
        None => Cow::Owned(view.codes().iter().copied().collect()),
    };
    let scales = view.scales();
    let shape = match view.layout() {
        ScaleLayout::Tensor => vec![1],
        _ => vec![scales.nrows(), scales.ncols()],
    };
    [
        OutputTensor {
            name: name.to_owned(),
            ty: StoredType::Fp8(view.ty()),
            shape: vec![view.rows(), view.columns()],
            bytes: codes,
        },
        OutputTensor {
            name: scale_name(name),
            ty: StoredType::F32,
            shape,
            bytes: scales.iter().flat_map(|scale| scale.to_le_bytes()).collect(),
        },
    ]
}

fn matrix_tensor(name: &str, matrix: &Matrix) -> OutputTensor<'static> {
    fn bytes<const N: usize, T: Copy>(matrix: &Array2<T>, word: fn(T) -> [u8; N]) -> Cow<'static, [u8]> {
        matrix.iter().flat_map(|element| word(*element)).collect()
    }
    let (ty, bytes) = match matrix {
        Matrix::Bf16(x) => (StoredType::Bf16, bytes(x, half::bf16::to_le_bytes)),
        Matrix::F16(x) => (StoredType::F16, bytes(x, half::f16::to_le_bytes)),
        Matrix::F32(x) => (StoredType::F32, bytes(x, f32::to_le_bytes)),
    };
    let (rows, columns) = matrix.dim();
    OutputTensor { name: name.to_owned(), ty, shape: vec![rows, columns], bytes }
}
