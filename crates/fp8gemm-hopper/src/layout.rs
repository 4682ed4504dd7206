//! How operands may lie in memory, and the steps that bring them into the one layout that FP8
//! `wgmma` reads: K-major, rows of 16-byte multiples.

use core::fmt;
use core::str::FromStr;

use fp8gemm_formats::quantize::Quantizer;
use fp8gemm_problem::{ProblemError, ScaleLayout, Side};

use crate::{DeviceMatrix, Quantization, ScaleForm};

/// Which index of an operand runs fastest in memory (`rows` is M or N).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum OperandLayout {
    /// `[rows, K]`: K runs fastest.
    #[default]
    KMajor,
    /// `[K, rows]`: M or N runs fastest.
    MnMajor,
}

/// The four layouts of a GEMM on row-major matrices, named as BLAS and DeepGEMM do: the first letter
/// is A's (N: `[M, K]`, T: `[K, M]`), the second B's (N: `[K, N]`, T: `[N, K]`). Prints and parses as
/// `nt`, `nn`, `tn`, `tt`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum GemmLayout {
    /// A `[M, K]`, B `[N, K]`: both K-major, what the kernels read.
    #[default]
    Nt,
    /// A `[M, K]`, B `[K, N]`.
    Nn,
    /// A `[K, M]`, B `[K, N]`.
    Tn,
    /// A `[K, M]`, B `[N, K]`.
    Tt,
}

impl GemmLayout {
    /// Every layout.
    pub const ALL: [Self; 4] = [Self::Nt, Self::Nn, Self::Tn, Self::Tt];

    /// The layout of one operand.
    ///
    /// ```
    /// use fp8gemm_hopper::{GemmLayout, OperandLayout};
    /// use fp8gemm_problem::Side;
    ///
    /// assert_eq!(GemmLayout::Nn.operand(Side::A), OperandLayout::KMajor);
    /// assert_eq!(GemmLayout::Nn.operand(Side::B), OperandLayout::MnMajor);
    /// ```
    pub const fn operand(self, side: Side) -> OperandLayout {
        match (self, side) {
            (Self::Nt | Self::Nn, Side::A) | (Self::Nt | Self::Tt, Side::B) => OperandLayout::KMajor,
            _ => OperandLayout::MnMajor,
        }
    }
}

impl fmt::Display for GemmLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Nt => "nt",
            Self::Nn => "nn",
            Self::Tn => "tn",
            Self::Tt => "tt",
        })
    }
}

impl FromStr for GemmLayout {
    type Err = ProblemError;

    fn from_str(text: &str) -> Result<Self, ProblemError> {
        Self::ALL.into_iter().find(|layout| layout.to_string() == text).ok_or_else(|| ProblemError::Parse {
            what: "GEMM layout",
            text: text.to_owned(),
            expected: "nt, nn, tn or tt",
        })
    }
}

/// A pass over an operand on the GPU that comes before the GEMM. Prints as a sentence with its cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeviceStep {
    /// Numbers to codes and scales, transposing or not.
    Quantize(Quantization),
    /// Codes `[K, rows]` to `[rows, K]`.
    Transpose {
        /// M or N.
        rows: usize,
        /// K.
        k: usize,
    },
    /// Codes `[rows, K]` to rows that TMA can read.
    Repack {
        /// M or N.
        rows: usize,
        /// K.
        k: usize,
    },
}

/// Bytes that a step moves: what it costs is about their sum over the copy bandwidth of the GPU
/// (4.3 TB/s on an H200), and a few microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StepBytes {
    /// Read from device memory.
    pub read: u128,
    /// Written to device memory.
    pub written: u128,
}

impl DeviceStep {
    /// What must be done to FP8 codes of this layout, pointer and stride (in bytes) before the GEMM
    /// can read them; `None` if it can already.
    ///
    /// ```
    /// use fp8gemm_hopper::{DeviceMatrix, DeviceStep, OperandLayout};
    ///
    /// let b = DeviceMatrix { pointer: 0x1000, stride: 100 };
    /// let step = DeviceStep::for_codes(OperandLayout::KMajor, 64, 100, b);
    /// assert_eq!(step, Some(DeviceStep::Repack { rows: 64, k: 100 }));
    /// assert_eq!(DeviceStep::for_codes(OperandLayout::KMajor, 64, 100, DeviceMatrix { stride: 112, ..b }), None);
    /// ```
    pub fn for_codes(layout: OperandLayout, rows: usize, k: usize, codes: DeviceMatrix) -> Option<Self> {
        match layout {
            OperandLayout::MnMajor => Some(Self::Transpose { rows, k }),
            OperandLayout::KMajor if codes.pointer.is_multiple_of(16) && codes.stride.is_multiple_of(16) => None,
            OperandLayout::KMajor => Some(Self::Repack { rows, k }),
        }
    }

