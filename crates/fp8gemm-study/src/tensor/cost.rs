//! The second pass: every quantiser on every tile, while the tile is in cache.

use fp8gemm_formats::quantize::{PieceQuantizer, Quantizer};
use fp8gemm_formats::{Fp8Format, convert};
use fp8gemm_problem::{OutputType, ScaleLayout};
use rayon::prelude::*;

use super::kernel::{Loss, Piece, largest, loss, signal};
use super::{BATCH, Source, TILE_COLUMNS, TILE_ROWS};
use crate::StudyError;

/// What the second pass finds.
pub(super) struct Cost {
    /// `sum x^2`.
    pub(super) signal: f64,
    /// Elements with a relative error: neither zero nor below the smallest normal f32.
    pub(super) counted: u64,
    /// One for each quantiser.
    pub(super) losses: Vec<Loss>,
}

/// A quantiser, prepared.
struct Prepared {
    layout: ScaleLayout,
    format: Fp8Format,
    pieces: PieceQuantizer,
    overflow: f32,
}

impl Prepared {
    fn new(quantizer: &Quantizer, input: OutputType) -> Self {
        let format = Fp8Format::from(quantizer.ty);
        // From half a unit above the largest value on, rounding would go beyond it.
        let (largest, below) = (format.max_finite(), format.decode(format.max_code() - 1));
        Self {
            layout: quantizer.layout,
            format,
            pieces: PieceQuantizer::new(quantizer.recipe, quantizer.ty, input),
            overflow: largest + (largest - below) / 2.0,
        }
    }
}

/// Reads everything once more (twice where rows have scales of their own and are longer than a tile).
pub(super) fn cost(
    source: &dyn Source,
    amax: f32,
    quantizers: &[Quantizer],
    done: &(dyn Fn(u64) + Sync),
) -> Result<Cost, StudyError> {
    let (rows, _) = source.dim();
    let prepared: Vec<Prepared> = quantizers.iter().map(|quantizer| Prepared::new(quantizer, source.ty())).collect();
    let empty = || Cost { signal: 0.0, counted: 0, losses: vec![Loss::default(); quantizers.len()] };
    let mut all = empty();
    let firsts: Vec<usize> = (0..rows).step_by(TILE_ROWS).collect();
    for batch in firsts.chunks(BATCH) {
        let stripes: Vec<Result<Cost, StudyError>> = batch
            .par_iter()
            .map(|&first| {
                let mut cost = empty();
                stripe(source, first, amax, &prepared, &mut cost, done)?;
                Ok(cost)
            })
            .collect();
        // In the order of rows, so that the number of threads does not matter.
        for stripe in stripes {
            let stripe = stripe?;
            all.signal += stripe.signal;
            all.counted += stripe.counted;
            all.losses.iter_mut().zip(&stripe.losses).for_each(|(all, loss)| all.add(loss));
        }
    }
    Ok(all)
}

/// Largest magnitudes within a piece of a row.
#[derive(Default)]
struct Amax {
    bits: Vec<u32>,
    of_32: Vec<f32>,
    of_128: Vec<f32>,
}

impl Amax {
    fn fill(&mut self, values: &[f32]) {
        self.bits.resize(values.len().div_ceil(32), 0);
        largest(values, &mut self.bits);
        self.of_32.clear();
        self.of_32.extend(self.bits.iter().map(|&bits| f32::from_bits(bits)));
        self.of_128.clear();
        self.of_128.extend(self.of_32.chunks(4).map(|amax| amax.iter().copied().fold(0.0, f32::max)));
    }
}

/// Scales of the blocks in a piece of a row, as they are applied and as they are stored.
#[derive(Default)]
struct Scales {
    factors: Vec<f32>,
    stored: Vec<f32>,
}

impl Scales {
    fn fill(&mut self, pieces: &PieceQuantizer, amax: impl IntoIterator<Item = f32>) {
        self.factors.clear();
        self.stored.clear();
        for amax in amax {
            let scale = pieces.scale(amax);
            self.factors.push(scale.factor());
            self.stored.push(scale.stored);
        }
    }
}

