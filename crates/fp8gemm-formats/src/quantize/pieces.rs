//! [`PieceQuantizer`]: a recipe applied to pieces of a matrix, for matrices that are not in memory.

use fp8gemm_problem::{OperandType, OutputType};

use super::element::largest;
use super::engine::Job;
use super::recipe::{Applied, BlockScale, Recipe};
use crate::FormatError;

/// One recipe and target type, ready for pieces of rows whose largest magnitudes are known.
///
/// [`quantize`](super::quantize) wants the whole matrix. Where it comes piece by piece, the largest
/// magnitude of each block is found first (of the matrix for tensor scales, of 128 rows for 128x128),
/// then [`scale`](Self::scale) and [`cast`](Self::cast) give the scales and codes that `quantize` gives.
///
/// Elements are f32 here, to which every input type widens exactly; `input` is the type they had, which
/// matters to [`Recipe::TeBlock`] alone. One thread does the work. Infinite input is for the caller to
/// refuse, where the recipe excludes it.
///
/// ```
/// use fp8gemm_formats::quantize::{PieceQuantizer, Quantizer, Recipe};
/// use fp8gemm_problem::{OperandType, OutputType};
/// use ndarray::array;
///
/// let whole = Quantizer::new(Recipe::TeCurrent).quantize(array![[0.5f32, -3.5]].view())?;
/// let pieces = PieceQuantizer::new(Recipe::TeCurrent, OperandType::E4m3, OutputType::F32);
/// let scale = pieces.scale(3.5);
/// assert_eq!(scale.stored, whole.scales()[(0, 0)]);
/// let (mut scaled, mut code) = ([0.0], [0]);
/// pieces.cast(&[-3.5], 1, &[scale.factor()], &mut scaled, &mut code)?;
/// assert_eq!((scaled, code), ([-448.0], [whole.codes()[(0, 1)]]));
/// # Ok::<(), fp8gemm_formats::FormatError>(())
/// ```
pub struct PieceQuantizer(Job);

impl PieceQuantizer {
    /// The recipe to codes of type `ty`, for input of type `input`.
    pub fn new(recipe: Recipe, ty: OperandType, input: OutputType) -> Self {
        Self(Job::new(recipe.rule(), ty, largest(input)))
    }

    /// The scale of a block with this largest magnitude, as [`Recipe::block_scale`] gives it.
    pub fn scale(&self, amax: f32) -> BlockScale {
        self.0.block_scale(amax)
    }

    /// Scales and casts a piece of a row that begins where a block does: `factors[i]` is
    /// [`BlockScale::factor`] of its `i`th block of `block` elements, of which the last may be partial.
    /// `scaled` becomes the scaled elements as they are cast, `codes` their codes.
    ///
    /// # Errors
    /// [`FormatError::LengthMismatch`] where `scaled`, `codes` or `factors` are not as long as `values`
    /// and `block` say.
    pub fn cast(
        &self,
        values: &[f32],
        block: usize,
        factors: &[f32],
        scaled: &mut [f32],
        codes: &mut [u8],
    ) -> Result<(), FormatError> {
        let mismatch = |source_len, destination_len| Err(FormatError::LengthMismatch { source_len, destination_len });
        if scaled.len() != values.len() {
            return mismatch(values.len(), scaled.len());
        }
        if factors.len() != values.len().div_ceil(block.max(1)) {
            return mismatch(values.len().div_ceil(block.max(1)), factors.len());
        }
        self.0.scale_and_cast(values, block.max(1), factors, scaled, codes)
    }
}

impl BlockScale {
    /// The number that elements are multiplied or divided by.
    pub fn factor(self) -> f32 {
        match self.applied {
            Applied::MultiplyBy(factor) | Applied::DivideBy(factor) => factor,
        }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::super::Quantizer;
    use super::*;

    /// Breaks if a matrix that is quantised piece by piece gets other codes or scales than the whole
    /// one: any recipe, any layout along rows, zeros and huge elements included.
    #[test]
    fn pieces_have_the_bits_of_the_whole() {
        let x = Array2::from_shape_fn((3, 200), |(row, column)| {
            let value = ((row * 200 + column) as f32 * 0.37).sin() * 2f32.powi((column % 40) as i32 - 20);
            if row == 2 { 0.0 } else { value }
        });
        for recipe in Recipe::ALL {
            for &layout in recipe.layouts() {
                let block = match layout.block(3, 200) {
                    (1, columns) => columns,
                    _ => continue,
                };
                for ty in OperandType::ALL {
                    let whole = Quantizer { recipe, layout, ty }.quantize(x.view()).unwrap();
                    let pieces = PieceQuantizer::new(recipe, ty, OutputType::F32);
                    for (row, values) in x.rows().into_iter().enumerate() {
                        let values = values.to_vec();
                        let amax = |values: &[f32]| values.iter().fold(0.0f32, |amax, x| amax.max(x.abs()));
                        let scales: Vec<_> = values.chunks(block).map(|block| pieces.scale(amax(block))).collect();
                        let factors: Vec<_> = scales.iter().map(|scale| scale.factor()).collect();
                        let (mut scaled, mut codes) = ([0.0; 200], [0; 200]);
                        pieces.cast(&values, block, &factors, &mut scaled, &mut codes).unwrap();
                        let stored: Vec<_> = scales.iter().map(|scale| scale.stored.to_bits()).collect();
                        let expected: Vec<_> = whole.scales().row(row).iter().map(|scale| scale.to_bits()).collect();
                        assert_eq!(stored, expected, "{recipe} {layout} {ty}");
                        assert_eq!(codes[..], whole.codes().row(row).to_vec(), "{recipe} {layout} {ty}");
                    }
                }
            }
        }
    }

    /// Breaks if slices of other lengths are cast in part.
    #[test]
    fn lengths_are_checked() {
        let pieces = PieceQuantizer::new(Recipe::DeepGemm, OperandType::E4m3, OutputType::F32);
        let values = [1.0; 4];
        assert!(pieces.cast(&values, 2, &[1.0; 2], &mut [0.0; 4], &mut [0; 4]).is_ok());
        assert!(pieces.cast(&values, 2, &[1.0], &mut [0.0; 4], &mut [0; 4]).is_err());
        assert!(pieces.cast(&values, 2, &[1.0; 2], &mut [0.0; 3], &mut [0; 4]).is_err());
        assert!(pieces.cast(&values, 2, &[1.0; 2], &mut [0.0; 4], &mut [0; 3]).is_err());
    }
}
