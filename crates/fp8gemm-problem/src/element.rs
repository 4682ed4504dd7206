//! Element types of the operands and of the result.

use core::fmt;
use core::str::FromStr;

use crate::ProblemError;

/// Element type of A or B: what an FP8 `wgmma` instruction reads.
///
/// The two operands are chosen independently; all four mixes are legal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OperandType {
    /// 1 sign, 4 exponent, 3 mantissa bits; largest value 448; no infinity (OCP E4M3, "FN").
    E4m3,
    /// 1 sign, 5 exponent, 2 mantissa bits; largest value 57344; has infinities.
    E5m2,
}

impl OperandType {
    /// Every operand type.
    pub const ALL: [Self; 2] = [Self::E4m3, Self::E5m2];
}

impl fmt::Display for OperandType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::E4m3 => "e4m3",
            Self::E5m2 => "e5m2",
        })
    }
}

impl FromStr for OperandType {
    type Err = ProblemError;

    fn from_str(text: &str) -> Result<Self, ProblemError> {
        match text {
            "e4m3" => Ok(Self::E4m3),
            "e5m2" => Ok(Self::E5m2),
            _ => Err(ProblemError::parse("operand type", text, "e4m3 or e5m2")),
        }
    }
}

/// Element type of C or D.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OutputType {
    /// bfloat16: 8 exponent and 7 mantissa bits.
    Bf16,
    /// IEEE 754 binary16.
    F16,
    /// IEEE 754 binary32.
    F32,
}

impl OutputType {
    /// Every output type.
    pub const ALL: [Self; 3] = [Self::Bf16, Self::F16, Self::F32];

    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::Bf16 | Self::F16 => 2,
            Self::F32 => 4,
        }
    }
}

impl fmt::Display for OutputType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::F32 => "f32",
        })
    }
}

impl FromStr for OutputType {
    type Err = ProblemError;

    fn from_str(text: &str) -> Result<Self, ProblemError> {
        match text {
            "bf16" => Ok(Self::Bf16),
            "f16" => Ok(Self::F16),
            "f32" => Ok(Self::F32),
            _ => Err(ProblemError::parse("output type", text, "bf16, f16 or f32")),
        }
    }
}
