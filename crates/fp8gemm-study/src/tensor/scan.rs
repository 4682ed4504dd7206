//! The first pass: largest magnitudes, and whether everything is finite.

use fp8gemm_problem::ScaleLayout;
use rayon::prelude::*;

use super::distribution::{BlockAmax, Counter};
use super::kernel::{largest, smallest};
use super::{BATCH, Source, TILE_COLUMNS, TILE_ROWS};
use crate::StudyError;

/// What the first pass finds.
pub(super) struct Scan {
    pub(super) amax: f32,
    pub(super) smallest: f32,
    pub(super) zeros: u64,
    /// Of rows, 128x128 and 1x128 blocks.
    pub(super) blocks: [(ScaleLayout, BlockAmax); 3],
}

/// Of a stripe of rows, magnitudes as bits.
struct Stripe {
    amax: u32,
    smallest: u32,
    zeros: u64,
}

const INFINITY: u32 = 0x7F80_0000;

/// Reads everything once, calling `done` with the number of elements read.
pub(super) fn scan(source: &dyn Source, done: &(dyn Fn(u64) + Sync)) -> Result<Scan, StudyError> {
    let (rows, _) = source.dim();
    let counters = [Counter::new(), Counter::new(), Counter::new()];
    let mut all = Stripe { amax: 0, smallest: u32::MAX, zeros: 0 };
    let firsts: Vec<usize> = (0..rows).step_by(TILE_ROWS).collect();
    for batch in firsts.chunks(BATCH) {
        let stripes: Vec<Result<Stripe, StudyError>> =
            batch.par_iter().map(|&first| stripe(source, first, &counters, done)).collect();
        // In the order of rows, so that the first fault of the matrix is the one that is named.
        for stripe in stripes {
            let stripe = stripe?;
            all.amax = all.amax.max(stripe.amax);
            all.smallest = all.smallest.min(stripe.smallest);
            all.zeros += stripe.zeros;
        }
    }
    let layouts = [ScaleLayout::Row, ScaleLayout::Block128x128, ScaleLayout::Block1x128];
    let [rows, squares, pieces] = counters.map(|counter| counter.distribution());
    Ok(Scan {
        amax: f32::from_bits(all.amax),
        smallest: if all.smallest == u32::MAX { 0.0 } else { f32::from_bits(all.smallest) },
        zeros: all.zeros,
        blocks: [(layouts[0], rows), (layouts[1], squares), (layouts[2], pieces)],
    })
}

fn stripe(
    source: &dyn Source,
    first: usize,
    [of_rows, of_squares, of_pieces]: &[Counter; 3],
    done: &(dyn Fn(u64) + Sync),
) -> Result<Stripe, StudyError> {
    let (rows, columns) = source.dim();
    let rows = first..(first + TILE_ROWS).min(rows);
    let mut result = Stripe { amax: 0, smallest: u32::MAX, zeros: 0 };
    let mut row_amax = [0u32; TILE_ROWS];
    let mut amax = [0u32; TILE_COLUMNS / 32];
    let mut values = vec![0.0f32; TILE_COLUMNS.min(columns)];
    let mut fault: Option<(usize, usize, f32)> = None;
    for start in (0..columns).step_by(TILE_COLUMNS) {
        let end = (start + TILE_COLUMNS).min(columns);
        let values = &mut values[..end - start];
        let mut squares = [0u32; TILE_COLUMNS / 128];
        for (row, row_amax) in rows.clone().zip(&mut row_amax) {
            source.read(row, start..end, values);
            let (least, zeros) = smallest(values);
            result.smallest = result.smallest.min(least);
            result.zeros += zeros;
            let amax = &mut amax[..values.len().div_ceil(32)];
            largest(values, amax);
            for (amax, square) in amax.chunks(4).zip(&mut squares) {
                let piece = amax.iter().fold(0, |piece, &amax| amax.max(piece));
                of_pieces.count(piece);
                *square = piece.max(*square);
                *row_amax = piece.max(*row_amax);
            }
            // Tiles go from left to right: another tile of this stripe may hold an earlier row's.
            if *row_amax >= INFINITY
                && fault.is_none_or(|(known, ..)| row < known)
                && let Some(column) = values.iter().position(|x| !x.is_finite())
            {
                fault = Some((row, start + column, values[column]));
            }
        }
        squares[..(end - start).div_ceil(128)].iter().for_each(|&square| of_squares.count(square));
        done(((end - start) * rows.len()) as u64);
    }
    if let Some((row, column, value)) = fault {
        return Err(StudyError::NonFinite { row, column, value });
    }
    for &amax in &row_amax[..rows.len()] {
        of_rows.count(amax);
        result.amax = result.amax.max(amax);
    }
    Ok(result)
}
