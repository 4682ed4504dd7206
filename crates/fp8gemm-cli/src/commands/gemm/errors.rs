//! How far D is from the exact product.

use std::time::Instant;

use fp8gemm::problem::Problem;
use fp8gemm::sim::Matrix;
use fp8gemm::sim::metrics::Metrics;
use fp8gemm::sim::reference::ExactGemm;
use ndarray::ArrayView2;
use serde::Serialize;

use super::is_empty;
use crate::engine::Progress;
use crate::error::CliError;
use crate::operands::{Inputs, Operand};
use crate::sample;
use crate::text::{Number, duration};

/// Multiply-adds of an exact product that are always done; beyond, rows are sampled.
const EXACT: u128 = 1 << 30;

/// The same where an operand is f32 and every product is added on its own.
const EXACT_PLAIN: u128 = 1 << 28;

/// The error of D against one reference.
#[derive(Serialize)]
pub(super) struct ErrorReport {
    pub(super) against: Reference,
    /// Rows compared, and whether they are a sample of D's.
    pub(super) rows: usize,
    pub(super) sampled: bool,
    /// Pairs that the figures are of.
    pub(super) elements: usize,
    /// Pairs left out because a side is NaN or infinite, and those of them that disagree.
    pub(super) non_finite: usize,
    pub(super) non_finite_differing: usize,
    pub(super) snr_db: Number,
    relative_frobenius: Number,
    pub(super) calc_diff: Number,
    pub(super) max_relative: Number,
    max_over_mean: Number,
    pub(super) bias: Number,
}

/// What D is compared with.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reference {
    /// The exact product of the FP8 operands with their scales: the error of the multiplication.
    Fp8Operands,
    /// The exact product of the operands before quantisation: the error of everything.
    Inputs,
}

/// The errors of D: of the multiplication, and of everything where this run quantised; none of an empty D.
pub(super) fn errors(inputs: &Inputs<'_>, problem: &Problem, d: &Matrix) -> Result<Vec<ErrorReport>, CliError> {
    if is_empty(problem) {
        return Ok(Vec::new());
    }
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