fn stripe(
    source: &dyn Source,
    first: usize,
    amax: f32,
    quantizers: &[Prepared],
    cost: &mut Cost,
    done: &(dyn Fn(u64) + Sync),
) -> Result<(), StudyError> {
    let (rows, columns) = source.dim();
    let rows = first..(first + TILE_ROWS).min(rows);
    let width = TILE_COLUMNS.min(columns);
    let mut tile = vec![0.0f32; rows.len() * width];
    let read = |tile: &mut [f32], start: usize, width: usize| {
        for (row, values) in rows.clone().zip(tile.chunks_exact_mut(width)) {
            source.read(row, start..start + width, values);
        }
    };
    let mut amaxes = Amax::default();
    let mut row_amax = [0.0f32; TILE_ROWS];
    if quantizers.iter().any(|quantizer| quantizer.layout == ScaleLayout::Row) {
        for start in (0..columns).step_by(TILE_COLUMNS) {
            let width = width.min(columns - start);
            let tile = &mut tile[..rows.len() * width];
            read(tile, start, width);
            for (row_amax, values) in row_amax.iter_mut().zip(tile.chunks_exact(width)) {
                amaxes.fill(values);
                *row_amax = amaxes.of_128.iter().copied().fold(*row_amax, f32::max);
            }
        }
    }
    let mut fixed: Vec<Scales> = quantizers.iter().map(|_| Scales::default()).collect();
    let mut scales = Scales::default();
    let [mut inverse, mut scaled, mut decoded] = [(); 3].map(|()| vec![0.0f32; width]);
    let mut codes = vec![0u8; width];
    for start in (0..columns).step_by(TILE_COLUMNS) {
        let width = width.min(columns - start);
        let tile = &mut tile[..rows.len() * width];
        // The one tile of a narrow matrix may be there already; reading it again costs little.
        read(tile, start, width);
        let mut squares = [0.0f32; TILE_COLUMNS / 128];
        for values in tile.chunks_exact(width) {
            amaxes.fill(values);
            squares.iter_mut().zip(&amaxes.of_128).for_each(|(square, &amax)| *square = square.max(amax));
        }
        for (quantizer, scales) in quantizers.iter().zip(&mut fixed) {
            match quantizer.layout {
                ScaleLayout::Tensor => scales.fill(&quantizer.pieces, [amax]),
                ScaleLayout::Block128x128 => {
                    scales.fill(&quantizer.pieces, squares[..width.div_ceil(128)].iter().copied());
                }
                _ => {}
            }
        }
        let [inverse, scaled, decoded] = [&mut inverse, &mut scaled, &mut decoded].map(|buffer| &mut buffer[..width]);
        let codes = &mut codes[..width];
        for (values, &row_amax) in tile.chunks_exact(width).zip(&row_amax) {
            amaxes.fill(values);
            let signal = signal(values, inverse);
            cost.signal += signal.squares;
            cost.counted += signal.counted;
            for ((quantizer, fixed), sum) in quantizers.iter().zip(&fixed).zip(&mut cost.losses) {
                let pieces = &quantizer.pieces;
                let (block, scales) = match quantizer.layout {
                    ScaleLayout::Tensor => (width, fixed),
                    ScaleLayout::Block128x128 => (128, fixed),
                    ScaleLayout::Row => {
                        scales.fill(pieces, [row_amax]);
                        (width, &scales)
                    }
                    ScaleLayout::Block1x32 => {
                        scales.fill(pieces, amaxes.of_32.iter().copied());
                        (32, &scales)
                    }
                    // 128x1 was refused.
                    ScaleLayout::Block1x128 | ScaleLayout::Block128x1 => {
                        scales.fill(pieces, amaxes.of_128.iter().copied());
                        (128, &scales)
                    }
                };
                pieces.cast(values, block, &scales.factors, scaled, codes)?;
                convert::decode_f32(quantizer.format, codes, decoded)?;
                sum.add(&loss(&Piece {
                    values,
                    reciprocals: inverse,
                    scaled,
                    codes,
                    decoded,
                    scales: &scales.stored,
                    block,
                    normal: 1 << quantizer.format.mantissa_bits(),
                    largest: quantizer.format.max_code(),
                    overflow: quantizer.overflow,
                }));
            }
        }
        done((width * rows.len()) as u64);
    }
    Ok(())
}
