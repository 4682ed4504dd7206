//! A tensor core's parameters from recorded single instructions alone.
//!
//! Every [`TensorCore`] of a grid (terms and their order, fraction bits, alignment, accumulator bits
//! and rounding, and the three rules for products and subnormals) is held against the recorded outputs
//! until the first that it does not give. What is left is every model that the recordings allow: one,
//! or several that they cannot tell apart, or none.
//!
//! ```
//! use fp8gemm_difftest::fit::{Recording, fit};
//! use fp8gemm_problem::{OperandType, OutputType};
//!
//! // One product, 1 * 1: it rules out nearly nothing.
//! let (mut a, c, d) = ([0u8; 32], [0u32], [0x3F80_0000u32]);
//! a[0] = 0x38;
//! let recording = Recording {
//!     a_type: OperandType::E4m3, b_type: OperandType::E4m3, accumulator: OutputType::F32,
//!     m: 1, n: 1, a: &a, b: &a, c: &c, d: &d,
//! };
//! let found = fit(&[recording])?;
//! assert!(found.models.len() > 1000);
//! assert!(found.parameters.iter().any(|parameter| parameter.name == "terms" && parameter.open()));
//! # Ok::<(), fp8gemm_difftest::DifftestError>(())
//! ```

use fp8gemm_problem::{OperandType, OutputType};
use fp8gemm_sim::Rounding;
use fp8gemm_sim::tensor_core::{Accumulator, Alignment, InputFormat, Operand, TensorCore, TermOrder};
use rayon::prelude::*;

use crate::DifftestError;

/// K of one FP8 `wgmma` instruction.
const K: usize = 32;

/// Outputs on which models are screened before all are computed.
const SCREEN: usize = 96;

/// Tiles of one instruction: `D[t] = A[t] B[t]^T + C[t]`, A `[t, m, 32]`, B `[t, n, 32]`, C and D
/// `[t, m, n]` as bits of the accumulator's type.
#[derive(Clone, Copy, Debug)]
pub struct Recording<'a> {
    /// Type of A.
    pub a_type: OperandType,
    /// Type of B.
    pub b_type: OperandType,
    /// Type of C and D: f32 or f16.
    pub accumulator: OutputType,
    /// Rows of a tile.
    pub m: usize,
    /// Columns of a tile.
    pub n: usize,
    /// Codes.
    pub a: &'a [u8],
    /// Codes.
    pub b: &'a [u8],
    /// Bits.
    pub c: &'a [u32],
    /// Bits.
    pub d: &'a [u32],
}

/// What recordings say of a tensor core.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Fit {
    /// Every model of the grid that gives all outputs, the plainest first.
    pub models: Vec<TensorCore>,
    /// Models tried.
    pub tried: usize,
    /// Outputs recorded.
    pub outputs: usize,
    /// Each parameter with the values that it has in some of [`models`](Self::models).
    pub parameters: Vec<Parameter>,
    /// The largest exponent floor that still gives all outputs with the first model; every lower one
    /// does too. `None` where no model is left, or none of those tried does.
    pub largest_floor: Option<i32>,
    /// Alternatives to the first model in one parameter, with the number of outputs that refute each.
    pub refuted: Vec<(String, usize)>,
}

/// One parameter of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// Values that the recordings allow.
    pub values: Vec<String>,
    /// Values tried.
    pub tried: usize,
}

impl Parameter {
    /// Whether the recordings leave more than one value.
    pub fn open(&self) -> bool {
        self.values.len() > 1
    }
}

