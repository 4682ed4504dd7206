//! Every recipe against a second, plain implementation: one scalar loop for each source, written as
//! the source states it, with the FP8 cast of the `float8` crate.

#![allow(clippy::unwrap_used)] // In helpers too a failed unwrap is a failed test.

use float8::{F8E4M3, F8E5M2};
use fp8gemm_formats::quantize::{Element, Recipe, quantize};
use fp8gemm_problem::{OperandType, ScaleLayout};
use half::{bf16, f16};
use ndarray::{Array2, ShapeBuilder};
use proptest::prelude::*;

/// CUDA's saturating cast: NaN gives 7F, everything else as `float8` rounds it.
fn satfinite(ty: OperandType, x: f32) -> u8 {
    if x.is_nan() {
        return 0x7F;
    }
    match ty {
        OperandType::E4m3 => F8E4M3::from_f32(x).to_bits(),
        OperandType::E5m2 => F8E5M2::from_f32(x).to_bits(),
    }
}

/// `fmaxf`: the other operand where one is NaN.
fn fmax(a: f32, b: f32) -> f32 {
    a.max(b)
}

/// `fminf`.
fn fmin(a: f32, b: f32) -> f32 {
    a.min(b)
}

/// `torch.amax(torch.abs(block))`.
fn torch_amax(block: &[f32]) -> f32 {
    if block.iter().any(|x| x.is_nan()) { f32::NAN } else { cuda_amax(0.0, block) }
}

/// `fmaxf` over the block, starting from `first`.
fn cuda_amax(first: f32, block: &[f32]) -> f32 {
    block.iter().fold(first, |amax, x| fmax(amax, x.abs()))
}

/// `torch.clamp(a, min)`.
fn torch_clamp_min(a: f32, min: f32) -> f32 {
    if a.is_nan() { a } else { fmax(a, min) }
}

/// `2^ceil(log2 x)` by search, for positive finite `x`; infinity stays.
fn power_of_two_at_least(x: f32) -> f32 {
    (-149..=127).map(|e| (f64::from(e)).exp2() as f32).find(|power| *power >= x).unwrap_or(f32::INFINITY)
}

/// `2^floor(log2 x)` by search, for positive finite `x`.
fn power_of_two_at_most(x: f32) -> f32 {
    (-149..=127).rev().map(|e| (f64::from(e)).exp2() as f32).find(|power| *power <= x).unwrap()
}

