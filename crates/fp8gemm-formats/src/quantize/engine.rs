//! One engine for all recipes: largest magnitude of each block, scale, multiplication, cast.
//!
//! The unit of parallel work is a row of blocks. Nothing is summed and a maximum of integers has
//! one value in any order, so the number of threads cannot change a bit.

use core::slice;
use core::sync::atomic::{AtomicBool, Ordering};

use fp8gemm_problem::{OperandType, ScaleLayout};
use half::f16;
use ndarray::{Array2, ArrayView1, ArrayView2, Axis, Slice};
use pulp::Arch;
use rayon::prelude::*;

use super::element::Element;
use super::kernels::{INFINITY_BITS, Scaling, largest_by_block, largest_by_column, scale_by_block, scale_by_column};
use super::recipe::{BlockScale, Recipe};
use super::rule::{NanAmax, NanElement, Rule, Target, stored_and_factor};
use crate::{FormatError, Fp8Format, Overflow, Rounding, ScaledMatrix, convert};

/// Quantises `x`; see the module for what is promised.
pub(super) fn run<T: Element>(
    x: ArrayView2<'_, T>,
    recipe: Recipe,
    layout: ScaleLayout,
    ty: OperandType,
) -> Result<ScaledMatrix, FormatError> {
    if !recipe.layouts().contains(&layout) {
        return Err(FormatError::RecipeLayout { recipe, layout });
    }
    let (rows, columns) = x.dim();
    let (scale_rows, scale_columns) = layout.scale_shape(rows, columns);
    let too_large = || FormatError::TooLarge { rows, columns };
    let mut codes = zeros::<u8>(rows, columns).ok_or_else(too_large)?;
    let mut scales = zeros::<f32>(scale_rows, scale_columns).ok_or_else(too_large)?;
    let job = Job::new(recipe.rule(), ty, T::LARGEST);
    if codes.is_empty() {
        // Row and tensor scales exist without elements, whose largest magnitude is then 0.
        scales.fill(job.stored_and_factor(0).0);
    } else {
        match layout {
            ScaleLayout::Tensor => job.tensor(x, &mut codes, &mut scales)?,
            ScaleLayout::Block128x1 => job.columns(x, &mut codes, &mut scales)?,
            _ => job.blocks(x, layout.block(rows, columns), &mut codes, &mut scales)?,
        }
    }
    if job.infinite.into_inner()
        && let Some(((row, column), value)) = x.indexed_iter().find(|(_, value)| value.widen().is_infinite())
    {
        return Err(FormatError::Infinite { recipe, row, column, value: value.widen() });
    }
    let codes = Array2::from_shape_vec((rows, columns), codes).map_err(|_| too_large())?;
    let scales = Array2::from_shape_vec((scale_rows, scale_columns), scales).map_err(|_| too_large())?;
    ScaledMatrix::new(ty, layout, codes, scales)
}

/// Casts `x * factor` with one factor for all elements, and says what the largest magnitude of `x`
/// is; delayed scaling needs both at once.
pub(super) fn cast_with_factor<T: Element>(
    x: ArrayView2<'_, T>,
    ty: OperandType,
    factor: f32,
) -> Result<(Array2<u8>, f32), FormatError> {
    let (rows, columns) = x.dim();
    let too_large = || FormatError::TooLarge { rows, columns };
    let mut codes = zeros::<u8>(rows, columns).ok_or_else(too_large)?;
    let job = Job::new(Recipe::TeCurrent.rule(), ty, T::LARGEST);
    let amax = job.largest_of_all(x);
    job.cast_rows(x, factor, &mut codes)?;
    let codes = Array2::from_shape_vec((rows, columns), codes).map_err(|_| too_large())?;
    Ok((codes, f32::from_bits(amax)))
}

/// Zeros, unless they do not fit the address space or the memory.
fn zeros<T: Clone + Default>(rows: usize, columns: usize) -> Option<Vec<T>> {
    let len = rows.checked_mul(columns)?;
    let mut values = Vec::new();
    values.try_reserve_exact(len).ok()?;
    values.resize(len, T::default());
    Some(values)
}

