//! How a D differs from what a policy gives, to people and as JSON.

use fp8gemm::problem::OutputType;
use fp8gemm::sim::{Comparison, Difference, Matrix};
use half::{bf16, f16};
use ndarray::array;
use serde::Serialize;

use crate::text::{Single, bits, count, grouped, value};

/// How D differs from what the policy gives.
#[derive(Serialize)]
pub(super) struct DifferenceReport {
    first_difference: Option<ElementReport>,
    /// Largest distance in units of the last place between numbers; null where there is none.
    max_ulp: Option<u64>,
    /// Elements of which exactly one side is NaN.
    nan_mismatches: usize,
    /// What the difference looks like.
    kind: Option<String>,
}

/// One element that differs.
#[derive(Serialize)]
pub(super) struct ElementReport {
    row: usize,
    column: usize,
    /// What the policy gives.
    expected_bits: String,
    expected: Single,
    /// What the file holds.
    actual_bits: String,
    actual: Single,
}

impl DifferenceReport {
    pub(super) fn new(comparison: &Comparison, ty: OutputType) -> Self {
        Self {
            first_difference: comparison.first.map(|first| ElementReport::new(first, ty)),
            max_ulp: comparison.max_ulp,
            nan_mismatches: comparison.nan_mismatches,
            kind: comparison.kind().map(ToString::to_string),
        }
    }

    pub(super) fn rows(&self, ty: OutputType) -> Vec<Vec<String>> {
        let mut rows = Vec::new();
        let mut row = |name: &str, what: String| rows.push(vec![name.to_owned(), what]);
        if let Some(first) = &self.first_difference {
            row("first", first.text());
        }
        match self.max_ulp {
            Some(ulp) => row("largest", format!("{} ULP of {ty}", grouped(ulp))),
            None => row("largest", "numbers against NaN only".to_owned()),
        }
        if self.nan_mismatches > 0 {
            row("NaN", format!("{} NaN on one side only", count(self.nan_mismatches as u64, "element")));
        }
        if let Some(kind) = &self.kind {
            row("looks like", kind.clone());
        }
        rows
    }
}

impl ElementReport {
    pub(super) fn new(difference: Difference, ty: OutputType) -> Self {
        let Difference { row, column, expected, actual } = difference;
        Self {
            row,
            column,
            expected_bits: bits(expected, ty),
            expected: Single(widen(expected, ty)),
            actual_bits: bits(actual, ty),
            actual: Single(widen(actual, ty)),
        }
    }

    pub(super) fn text(&self) -> String {
        let Self { row, column, expected_bits, expected, actual_bits, actual } = self;
        let (expected, actual) = (value(expected.0), value(actual.0));
        format!("row {row} column {column}: expected {expected_bits} ({expected}), found {actual_bits} ({actual})")
    }
}

/// The value of the bits of an output.
fn widen(bits: u32, ty: OutputType) -> f32 {
    // A matrix of one element knows how.
    let matrix = match ty {
        OutputType::Bf16 => Matrix::Bf16(array![[bf16::from_bits(bits as u16)]]),
        OutputType::F16 => Matrix::F16(array![[f16::from_bits(bits as u16)]]),
        OutputType::F32 => Matrix::F32(array![[f32::from_bits(bits)]]),
    };
    matrix.view().get(0, 0)
}