/// The scale and the codes of one block. `widest` is the largest finite value of the input type.
fn reference(recipe: Recipe, ty: OperandType, widest: f32, block: &[f32]) -> (f32, Vec<u8>) {
    let max: f32 = if ty == OperandType::E4m3 { 448.0 } else { 57344.0 };
    let cast = |scaled: &mut dyn FnMut(f32) -> f32| block.iter().map(|x| satfinite(ty, scaled(*x))).collect();
    match recipe {
        Recipe::DeepGemm | Recipe::DeepGemmCpu | Recipe::DeepGemmUe8m0 => {
            let amax = torch_clamp_min(torch_amax(block), 1e-4);
            let mut sf = if recipe == Recipe::DeepGemm { amax * (1.0 / max) } else { amax / max };
            if recipe == Recipe::DeepGemmUe8m0 {
                let kept = if sf.is_nan() { f32::INFINITY } else { sf };
                sf = fmin(power_of_two_at_least(fmax(kept, 2f32.powi(-126))), 2f32.powi(127));
            }
            (sf, cast(&mut |x| x * (1.0 / sf)))
        }
        Recipe::DeepGemmV1 => {
            let amax = torch_clamp_min(torch_amax(block), 1e-4);
            let reciprocal = 1.0 / amax;
            (amax * (1.0 / max), cast(&mut |x| x * (reciprocal * max)))
        }
        Recipe::TeCurrent | Recipe::TeCurrentPow2 | Recipe::TeBlock | Recipe::TeBlockF32 => {
            let amax = cuda_amax(0.0, block);
            let mut scale = 1.0;
            if amax != 0.0 && amax.is_finite() {
                scale = max / amax;
                if scale == f32::INFINITY {
                    let block_scaling = matches!(recipe, Recipe::TeBlock | Recipe::TeBlockF32);
                    scale = if block_scaling { widest } else { f32::MAX };
                }
                if matches!(recipe, Recipe::TeCurrentPow2 | Recipe::TeBlock) {
                    scale = power_of_two_at_most(scale);
                }
            }
            (1.0 / scale, cast(&mut |x| x * scale))
        }
        Recipe::TorchaoMxFloor | Recipe::TorchaoMxRceil | Recipe::TorchaoMxCeil | Recipe::TorchaoMxEven => {
            let amax = torch_amax(block);
            let (emax, mantissa_bits) = if ty == OperandType::E4m3 { (8, 3) } else { (15, 2) };
            // Zero and subnormals have the exponent field of 2^-127.
            let exponent_below = |a: f32| {
                if a < f32::MIN_POSITIVE { -127 } else { f64::from(power_of_two_at_most(a)).log2() as i32 }
            };
            let exponent = match recipe {
                _ if !amax.is_finite() => None,
                Recipe::TorchaoMxFloor => Some(exponent_below(amax) - emax),
                Recipe::TorchaoMxCeil => {
                    // A mantissa field that is not 0.
                    let above = !amax.to_bits().is_multiple_of(1 << 23);
                    Some(exponent_below(amax) + i32::from(above) - emax)
                }
                Recipe::TorchaoMxEven => {
                    // Half a unit in the last place of an FP8 mantissa, counted in f32 units.
                    let rounded = f32::from_bits(amax.to_bits() + (1 << (23 - mantissa_bits - 1)));
                    rounded.is_finite().then(|| exponent_below(rounded) - emax)
                }
                _ => {
                    let descale = amax * (1.0 / max);
                    let power = power_of_two_at_least(fmax(descale, 2f32.powi(-127)));
                    Some(f64::from(power).log2() as i32)
                }
            };
            let Some(exponent) = exponent else {
                return (f32::NAN, vec![0x7F; block.len()]);
            };
            let exponent = exponent.max(-127);
            let power = |e: i32| f64::from(e).exp2() as f32;
            (power(exponent), cast(&mut |x| x * power(-exponent)))
        }
        Recipe::TorchaoFloat8 => {
            let amax = torch_amax(block);
            let wide = if amax.is_nan() { f64::NAN } else { f64::from(amax).max(1e-12) };
            let scale = (wide.recip() * f64::from(max)) as f32;
            (1.0 / scale, cast(&mut |x| x * scale))
        }
        Recipe::VllmTensor | Recipe::SglangTensor => {
            let scale = cuda_amax(0.0, block) / max;
            let inverse = 1.0 / scale;
            (scale, cast(&mut |x| fmax(-max, fmin(x * inverse, max))))
        }
        Recipe::VllmToken => {
            let scale = fmax(cuda_amax(0.0, block) / max, 1.0 / (max * 512.0));
            (scale, cast(&mut |x| fmax(-max, fmin(x / scale, max))))
        }
        Recipe::VllmGroup | Recipe::MistralrsCutlass => {
            let scale = cuda_amax(1e-10, block) / max;
            (scale, cast(&mut |x| fmin(fmax(x / scale, -max), max)))
        }
        Recipe::VllmGroupUe8m0 => {
            let scale = power_of_two_at_least(fmax((cuda_amax(1e-10, block) / max).abs(), 1e-10));
            (scale, cast(&mut |x| fmin(fmax(x / scale, -max), max)))
        }
        Recipe::SglangToken => {
            let scale = cuda_amax(0.0, block) / max;
            let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
            (scale, cast(&mut |x| fmax(fmin(x * inverse, max), -max)))
        }
        Recipe::SglangGroup => {
            let amax = cuda_amax(1e-10, block);
            let scale = max / amax;
            (amax * (1.0 / max), cast(&mut |x| fmin(fmax(x * scale, -max), max)))
        }
        Recipe::SglangGroupUe8m0 => {
            let inverse = power_of_two_at_least(cuda_amax(1e-10, block) * (1.0 / max));
            (inverse, cast(&mut |x| fmin(fmax(x * (1.0 / inverse), -max), max)))
        }
        Recipe::MistralrsDeepGemm => {
            let amax = cuda_amax(0.0, block);
            let scale = if amax == 0.0 { 1.0 } else { max / amax };
            (1.0 / scale, cast(&mut |x| x * scale))
        }
        Recipe::MistralrsWeight => {
            let mut scale = cuda_amax(0.0, block) / max;
            if scale < 1e-12 {
                scale = 1e-12;
            }
            let mut scaled = |x: f32| {
                let mut v = x / scale;
                if v > max {
                    v = max;
                }
                if v < -max {
                    v = -max;
                }
                f16::from_f32(v).to_f32()
            };
            (scale, cast(&mut scaled))
        }
        Recipe::MistralrsWeightCpu => {
            let mut amax = 0.0;
            for x in block {
                if x.abs() > amax {
                    amax = x.abs();
                }
            }
            let scale = if amax > 0.0 { amax / max } else { 1e-12 };
            (scale, cast(&mut |x| (x / scale).clamp(-max, max)))
        }
        _ => panic!("{recipe} has no reference"),
    }
}

