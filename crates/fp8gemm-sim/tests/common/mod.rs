//! The recorded hardware outputs of `vectors/`, read for the tests of this crate.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // each test binary uses its own part

pub mod cases;
pub mod naive;

use std::fs;
use std::path::PathBuf;

use fp8gemm_formats::ScaledMatrix;
use fp8gemm_problem::{OperandType, ScaleLayout};
use fp8gemm_sim::Matrix;
use fp8gemm_sim::tensor_core::{InputFormat, TensorCore};
use half::bf16;
use ndarray::Array2;
use safetensors::{Dtype, SafeTensors};

pub fn read(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../vectors").join(name).with_extension("safetensors");
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn words<const N: usize, T>(bytes: &[u8], word: fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|chunk| word(*chunk)).collect()
}

/// One `<ta>_<tb>_<acc>` variant of the recorded single instructions.
pub struct Tiles {
    pub name: String,
    pub a_type: OperandType,
    pub b_type: OperandType,
    pub core: TensorCore,
    /// `[tile, 64, 32]`, `[tile, 8, 32]`.
    pub a: Vec<u8>,
    pub b: Vec<u8>,
    /// `[tile, 64, 8]`, bits.
    pub c: Vec<u32>,
    pub d: Vec<u32>,
    /// `[tile]`.
    pub distribution: Vec<u8>,
}

pub const DISTRIBUTIONS: [&str; 8] = [
    "uniform bits, c = 0",
    "normal, c = 0",
    "normal, c normal",
    "wide, c random bits",
    "cancellation",
    "sparse",
    "specials",
    "subnormal, overflow c",
];

pub fn tiles() -> Vec<Tiles> {
    let bytes = read("wgmma_m64n8k32");
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut variants = Vec::new();
    for a_type in OperandType::ALL {
        for b_type in OperandType::ALL {
            for (suffix, core) in [("f32", TensorCore::HOPPER_FP8_F32), ("f16", TensorCore::HOPPER_FP8_F16)] {
                let name = format!("{a_type}_{b_type}_{suffix}");
                let tensor = |part: &str| file.tensor(&format!("{name}.{part}")).unwrap();
                let bits = |part: &str| match tensor(part).dtype() {
                    Dtype::F32 => words(tensor(part).data(), u32::from_le_bytes),
                    _ => words(tensor(part).data(), |x| u32::from(u16::from_le_bytes(x))),
                };
                let bytes = |part: &str| tensor(part).data().to_vec();
                variants.push(Tiles {
                    a_type,
                    b_type,
                    core,
                    a: bytes("a"),
                    b: bytes("b"),
                    c: bits("c"),
                    d: bits("d"),
                    distribution: bytes("distribution"),
                    name,
                });
            }
        }
    }
    variants
}

impl Tiles {
    /// Calls `each(distribution, predicted bits, recorded bits)` for every output under `core`.
    pub fn compare(&self, core: TensorCore, mut each: impl FnMut(usize, u32, u32)) {
        let decode = |ty: OperandType, codes: &[u8]| -> Vec<_> {
            codes.iter().map(|code| InputFormat::from(ty).operand(u32::from(*code))).collect()
        };
        let (a, b) = (decode(self.a_type, &self.a), decode(self.b_type, &self.b));
        for (output, (c, d)) in self.c.iter().zip(&self.d).enumerate() {
            let (tile, row, column) = (output / 512, output / 8 % 64, output % 8);
            let a = &a[(tile * 64 + row) * 32..][..32];
            let b = &b[(tile * 8 + column) * 32..][..32];
            each(self.distribution[tile].into(), core.dot(a, b, *c).unwrap(), *d);
        }
    }
}

/// A recorded whole kernel.
pub struct Kernel {
    pub a: ScaledMatrix,
    pub b: ScaledMatrix,
    pub c: Option<Matrix>,
    pub d: Matrix,
}

pub fn kernel(name: &str) -> Kernel {
    let bytes = read(name);
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let shape = |name: &str| match *file.tensor(name).unwrap().shape() {
        [rows, columns] => (rows, columns),
        ref other => panic!("{name} has shape {other:?}"),
    };
    let f32s = |name: &str| {
        Array2::from_shape_vec(shape(name), words(file.tensor(name).unwrap().data(), f32::from_le_bytes)).unwrap()
    };
    let operand = |name: &str| {
        let (rows, k) = shape(name);
        let codes = Array2::from_shape_vec((rows, k), file.tensor(name).unwrap().data().to_vec()).unwrap();
        let scale = format!("scale_{name}");
        if file.tensor(&scale).is_err() {
            return ScaledMatrix::unscaled(OperandType::E4m3, codes);
        }
        let (r, c) = shape(&scale);
        let layout = ScaleLayout::candidates(&[r, c], rows, k)[0];
        ScaledMatrix::new(OperandType::E4m3, layout, codes, f32s(&scale)).unwrap()
    };
    let d = match file.tensor("d").unwrap().dtype() {
        Dtype::BF16 => {
            let data = words(file.tensor("d").unwrap().data(), bf16::from_le_bytes);
            Matrix::Bf16(Array2::from_shape_vec(shape("d"), data).unwrap())
        }
        _ => Matrix::F32(f32s("d")),
    };
    Kernel { a: operand("a"), b: operand("b"), c: file.tensor("c").is_ok().then(|| Matrix::F32(f32s("c"))), d }
}
