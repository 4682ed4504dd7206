//! The GEMM written as the policy table reads, one output at a time and without any of the
//! library's driver: tiles, packing, SIMD. Only the tensor-core step is shared.

use fp8gemm_formats::ScaledView;
use fp8gemm_problem::{Epilogue, OutputType, Policy};
use fp8gemm_sim::tensor_core::{InputFormat, TensorCore};
use fp8gemm_sim::{f32_to_bf16, f32_to_f16};

/// Bits of `D[row, column]`.
pub fn output(
    a: &ScaledView<'_>,
    b: &ScaledView<'_>,
    c: Option<f32>,
    (row, column): (usize, usize),
    policy: Policy,
    epilogue: Epilogue,
    output: OutputType,
) -> u32 {
    let k = a.columns();
    // K padded with zeros: to 128 as the policies say, to 32 where scales are that fine.
    let block = a.layout().k_block().into_iter().chain(b.layout().k_block()).min().unwrap_or(128);
    let padded = k.next_multiple_of(block);
    let block_scaled = a.layout().k_block().is_some() || b.layout().k_block().is_some();
    let chain = |from: usize, to: usize| {
        let mut x = 0;
        for step in (from..to).step_by(32) {
            let operands = |m: &ScaledView<'_>, row: usize| -> Vec<_> {
                (step..to.min(step + 32))
                    .map(|k| {
                        InputFormat::from(m.ty()).operand(m.codes().get((row, k)).map_or(0, |code| (*code).into()))
                    })
                    .collect()
            };
            x = TensorCore::HOPPER_FP8_F32.dot(&operands(a, row), &operands(b, column), x).unwrap();
        }
        f32::from_bits(x)
    };
    let promote = |from: usize, to: usize, every: usize| {
        let mut acc = 0f32;
        for start in (from..to).step_by(every) {
            let x = chain(start, to.min(start + every));
            acc = if block_scaled {
                let (sa, sb) = (a.scale_at(row, start.min(k - 1)), b.scale_at(column, start.min(k - 1)));
                if policy == Policy::Cutlass128 { (x * sa).mul_add(sb, acc) } else { (sa * sb).mul_add(x, acc) }
            } else {
                acc + x
            };
        }
        acc
    };
    let mut r = match policy {
        Policy::Chain => chain(0, k),
        Policy::Promote { every } => promote(0, padded, every as usize),
        Policy::Cutlass128 => promote(0, padded, 128),
        Policy::Split { parts } => {
            let (blocks, parts) = (k.div_ceil(128), parts as usize);
            let mut at = 0;
            let mut sum: Option<f32> = None;
            for part in 0..parts {
                let next = at + blocks / parts + usize::from(part < blocks % parts);
                if next > at {
                    let partial = promote(at * 128, padded.min(next * 128), 128);
                    sum = Some(sum.map_or(partial, |sum| sum + partial));
                }
                at = next;
            }
            sum.unwrap_or(0.0)
        }
    };
    if !block_scaled {
        r *= a.scale_at(row, 0) * b.scale_at(column, 0);
    }
    if epilogue.alpha != 1.0 {
        r *= epilogue.alpha;
    }
    if epilogue.beta != 0.0 {
        r = epilogue.beta.mul_add(c.unwrap(), r);
    }
    match output {
        OutputType::Bf16 => f32_to_bf16(r).to_bits().into(),
        OutputType::F16 => f32_to_f16(r).to_bits().into(),
        OutputType::F32 if r.is_nan() => 0x7FFF_FFFF,
        OutputType::F32 => r.to_bits(),
    }
}
