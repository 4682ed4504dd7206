//! The six values of every output.
//!
//! Nothing of the policies' or the tensor core's arithmetic is written again here: v3 to v5 are
//! runs of [`Gemm`], and v2 the tensor core's own chain without its rounding. A promotion interval's
//! chains are a GEMM of its own over that range of K, with no scales and one chain; only their
//! promotion is done here, exactly.

use core::ops::Range;

use fp8gemm_formats::ScaledView;
use fp8gemm_problem::{OutputType, Policy, ScaleLayout};
use ndarray::parallel::prelude::*;
use ndarray::{Array2, ArrayView2, Axis, Slice};

use super::Attribution;
use crate::kulisch::Accumulator;
use crate::reference::{ExactGemm, exact_epilogue};
use crate::tensor_core::{Exact, InputFormat, Operand};
use crate::{Gemm, Matrix, SimError};

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
    let v2 = promoted_exactly(problem, Chains::Unrounded, done)?;
    let v3 = promoted_exactly(problem, Chains::Rounded, done)?;
    let f32_result = problem.gemm().output(OutputType::F32).run_with(done)?.to_f32();
    let v4 = f32_result.mapv(f64::from);
    let d = Matrix::from_f32(f32_result, problem.output);
    let v5 = d.to_f32().mapv(f64::from);
    Ok(([v0, v1, v2, v3, v4, v5], d))
}

/// Which chains are promoted exactly.
#[derive(Clone, Copy, PartialEq)]
enum Chains {
    /// Those of a tensor core that never rounds its accumulator.
    Unrounded,
    /// The tensor core's own.
    Rounded,
}

/// `alpha * sum of sa sb chain + beta * C` over the promotion intervals, with no other rounding
/// than the last, to f64.
fn promoted_exactly(
    problem: &Attribution<'_>,
    chains: Chains,
    done: &(dyn Fn(u64) + Sync),
) -> Result<Array2<f64>, SimError> {
    let mut values = Array2::zeros((problem.a.rows(), problem.b.rows()));
    values.axis_chunks_iter_mut(Axis(0), TILE.0).into_par_iter().enumerate().try_for_each(|(i, mut band)| {
        let rows = i * TILE.0..i * TILE.0 + band.nrows();
        band.axis_chunks_iter_mut(Axis(1), TILE.1).into_par_iter().enumerate().try_for_each(|(j, mut tile)| {
            let columns = j * TILE.1..j * TILE.1 + tile.ncols();
            let sums = tile_sums(problem, chains, rows.clone(), columns.clone(), done)?;
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
    chains: Chains,
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
    let mut sums = vec![Accumulator::ZERO; rows.len() * columns.len()];
    for start in (0..k).step_by(every) {
        let interval = start..k.min(start.saturating_add(every));
        let scales_b: Vec<f64> = columns.clone().map(|column| b.scale_at(column, start).into()).collect();
        let scales = rows.clone().flat_map(|row| {
            let scale_a = f64::from(a.scale_at(row, start));
            scales_b.iter().map(move |scale_b| scale_a * scale_b)
        });
        match chains {
            Chains::Rounded => {
                let chains = rounded(problem, rows.clone(), columns.clone(), interval, done)?;
                for ((sum, chain), scale) in sums.iter_mut().zip(&chains).zip(scales) {
                    sum.add_product(*chain, scale);
                }
            }
            Chains::Unrounded => {
                let chains = unrounded(problem, rows.clone(), columns.clone(), interval, done);
                sums.iter_mut().zip(chains).zip(scales).for_each(|((sum, chain), scale)| add_exact(sum, chain, scale));
            }
        }
    }
    Ok(sums)
}

/// The chains of a tile over one interval of K: a GEMM of its own.
fn rounded(
    problem: &Attribution<'_>,
    rows: Range<usize>,
    columns: Range<usize>,
    interval: Range<usize>,
    done: &(dyn Fn(u64) + Sync),
) -> Result<Array2<f32>, SimError> {
    let one = Array2::from_elem((1, 1), 1.0);
    let (a, b) = (bare(&problem.a, &one, rows, interval.clone())?, bare(&problem.b, &one, columns, interval)?);
    let chains = Gemm::new(a, b).policy(Policy::Chain).core(problem.core).output(OutputType::F32);
    Ok(chains.run_with(done)?.to_f32())
}

/// The same on an accumulator that is never rounded, row by row.
fn unrounded(
    problem: &Attribution<'_>,
    rows: Range<usize>,
    columns: Range<usize>,
    interval: Range<usize>,
    done: &(dyn Fn(u64) + Sync),
) -> Vec<Exact> {
    let operands = |view: &ScaledView<'_>, rows: Range<usize>| -> Vec<Operand> {
        let format = InputFormat::from(view.ty());
        let codes = view.codes();
        rows.flat_map(|row| interval.clone().map(move |k| (row, k)))
            .map(|index| format.operand(codes[index].into()))
            .collect()
    };
    let (a, b) = (operands(&problem.a, rows), operands(&problem.b, columns));
    let chains: Vec<Exact> = a
        .chunks_exact(interval.len())
        .flat_map(|a| b.chunks_exact(interval.len()).map(move |b| problem.core.chain_unrounded(a, b)))
        .collect();
    done((chains.len() * interval.len()) as u64);
    chains
}

fn add_exact(sum: &mut Accumulator, chain: Exact, scale: f64) {
    match chain {
        Exact::Finite { negative, magnitude, exponent } if scale.is_finite() => {
            let value = i128::from(magnitude);
            sum.add_scaled(if negative { -value } else { value }, exponent, scale);
        }
        // Zero times infinity is NaN; another magnitude only has a sign.
        Exact::Finite { magnitude: 0, .. } => sum.add_f64(0.0 * scale),
        Exact::Finite { negative, .. } => sum.add_f64(if negative { -scale } else { scale }),
        Exact::Infinite { negative } => sum.add_f64(if negative { -scale } else { scale } * f64::INFINITY),
        Exact::Nan => sum.add_f64(f64::NAN),
    }
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
