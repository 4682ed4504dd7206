//! In which order, and with which roundings, products become an accumulator.

use core::fmt;
use core::str::FromStr;

use crate::{ProblemError, ScaleLayout};

/// An accumulation policy: the whole arithmetic between the FP8 products and the epilogue.
///
/// `chain(r)` is what the tensor core gives for a range `r` of K: k32 steps in order, each 32
/// products plus the running accumulator, starting from +0 (`fp8gemm-sim` models the step). K is
/// padded with zeros to a multiple of 128 (of 32 where a side has 1x32 scales); the padding is part
/// of the arithmetic: promoting it makes NaN of an infinite scale and +0 of -0. `fl` is one f32
/// rounding to nearest even, `fma` a fused multiply-add.
///
/// | policy | scales change along K (1x128, 128x128, 1x32 on a side) | row or tensor scales |
/// |---|---|---|
/// | `promote<n>` | for each n of K: `acc = fma(fl(sa*sb), chain, acc)` | `acc = fl(acc + chain)`, at the end `fl(fl(sa*sb) * acc)` |
/// | `chain` | illegal | one chain over all of K, at the end `fl(fl(sa*sb) * acc)` |
/// | `cutlass128` | for each 128 of K: `acc = fma(fl(chain*sa), sb, acc)` | as `promote128` |
/// | `split<p>` | `promote128` on p contiguous ranges of 128-blocks (the first ranges take the remainder), partial sums added in range order in f32 | the same, scaled after the sum |
///
/// `promote128` is DeepGEMM's 1D2D and 1D1D arithmetic and cuBLASLt's with fast accumulation off;
/// `chain` is cuBLASLt's with fast accumulation on. Under `promote<n>`, `chain` and `cutlass128` an
/// output depends only on its row of A, its row of B and their scales (batch invariance).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Policy {
    /// Move the tensor-core accumulator into an f32 register every `every` elements of K.
    Promote {
        /// Elements of K between promotions: a positive multiple of 32, and a divisor of the
        /// scale block where scales change along K.
        every: u32,
    },
    /// Never promote: one tensor-core chain over all of K.
    Chain,
    /// Promote every 128 with the scales applied one after the other, as CUTLASS's block-wise
    /// kernel does when neither scale is uniform over the tile.
    Cutlass128,
    /// Cut K into `parts` ranges, `promote128` in each, then add the partial sums in order.
    Split {
        /// Number of ranges, at least 1. Ranges left empty by a short K contribute nothing.
        parts: u32,
    },
}

impl Policy {
    /// `promote128`: the default, and DeepGEMM's arithmetic.
    pub const PROMOTE_128: Self = Self::Promote { every: 128 };

    /// The policies that `verify` tries when none is named.
    pub const COMMON: [Self; 7] = [
        Self::PROMOTE_128,
        Self::Chain,
        Self::Cutlass128,
        Self::Promote { every: 64 },
        Self::Promote { every: 32 },
        Self::Split { parts: 2 },
        Self::Split { parts: 4 },
    ];

    /// Checks the policy's own parameter, then that it is legal for these scale layouts.
    ///
    /// # Errors
    /// [`ProblemError::PolicyParameter`] for `promote100` or `split0`,
    /// [`ProblemError::ScaleNotAlongK`] for a 128x1 operand, and
    /// [`ProblemError::PolicyAndScales`] for a pair that has no meaning (`chain` with block scales).
    pub fn check(self, a: ScaleLayout, b: ScaleLayout) -> Result<(), ProblemError> {
        self.check_parameter()?;
        for layout in [a, b] {
            if layout == ScaleLayout::Block128x1 {
                return Err(ProblemError::ScaleNotAlongK { layout });
            }
        }
        let Some(block) = a.k_block().into_iter().chain(b.k_block()).min() else {
            return Ok(());
        };
        let legal = match self {
            Self::Promote { every } => block % every as usize == 0,
            Self::Chain => false,
            Self::Cutlass128 | Self::Split { .. } => block == 128,
        };
        if legal { Ok(()) } else { Err(ProblemError::PolicyAndScales { policy: self, a, b, block }) }
    }

    fn check_parameter(self) -> Result<(), ProblemError> {
        match self {
            Self::Promote { every } if every == 0 || every % 32 != 0 => Err(ProblemError::PolicyParameter {
                policy: self,
                rule: "the promotion interval is a positive multiple of 32 (one wgmma step)",
            }),
            Self::Split { parts: 0 } => {
                Err(ProblemError::PolicyParameter { policy: self, rule: "a split has at least 1 part" })
            }
            _ => Ok(()),
        }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self::PROMOTE_128
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Promote { every } => f.pad(&format!("promote{every}")),
            Self::Chain => f.pad("chain"),
            Self::Cutlass128 => f.pad("cutlass128"),
            Self::Split { parts } => f.pad(&format!("split{parts}")),
        }
    }
}

impl FromStr for Policy {
    type Err = ProblemError;

    /// Reads what `Display` writes; numbers are plain decimal without sign or leading zero.
    fn from_str(text: &str) -> Result<Self, ProblemError> {
        const EXPECTED: &str = "promote<n> with n a multiple of 32, chain, cutlass128 or split<p>";
        let number = |digits: &str| {
            digits
                .parse::<u32>()
                .ok()
                .filter(|value| value.to_string() == digits)
                .ok_or_else(|| ProblemError::parse("policy", text, EXPECTED))
        };
        let policy = match text {
            "chain" => Self::Chain,
            "cutlass128" => Self::Cutlass128,
            _ => {
                if let Some(digits) = text.strip_prefix("promote") {
                    Self::Promote { every: number(digits)? }
                } else if let Some(digits) = text.strip_prefix("split") {
                    Self::Split { parts: number(digits)? }
                } else {
                    return Err(ProblemError::parse("policy", text, EXPECTED));
                }
            }
        };
        policy.check_parameter()?;
        Ok(policy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ScaleLayout::{Block1x32, Block1x128, Block128x1, Block128x128, Row, Tensor};

    /// Breaks if a printed policy no longer parses, or if a malformed one is accepted.
    #[test]
    fn prints_and_parses() {
        for policy in Policy::COMMON {
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
        for bad in ["", "promote", "promote0", "promote100", "promote+128", "promote0128", "split0", "split", "Chain"] {
            assert!(bad.parse::<Policy>().is_err(), "{bad:?} was accepted");
        }
    }

    /// Breaks if a meaningless pair of policy and scales would be computed as something else.
    #[test]
    fn legality_is_the_documented_table() {
        let legal = |policy: &str, a, b| policy.parse::<Policy>().unwrap().check(a, b).is_ok();
        assert!(legal("promote128", Block1x128, Block128x128));
        assert!(legal("promote32", Block1x128, Block1x128));
        assert!(legal("promote64", Block1x128, Tensor));
        assert!(!legal("promote256", Block1x128, Block128x128));
        assert!(!legal("promote96", Block1x128, Row));
        assert!(legal("promote256", Row, Tensor));
        assert!(legal("promote96", Row, Tensor));
        assert!(!legal("chain", Row, Block128x128));
        assert!(legal("chain", Row, Tensor));
        assert!(legal("split3", Block1x128, Block128x128));
        assert!(legal("promote32", Block1x32, Block1x32));
        assert!(!legal("promote128", Block1x32, Block1x128));
        assert!(!legal("cutlass128", Block1x32, Block1x32));
        assert!(!legal("promote128", Block128x1, Tensor));
    }
}
