//! The whole GEMM around the chains: tiles, promotion, epilogue.
//!
//! This is the one place where the arithmetic of [`Policy`] and
//! [`Epilogue`](fp8gemm_problem::Epilogue) is written; the paths below only differ in how they
//! compute `chain`.

use core::ops::Range;

use fp8gemm_formats::ScaledView;
use fp8gemm_problem::{Epilogue, OutputType, Policy};
use half::{bf16, f16};
use ndarray::{Array2, ArrayViewMut2, Axis};
use rayon::prelude::*;

use super::Gemm;
use super::generic::Generic;
use super::pack::Packed;
use super::path::Path;
use crate::round::{canonical, f32_to_bf16, f32_to_f16};
use crate::tensor_core::TensorCore;
use crate::{Matrix, MatrixView};

/// Rows and columns of a tile: large enough that packing the operands costs a few per cent, small
/// enough that a thread's working set stays in the L2 cache.
const TILE: (usize, usize) = (256, 128);

/// Longest range of K that is packed at once.
pub(super) const K_CHUNK: usize = 128;

/// The outputs of one tile.
#[derive(Clone, Debug)]
pub(super) struct Tile {
    pub(super) rows: Range<usize>,
    pub(super) columns: Range<usize>,
}

impl Tile {
    fn len(&self) -> usize {
        self.rows.len() * self.columns.len()
    }
}

/// Element type of D and its only rounding.
trait Output: Copy + Send + Sync + Default {
    fn cast(x: f32) -> Self;
}

impl Output for f32 {
    fn cast(x: f32) -> Self {
        canonical(x)
    }
}

impl Output for bf16 {
    fn cast(x: f32) -> Self {
        f32_to_bf16(x)
    }
}

impl Output for f16 {
    fn cast(x: f32) -> Self {
        f32_to_f16(x)
    }
}

pub(super) fn run(gemm: &Gemm<'_>, done: &(dyn Fn(u64) + Sync)) -> Matrix {
    match gemm.output {
        OutputType::Bf16 => Matrix::Bf16(run_into(gemm, done)),
        OutputType::F16 => Matrix::F16(run_into(gemm, done)),
        OutputType::F32 => Matrix::F32(run_into(gemm, done)),
    }
}

fn run_into<T: Output>(gemm: &Gemm<'_>, done: &(dyn Fn(u64) + Sync)) -> Array2<T> {
    let (m, n) = (gemm.a.rows(), gemm.b.rows());
    let mut d = Array2::from_elem((m, n), T::default());
    let mut tiles = Vec::new();
    for (i, band) in d.axis_chunks_iter_mut(Axis(0), TILE.0).enumerate() {
        let row = i * TILE.0;
        let rows = row..row + band.nrows();
        // A consuming split of the band: views of one band must not overlap.
        let mut rest = band;
        let mut column = 0;
        while column < n {
            let width = TILE.1.min(n - column);
            let (view, right) = rest.split_at(Axis(1), width);
            tiles.push((Tile { rows: rows.clone(), columns: column..column + width }, view));
            rest = right;
            column += width;
        }
    }
    let chains = Chains::new(gemm);
    tiles.into_par_iter().for_each_init(Scratch::default, |scratch, (tile, view)| {
        one_tile(gemm, &chains, &tile, scratch, view);
        done(tile.len() as u64 * gemm.a.columns() as u64);
    });
    d
}

/// A thread's buffers, reused from tile to tile.
#[derive(Default)]
struct Scratch {
    chain: Vec<f32>,
    sum: Vec<f32>,
    range: Vec<f32>,
    scale_a: Vec<f32>,
    scale_b: Vec<f32>,
    packed: Packed,
}

