//! `fp8gemm gemm`: multiply as a Hopper kernel would, and say how far that is from exact.

mod errors;
mod output;
mod report;

use fp8gemm::problem::{OutputType, Policy, Problem, ScaleLayout};
use fp8gemm::sim::Matrix;

use super::{SUCCESS, print};
use crate::args::GemmArgs;
use crate::engine::{Computed, Engines};
use crate::error::{CliError, InFile, note};
use crate::files::{Container, Output, write};
use crate::operands::{Files, Inputs, Layouts, Sources, load};
use report::Report;

pub(super) use output::{matrix_tensor, operand_tensors};

/// Runs the command.
pub(crate) fn run(args: &GemmArgs, json: bool) -> Result<u8, CliError> {
    let engines = Engines::open(args.engine, args.policy)?;
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
        // As in BLAS: without rows or columns there is nothing to do, without K there are no products.
        may_be_empty: true,
    };
    let inputs = load(&sources, operands, (operands.alpha, operands.beta), args.recipe)?;
    if let [(a, b), others @ ..] = &inputs.readings[..]
        && !others.is_empty()
    {
        let flags: Vec<String> =
            others.iter().map(|(a, b)| format!("--scale-layout-a {a} --scale-layout-b {b}")).collect();
        let what = format!("the shapes of the scales are ambiguous; read as A {a}, B {b}");
        note(format!("{what} (for the other reading: {})", flags.join(" or ")));
    }
    let of_c = inputs.c.as_ref().map(Matrix::ty);
    let ty = args.output_type.or(of_c).unwrap_or(OutputType::Bf16);
    if npy && ty == OutputType::Bf16 {
        let what = "--output-type: .npy has no bf16; use f32 or f16, or name the output .safetensors";
        return Err(CliError::Usage(what.to_owned()));
    }
    let layouts = (inputs.a.spec().scales, inputs.b.spec().scales);
    let policy = policy(args.policy, layouts.0, layouts.1);
    let problem = inputs.problem(layouts, ty, policy);
    problem.check()?;
    if args.with_inputs {
        expect_operands(&problem)?;
    }
    expect_memory(&problem)?;
    if !is_empty(&problem) {
        engines.announce(&[problem])?;
    }
    let computed = multiply(&engines, &inputs, layouts, &problem)?;
    let tensors = output::tensors(&inputs, &computed.d, args.with_inputs)?;
    let metadata = output::metadata(&inputs, &problem, &computed)?;
    write(&output, &metadata, tensors).in_file(&args.output)?;

    let errors = errors::errors(&inputs, &problem, &computed.d)?;
    let report = Report::new(&args.output, &inputs, &problem, &computed, errors);
    print(json, &report, || report.text())?;
    Ok(SUCCESS)
}

/// D; where it is not empty, operands that are not FP8 are quantised where it is computed, if that has a kernel for it.
fn multiply(engines: &Engines, inputs: &Inputs<'_>, layouts: Layouts, problem: &Problem) -> Result<Computed, CliError> {
    if is_empty(problem) {
        return Ok(Computed::empty(problem));
    }
    if engines.gpu_takes(problem) {
        let operands = (inputs.a.for_gpu(layouts.0)?, inputs.b.for_gpu(layouts.1)?);
        let c = inputs.c.as_ref().map(Matrix::view);
        if let Some(mut computed) = engines.quantize_and_compute(problem, operands, c.as_ref())? {
            for (operand, quantized) in [&inputs.a, &inputs.b].into_iter().zip(&mut computed.quantized) {
                if let Some(quantized) = quantized.take() {
                    operand.keep(quantized);
                }
            }
            return Ok(computed);
        }
    }
    engines.compute(&inputs.task(layouts, problem.d, problem.policy)?)
}

/// Whether D has no elements.
fn is_empty(problem: &Problem) -> bool {
    problem.m == 0 || problem.n == 0
}

/// Checks that `verify` would take the operands beside D: it refuses empty ones, since whatever a kernel did would pass.
fn expect_operands(problem: &Problem) -> Result<(), CliError> {
    let sizes = [("M", problem.m), ("N", problem.n), ("K", problem.k)];
    let Some((name, _)) = sizes.into_iter().find(|(_, size)| *size == 0) else { return Ok(()) };
    let rule = "but must be at least 1: verify takes no empty operands";
    Err(CliError::Usage(format!("--with-inputs: {name} is 0, {rule}")))
}

/// The policy asked for, else the default, else the first that is legal for the scales.
fn policy(asked: Option<Policy>, a: ScaleLayout, b: ScaleLayout) -> Policy {
    let default = Policy::default();
    if asked.is_some() || default.check(a, b).is_ok() {
        return asked.unwrap_or(default);
    }
    // Where none is legal, the check of the default says why.
    let Some(legal) = Policy::COMMON.into_iter().find(|policy| policy.check(a, b).is_ok()) else { return default };
    note(format!("{default} is not legal for A {a} and B {b} scales; using --policy {legal}"));
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
