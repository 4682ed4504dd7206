//! A problem's operands: ordinary numbers and adversarial ones, and what the twin makes of them.

use fp8gemm_formats::{Fp8Format, Overflow, Rounding, ScaledMatrix};
use fp8gemm_hopper::{HostMatrix, HostView};
use fp8gemm_problem::{OperandSpec, OperandType, OutputType, Problem};
use fp8gemm_sim::{Gemm, Matrix, MatrixView};
use ndarray::Array2;
use rand::{Rng, SeedableRng, rngs::StdRng};

/// A problem with its data.
pub(crate) struct Case {
    pub(crate) problem: Problem,
    pub(crate) a: ScaledMatrix,
    pub(crate) b: ScaledMatrix,
    pub(crate) c: Option<Matrix>,
    /// Kinds of the data above, for messages.
    pub(crate) kinds: String,
}

impl Case {
    /// All from one number, so that a failure can be repeated.
    pub(crate) fn seeded(problem: Problem, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        Self::random(problem, &mut rng)
    }

    pub(crate) fn random(problem: Problem, rng: &mut StdRng) -> Self {
        let (codes_a, codes_b) = match rng.random_range(0..8) {
            0 => (Codes::Alternating, Codes::Pairs),
            1 => (Codes::Pairs, Codes::Alternating),
            _ => (Codes::any(rng), Codes::any(rng)),
        };
        let (scales_a, scales_b) = (Scales::any(rng), Scales::any(rng));
        let a = operand(problem.a, problem.m, problem.k, codes_a, scales_a, rng);
        let b = operand(problem.b, problem.n, problem.k, codes_b, scales_b, rng);
        let kind_c = rng.random_range(0..4);
        let c = problem.c.map(|ty| addend(ty, (problem.m, problem.n), kind_c, rng));
        let kinds = format!("A {codes_a:?} x {scales_a:?}, B {codes_b:?} x {scales_b:?}, C kind {kind_c}");
        Self { problem, a, b, c, kinds }
    }

    pub(crate) fn twin(&self) -> Matrix {
        let mut gemm = Gemm::new(self.a.view(), self.b.view())
            .output(self.problem.d)
            .policy(self.problem.policy)
            .epilogue(self.problem.epilogue);
        if let Some(c) = &self.c {
            gemm = gemm.c(c.view());
        }
        gemm.run().unwrap()
    }

    pub(crate) fn host_c(&self) -> Option<HostView<'_>> {
        self.c.as_ref().map(|c| match c.view() {
            MatrixView::Bf16(x) => HostView::Bf16(x),
            MatrixView::F16(x) => HostView::F16(x),
            MatrixView::F32(x) => HostView::F32(x),
        })
    }

    /// Only these rows of A and C, in this order.
    pub(crate) fn rows(&self, rows: &[usize]) -> Self {
        Self {
            problem: Problem { m: rows.len(), ..self.problem },
            a: self.a.view().gather_rows(rows).unwrap(),
            b: self.b.clone(),
            c: self.c.as_ref().map(|c| c.view().gather_rows(rows)),
            kinds: self.kinds.clone(),
        }
    }
}

/// What the codes of an operand are.
#[derive(Clone, Copy, Debug)]
enum Codes {
    /// Normally distributed.
    Normal,
    /// Any code, a NaN or infinity now and then.
    Any,
    Zeros,
    /// -0, and some +0.
    NegativeZeros,
    /// Plus and minus the largest finite.
    Largest,
    Subnormal,
    /// Normal, with a NaN or infinity in some rows.
    Specials,
    /// Neighbours along K cancel if the other side has `Pairs`.
    Alternating,
    /// Neighbours along K are equal.
    Pairs,
    /// No cancellation at all: sums grow.
    Positive,
    /// Every 32 of K of a row have a magnitude of their own.
    Jumps,
    /// Mostly 0.
    Sparse,
}

impl Codes {
    fn any(rng: &mut StdRng) -> Self {
        use Codes::{Any, Jumps, Largest, NegativeZeros, Normal, Positive, Sparse, Specials, Subnormal, Zeros};
        const KINDS: [Codes; 20] = [
            Normal,
            Normal,
            Normal,
            Normal,
            Normal,
            Any,
            Any,
            Any,
            Jumps,
            Jumps,
            Jumps,
            Positive,
            Positive,
            Sparse,
            Sparse,
            Specials,
            Subnormal,
            Largest,
            NegativeZeros,
            Zeros,
        ];
        KINDS[rng.random_range(0..KINDS.len())]
    }
}

/// What the scales of an operand are.
#[derive(Clone, Copy, Debug)]
enum Scales {
    Ordinary,
    PowersOfTwo,
    /// Ordinary, some 0 or -0, some negative.
    Zeros,
    /// f32 subnormals and just above.
    Tiny,
    Huge,
    /// Ordinary, some NaN or infinite.
    NonFinite,
    /// Any bits.
    Any,
}

impl Scales {
    fn any(rng: &mut StdRng) -> Self {
        use Scales::{Any, Huge, NonFinite, Ordinary, PowersOfTwo, Tiny, Zeros};
        const KINDS: [Scales; 10] =
            [Ordinary, Ordinary, Ordinary, Ordinary, PowersOfTwo, Zeros, Tiny, Huge, NonFinite, Any];
        KINDS[rng.random_range(0..KINDS.len())]
    }

