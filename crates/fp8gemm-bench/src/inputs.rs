//! Random operands: N(0, 1), quantised by the recipe that the scale layout belongs to.
//!
//! Drawing and quantising hundreds of millions of numbers would take longer than timing the kernel.
//! So about four million are drawn and quantised, and the matrix is put together from blocks of 128
//! of their rows, each rotated along K by a random multiple of 128 (scales with it). What the
//! tensor cores see is as random as before; no two blocks of 128 rows are in step.

use fp8gemm_formats::quantize::{Recipe, quantize};
use fp8gemm_formats::{ScaledMatrix, ScaledView};
use fp8gemm_hopper::ScaleForm;
use fp8gemm_problem::{OperandSpec, ScaleLayout};
use ndarray::{Array2, ArrayView2, s};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, StandardNormal};
use rayon::prelude::*;

use crate::BenchError;

/// Numbers that are drawn.
const DRAWN: usize = 4 << 20;

/// One operand on the host: as the problem wants it, and with one scale for cuBLASLt's per-tensor FP8.
pub(crate) struct Operand {
    pub(crate) scaled: ScaledMatrix,
    pub(crate) tensor_codes: Array2<u8>,
    pub(crate) tensor_scale: f32,
}

impl Operand {
    /// A `[rows, k]` operand.
    pub(crate) fn random(spec: OperandSpec, rows: usize, k: usize, seed: u64) -> Result<Self, BenchError> {
        let drawn_rows = (DRAWN / k.max(1) / 128).clamp(1, rows.div_ceil(128)) * 128;
        let mut drawn = Array2::<f32>::zeros((drawn_rows, k));
        let lines: Vec<_> = drawn.outer_iter_mut().enumerate().collect();
        lines.into_par_iter().for_each(|(row, mut line)| {
            let mut rng = StdRng::seed_from_u64(seed.wrapping_mul(0x1_0000_0001).wrapping_add(row as u64));
            line.iter_mut().for_each(|x| *x = StandardNormal.sample(&mut rng));
        });
        let quantized = quantize(drawn.view(), recipe(spec.scales), spec.scales, spec.ty)?;
        let tensor = quantize(drawn.view(), recipe(ScaleLayout::Tensor), ScaleLayout::Tensor, spec.ty)?;

        let mut rng = StdRng::seed_from_u64(seed);
        // Rotated only where whole blocks of scales can be.
        let steps = if k.is_multiple_of(128) { k / 128 } else { 1 };
        let blocks: Vec<_> =
            (0..rows.div_ceil(128)).map(|block| (block % (drawn_rows / 128), rng.random_range(0..steps))).collect();
        let codes = assemble(quantized.codes(), &blocks, rows, 128, 128);
        let scales = match spec.scales {
            ScaleLayout::Block1x128 => assemble(quantized.scales(), &blocks, rows, 128, 1),
            ScaleLayout::Block128x128 => assemble(quantized.scales(), &blocks, rows.div_ceil(128), 1, 1),
            ScaleLayout::Row => assemble(quantized.scales(), &blocks, rows, 128, 0),
            _ => quantized.scales().to_owned(),
        };
        Ok(Self {
            scaled: ScaledMatrix::new(spec.ty, spec.scales, codes, scales)?,
            tensor_codes: assemble(tensor.codes(), &blocks, rows, 128, 128),
            tensor_scale: tensor.scales()[(0, 0)],
        })
    }
}

/// The recipe whose source has such scales: DeepGEMM's where it can be.
fn recipe(layout: ScaleLayout) -> Recipe {
    let fits = |recipe: &Recipe| recipe.layouts().contains(&layout);
    [Recipe::DeepGemm, Recipe::TeCurrent].into_iter().find(fits).unwrap_or_else(|| {
        // `DeepGemm` refuses the layout if none has it, and says so.
        Recipe::ALL.into_iter().find(fits).unwrap_or(Recipe::DeepGemm)
    })
}