/// Everything but the data.
pub(super) struct Job {
    rule: Rule,
    target: Target,
    format: Fp8Format,
    scaling: Scaling,
    largest_input: f32,
    arch: Arch,
    /// An infinite element met a rule that excludes them.
    infinite: AtomicBool,
}

/// Buffers of one thread, each as long as a row.
#[derive(Default)]
struct Scratch {
    wide: Vec<f32>,
    scaled: Vec<f32>,
    largest: Vec<u32>,
    factors: Vec<f32>,
}

impl Job {
    pub(super) fn new(rule: Rule, ty: OperandType, largest_input: f32) -> Self {
        let target = Target::of(ty);
        let nan = match rule.nan {
            NanElement::Nan => f32::NAN,
            NanElement::Largest => target.max,
            NanElement::NegativeLargest => -target.max,
        };
        let scaling = Scaling { divide: rule.divide, nan };
        let format = Fp8Format::from(ty);
        let arch = Arch::new();
        Self { rule, target, format, scaling, largest_input, arch, infinite: AtomicBool::new(false) }
    }

    /// One scale for the matrix: two passes over it.
    fn tensor<T: Element>(
        &self,
        x: ArrayView2<'_, T>,
        codes: &mut [u8],
        scales: &mut [f32],
    ) -> Result<(), FormatError> {
        let (stored, factor) = self.stored_and_factor(self.largest_of_all(x));
        scales.fill(stored);
        self.cast_rows(x, factor, codes)
    }

    fn largest_of_all<T: Element>(&self, x: ArrayView2<'_, T>) -> u32 {
        (0..x.nrows())
            .into_par_iter()
            .map_init(Vec::new, |wide, row| {
                let mut largest = 0;
                let values = widen(x.row(row), wide);
                largest_by_block(
                    self.arch,
                    values,
                    values.len().max(1),
                    self.ignore_nan(),
                    slice::from_mut(&mut largest),
                );
                largest
            })
            .reduce(|| 0, u32::max)
    }

    fn cast_rows<T: Element>(&self, x: ArrayView2<'_, T>, factor: f32, codes: &mut [u8]) -> Result<(), FormatError> {
        if codes.is_empty() {
            return Ok(());
        }
        codes.par_chunks_mut(x.ncols()).enumerate().try_for_each_init(Scratch::default, |scratch, (row, codes)| {
            let values = widen(x.row(row), &mut scratch.wide);
            scratch.scaled.resize(values.len(), 0.0);
            scale_by_block(self.arch, self.scaling, &[factor], values.len(), values, &mut scratch.scaled);
            self.cast(&mut scratch.scaled, codes)
        })
    }

    /// Blocks of consecutive columns in one or more rows. A row of blocks is read twice, which is
    /// from cache for single rows.
    fn blocks<T: Element>(
        &self,
        x: ArrayView2<'_, T>,
        (block_rows, block_columns): (usize, usize),
        codes: &mut [u8],
        scales: &mut [f32],
    ) -> Result<(), FormatError> {
        let columns = x.ncols();
        let blocks = columns.div_ceil(block_columns);
        let block_rows = block_rows.min(x.nrows());
        codes.par_chunks_mut(block_rows * columns).zip(scales.par_chunks_mut(blocks)).enumerate().try_for_each_init(
            Scratch::default,
            |scratch, (index, (codes, scales))| {
                let Scratch { wide, scaled, largest, factors } = scratch;
                let first = index * block_rows;
                let x = x.slice_axis(Axis(0), Slice::from(first..(first + block_rows).min(x.nrows())));
                largest.clear();
                largest.resize(blocks, 0);
                for row in x.axis_iter(Axis(0)) {
                    largest_by_block(self.arch, widen(row, wide), block_columns, self.ignore_nan(), largest);
                }
                self.fill_scales(largest, scales, factors);
                scaled.resize(columns, 0.0);
                for (row, codes) in x.axis_iter(Axis(0)).zip(codes.chunks_mut(columns)) {
                    scale_by_block(self.arch, self.scaling, factors, block_columns, widen(row, wide), scaled);
                    self.cast(scaled, codes)?;
                }
                Ok(())
            },
        )
    }

