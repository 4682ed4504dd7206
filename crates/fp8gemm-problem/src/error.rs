//! The one error type of this crate.

use crate::{Policy, ScaleLayout};

/// Why a problem, or its text, is not a legal scaled GEMM. Each names the argument, its value and
/// the rule.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ProblemError {
    /// Text that does not parse.
    #[error("{what} {text:?} is not known: expected {expected}")]
    Parse {
        /// What was being read, e.g. "policy".
        what: &'static str,
        /// The text as given.
        text: String,
        /// The accepted forms.
        expected: &'static str,
    },
    /// A policy whose own number breaks its rule.
    #[error("policy {policy}: {rule}")]
    PolicyParameter {
        /// The policy.
        policy: Policy,
        /// The rule it breaks.
        rule: &'static str,
    },
    /// A policy that has no meaning with these scales.
    #[error(
        "policy {policy} is not defined for scales {a} (A) with {b} (B): scales change every {block} elements of K, \
         so the accumulator must be promoted at a divisor of {block} (use promote{block} or a divisor that is a multiple of 32)"
    )]
    PolicyAndScales {
        /// The policy.
        policy: Policy,
        /// Scale layout of A.
        a: ScaleLayout,
        /// Scale layout of B.
        b: ScaleLayout,
        /// Elements of K under one scale, the smaller of the two sides.
        block: usize,
    },
    /// Scales that differ at every element of K cannot be applied outside the tensor core.
    #[error(
        "scale layout {layout} changes at every element of K, which no block-scaled GEMM can apply: transpose the operand (it is then 1x128)"
    )]
    ScaleNotAlongK {
        /// The layout.
        layout: ScaleLayout,
    },
    /// Beta asks for C, but the problem has none.
    #[error("beta is {beta} but the problem has no C: give C or set beta to 0")]
    MissingC {
        /// The value of beta.
        beta: f32,
    },
    /// Sizes whose product cannot be addressed.
    #[error("{what} of {rows} x {columns} elements does not fit the address space")]
    TooLarge {
        /// Which matrix.
        what: &'static str,
        /// Its rows.
        rows: usize,
        /// Its columns.
        columns: usize,
    },
}

impl ProblemError {
    pub(crate) fn parse(what: &'static str, text: &str, expected: &'static str) -> Self {
        Self::Parse { what, text: text.to_owned(), expected }
    }
}
