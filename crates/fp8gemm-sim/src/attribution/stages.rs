//! The six values of every output.
//!
//! Nothing of the policies' or the tensor core's arithmetic is written again here: v2 to v5 are
//! runs of [`Gemm`]. A promotion interval's chains are a GEMM of its own over that range of K, with
//! no scales and one chain; only their promotion is done here, exactly.

use core::ops::Range;

use fp8gemm_formats::ScaledView;
use fp8gemm_problem::{OutputType, Policy, ScaleLayout};
use ndarray::parallel::prelude::*;
use ndarray::{Array2, ArrayView2, Axis, Slice};

use super::Attribution;
use crate::kulisch::Accumulator;
use crate::reference::{ExactGemm, exact_epilogue};
use crate::tensor_core::{Accumulator as CoreAccumulator, TensorCore};
use crate::{Gemm, Matrix, Rounding, SimError};

/// A sum of 32 products below 4 and an accumulator below 2 with F fraction bits is an integer below
/// 130 * 2^F: up to this F it has no more bits than an f32.
pub(super) const MOST_FRACTION_BITS: u32 = 16;

/// Rows and columns of the outputs whose chains are promoted together.
const TILE: (usize, usize) = (64, 128);

pub(super) fn values<'a>(
    problem: &Attribution<'a>,
    done: &(dyn Fn(u64) + Sync),
) -> Result<([Array2<f64>; 6], Matrix), SimError> {
    let exact = |gemm: ExactGemm<'a>| match &problem.c {
        Some(c) => gemm.c(c.clone()).epilogue(problem.epilogue).run_with(done),
        None => gemm.epilogue(problem.epilogue).run_with(done),
    };
    let v0 = exact(ExactGemm::new(problem.unquantized.0, problem.unquantized.1))?;
    let v1 = exact(ExactGemm::new(problem.a, problem.b))?;
    let v2 = promoted_exactly(problem, unrounded(problem.core), done)?;
    let v3 = promoted_exactly(problem, problem.core, done)?;
    let f32_result = problem.gemm().output(OutputType::F32).run_with(done)?.to_f32();
    let v4 = f32_result.mapv(f64::from);
    let d = Matrix::from_f32(f32_result, problem.output);
    let v5 = d.to_f32().mapv(f64::from);
    Ok(([v0, v1, v2, v3, v4, v5], d))
}

/// The core whose accumulator keeps every bit of a step's sum, [`MOST_FRACTION_BITS`] granted.
fn unrounded(core: TensorCore) -> TensorCore {
    let accumulator = CoreAccumulator::F32 { fraction_bits: 23, rounding: Rounding::TowardZero };
    TensorCore { accumulator, ..core }
}

/// `alpha * sum of sa sb chain + beta * C` over the promotion intervals, with chains of `core` and
/// no other rounding than the last, to f64.
fn promoted_exactly(
    problem: &Attribution<'_>,
    core: TensorCore,
    done: &(dyn Fn(u64) + Sync),
) -> Result<Array2<f64>, SimError> {
    let mut values = Array2::zeros((problem.a.rows(), problem.b.rows()));
    values.axis_chunks_iter_mut(Axis(0), TILE.0).into_par_iter().enumerate().try_for_each(|(i, mut band)| {
        let rows = i * TILE.0..i * TILE.0 + band.nrows();
        band.axis_chunks_iter_mut(Axis(1), TILE.1).into_par_iter().enumerate().try_for_each(|(j, mut tile)| {
            let columns = j * TILE.1..j * TILE.1 + tile.ncols();
            let sums = tile_sums(problem, core, rows.clone(), columns.clone(), done)?;
            for (((r, c), value), sum) in tile.indexed_iter_mut().zip(&sums) {
                let c = problem.c.as_ref().map(|matrix| matrix.get(rows.start + r, columns.start + c));
                *value = exact_epilogue(sum, &problem.epilogue, c);
            }
            Ok::<(), SimError>(())
        })
    })?;
    Ok(values)
}

fn tile_sums(
    problem: &Attribution<'_>,
    core: TensorCore,
    rows: Range<usize>,
    columns: Range<usize>,
    done: &(dyn Fn(u64) + Sync),
) -> Result<Vec<Accumulator>, SimError> {
    let (a, b) = (&problem.a, &problem.b);
    let k = a.columns();
    // Exact sums do not care how a split groups its ranges.
    let every = match problem.policy {
        Policy::Chain => k.max(1),
        Policy::Promote { every } => every as usize,
        Policy::Cutlass128 | Policy::Split { .. } => 128,
    };
    let one = Array2::from_elem((1, 1), 1.0);
    let mut sums = vec![Accumulator::ZERO; rows.len() * columns.len()];
    for start in (0..k).step_by(every) {
        let interval = start..k.min(start.saturating_add(every));
        let (bare_a, bare_b) =
            (bare(a, &one, rows.clone(), interval.clone())?, bare(b, &one, columns.clone(), interval)?);
        let chains = Gemm::new(bare_a, bare_b).policy(Policy::Chain).core(core).output(OutputType::F32);
        let chains = chains.run_with(done)?.to_f32();
        let scales_b: Vec<f64> = columns.clone().map(|column| b.scale_at(column, start).into()).collect();
        for ((row, chains), sums) in rows.clone().zip(chains.rows()).zip(sums.chunks_exact_mut(columns.len())) {
            let scale_a = f64::from(a.scale_at(row, start));
            for ((chain, scale_b), sum) in chains.iter().zip(&scales_b).zip(sums) {
                sum.add_product(*chain, scale_a * scale_b);
            }
        }
    }
    Ok(sums)
}

/// Some rows and elements of K of an operand, without their scales.
fn bare<'a>(
    view: &'a ScaledView<'_>,
    one: &'a Array2<f32>,
    rows: Range<usize>,
    k: Range<usize>,
) -> Result<ScaledView<'a>, SimError> {
    let codes: ArrayView2<'a, u8> =
        view.codes().reborrow().slice_axis_move(Axis(0), Slice::from(rows)).slice_axis_move(Axis(1), Slice::from(k));
    Ok(ScaledView::new(view.ty(), ScaleLayout::Tensor, codes, one.view())?)
}