/// How the chains of a tile are computed.
enum Chains<'a> {
    Specification(Generic<'a>),
    Simd(Generic<'a>, Path),
}

impl<'a> Chains<'a> {
    fn new(gemm: &Gemm<'a>) -> Self {
        let generic = Generic::new(&gemm.a, &gemm.b, gemm.core);
        // The SIMD paths know one tensor core only.
        if gemm.path == Path::Generic || gemm.core != TensorCore::HOPPER_FP8_F32 {
            return Self::Specification(generic);
        }
        let path = if Path::available().contains(&gemm.path) { gemm.path } else { Path::Portable };
        Self::Simd(generic, path)
    }

    /// `out[r, c] = chain over k`, starting from +0.
    fn tile(&self, gemm: &Gemm<'_>, tile: &Tile, k: Range<usize>, packed: &mut Packed, out: &mut [f32]) {
        out.fill(0.0);
        match self {
            Self::Specification(generic) => generic.tile(tile, k, out),
            Self::Simd(generic, path) => {
                for start in k.clone().step_by(K_CHUNK) {
                    let chunk = start..k.end.min(start + K_CHUNK);
                    packed.pack(&gemm.a, &gemm.b, tile, chunk.clone(), *path);
                    super::simd::accumulate(packed, generic, tile, chunk, *path, out);
                }
            }
        }
    }
}

/// How block scales enter a promotion.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scaling {
    /// Row and tensor scales wait until the end: `acc = fl(acc + x)`.
    AtTheEnd,
    /// `acc = fma(fl(sa * sb), x, acc)`.
    Product,
    /// `acc = fma(fl(x * sa), sb, acc)`.
    OneByOne,
}

fn one_tile<T: Output>(
    gemm: &Gemm<'_>,
    chains: &Chains<'_>,
    tile: &Tile,
    scratch: &mut Scratch,
    d: ArrayViewMut2<'_, T>,
) {
    let k = gemm.a.columns();
    for buffer in [&mut scratch.chain, &mut scratch.sum, &mut scratch.range] {
        buffer.clear();
        buffer.resize(tile.len(), 0.0);
    }
    let block_scaled = gemm.a.layout().k_block().is_some() || gemm.b.layout().k_block().is_some();
    let scaling = match gemm.policy {
        _ if !block_scaled => Scaling::AtTheEnd,
        Policy::Cutlass128 => Scaling::OneByOne,
        _ => Scaling::Product,
    };
    match gemm.policy {
        Policy::Chain => chains.tile(gemm, tile, 0..k, &mut scratch.packed, &mut scratch.sum),
        Policy::Promote { every } => promoted(gemm, chains, tile, 0..k, every as usize, scaling, scratch),
        Policy::Cutlass128 => promoted(gemm, chains, tile, 0..k, 128, scaling, scratch),
        Policy::Split { parts } => {
            for (i, range) in split(k, parts).enumerate() {
                core::mem::swap(&mut scratch.sum, &mut scratch.range);
                promoted(gemm, chains, tile, range, 128, scaling, scratch);
                if i > 0 {
                    scratch.sum.iter_mut().zip(&scratch.range).for_each(|(part, before)| *part += before);
                }
            }
        }
    }
    if scaling == Scaling::AtTheEnd {
        scratch.load_scales(gemm, tile, 0);
        let rows = scratch.sum.chunks_exact_mut(tile.columns.len()).zip(&scratch.scale_a);
        for (sums, scale_a) in rows {
            sums.iter_mut().zip(&scratch.scale_b).for_each(|(sum, scale_b)| *sum *= scale_a * scale_b);
        }
    }
    store(gemm.epilogue, gemm.c.as_ref(), tile, &scratch.sum, d);
}

/// The ranges of K of a split: contiguous in blocks of 128, the first ones a block longer where
/// the division leaves a remainder; empty ranges are left out.
fn split(k: usize, parts: u32) -> impl Iterator<Item = Range<usize>> {
    let blocks = k.div_ceil(128);
    let (each, longer) = (blocks / parts as usize, blocks % parts as usize);
    let ranges = if each > 0 { parts as usize } else { longer };
    let start = move |i: usize| k.min((i * each + i.min(longer)) * 128);
    (0..ranges).map(move |i| start(i)..start(i + 1))
}

