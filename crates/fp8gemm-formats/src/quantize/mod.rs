//! Quantisation by explicit recipes, each with the bits of the library it is named after.
//!
//! Libraries that "divide by amax/448" do not agree: `x / (a / 448)`, `x * (1 / (a / 448))` and
//! `x * (448 / a)` round differently, and so do the floors under `a`, the powers of two above or
//! below the scale, and the treatment of NaN. A [`Recipe`] names one of them. All are run by one
//! engine:
//!
//! ```text
//! a      = largest |x| of the block                 (what NaN does is part of the recipe)
//! scale  = the recipe's rule for a                   (this is stored)
//! v      = x * factor  or  x / factor                (one f32 operation)
//! code   = v rounded to nearest even, saturating     (NaN: 7F, or clamped first as the recipe does)
//! ```
//!
//! bf16 and f16 input is widened to f32, which is exact. A block at the right or lower edge may be
//! partial; the elements that are not there count for nothing. An empty block (row or tensor
//! scales of a matrix with no columns, or no rows) is like one of zeros.
//!
//! Rows are quantised in parallel on the current rayon pool; the bits do not depend on its size.
//!
//! Zeros, subnormals, infinities and NaN go where the source sends them. The book's chapter
//! "Quantisation recipes" lists where that is, and how often two recipes disagree on ordinary data.
//!
//! ```
//! use fp8gemm_formats::quantize::{Quantizer, Recipe};
//! use ndarray::Array2;
//!
//! let x = Array2::from_shape_fn((3, 200), |(row, column)| (row * column) as f32);
//! let quantizer: Quantizer = "deepgemm:1x128".parse()?;
//! assert_eq!(quantizer, Quantizer::new(Recipe::DeepGemm));
//! let quantized = quantizer.quantize(x.view())?;
//! assert_eq!(quantized.scales().dim(), (3, 2));
//! # Ok::<(), fp8gemm_formats::FormatError>(())
//! ```

mod delayed;
mod element;
mod engine;
mod kernels;
mod pieces;
mod recipe;
mod rule;

use core::fmt;
use core::str::FromStr;

use fp8gemm_problem::{OperandType, ScaleLayout};
use ndarray::ArrayView2;

use crate::{FormatError, ScaledMatrix};

pub use delayed::{AmaxAlgorithm, DelayedScaling};
pub use element::Element;
pub use pieces::PieceQuantizer;
pub use recipe::{Applied, BlockScale, Recipe};

/// Quantises `x` (`[rows, columns]`, any strides) to codes of type `ty` with scales of the given
/// layout.
///
/// # Errors
/// [`FormatError::RecipeLayout`] where the recipe's source has no such scales,
/// [`FormatError::Infinite`] where it excludes infinite input and there is one (the first in
/// row-major order is named), [`FormatError::TooLarge`] where the result cannot be allocated.
///
/// ```
/// use fp8gemm_formats::quantize::{Recipe, quantize};
/// use fp8gemm_problem::{OperandType, ScaleLayout};
/// use ndarray::array;
///
/// let x = array![[0.5f32, -3.5], [0.0, 0.25]];
/// let quantized = quantize(x.view(), Recipe::TeCurrent, ScaleLayout::Tensor, OperandType::E4m3)?;
/// assert_eq!(quantized.codes(), array![[0x68, 0xFE], [0x00, 0x60]]);
/// assert_eq!(quantized.dequantize(), x);
/// # Ok::<(), fp8gemm_formats::FormatError>(())
/// ```
pub fn quantize<T: Element>(
    x: ArrayView2<'_, T>,
    recipe: Recipe,
    layout: ScaleLayout,
    ty: OperandType,
) -> Result<ScaledMatrix, FormatError> {
    engine::run(x, recipe, layout, ty)
}

/// A recipe with its layout and target type: everything that [`quantize`] needs to know.
///
/// Prints as `<recipe>:<layout>:<type>` and parses that; the type may be left out (`e4m3`), and
/// then the layout too (the usual one of the recipe).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Quantizer {
    /// How scales and codes are computed.
    pub recipe: Recipe,
    /// Which elements share a scale; one of [`Recipe::layouts`].
    pub layout: ScaleLayout,
    /// Element type of the codes.
    pub ty: OperandType,
}

impl Quantizer {
    /// The recipe with its usual layout, to E4M3.
    pub const fn new(recipe: Recipe) -> Self {
        Self { recipe, layout: recipe.layouts()[0], ty: OperandType::E4m3 }
    }

    /// Another layout.
    #[must_use]
    pub const fn with_layout(self, layout: ScaleLayout) -> Self {
        Self { layout, ..self }
    }

    /// Another target type.
    #[must_use]
    pub const fn with_ty(self, ty: OperandType) -> Self {
        Self { ty, ..self }
    }

    /// [`quantize`] with these settings.
    ///
    /// # Errors
    /// Those of [`quantize`].
    pub fn quantize<T: Element>(&self, x: ArrayView2<'_, T>) -> Result<ScaledMatrix, FormatError> {
        quantize(x, self.recipe, self.layout, self.ty)
    }
}

impl fmt::Display for Quantizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}:{}:{}", self.recipe, self.layout, self.ty))
    }
}

impl FromStr for Quantizer {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        let mut parts = text.split(':');
        let recipe: Recipe = parts.next().unwrap_or_default().parse()?;
        let mut quantizer = Self::new(recipe);
        let bad = || FormatError::BadQuantizer { text: text.to_owned() };
        if let Some(layout) = parts.next() {
            quantizer.layout = layout.parse().map_err(|_| bad())?;
        }
        if let Some(ty) = parts.next() {
            quantizer.ty = ty.parse().map_err(|_| bad())?;
        }
        if parts.next().is_some() {
            return Err(bad());
        }
        if !recipe.layouts().contains(&quantizer.layout) {
            return Err(FormatError::RecipeLayout { recipe, layout: quantizer.layout });
        }
        Ok(quantizer)
    }
}