    /// Blocks of 128 rows in one column.
    fn columns<T: Element>(
        &self,
        x: ArrayView2<'_, T>,
        codes: &mut [u8],
        scales: &mut [f32],
    ) -> Result<(), FormatError> {
        let columns = x.ncols();
        let block_rows = 128.min(x.nrows());
        codes.par_chunks_mut(block_rows * columns).zip(scales.par_chunks_mut(columns)).enumerate().try_for_each_init(
            Scratch::default,
            |scratch, (index, (codes, scales))| {
                let Scratch { wide, scaled, largest, factors } = scratch;
                let first = index * block_rows;
                let x = x.slice_axis(Axis(0), Slice::from(first..(first + block_rows).min(x.nrows())));
                largest.clear();
                largest.resize(columns, 0);
                for row in x.axis_iter(Axis(0)) {
                    largest_by_column(self.arch, widen(row, wide), self.ignore_nan(), largest);
                }
                self.fill_scales(largest, scales, factors);
                scaled.resize(columns, 0.0);
                for (row, codes) in x.axis_iter(Axis(0)).zip(codes.chunks_mut(columns)) {
                    scale_by_column(self.arch, self.scaling, factors, widen(row, wide), scaled);
                    self.cast(scaled, codes)?;
                }
                Ok(())
            },
        )
    }

    fn ignore_nan(&self) -> bool {
        self.rule.nan_amax == NanAmax::Ignored
    }

    fn stored_and_factor(&self, largest: u32) -> (f32, f32) {
        if self.rule.finite_only && largest == INFINITY_BITS {
            self.infinite.store(true, Ordering::Relaxed);
        }
        stored_and_factor(&self.rule, &self.target, f32::from_bits(largest), self.largest_input)
    }

    /// Scale and factor of a block.
    pub(super) fn block_scale(&self, amax: f32) -> BlockScale {
        BlockScale::new(&self.rule, &self.target, amax, self.largest_input)
    }

    /// One row, whose blocks begin with it.
    pub(super) fn scale_and_cast(
        &self,
        values: &[f32],
        block: usize,
        factors: &[f32],
        scaled: &mut [f32],
        codes: &mut [u8],
    ) -> Result<(), FormatError> {
        scale_by_block(self.arch, self.scaling, factors, block, values, scaled);
        self.cast(scaled, codes)
    }

    fn fill_scales(&self, largest: &[u32], scales: &mut [f32], factors: &mut Vec<f32>) {
        factors.clear();
        for (stored, &largest) in scales.iter_mut().zip(largest) {
            let factor;
            (*stored, factor) = self.stored_and_factor(largest);
            factors.push(factor);
        }
    }

    fn cast(&self, scaled: &mut [f32], codes: &mut [u8]) -> Result<(), FormatError> {
        if self.rule.through_f16 {
            for value in &mut *scaled {
                *value = f16::from_f32(value.clamp(-self.target.max, self.target.max)).to_f32();
            }
        }
        convert::encode_f32(self.format, Rounding::NearestEven, Overflow::Saturate, scaled, codes)
    }
}

/// The row as f32: itself where it is that already, else widened into the buffer.
fn widen<'a, T: Element>(row: ArrayView1<'a, T>, buffer: &'a mut Vec<f32>) -> &'a [f32] {
    buffer.resize(row.len(), 0.0);
    match row.to_slice() {
        Some(slice) => {
            if let Some(wide) = T::as_f32(slice) {
                return wide;
            }
            T::widen_slice(slice, buffer);
        }
        None => {
            for (wide, value) in buffer.iter_mut().zip(&row) {
                *wide = value.widen();
            }
        }
    }
    buffer
}