/// Finds every model that gives all outputs of these recordings, which must have one accumulator type
/// in common. Seconds for ten thousand outputs.
///
/// # Errors
/// [`DifftestError::Recording`] where sizes do not fit together, there is nothing, or accumulators
/// differ.
pub fn fit(recordings: &[Recording<'_>]) -> Result<Fit, DifftestError> {
    let outputs = decode(recordings)?;
    let is_f16 = recordings.first().is_some_and(|recording| recording.accumulator == OutputType::F16);
    let grid = grid(is_f16);
    // Spread over all tiles, so that every kind of data is among them.
    let step = outputs.len().div_ceil(SCREEN);
    let screen: Vec<&Output> = outputs.iter().step_by(step).collect();
    let mut models: Vec<TensorCore> = grid
        .par_iter()
        .copied()
        .filter(|core| screen.iter().all(|output| output.given_by(core)))
        .collect::<Vec<_>>()
        .into_par_iter()
        .filter(|core| outputs.iter().all(|output| output.given_by(core)))
        .collect();
    models.sort_by_key(plainness);
    let (mut largest_floor, mut refuted) = (None, Vec::new());
    if let Some(first) = models.first() {
        largest_floor = floor(first, &outputs);
        refuted = alternatives(first)
            .into_par_iter()
            .map(|(name, core)| (name, outputs.iter().filter(|output| !output.given_by(&core)).count()))
            .collect();
    }
    let parameters = parameters(&models, &grid);
    Ok(Fit { models, tried: grid.len(), outputs: outputs.len(), parameters, largest_floor, refuted })
}

/// One recorded output, decoded.
struct Output {
    a: [Operand; K],
    b: [Operand; K],
    c: u32,
    d: u32,
}

impl Output {
    fn given_by(&self, core: &TensorCore) -> bool {
        core.dot(&self.a, &self.b, self.c).is_ok_and(|d| d == self.d)
    }
}

fn decode(recordings: &[Recording<'_>]) -> Result<Vec<Output>, DifftestError> {
    let mut outputs = Vec::new();
    for r in recordings {
        let (tile, tiles) = (r.m * r.n, r.d.len() / (r.m * r.n).max(1));
        let parts = [
            ("d", r.d.len(), tiles.max(1) * tile.max(1)),
            ("c", r.c.len(), r.d.len()),
            ("a", r.a.len(), tiles * r.m * K),
            ("b", r.b.len(), tiles * r.n * K),
        ];
        if let Some((what, found, expected)) = parts.into_iter().find(|(_, found, expected)| found != expected) {
            return Err(DifftestError::Recording { what, found, expected });
        }
        if r.accumulator != recordings[0].accumulator {
            return Err(DifftestError::Recording { what: "another accumulator type", found: 2, expected: 1 });
        }
        let table = |ty: OperandType| -> [Operand; 256] {
            core::array::from_fn(|code| InputFormat::from(ty).operand(code as u32))
        };
        let (table_a, table_b) = (table(r.a_type), table(r.b_type));
        let operands = |codes: &[u8], table: &[Operand; 256], row: usize| -> [Operand; K] {
            core::array::from_fn(|i| table[usize::from(codes[row * K + i])])
        };
        for (at, (&c, &d)) in r.c.iter().zip(r.d).enumerate() {
            let (tile_at, row, column) = (at / tile, at / r.n % r.m, at % r.n);
            let a = operands(r.a, &table_a, tile_at * r.m + row);
            let b = operands(r.b, &table_b, tile_at * r.n + column);
            outputs.push(Output { a, b, c, d });
        }
    }
    if outputs.is_empty() {
        return Err(DifftestError::Recording { what: "everything", found: 0, expected: 1 });
    }
    Ok(outputs)
}

/// Every model that is tried.
fn grid(is_f16: bool) -> Vec<TensorCore> {
    let base = if is_f16 { TensorCore::HOPPER_FP8_F16 } else { TensorCore::HOPPER_FP8_F32 };
    let roundings = [Rounding::TowardZero, Rounding::NearestEven];
    let accumulators: Vec<Accumulator> = if is_f16 {
        roundings.map(|rounding| Accumulator::F16 { rounding }).to_vec()
    } else {
        (8..=23)
            .flat_map(|fraction_bits| roundings.map(|rounding| Accumulator::F32 { fraction_bits, rounding }))
            .collect()
    };
    let mut groups = vec![(32, TermOrder::Consecutive)];
    for terms in [16, 8, 4] {
        groups.extend([(terms, TermOrder::Consecutive), (terms, TermOrder::Interleaved)]);
    }
    let mut grid = Vec::new();
    for (terms, order) in groups {
        for fraction_bits in 7..=30 {
            for alignment in [Alignment::TowardZero, Alignment::Floor, Alignment::NearestEven] {
                for &accumulator in &accumulators {
                    for rules in 0..8u8 {
                        grid.push(TensorCore {
                            terms,
                            order,
                            fraction_bits,
                            alignment,
                            accumulator,
                            renormalised_products: rules & 1 != 0,
                            normalised_subnormals: rules & 2 != 0,
                            zero_products_in_max: rules & 4 != 0,
                            ..base
                        });
                    }
                }
            }
        }
    }
    grid
}

/// Fewer special rules first, then more terms, then fewer bits.
fn plainness(core: &TensorCore) -> (u8, usize, u32, u32) {
    let rules = u8::from(core.renormalised_products)
        + u8::from(core.normalised_subnormals)
        + u8::from(core.zero_products_in_max)
        + u8::from(core.alignment != Alignment::TowardZero);
    let bits = match core.accumulator {
        Accumulator::F32 { fraction_bits, .. } => fraction_bits,
        Accumulator::F16 { .. } => 10,
    };
    (rules, 32 - core.terms, core.fraction_bits, bits)
}

/// The largest floor that changes nothing, by bisection: a higher one can only cut more.
fn floor(core: &TensorCore, outputs: &[Output]) -> Option<i32> {
    let fits = |floor: i32| {
        let core = TensorCore { exponent_floor: floor, ..*core };
        outputs.par_iter().all(|output| output.given_by(&core))
    };
    let (mut low, mut high) = (-200, 64);
    if !fits(low) {
        return None;
    }
    while high - low > 1 {
        let middle = (low + high) / 2;
        if fits(middle) { low = middle } else { high = middle }
    }
    Some(low)
}

/// The model with one parameter changed.
fn alternatives(core: &TensorCore) -> Vec<(String, TensorCore)> {
    fp8gemm_sim::tensor_core::mutants::all(*core)
        .into_iter()
        .filter(|(_, mutant)| mutant != core && mutant.check().is_ok())
        .map(|(name, mutant)| (name.to_owned(), mutant))
        .collect()
}

type Reading = fn(&TensorCore) -> String;

/// Values of each parameter among the models left.
fn parameters(models: &[TensorCore], grid: &[TensorCore]) -> Vec<Parameter> {
    let readings: [(&'static str, Reading); 9] = [
        ("terms", |core| core.terms.to_string()),
        ("order of terms", |core| format!("{:?}", core.order).to_lowercase()),
        ("fraction bits at alignment", |core| core.fraction_bits.to_string()),
        ("alignment", |core| match core.alignment {
            Alignment::TowardZero => "toward zero".to_owned(),
            Alignment::Floor => "floor".to_owned(),
            Alignment::NearestEven => "nearest even".to_owned(),
        }),
        ("fraction bits of the output", |core| match core.accumulator {
            Accumulator::F32 { fraction_bits, .. } => fraction_bits.to_string(),
            Accumulator::F16 { .. } => "10".to_owned(),
        }),
        ("rounding of the output", |core| match core.accumulator {
            Accumulator::F32 { rounding: Rounding::TowardZero, .. }
            | Accumulator::F16 { rounding: Rounding::TowardZero } => "toward zero".to_owned(),
            _ => "nearest even".to_owned(),
        }),
        ("products renormalised", |core| yes(core.renormalised_products)),
        ("subnormals normalised", |core| yes(core.normalised_subnormals)),
        ("zero products in the maximum", |core| yes(core.zero_products_in_max)),
    ];
    let distinct = |cores: &[TensorCore], reading: Reading| {
        let mut values: Vec<String> = Vec::new();
        for value in cores.iter().map(reading) {
            if !values.contains(&value) {
                values.push(value);
            }
        }
        values
    };
    readings
        .into_iter()
        .map(|(name, reading)| Parameter {
            name,
            values: distinct(models, reading),
            tried: distinct(grid, reading).len(),
        })
        .collect()
}

fn yes(rule: bool) -> String {
    if rule { "yes" } else { "no" }.to_owned()
}