    /// Bytes that it moves.
    pub fn bytes(&self) -> StepBytes {
        let elements = |rows: usize, k: usize| rows as u128 * k as u128;
        match self {
            Self::Quantize(Quantization { rows, k, input, quantizer, .. }) => {
                let form = scale_form(quantizer);
                let (height, width) = form.shape(*rows, *k);
                let codes = elements(*rows, *k);
                StepBytes { read: codes * input.size() as u128, written: codes + 4 * elements(height, width) }
            }
            Self::Transpose { rows, k } | Self::Repack { rows, k } => {
                StepBytes { read: elements(*rows, *k), written: elements(*rows, *k) }
            }
        }
    }
}

/// The form in which a quantiser's scales are written.
pub(crate) fn scale_form(quantizer: &Quantizer) -> ScaleForm {
    if quantizer.layout == ScaleLayout::Block128x128 { ScaleForm::Squares } else { ScaleForm::BlocksByRows }
}

impl fmt::Display for DeviceStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Quantize(Quantization { rows, k, input, layout, quantizer }) => {
                let (first, second) = if *layout == OperandLayout::KMajor { (rows, k) } else { (k, rows) };
                let transposed = if *layout == OperandLayout::KMajor { "" } else { ", transposed" };
                write!(f, "{input} [{first}, {second}] quantised by {quantizer}{transposed}")?;
            }
            Self::Transpose { rows, k } => write!(f, "codes [{k}, {rows}] transposed to [{rows}, {k}]")?,
            Self::Repack { rows, k } => {
                write!(f, "codes [{rows}, {k}] copied to rows of {} bytes, for TMA", k.next_multiple_of(16))?;
            }
        }
        let StepBytes { read, written } = self.bytes();
        write!(f, ": {:.1} MB read, {:.1} MB written", read as f64 / 1e6, written as f64 / 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fp8gemm_formats::quantize::Recipe;
    use fp8gemm_problem::OutputType;

    /// Breaks if an operand of NN, TN or TT is taken for another layout than it has.
    #[test]
    fn layouts_are_those_of_blas() {
        use OperandLayout::{KMajor, MnMajor};
        let expected =
            [("nt", KMajor, KMajor), ("nn", KMajor, MnMajor), ("tn", MnMajor, MnMajor), ("tt", MnMajor, KMajor)];
        for (text, a, b) in expected {
            let layout: GemmLayout = text.parse().unwrap();
            assert_eq!((layout.operand(Side::A), layout.operand(Side::B), layout.to_string()), (a, b, text.into()));
        }
        assert!("xy".parse::<GemmLayout>().unwrap_err().to_string().contains("nt, nn, tn or tt"));
    }

    /// Breaks if codes that TMA cannot read need no step, or the cost of a step is not what it moves.
    #[test]
    fn steps_are_named_with_their_cost() {
        use OperandLayout::{KMajor, MnMajor};
        let at = |pointer, stride| DeviceMatrix { pointer, stride };
        let step = |layout, codes| DeviceStep::for_codes(layout, 3, 100, codes);
        assert_eq!(step(KMajor, at(0x100, 112)), None);
        assert_eq!(step(KMajor, at(0x101, 112)), Some(DeviceStep::Repack { rows: 3, k: 100 }));
        assert_eq!(step(KMajor, at(0x100, 100)), Some(DeviceStep::Repack { rows: 3, k: 100 }));
        let transpose = step(MnMajor, at(0x100, 112)).unwrap();
        assert_eq!(transpose.bytes(), StepBytes { read: 300, written: 300 });
        let quantizer = Quantizer::new(Recipe::DeepGemm);
        let quantize = Quantization { rows: 4096, k: 7168, input: OutputType::Bf16, layout: MnMajor, quantizer };
        assert_eq!(
            DeviceStep::Quantize(quantize).to_string(),
            "bf16 [7168, 4096] quantised by deepgemm:1x128:e4m3, transposed: 58.7 MB read, 30.3 MB written"
        );
    }
}
