//! The shrunk cases of `regressions/`, read.

#![allow(clippy::unwrap_used, dead_code)]

use std::path::{Path, PathBuf};

use fp8gemm_difftest::{Case, Origin};
use fp8gemm_formats::ScaledMatrix;
use fp8gemm_problem::{OperandSpec, OutputType, Problem};
use fp8gemm_sim::Matrix;
use half::{bf16, f16};
use ndarray::Array2;
use safetensors::SafeTensors;

/// A file of a finding: its case, the D that was wrong (the right one where bits were not what was wrong),
/// and the twin's D of that time.
pub(crate) struct Regression {
    pub(crate) case: Case,
    pub(crate) d: Matrix,
    pub(crate) expected: Matrix,
}

fn matrix(file: &SafeTensors<'_>, name: &str, ty: OutputType, dim: (usize, usize)) -> Matrix {
    let data = file.tensor(name).unwrap().data().to_vec();
    let halves = || data.as_chunks::<2>().0.iter().map(|bytes| u16::from_le_bytes(*bytes));
    match ty {
        OutputType::Bf16 => Matrix::Bf16(Array2::from_shape_vec(dim, halves().map(bf16::from_bits).collect()).unwrap()),
        OutputType::F16 => Matrix::F16(Array2::from_shape_vec(dim, halves().map(f16::from_bits).collect()).unwrap()),
        OutputType::F32 => {
            let values = data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            Matrix::F32(Array2::from_shape_vec(dim, values).unwrap())
        }
    }
}

fn operand(file: &SafeTensors<'_>, [codes, scales]: [&str; 2], spec: OperandSpec, dim: (usize, usize)) -> ScaledMatrix {
    let codes = Array2::from_shape_vec(dim, file.tensor(codes).unwrap().data().to_vec()).unwrap();
    let shape = spec.scales.scale_shape(dim.0, dim.1);
    let scales = matrix(file, scales, OutputType::F32, shape).to_f32();
    ScaledMatrix::new(spec.ty, spec.scales, codes, scales).unwrap()
}

pub(crate) fn read(path: &Path) -> Regression {
    let bytes = std::fs::read(path).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let said = header.metadata().clone().unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let problem: Problem = said["problem"].parse().unwrap();
    let Problem { m, n, k, .. } = problem;
    // Addresses and strides follow from the origin.
    let [seed, index] = ["seed", "index"].map(|key| said[key].parse().unwrap());
    let origin = Origin::parse(seed, index, &said["regimes"]).unwrap();
    let case = Case {
        problem,
        a: operand(&file, ["a", "scale_a"], problem.a, (m, k)),
        b: operand(&file, ["b", "scale_b"], problem.b, (n, k)),
        c: problem.c.map(|ty| matrix(&file, "c", ty, (m, n))),
        origin,
    };
    let [d, expected] = ["d", "expected"].map(|name| matrix(&file, name, problem.d, (m, n)));
    Regression { case, d, expected }
}

/// The files, in order of name. On a machine that did not build the tests, `FP8GEMM_REGRESSIONS` names the
/// folder.
pub(crate) fn files() -> Vec<PathBuf> {
    let here = || Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions");
    let folder = std::env::var_os("FP8GEMM_REGRESSIONS").map_or_else(here, PathBuf::from);
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|end| end == "safetensors")).collect();
    files.sort();
    files
}
