//! The fitter on outputs of tensor cores that are known. (What it makes of a real one's is a test of the
//! command line, which reads the recordings.)

#![allow(clippy::unwrap_used)]

use fp8gemm_difftest::fit::{Fit, Recording, fit};
use fp8gemm_problem::{OperandType, OutputType};
use fp8gemm_sim::Rounding;
use fp8gemm_sim::tensor_core::{Accumulator, Alignment, InputFormat, TensorCore, TermOrder};

const M: usize = 8;
const N: usize = 8;
const K: usize = 32;

/// Codes and accumulators of all kinds, from a linear congruence: few products, many, zeros, subnormals.
struct Inputs {
    a: Vec<u8>,
    b: Vec<u8>,
    c: Vec<u32>,
}

fn inputs(tiles: usize, f16: bool) -> Inputs {
    let mut state = 1u64;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    };
    let mut codes = |rows: usize, tile: usize| -> Vec<u8> {
        let dense = [32, 2, 4, 8][tile % 4];
        (0..rows * K)
            .map(|at| {
                let bits = next();
                let magnitude = match bits >> 8 & 15 {
                    0 | 1 => 0,
                    2 | 3 => bits as u8 & 7,
                    _ => (bits as u8 & 0x7F).min(0x7E),
                };
                // Where there are few products, one side is zero or subnormal and the other may be large.
                if at % K < dense { magnitude | bits as u8 & 0x80 } else { bits as u8 & 0x80 }
            })
            .collect()
    };
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for tile in 0..tiles {
        a.extend(codes(M, tile));
        // B dense: zero products of large numbers.
        b.extend(codes(N, 0));
    }
    let c = (0..tiles * M * N)
        .map(|at| {
            let bits = next();
            match at % 3 {
                0 => 0,
                _ if f16 => bits & 0x8000 | (bits >> 16 & 0x3FFF),
                _ => bits << 31 | (110 + (bits >> 24) % 30) << 23 | (bits >> 1 & 0x7F_FFFF),
            }
        })
        .collect();
    Inputs { a, b, c }
}

fn outputs(core: TensorCore, inputs: &Inputs) -> Vec<u32> {
    let operands = |codes: &[u8]| -> Vec<_> { codes.iter().map(|c| InputFormat::E4m3.operand((*c).into())).collect() };
    let (a, b) = (operands(&inputs.a), operands(&inputs.b));
    let one = |(at, c): (usize, &u32)| {
        let (tile, row, column) = (at / (M * N), at / N % M, at % N);
        core.dot(&a[(tile * M + row) * K..][..K], &b[(tile * N + column) * K..][..K], *c).unwrap()
    };
    inputs.c.iter().enumerate().map(one).collect()
}

/// Breaks if the fitter finds only what it was made for, or keeps a model that the outputs refute: cores
/// that differ in every parameter, each found and nothing else.
#[test]
fn other_cores_are_found() {
    let f32_core = TensorCore::HOPPER_FP8_F32;
    let nearest = |fraction_bits| Accumulator::F32 { fraction_bits, rounding: Rounding::NearestEven };
    let cores = [
        TensorCore::ADA_FP8_F32,
        TensorCore::BLACKWELL_FP8_F32,
        TensorCore::HOPPER_FP8_F16,
        TensorCore { terms: 8, order: TermOrder::Interleaved, fraction_bits: 16, ..f32_core },
        TensorCore { alignment: Alignment::Floor, accumulator: nearest(12), ..f32_core },
        TensorCore { normalised_subnormals: true, zero_products_in_max: true, ..f32_core },
        TensorCore { renormalised_products: true, alignment: Alignment::NearestEven, ..f32_core },
    ];
    for core in cores {
        let found = fitted(core);
        assert!(found.models.contains(&core), "{core:?}");
        assert_eq!(found.models.len(), 1, "{core:?}: {:?}", found.models);
        assert!(found.parameters.iter().all(|parameter| !parameter.open()));
        assert!(found.refuted.iter().all(|(_, outputs)| *outputs > 0), "{:?}", found.refuted);
        assert!(found.largest_floor.is_some_and(|floor| floor >= core.exponent_floor));
    }
}

/// Breaks if the fitter names a value that the outputs do not say: where alignment keeps 9 bits of a few
/// products, sums have no bits that an output of 13 could lose.
#[test]
fn what_cannot_be_told_apart_is_said() {
    let core = TensorCore { terms: 4, fraction_bits: 9, ..TensorCore::HOPPER_FP8_F32 };
    let found = fitted(core);
    assert!(found.models.contains(&core) && found.models.len() > 10);
    let open: Vec<&str> =
        found.parameters.iter().filter(|parameter| parameter.open()).map(|parameter| parameter.name).collect();
    assert_eq!(open, ["fraction bits of the output", "rounding of the output"]);
    let alternative = ("accumulator one bit more".to_owned(), 0);
    assert!(found.refuted.contains(&alternative), "{:?}", found.refuted);
}

fn fitted(core: TensorCore) -> Fit {
    let is_f16 = matches!(core.accumulator, Accumulator::F16 { .. });
    let inputs = inputs(60, is_f16);
    let d = outputs(core, &inputs);
    let recording = Recording {
        a_type: OperandType::E4m3,
        b_type: OperandType::E4m3,
        accumulator: if is_f16 { OutputType::F16 } else { OutputType::F32 },
        m: M,
        n: N,
        a: &inputs.a,
        b: &inputs.b,
        c: &inputs.c,
        d: &d,
    };
    fit(&[recording]).unwrap()
}

/// Breaks if recordings whose sizes do not fit together are read beyond their end.
#[test]
fn sizes_are_checked() {
    let inputs = inputs(2, false);
    let d = outputs(TensorCore::HOPPER_FP8_F32, &inputs);
    let good = Recording {
        a_type: OperandType::E4m3,
        b_type: OperandType::E4m3,
        accumulator: OutputType::F32,
        m: M,
        n: N,
        a: &inputs.a,
        b: &inputs.b,
        c: &inputs.c,
        d: &d,
    };
    assert!(fit(&[good]).is_ok());
    for bad in [
        Recording { a: &inputs.a[1..], ..good },
        Recording { b: &inputs.b[..K], ..good },
        Recording { c: &inputs.c[..1], ..good },
        Recording { d: &d[..M * N + 1], ..good },
        Recording { m: 0, ..good },
        Recording { d: &[], c: &[], a: &[], b: &[], ..good },
    ] {
        let error = fit(&[bad]).unwrap_err().to_string();
        assert!(error.starts_with("recorded instructions"), "{error}");
    }
    assert!(fit(&[]).is_err());
    assert!(fit(&[good, Recording { accumulator: OutputType::F16, ..good }]).is_err());
}
