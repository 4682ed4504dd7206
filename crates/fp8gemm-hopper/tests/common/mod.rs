//! Random problems with data, their twin's result, and the recordings in `vectors/`.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;

use fp8gemm_formats::{Fp8Format, Overflow, Rounding, ScaledMatrix};
use fp8gemm_hopper::{HostMatrix, HostView};
use fp8gemm_problem::{Epilogue, OperandSpec, OperandType, OutputType, Policy, Problem, ScaleLayout};
use fp8gemm_sim::{Gemm, Matrix, MatrixView};
use half::bf16;
use ndarray::Array2;
use rand::{Rng, rngs::StdRng};
use safetensors::{Dtype, SafeTensors};

/// A problem with its data.
pub struct Case {
    pub problem: Problem,
    pub a: ScaledMatrix,
    pub b: ScaledMatrix,
    pub c: Option<Matrix>,
}

impl Case {
    pub fn random(problem: Problem, rng: &mut StdRng) -> Self {
        let a = operand(problem.a, problem.m, problem.k, rng);
        let b = operand(problem.b, problem.n, problem.k, rng);
        let c = problem.c.map(|ty| {
            let value = |rng: &mut StdRng| match rng.random_range(0..40) {
                0 => f32::from_bits(rng.random()),
                _ => normal(rng) * 100.0,
            };
            Matrix::from_f32(Array2::from_shape_simple_fn((problem.m, problem.n), || value(rng)), ty)
        });
        Self { problem, a, b, c }
    }

    pub fn twin(&self) -> Matrix {
        let mut gemm = Gemm::new(self.a.view(), self.b.view())
            .output(self.problem.d)
            .policy(self.problem.policy)
            .epilogue(self.problem.epilogue);
        if let Some(c) = &self.c {
            gemm = gemm.c(c.view());
        }
        gemm.run().unwrap()
    }

    pub fn host_c(&self) -> Option<HostView<'_>> {
        self.c.as_ref().map(|c| match c.view() {
            MatrixView::Bf16(x) => HostView::Bf16(x),
            MatrixView::F16(x) => HostView::F16(x),
            MatrixView::F32(x) => HostView::F32(x),
        })
    }
}

pub fn matrix(d: HostMatrix) -> Matrix {
    match d {
        HostMatrix::Bf16(x) => Matrix::Bf16(x),
        HostMatrix::F16(x) => Matrix::F16(x),
        HostMatrix::F32(x) => Matrix::F32(x),
    }
}

