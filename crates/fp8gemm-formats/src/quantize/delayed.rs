//! [`DelayedScaling`]: a scale from the largest magnitudes of earlier steps, as TransformerEngine
//! keeps it.

use core::fmt;
use core::str::FromStr;

use fp8gemm_problem::{OperandType, ScaleLayout};
use ndarray::{Array2, ArrayView2};

use super::element::Element;
use super::engine;
use super::rule::Target;
use crate::{FormatError, ScaledMatrix};

/// Which magnitude of the history makes the next scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum AmaxAlgorithm {
    /// The largest of the window (TransformerEngine's default); prints as `max`.
    #[default]
    Max,
    /// The last one; prints as `most_recent`.
    MostRecent,
}

impl fmt::Display for AmaxAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Max => "max",
            Self::MostRecent => "most_recent",
        })
    }
}

impl FromStr for AmaxAlgorithm {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        match text {
            "max" => Ok(Self::Max),
            "most_recent" => Ok(Self::MostRecent),
            _ => Err(FormatError::UnknownAmaxAlgorithm { text: text.to_owned() }),
        }
    }
}

/// TransformerEngine's delayed scaling of one tensor: quantise now with the scale of earlier steps,
/// remember the largest magnitude for later ones.
///
/// Each step is [`quantize`](Self::quantize) (once or more; the largest magnitudes of a step
/// combine) and then [`update`](Self::update). Slot 0 of the history collects the running step;
/// `update` rolls it:
///
/// ```text
/// last = history[0]
/// if last != 0:  a = max(history)            (max)   or last (most_recent), NaN ignored by max
///                history = history[1..] + [last];  history[0] = 0
/// else:          a = 0, nothing moves
/// if a is finite and a > 0:  factor = (largest finite of the type * 2^-margin) / a
/// if factor is infinite:     factor = f32::MAX
/// scale = 1 / factor
/// ```
///
/// so `history[1]` is the oldest magnitude and counts for the last time, and a step that saw
/// nothing (0), infinity or NaN keeps the factor it had. At first the history is 0 and the factor 1.
///
/// Source: NVIDIA/TransformerEngine `transformer_engine/common/recipe/delayed_scaling.cu`@6b71a0a,
/// `kernel_bulk`, which is what its PyTorch modules run. The same file's single-tensor `kernel`
/// rolls even when `last` is 0.
///
/// ```
/// use fp8gemm_formats::quantize::{AmaxAlgorithm, DelayedScaling};
/// use fp8gemm_problem::OperandType;
/// use ndarray::array;
///
/// let mut scaling = DelayedScaling::new(OperandType::E4m3, 4, 0, AmaxAlgorithm::Max)?;
/// let first = scaling.quantize(array![[7.0f32, -1.0]].view())?;
/// assert_eq!(first.scales()[[0, 0]], 1.0);
/// scaling.update();
/// assert_eq!(scaling.factor(), 448.0 / 7.0);
/// # Ok::<(), fp8gemm_formats::FormatError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct DelayedScaling {
    ty: OperandType,
    margin: i32,
    algorithm: AmaxAlgorithm,
    history: Vec<f32>,
    factor: f32,
}

impl DelayedScaling {
    /// A history of `length` steps, all 0, and the factor 1. TransformerEngine's defaults are 1024
    /// steps, margin 0 and [`AmaxAlgorithm::Max`].
    ///
    /// # Errors
    /// [`FormatError::EmptyHistory`] where `length` is 0.
    pub fn new(ty: OperandType, length: usize, margin: i32, algorithm: AmaxAlgorithm) -> Result<Self, FormatError> {
        Self::from_state(ty, margin, algorithm, vec![0.0; length], 1.0)
    }

    /// A state that was saved: `history` in TransformerEngine's order (slot 0 is the running step,
    /// slot 1 the oldest), and its `scale`, which is the factor here.
    ///
    /// # Errors
    /// [`FormatError::EmptyHistory`] where the history is empty.
    pub fn from_state(
        ty: OperandType,
        margin: i32,
        algorithm: AmaxAlgorithm,
        history: Vec<f32>,
        factor: f32,
    ) -> Result<Self, FormatError> {
        if history.is_empty() {
            return Err(FormatError::EmptyHistory);
        }
        Ok(Self { ty, margin, algorithm, history, factor })
    }

    /// What elements are multiplied by (TransformerEngine's `scale`).
    pub fn factor(&self) -> f32 {
        self.factor
    }

    /// What dequantisation multiplies by: `1 / factor` (TransformerEngine's `scale_inv`).
    pub fn scale(&self) -> f32 {
        1.0 / self.factor
    }

    /// The history: slot 0 is the running step, slot 1 the oldest of the others.
    pub fn history(&self) -> &[f32] {
        &self.history
    }

    /// Quantises `x` with the present factor, `cast(x * factor)` (saturating, NaN to `7F`), and
    /// records its largest magnitude.
    ///
    /// # Errors
    /// [`FormatError::TooLarge`] where the result cannot be allocated.
    pub fn quantize<T: Element>(&mut self, x: ArrayView2<'_, T>) -> Result<ScaledMatrix, FormatError> {
        let (codes, amax) = engine::cast_with_factor(x, self.ty, self.factor)?;
        self.record(amax);
        ScaledMatrix::new(self.ty, ScaleLayout::Tensor, codes, Array2::from_elem((1, 1), self.scale()))
    }

    /// Adds a magnitude to the running step, as an atomic maximum of the bits does on the GPU.
    pub fn record(&mut self, amax: f32) {
        let bits = amax.abs().to_bits().max(self.history[0].to_bits());
        self.history[0] = f32::from_bits(bits);
    }

    /// Ends the step: rolls the history and computes the factor of the next step.
    pub fn update(&mut self) {
        let last = self.history[0];
        let mut amax = 0.0f32;
        if last != 0.0 {
            amax = match self.algorithm {
                AmaxAlgorithm::Max => self.history.iter().fold(0.0, |largest, &amax| f32::max(largest, amax)),
                AmaxAlgorithm::MostRecent => last,
            };
            self.history.rotate_left(1);
            self.history[0] = 0.0;
        }
        if amax.is_finite() && amax > 0.0 {
            // The power is exact, so this is one rounding like the source's `max * pow(2, -margin)`.
            let scaled_max = (f64::from(Target::of(self.ty).max) * 2f64.powi(self.margin.saturating_neg())) as f32;
            self.factor = scaled_max / amax;
        }
        if self.factor.is_infinite() {
            self.factor = f32::MAX;
        }
    }
}
