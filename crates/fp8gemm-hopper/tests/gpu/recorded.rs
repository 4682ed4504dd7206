//! Outputs that DeepGEMM and cuBLASLt gave on an H200, from `vectors/`.

use std::fs;
use std::path::PathBuf;

use fp8gemm_formats::ScaledMatrix;
use fp8gemm_problem::{Epilogue, OperandSpec, OperandType, Policy, Problem, ScaleLayout};
use fp8gemm_sim::Matrix;
use half::bf16;
use ndarray::Array2;
use safetensors::{Dtype, SafeTensors};

use crate::data::Case;

/// A recorded whole kernel: `FP8GEMM_VECTORS`, `vectors` of the working directory, or the
/// repository's.
pub(crate) fn recorded(name: &str, policy: Policy, epilogue: Epilogue) -> (Case, Matrix) {
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
    (Case { problem, a, b, c, kinds: name.to_owned() }, d)
}
