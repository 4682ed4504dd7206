//! The problem as a whole: sizes, types, scales, policy and epilogue in one printable value.

use core::fmt;
use core::str::FromStr;

use crate::{Epilogue, OperandType, OutputType, Policy, ProblemError, ScaleLayout};

/// Which operand of the GEMM is meant, for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The `[M, K]` operand.
    A,
    /// The `[N, K]` operand.
    B,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::A => "A",
            Self::B => "B",
        })
    }
}

/// Element type and scale layout of one operand; prints as `e4m3:1x128`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OperandSpec {
    /// Element type.
    pub ty: OperandType,
    /// Which elements share a scale.
    pub scales: ScaleLayout,
}

impl fmt::Display for OperandSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.ty, self.scales)
    }
}

impl FromStr for OperandSpec {
    type Err = ProblemError;

    fn from_str(text: &str) -> Result<Self, ProblemError> {
        let (ty, scales) = text
            .split_once(':')
            .ok_or_else(|| ProblemError::parse("operand", text, "<type>:<scale layout>, e.g. e4m3:1x128"))?;
        Ok(Self { ty: ty.parse()?, scales: scales.parse()? })
    }
}

/// One scaled GEMM: `D[M, N] = alpha * A[M, K] B[N, K]^T + beta * C[M, N]`.
///
/// Prints as `MxNxK a=<type>:<scales> b=<type>:<scales> d=<type> policy=<policy>`, followed by
/// ` c=<type>`, ` alpha=<x>` and ` beta=<x>` where they are not the defaults, and parses that in
/// any order after the sizes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Problem {
    /// Rows of A and D.
    pub m: usize,
    /// Rows of B, columns of D.
    pub n: usize,
    /// Columns of A and B.
    pub k: usize,
    /// The A operand.
    pub a: OperandSpec,
    /// The B operand.
    pub b: OperandSpec,
    /// Element type of C, where there is one.
    pub c: Option<OutputType>,
    /// Element type of D.
    pub d: OutputType,
    /// How products are accumulated.
    pub policy: Policy,
    /// Alpha and beta.
    pub epilogue: Epilogue,
}

impl Problem {
    /// Checks everything that can be known before any data is looked at.
    ///
    /// # Errors
    /// [`ProblemError::TooLarge`], [`ProblemError::MissingC`], or what [`Policy::check`] says.
    pub fn check(&self) -> Result<(), ProblemError> {
        for (what, rows, columns) in [("A", self.m, self.k), ("B", self.n, self.k), ("D", self.m, self.n)] {
            // The largest element is 4 bytes; Rust allocations end at isize::MAX.
            if rows.checked_mul(columns).is_none_or(|elements| elements > isize::MAX as usize / 4) {
                return Err(ProblemError::TooLarge { what, rows, columns });
            }
        }
        if self.epilogue.reads_c() && self.c.is_none() {
            return Err(ProblemError::MissingC { beta: self.epilogue.beta });
        }
        self.policy.check(self.a.scales, self.b.scales)
    }

    /// Multiply-adds of the product, `M * N * K`; wide enough for any legal problem.
    pub fn macs(&self) -> u128 {
        self.m as u128 * self.n as u128 * self.k as u128
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}x{} a={} b={} d={} policy={}", self.m, self.n, self.k, self.a, self.b, self.d, self.policy)?;
        if let Some(c) = self.c {
            write!(f, " c={c}")?;
        }
        if self.epilogue.alpha != 1.0 {
            write!(f, " alpha={:?}", self.epilogue.alpha)?;
        }
        if self.epilogue.beta != 0.0 {
            write!(f, " beta={:?}", self.epilogue.beta)?;
        }
        Ok(())
    }
}

impl FromStr for Problem {
    type Err = ProblemError;

    fn from_str(text: &str) -> Result<Self, ProblemError> {
        const EXPECTED: &str = "MxNxK a=<type>:<scales> b=<type>:<scales> d=<type> [policy=] [c=] [alpha=] [beta=]";
        let bad = || ProblemError::parse("problem", text, EXPECTED);
        let mut words = text.split_whitespace();
        let sizes: Vec<usize> = words
            .next()
            .ok_or_else(bad)?
            .split('x')
            .map(|size| size.parse().map_err(|_| bad()))
            .collect::<Result<_, _>>()?;
        let [m, n, k] = sizes[..] else { return Err(bad()) };
        let (mut a, mut b, mut c, mut d) = (None, None, None, None);
        let (mut policy, mut alpha, mut beta) = (None, None, None);
        for word in words {
            let (key, value) = word.split_once('=').ok_or_else(bad)?;
            let repeated = match key {
                "a" => a.replace(value.parse()?).is_some(),
                "b" => b.replace(value.parse()?).is_some(),
                "c" => c.replace(value.parse()?).is_some(),
                "d" => d.replace(value.parse()?).is_some(),
                "policy" => policy.replace(value.parse()?).is_some(),
                "alpha" => alpha.replace(value.parse().map_err(|_| bad())?).is_some(),
                "beta" => beta.replace(value.parse().map_err(|_| bad())?).is_some(),
                _ => return Err(bad()),
            };
            if repeated {
                return Err(bad());
            }
        }
        Ok(Self {
            m,
            n,
            k,
            a: a.ok_or_else(bad)?,
            b: b.ok_or_else(bad)?,
            c,
            d: d.ok_or_else(bad)?,
            policy: policy.unwrap_or_default(),
            epilogue: Epilogue { alpha: alpha.unwrap_or(1.0), beta: beta.unwrap_or(0.0) },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Breaks if a problem printed in a failure report cannot be pasted back.
    #[test]
    fn prints_and_parses() {
        for text in [
            "1x2x3 a=e4m3:1x128 b=e5m2:128x128 d=bf16 policy=promote128",
            "1x2x3 a=e4m3:row b=e5m2:tensor d=f32 policy=chain c=bf16 alpha=0.5 beta=-1e-40",
        ] {
            assert_eq!(text.parse::<Problem>().unwrap().to_string(), text);
        }
        for bad in [
            "",
            "1x2",
            "1x2x3",
            "1x2x3 a=e4m3 b=e4m3:row d=f32",
            "1x2x3 a=e4m3:row a=e4m3:row b=e4m3:row d=f32",
            "1x2x3 a=e4m3:row b=e4m3:row d=f32 alpha=one",
            "1x2x3 a=e4m3:row b=e4m3:row d=f32 gamma=1",
        ] {
            assert!(bad.parse::<Problem>().is_err(), "{bad:?} was accepted");
        }
    }

    /// Breaks if an impossible problem reaches an engine.
    #[test]
    fn check_finds_what_data_cannot_mend() {
        let good: Problem = "1x2x3 a=e4m3:row b=e4m3:row d=f32".parse().unwrap();
        assert_eq!(good.check(), Ok(()));
        let beta = Problem { epilogue: Epilogue::ACCUMULATE, ..good };
        assert_eq!(beta.check(), Err(ProblemError::MissingC { beta: 1.0 }));
        let huge = Problem { m: usize::MAX / 2, k: 3, ..good };
        assert!(matches!(huge.check(), Err(ProblemError::TooLarge { what: "A", .. })));
    }
}