/// `scratch.sum = ` the chains of `range`, promoted every `every` elements, from +0.
///
/// K is padded with zeros to whole scale blocks. The padding needs no chain, but with block scales
/// it can be a promotion of its own (`promote32` on K = 40), and `fma(s, +0, acc)` is not always
/// `acc`: an infinite scale makes NaN, and -0 becomes +0.
fn promoted(
    gemm: &Gemm<'_>,
    chains: &Chains<'_>,
    tile: &Tile,
    range: Range<usize>,
    every: usize,
    scaling: Scaling,
    scratch: &mut Scratch,
) {
    scratch.sum.fill(0.0);
    let block = gemm.a.layout().k_block().into_iter().chain(gemm.b.layout().k_block()).min();
    let padded_end = block.map_or(range.end, |block| range.end.next_multiple_of(block));
    for start in (range.start..padded_end).step_by(every) {
        let k = start.min(range.end)..range.end.min(start.saturating_add(every));
        chains.tile(gemm, tile, k, &mut scratch.packed, &mut scratch.chain);
        if scaling != Scaling::AtTheEnd {
            // The padding lies in the last block and has its scale.
            scratch.load_scales(gemm, tile, start.min(range.end - 1));
        }
        let Scratch { chain, sum, scale_a, scale_b, .. } = &mut *scratch;
        pulp::Arch::new().dispatch(Promotion { chain, sum, scale_a, scale_b, scaling });
    }
}

impl Scratch {
    /// The scales of the tile's rows and columns at element `k` of K.
    fn load_scales(&mut self, gemm: &Gemm<'_>, tile: &Tile, k: usize) {
        let fill = |to: &mut Vec<f32>, from: &ScaledView<'_>, rows: &Range<usize>| {
            to.clear();
            to.extend(rows.clone().map(|row| from.scale_at(row, k)));
        };
        fill(&mut self.scale_a, &gemm.a, &tile.rows);
        fill(&mut self.scale_b, &gemm.b, &tile.columns);
    }
}

/// The promotion of one tile. A struct, so that `pulp` compiles it with FMA where there is one:
/// without, `mul_add` is a library call (exact, but slow).
struct Promotion<'a> {
    chain: &'a [f32],
    sum: &'a mut [f32],
    scale_a: &'a [f32],
    scale_b: &'a [f32],
    scaling: Scaling,
}

impl pulp::WithSimd for Promotion<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let Self { chain, sum, scale_a, scale_b, scaling } = self;
        if scaling == Scaling::AtTheEnd {
            sum.iter_mut().zip(chain).for_each(|(sum, x)| *sum += x);
            return;
        }
        let width = scale_b.len();
        for ((sum, chain), sa) in sum.chunks_exact_mut(width).zip(chain.chunks_exact(width)).zip(scale_a) {
            for ((sum, x), sb) in sum.iter_mut().zip(chain).zip(scale_b) {
                *sum =
                    if scaling == Scaling::Product { (sa * sb).mul_add(*x, *sum) } else { (x * sa).mul_add(*sb, *sum) };
            }
        }
    }
}

/// The epilogue: alpha, beta and C, one cast. NaN becomes canonical in the cast; before it, a NaN
/// stays a NaN whatever its bits.
fn store<T: Output>(
    epilogue: Epilogue,
    c: Option<&MatrixView<'_>>,
    tile: &Tile,
    sum: &[f32],
    mut d: ArrayViewMut2<'_, T>,
) {
    let c = c.filter(|_| epilogue.reads_c());
    let rows = sum.chunks_exact(tile.columns.len()).zip(d.rows_mut()).zip(tile.rows.clone());
    for ((sum, mut d), row) in rows {
        for ((sum, d), column) in sum.iter().zip(&mut d).zip(tile.columns.clone()) {
            let mut r = *sum;
            if epilogue.alpha != 1.0 {
                r *= epilogue.alpha;
            }
            if let Some(c) = c {
                r = epilogue.beta.mul_add(c.get(row, column), r);
            }
            *d = T::cast(r);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Breaks if a split assigns a block twice, drops one, or gives the remainder to the last parts.
    #[test]
    fn split_covers_k_in_order() {
        let ranges = |k, parts| split(k, parts).map(|range| (range.start, range.end)).collect::<Vec<_>>();
        assert_eq!(ranges(1000, 3), [(0, 384), (384, 768), (768, 1000)]);
        assert_eq!(ranges(1024, 3), [(0, 384), (384, 768), (768, 1024)]);
        assert_eq!(ranges(1280, 4), [(0, 384), (384, 768), (768, 1024), (1024, 1280)]);
        assert_eq!(ranges(200, 5), [(0, 128), (128, 200)]);
        assert_eq!(ranges(0, 2), []);
        assert_eq!(ranges(100, u32::MAX), [(0, 100)]);
    }
}