/// Puts blocks of `height` rows of `from` together, each rotated by its number of `step` columns.
fn assemble<T: Copy + Default + Send + Sync>(
    from: ArrayView2<'_, T>,
    blocks: &[(usize, usize)],
    rows: usize,
    height: usize,
    step: usize,
) -> Array2<T> {
    let columns = from.ncols();
    let mut whole = Array2::from_elem((rows, columns), T::default());
    let lines: Vec<_> = whole.outer_iter_mut().enumerate().collect();
    lines.into_par_iter().for_each(|(row, mut line)| {
        let (block, rotation) = blocks[row / height];
        let (source, cut) = (from.row(block * height + row % height), (rotation * step).min(columns));
        line.slice_mut(s![..columns - cut]).assign(&source.slice(s![cut..]));
        line.slice_mut(s![columns - cut..]).assign(&source.slice(s![..cut]));
    });
    whole
}

/// The scales as a kernel reads them, and the elements between stored rows (see [`ScaleForm`]).
pub(crate) fn arrange(form: ScaleForm, operand: &ScaledView<'_>) -> (Vec<f32>, usize) {
    let (rows, k) = (operand.rows(), operand.columns());
    let ((height, width), stride) = (form.shape(rows, k), form.stride(rows, k));
    let mut stored = vec![0.0; height * stride];
    for (i, line) in stored.chunks_exact_mut(stride.max(1)).enumerate() {
        for (j, value) in line[..width].iter_mut().enumerate() {
            let (row, column) = match form {
                ScaleForm::One => (0, 0),
                ScaleForm::Rows => (j, 0),
                ScaleForm::BlocksByRows => (j, i * 128),
                ScaleForm::Squares => (i * 128, j * 128),
            };
            *value = operand.scale_at(row, column);
        }
    }
    (stored, stride)
}

/// Values of C: a random pattern of a prime length, repeated over the whole matrix, so that a
/// kernel that reads a wrong element is seen.
pub(crate) struct Pattern(pub(crate) Vec<f32>);

impl Pattern {
    pub(crate) fn random(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        Self((0..1_000_003).map(|_| StandardNormal.sample(&mut rng)).map(|x: f32| x * 100.0).collect())
    }

    /// Element `index` of the flat matrix.
    pub(crate) fn at(&self, index: usize) -> f32 {
        self.0[index % self.0.len()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fp8gemm_problem::OperandType;

    /// Breaks if rotating codes and scales separates an element from its scale: dequantised, every
    /// row must be a rotation of a drawn row, which is checked through the layout's own rule.
    #[test]
    fn rotated_elements_keep_their_scales() {
        let from = Array2::from_shape_fn((256, 512), |(i, j)| (i * 512 + j) as u32);
        let scales = Array2::from_shape_fn((2, 4), |(i, j)| (i * 4 + j) as u32);
        let blocks = [(1, 3), (0, 0), (1, 1)];
        let codes = assemble(from.view(), &blocks, 300, 128, 128);
        let squares = assemble(scales.view(), &blocks, 3, 1, 1);
        for row in 0..300 {
            for column in 0..512 {
                let original = codes[(row, column)] as usize;
                let (i, j) = (original / 512, original % 512);
                assert_eq!(i % 128, row % 128);
                assert_eq!(squares[(row / 128, column / 128)] as usize, i / 128 * 4 + j / 128);
            }
        }
        assert_eq!(codes[(0, 0)], 128 * 512 + 384);
    }

    /// Breaks if operands lose their shape at tails, or are all alike (zeros draw less power).
    #[test]
    fn operands_are_random() {
        for (rows, k, scales) in [(130, 384, ScaleLayout::Block1x128), (5, 100, ScaleLayout::Block128x128)] {
            let spec = OperandSpec { ty: OperandType::E4m3, scales };
            let operand = Operand::random(spec, rows, k, 1).unwrap();
            assert_eq!(operand.scaled.codes().dim(), (rows, k));
            assert_eq!(operand.tensor_codes.dim(), (rows, k));
            let values = operand.scaled.dequantize();
            let variance = values.iter().map(|x| x * x).sum::<f32>() / values.len() as f32;
            assert!((0.8..1.2).contains(&variance), "{variance}");
            let tensor = ScaledMatrix::unscaled(OperandType::E4m3, operand.tensor_codes.clone()).dequantize();
            let largest =
                values.iter().zip(&tensor).map(|(x, t)| (x - t * operand.tensor_scale).abs()).fold(0.0, f32::max);
            // The same data twice: two roundings of at most 1/16 of values up to 5.
            assert!(largest < 0.7, "{largest}");
        }
    }
}
