//! What an H200 gave to this crate's own questions, replayed without one.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use fp8gemm_difftest::{DataRegime, Generator, Menu, Only, ScaleRegime, cublaslt_tensor};
use fp8gemm_formats::ScaledMatrix;
use fp8gemm_problem::{OperandType, Policy, ScaleLayout};
use fp8gemm_sim::Matrix;
use fp8gemm_sim::tensor_core::emulated::{mma_sync_fp8_f16, mma_sync_fp8_f32};
use half::f16;
use ndarray::Array2;
use safetensors::SafeTensors;

fn file(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../vectors/difftest");
    std::fs::read(folder.join(name)).unwrap()
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect()
}

/// Breaks if FP8 `mma.sync` on Hopper is modelled as anything but what the hardware did: four type mixes,
/// both accumulators, fourteen kinds of data.
#[test]
fn mma_sync_is_the_emulation() {
    let bytes = file("mma_m16n8k32.safetensors");
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |name: &str| tensors.tensor(name).unwrap();
    let mut compared = 0;
    for (type_a, name_a) in [(OperandType::E4m3, "e4m3"), (OperandType::E5m2, "e5m2")] {
        for (type_b, name_b) in [(OperandType::E4m3, "e4m3"), (OperandType::E5m2, "e5m2")] {
            for accumulator in ["f16", "f32"] {
                let of = |part: &str| format!("{name_a}_{name_b}_{accumulator}.{part}");
                let (a, b, c, d) = (tensor(&of("a")), tensor(&of("b")), tensor(&of("c")), tensor(&of("d")));
                let bits = |bytes: &[u8]| -> Vec<u32> {
                    if accumulator == "f32" {
                        return words(bytes);
                    }
                    bytes.chunks_exact(2).map(|word| u16::from_le_bytes(word.try_into().unwrap()).into()).collect()
                };
                let (c, d) = (bits(c.data()), bits(d.data()));
                for (at, (c, d)) in c.into_iter().zip(d).enumerate() {
                    let (tile, row, column) = (at / 128, at / 8 % 16, at % 8);
                    let a: &[u8; 32] = a.data()[(tile * 16 + row) * 32..][..32].try_into().unwrap();
                    let b: &[u8; 32] = b.data()[(tile * 8 + column) * 32..][..32].try_into().unwrap();
                    let (a, b) = ((type_a, a), (type_b, b));
                    let model = match accumulator {
                        "f32" => mma_sync_fp8_f32(a, b, f32::from_bits(c)).to_bits(),
                        _ => mma_sync_fp8_f16(a, b, f16::from_bits(c as u16)).to_bits().into(),
                    };
                    assert_eq!(model, d, "{} tile {tile} row {row} column {column}", of("d"));
                    compared += 1;
                }
            }
        }
    }
    assert_eq!(compared, 8 * 84 * 16 * 8);
}

/// Breaks if cuBLASLt's own epilogue is not reproduced where it differs from ours: alpha goes into the scale.
/// And if the recording could not tell the two apart.
#[test]
fn cublaslt_puts_alpha_into_the_scale() {
    let bytes = file("cublaslt_alpha.safetensors");
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let operand = |name: &str| {
        let codes = tensors.tensor(name).unwrap();
        let shape = (codes.shape()[0], codes.shape()[1]);
        let scale = words(tensors.tensor(&format!("scale_{name}")).unwrap().data());
        let scales = Array2::from_elem((1, 1), f32::from_bits(scale[0]));
        let codes = Array2::from_shape_vec(shape, codes.data().to_vec()).unwrap();
        ScaledMatrix::new(OperandType::E4m3, ScaleLayout::Tensor, codes, scales).unwrap()
    };
    // The problem of the recording, with the recording's data.
    let problem = "192x320x1024 a=e4m3:tensor b=e4m3:tensor d=f32 alpha=0.75".parse().unwrap();
    let generator = Generator::new(0, Menu::kernels(), Only::default());
    let case = generator.fill(&problem, 0, DataRegime::Normal, ScaleRegime::Ordinary).unwrap();
    let case = case.with(operand("a"), operand("b"), None);
    let recorded: Vec<f32> = words(tensors.tensor("d").unwrap().data()).into_iter().map(f32::from_bits).collect();
    let recorded = Matrix::F32(Array2::from_shape_vec((192, 320), recorded).unwrap());
    let theirs = cublaslt_tensor(&case, Policy::PROMOTE_128).unwrap().unwrap();
    assert!(theirs.view().bits_equal(&recorded.view()));
    assert!(!case.gemm().run().unwrap().view().bits_equal(&recorded.view()), "ours multiplies by alpha afterwards");
}