/// Asserts that every bit is equal, and names the first that is not.
pub fn assert_bits(found: &Matrix, expected: &Matrix, what: &dyn std::fmt::Display) {
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

/// Types, scales, policy and epilogue at random; sizes 1.
pub fn family(rng: &mut StdRng) -> Problem {
    use ScaleLayout::{Block1x128, Block128x128, Row, Tensor};
    let layouts = [Tensor, Row, Block1x128, Block128x128];
    let mut spec =
        || OperandSpec { ty: OperandType::ALL[rng.random_range(0..2)], scales: layouts[rng.random_range(0..4)] };
    let (a, b) = (spec(), spec());
    let at_end = a.scales.k_block().is_none() && b.scales.k_block().is_none();
    let policy = if at_end && rng.random() { Policy::Chain } else { Policy::PROMOTE_128 };
    let d = OutputType::ALL[rng.random_range(0..3)];
    let c = rng.random_bool(0.5).then(|| OutputType::ALL[rng.random_range(0..3)]);
    let alpha = [1.0, 1.0, -0.75, 3.1e-5, 0.0][rng.random_range(0..5)];
    let beta = if c.is_some() { [1.0, 1.5, -0.3, 0.0][rng.random_range(0..4)] } else { 0.0 };
    Problem { m: 1, n: 1, k: 1, a, b, c, d, policy, epilogue: Epilogue { alpha, beta } }
}

fn operand(spec: OperandSpec, rows: usize, k: usize, rng: &mut StdRng) -> ScaledMatrix {
    let format = Fp8Format::from(spec.ty);
    let largest = if spec.ty == OperandType::E4m3 { 0x7E } else { 0x7B };
    // Any code, or normal data; a NaN or infinity now and then, since one of them fills a row.
    let any_code: bool = rng.random();
    let specials = if rng.random() { 0.0 } else { 0.3 / k as f64 / rows as f64 * 4.0 };
    let codes = Array2::from_shape_simple_fn((rows, k), || {
        if any_code || rng.random_bool(specials.min(1.0)) {
            let code: u8 = rng.random();
            let special = code & 0x7F > largest;
            if special && !rng.random_bool(0.002) { code ^ 0x10 } else { code }
        } else {
            format.encode(normal(rng) * 100.0, Rounding::NearestEven, Overflow::Saturate)
        }
    });
    let scale = |rng: &mut StdRng| match rng.random_range(0..200) {
        0 => f32::from_bits(rng.random()),
        1 => 0.0,
        2 => 1e-42,
        3 => -rng.random::<f32>(),
        _ => rng.random::<f32>() * 1e-2 + 1e-4,
    };
    let shape = spec.scales.scale_shape(rows, k);
    let scales = Array2::from_shape_simple_fn(shape, || scale(rng));
    ScaledMatrix::new(spec.ty, spec.scales, codes, scales).unwrap()
}

fn normal(rng: &mut StdRng) -> f32 {
    (0..6).map(|_| rng.random::<f32>()).sum::<f32>() - 3.0
}

/// A recorded whole kernel: `FP8GEMM_VECTORS`, `vectors` of the working directory, or the
/// repository's.
pub fn recorded(name: &str, policy: Policy, epilogue: Epilogue) -> (Case, Matrix) {
    let folder = std::env::var_os("FP8GEMM_VECTORS").map(PathBuf::from);
    let repository = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../vectors");
    let folder = folder.or_else(|| Some(PathBuf::from("vectors")).filter(|path| path.is_dir())).unwrap_or(repository);
    let path = folder.join(name).with_extension("safetensors");
    let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |name: &str| {
        let tensor = file.tensor(name).unwrap();
        let [rows, columns] = *tensor.shape() else { panic!("{name} has shape {:?}", tensor.shape()) };
        ((rows, columns), tensor.data().to_vec())
    };
    let f32s = |name: &str| {
        let (shape, data) = tensor(name);
        let values = data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        Array2::from_shape_vec(shape, values).unwrap()
    };
    let operand = |name: &str| {
        let ((rows, k), codes) = tensor(name);
        let codes = Array2::from_shape_vec((rows, k), codes).unwrap();
        let scale = format!("scale_{name}");
        if file.tensor(&scale).is_err() {
            return ScaledMatrix::unscaled(OperandType::E4m3, codes);
        }
        let scales = f32s(&scale);
        let layout = ScaleLayout::candidates(&[scales.nrows(), scales.ncols()], rows, k)[0];
        ScaledMatrix::new(OperandType::E4m3, layout, codes, scales).unwrap()
    };
    let d = if file.tensor("d").unwrap().dtype() == Dtype::BF16 {
        let (shape, data) = tensor("d");
        let values = data.as_chunks::<2>().0.iter().map(|bytes| bf16::from_le_bytes(*bytes)).collect();
        Matrix::Bf16(Array2::from_shape_vec(shape, values).unwrap())
    } else {
        Matrix::F32(f32s("d"))
    };
    let (a, b) = (operand("a"), operand("b"));
    let c = file.tensor("c").is_ok().then(|| Matrix::F32(f32s("c")));
    let spec = |x: &ScaledMatrix| OperandSpec { ty: x.ty(), scales: x.layout() };
    let problem = Problem {
        m: a.rows(),
        n: b.rows(),
        k: a.columns(),
        a: spec(&a),
        b: spec(&b),
        c: c.as_ref().map(Matrix::ty),
        d: d.ty(),
        policy,
        epilogue,
    };
    (Case { problem, a, b, c }, d)
}