/// Quantises `x` both ways and compares every bit.
fn compare<T: Element>(
    x: &Array2<T>,
    recipe: Recipe,
    layout: ScaleLayout,
    ty: OperandType,
) -> Result<(), TestCaseError> {
    let (rows, columns) = x.dim();
    let infinite = x.indexed_iter().find(|(_, x)| x.widen().is_infinite()).map(|(place, _)| place);
    let quantized = match (quantize(x.view(), recipe, layout, ty), infinite) {
        (Err(error), Some((row, column))) if recipe == Recipe::SglangGroupUe8m0 => {
            let value = x[[row, column]].widen();
            prop_assert_eq!(error, fp8gemm_formats::FormatError::Infinite { recipe, row, column, value });
            return Ok(());
        }
        (result, _) => result.unwrap(),
    };
    let (block_rows, block_columns) = layout.block(rows, columns);
    for row in (0..rows).step_by(block_rows) {
        for column in (0..columns).step_by(block_columns) {
            let places: Vec<_> = (row..rows.min(row + block_rows))
                .flat_map(|row| (column..columns.min(column + block_columns)).map(move |column| [row, column]))
                .collect();
            let block: Vec<f32> = places.iter().map(|place| x[*place].widen()).collect();
            let (scale, codes) = reference(recipe, ty, T::LARGEST, &block);
            let ours = quantized.scales()[[row / block_rows, column / block_columns]];
            prop_assert!(
                ours.to_bits() == scale.to_bits() || (ours.is_nan() && scale.is_nan()),
                "{recipe} {layout} {ty}: scale of block ({row}, {column}) is {ours:e}, reference {scale:e}"
            );
            for ((place, x), code) in places.iter().zip(&block).zip(codes) {
                let ours = quantized.codes()[*place];
                prop_assert!(
                    ours == code,
                    "{recipe} {layout} {ty}: {x:e} at {place:?} is {ours:02x}, reference {code:02x}"
                );
            }
        }
    }
    Ok(())
}

/// Bits of elements: ordinary, of one magnitude, of any magnitude, or special.
fn element() -> impl Strategy<Value = u32> {
    prop_oneof![
        8 => (any::<u32>(), 120u32..130).prop_map(|(bits, field)| bits & 0x807F_FFFF | field << 23),
        2 => any::<u32>(),
        1 => prop_oneof![
            Just(0), Just(0x8000_0000), Just(1), Just(0x8040_0000), Just(0x7F7F_FFFF), Just(0x7F80_0000),
            Just(0xFF80_0000), Just(0x7FC0_0000), Just(0xFFFF_FFFF), Just(0x7F80_0001)
        ],
    ]
}

/// A matrix whose sizes straddle block edges, of one kind of element: tiny, ordinary, positive, mixed,
/// zero.
fn matrix() -> impl Strategy<Value = Array2<f32>> {
    let rows = prop_oneof![1usize..4, 126usize..131];
    let columns = prop_oneof![1usize..34, 126usize..131, 255usize..258];
    let kind = prop_oneof![2 => 0u32..4, 1 => Just(4)];
    (rows, columns, kind, any::<bool>(), any::<u64>()).prop_flat_map(|(rows, columns, kind, by_column, seed)| {
        // Long matrices repeat a short random pattern: what matters is the block, not its entropy.
        proptest::collection::vec(element(), 61).prop_map(move |pattern| {
            let value = move |(row, column): (usize, usize)| {
                let bits = pattern[(row * 37 + column * 3 + seed as usize % 61) % pattern.len()];
                let ordinary = bits & 0x807F_FFFF | (100 + bits % 40) << 23;
                f32::from_bits(match kind {
                    0 => bits & 0x801F_FFFF,
                    1 => ordinary,
                    2 => ordinary & 0x7FFF_FFFF | 0x4000_0000,
                    4 => bits & 0x8000_0000,
                    _ => bits,
                })
            };
            if by_column {
                Array2::from_shape_fn((rows, columns).f(), value)
            } else {
                Array2::from_shape_fn((rows, columns), value)
            }
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Breaks if the engine and the plain loops differ in one bit of a code or a scale, for any
    /// recipe, layout, target type, input type, shape or bits.
    #[test]
    fn engine_equals_plain_loops(x in matrix(), ty in prop_oneof![Just(OperandType::E4m3), Just(OperandType::E5m2)]) {
        for recipe in Recipe::ALL {
            for layout in recipe.layouts() {
                compare(&x, recipe, *layout, ty)?;
            }
        }
    }

    /// Breaks if bf16 or f16 input is widened other than exactly, or its type is forgotten where a
    /// scale overflows.
    #[test]
    fn narrow_input_equals_plain_loops(x in matrix(), ty in prop_oneof![Just(OperandType::E4m3), Just(OperandType::E5m2)]) {
        let bf = x.mapv(|x| bf16::from_bits((x.to_bits() >> 16) as u16));
        let half = x.mapv(|x| f16::from_bits((x.to_bits() >> 16) as u16));
        for recipe in [Recipe::DeepGemm, Recipe::TeBlock, Recipe::TeBlockF32, Recipe::TeCurrent, Recipe::VllmGroup] {
            for layout in recipe.layouts() {
                compare(&bf, recipe, *layout, ty)?;
                compare(&half, recipe, *layout, ty)?;
            }
        }
    }
}