    fn draw(self, rng: &mut StdRng) -> f32 {
        let ordinary = rng.random::<f32>() * 1e-2 + 1e-4;
        match (self, rng.random_range(0..30)) {
            (Self::PowersOfTwo, _) => f32::from_bits(rng.random_range(90u32..150) << 23),
            (Self::Zeros, 0) => 0.0,
            (Self::Zeros, 1) => -0.0,
            (Self::Zeros, 2) => -ordinary,
            (Self::Tiny, _) => f32::from_bits(rng.random_range(1u32..1 << 25)),
            (Self::Huge, _) => ordinary * 2e36,
            (Self::NonFinite, 0) => f32::NAN,
            (Self::NonFinite, 1) => f32::INFINITY,
            (Self::NonFinite, 2) => f32::NEG_INFINITY,
            (Self::Any, _) => f32::from_bits(rng.random()),
            _ => ordinary,
        }
    }
}

fn operand(spec: OperandSpec, rows: usize, k: usize, codes: Codes, scales: Scales, rng: &mut StdRng) -> ScaledMatrix {
    let format = Fp8Format::from(spec.ty);
    // Largest finite code, bits of the mantissa, largest exponent field of only finite codes.
    let (largest, mantissa, exponent) = if spec.ty == OperandType::E4m3 { (0x7E, 3, 14) } else { (0x7B, 2, 30) };
    let normal: Vec<u8> =
        (0..4096).map(|_| format.encode(gaussian(rng) * 100.0, Rounding::NearestEven, Overflow::Saturate)).collect();
    let special_every = (4 * k) as u32;
    let mut values = Vec::with_capacity(rows * k);
    for _ in 0..rows {
        let mut magnitude = 0;
        for column in 0..k {
            // 4 billion random bits a second are enough: one draw for each element.
            let bits: u32 = rng.random();
            let ordinary = normal[(bits >> 20) as usize];
            let sign = (bits & 0x80) as u8;
            let before = if column % 2 == 1 { values.last().copied() } else { None };
            values.push(match codes {
                Codes::Normal => ordinary,
                Codes::Any => {
                    let code = bits as u8;
                    if code & 0x7F > largest && !(bits >> 8).is_multiple_of(500) { code ^ 0x10 } else { code }
                }
                Codes::Zeros => 0,
                Codes::NegativeZeros => 0x80 & ((bits >> 8) as u8 | sign),
                Codes::Largest => largest | sign,
                Codes::Subnormal => (bits as u8 & ((1 << mantissa) - 1)).max(1) | sign,
                Codes::Specials if (bits >> 1).is_multiple_of(special_every) => largest + 1 + (bits as u8 & 1),
                Codes::Specials => ordinary,
                Codes::Alternating => before.filter(|_| bits & 0x3F != 0).map_or(ordinary, |code| code ^ 0x80),
                Codes::Pairs => before.filter(|_| bits & 0x3F != 1).unwrap_or(ordinary),
                Codes::Positive => ordinary & 0x7F,
                Codes::Jumps => {
                    if column % 32 == 0 {
                        magnitude = (bits >> 8) as u8 % exponent;
                    }
                    let mantissa_bits = bits as u8 & ((1 << mantissa) - 1);
                    (magnitude + (bits >> 30 & 1) as u8) << mantissa | mantissa_bits | sign
                }
                Codes::Sparse if bits >> 8 & 63 != 0 => 0,
                Codes::Sparse => ordinary,
            });
        }
    }
    let values = Array2::from_shape_vec((rows, k), values).unwrap();
    let scales = Array2::from_shape_simple_fn(spec.scales.scale_shape(rows, k), || scales.draw(rng));
    ScaledMatrix::new(spec.ty, spec.scales, values, scales).unwrap()
}

fn addend(ty: OutputType, shape: (usize, usize), kind: usize, rng: &mut StdRng) -> Matrix {
    let value = || match kind {
        0 => f32::from_bits(rng.random()),
        1 => [0.0, -0.0][usize::from(rng.random::<bool>())],
        2 => rng.random::<f32>() * 1e-3,
        _ => (rng.random::<f32>() - 0.5) * 1e3,
    };
    Matrix::from_f32(Array2::from_shape_simple_fn(shape, value), ty)
}

fn gaussian(rng: &mut StdRng) -> f32 {
    (0..6).map(|_| rng.random::<f32>()).sum::<f32>() - 3.0
}

pub(crate) fn matrix(d: HostMatrix) -> Matrix {
    match d {
        HostMatrix::Bf16(x) => Matrix::Bf16(x),
        HostMatrix::F16(x) => Matrix::F16(x),
        HostMatrix::F32(x) => Matrix::F32(x),
    }
}

/// The elements as they lie in memory, row after row.
pub(crate) fn bytes(x: &MatrixView<'_>) -> Vec<u8> {
    match x {
        MatrixView::Bf16(x) => x.iter().flat_map(|x| x.to_ne_bytes()).collect(),
        MatrixView::F16(x) => x.iter().flat_map(|x| x.to_ne_bytes()).collect(),
        MatrixView::F32(x) => x.iter().flat_map(|x| x.to_ne_bytes()).collect(),
    }
}

/// Asserts that every bit is equal, and names the first that is not.
pub(crate) fn assert_bits(found: &Matrix, expected: &Matrix, what: &dyn std::fmt::Display) {
    let (found, expected) = (found.view(), expected.view());
    if found.bits_equal(&expected) {
        return;
    }
    assert_eq!((found.dim(), found.ty()), (expected.dim(), expected.ty()), "{what}");
    let (m, n) = found.dim();
    let places = (0..m).flat_map(|i| (0..n).map(move |j| (i, j)));
    let bad: Vec<_> = places.filter(|&(i, j)| found.bits(i, j) != expected.bits(i, j)).collect();
    let (i, j) = bad[0];
    let (f, e) = (found.bits(i, j), expected.bits(i, j));
    panic!("{what}: {} of {} outputs differ, first [{i}, {j}]: GPU {f:#x}, twin {e:#x}", bad.len(), m * n);
}
