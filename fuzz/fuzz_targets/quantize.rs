//! Quantisation: every recipe, layout, input type and memory order on shapes up to 40 x 300 of
//! arbitrary bits, NaN and infinities included.
//!
//! Checks that
//! - it never panics; the only errors are a layout that the recipe does not list, and an infinite
//!   element under a recipe that excludes them, of which the first is named;
//! - each scale and each code is what the recipe's formula for one block gives (largest magnitude
//!   by a plain loop, one multiplication or division, one cast by search), so that blocking, edges,
//!   vector code and memory order do not matter;
//! - the dequantised value is within the bound below;
//! - the number of threads does not matter.
#![no_main]

use std::sync::OnceLock;

use arbitrary::{Arbitrary, Result, Unstructured};
use fp8gemm_formats::quantize::{Applied, Element, Recipe, quantize};
use fp8gemm_formats::{FormatError, Fp8Format, Overflow, Rounding, ScaledMatrix};
use fp8gemm_fuzz::input::{f32_value, mutate_or_renew, pool, scramble};
use fp8gemm_fuzz::oracle::Grid;
use fp8gemm_problem::{OperandType, ScaleLayout};
use half::{bf16, f16};
use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use ndarray::{Array2, ArrayView2, ShapeBuilder, s};
use rayon::{ThreadPool, ThreadPoolBuilder};

#[derive(Clone, Copy, Debug)]
enum Input {
    F32,
    Bf16,
    F16,
}

#[derive(Debug)]
struct Case {
    recipe: Recipe,
    layout: ScaleLayout,
    ty: OperandType,
    input: Input,
    /// Every `steps`-th element of a larger array: a view without unit stride.
    steps: (usize, usize),
    /// Of the larger array; column-major if it was made so.
    values: Array2<f32>,
}

impl<'a> Arbitrary<'a> for Case {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let recipe = *u.choose(&Recipe::ALL)?;
        // Mostly a layout that the recipe has.
        let layout = if u.ratio(15, 16)? { *u.choose(recipe.layouts())? } else { *u.choose(&ScaleLayout::ALL)? };
        // 128-row blocks need more than 40 rows to have an edge.
        let (rows, columns) = match u.int_in_range(0..=7)? {
            0 => (u.int_in_range(120..=140)?, u.int_in_range(0..=20)?),
            1 => (u.int_in_range(0..=300)?, u.int_in_range(0..=8)?),
            _ => (u.int_in_range(0..=40)?, u.int_in_range(0..=300)?),
        };
        let steps = if u.ratio(1, 4)? { (u.int_in_range(1..=2)?, u.int_in_range(1..=3)?) } else { (1, 1) };
        let input = *u.choose(&[Input::F32, Input::Bf16, Input::F16])?;
        // NaN, infinities and magnitudes far apart in some of the cases only: one of them decides a
        // whole block, and hides the rest.
        let wild: bool = u.arbitrary()?;
        let exponent = i32::from(u.arbitrary::<u8>()?) - 140;
        let seed: u32 = u.arbitrary()?;
        let pool = pool(u, 64, |u| {
            if wild {
                return f32_value(u);
            }
            Ok(f32::from(u.arbitrary::<i16>()?) * 2f64.powi(exponent) as f32)
        })?;
        let shape = (rows * steps.0, columns * steps.1).set_f(u.arbitrary()?);
        let values = Array2::from_shape_fn(shape, |(r, c)| pool[scramble(seed, r, c) % pool.len()]);
        Ok(Self { recipe, layout, ty: *u.choose(&OperandType::ALL)?, input, steps, values })
    }
}

fn threads(count: usize) -> &'static ThreadPool {
    static POOLS: [OnceLock<ThreadPool>; 4] = [const { OnceLock::new() }; 4];
    POOLS[count].get_or_init(|| ThreadPoolBuilder::new().num_threads(count).build().expect("a few threads"))
}

/// Whether a NaN makes the scale of its block NaN: in the recipes that torch code defines.
fn nan_propagates(recipe: Recipe) -> bool {
    let name = recipe.name();
    name.starts_with("deepgemm") || name.starts_with("torchao")
}

fn check<T: Element>(case: &Case, x: ArrayView2<'_, T>) {
    let Case { recipe, layout, ty, .. } = *case;
    let one = threads(1).install(|| quantize(x, recipe, layout, ty));
    let three = threads(3).install(|| quantize(x, recipe, layout, ty));
    let first_infinite = x.indexed_iter().find(|(_, x)| x.widen().is_infinite()).map(|(place, _)| place);
    let quantized = match (one, three) {
        (Err(one), Err(three)) => {
            assert_eq!(one, three);
            match one {
                FormatError::RecipeLayout { .. } => assert!(!recipe.layouts().contains(&layout)),
                FormatError::Infinite { row, column, .. } => {
                    assert_eq!(recipe, Recipe::SglangGroupUe8m0);
                    assert_eq!(first_infinite, Some((row, column)));
                }
                other => panic!("{other}"),
            }
            return;
        }
        (Ok(one), Ok(three)) => {
            assert_eq!(one.codes(), three.codes());
            assert_eq!(one.scales().mapv(f32::to_bits), three.scales().mapv(f32::to_bits));
            one
        }
        (one, three) => panic!("one thread: {one:?}, three: {three:?}"),
    };
    assert!(recipe.layouts().contains(&layout));
    assert!(recipe != Recipe::SglangGroupUe8m0 || first_infinite.is_none());
    check_blocks(case, x, &quantized);
}

fn check_blocks<T: Element>(case: &Case, x: ArrayView2<'_, T>, quantized: &ScaledMatrix) {
    let Case { recipe, layout, ty, .. } = *case;
    let (rows, columns) = x.dim();
    assert_eq!((quantized.codes().dim(), quantized.ty(), quantized.layout()), (x.dim(), ty, layout));
    assert_eq!(quantized.scales().dim(), layout.scale_shape(rows, columns));
    let (block_rows, block_columns) = layout.block(rows, columns);
    let values = quantized.dequantize();
    for ((block_row, block_column), stored) in quantized.scales().indexed_iter() {
        let row = block_row * block_rows..rows.min((block_row + 1) * block_rows);
        let column = block_column * block_columns..columns.min((block_column + 1) * block_columns);
        let block = s![row, column];
        let wide = x.slice(&block).mapv(Element::widen);
        let mut amax = 0.0f32;
        for x in &wide {
            amax = if x.is_nan() && nan_propagates(recipe) { f32::NAN } else { amax.max(x.abs()) };
            if amax.is_nan() {
                break;
            }
        }
        let scale = recipe.block_scale::<T>(ty, amax);
        assert!(
            stored.to_bits() == scale.stored.to_bits() || stored.is_nan() && scale.stored.is_nan(),
            "scale of block ({block_row}, {block_column}) is {stored:e}, {amax:e} gives {:e}",
            scale.stored
        );
        let codes = quantized.codes();
        for ((&x, &code), &value) in wide.iter().zip(codes.slice(&block)).zip(values.slice(&block)) {
            check_code(recipe, ty, x, scale.applied, code);
            let decoded = Grid::of(ty.into()).value(code);
            assert!(value == decoded as f32 * stored || value.to_bits() == 0x7FFF_FFFF);
            check_bound(recipe, ty, x, amax, *stored, scale.applied, decoded * f64::from(*stored));
        }
    }
}

fn check_code(recipe: Recipe, ty: OperandType, x: f32, applied: Applied, code: u8) {
    let format = Fp8Format::from(ty);
    let max = format.max_finite();
    let mut v = match applied {
        Applied::MultiplyBy(factor) => x * factor,
        Applied::DivideBy(divisor) => x / divisor,
    };
    if v.is_nan() {
        // NaN, or what a clamp makes of it.
        assert!(code == 0x7F || code & 0x7F == format.max_code(), "{code:02x} of {x:e} with {applied:?}");
        return;
    }
    if recipe == Recipe::MistralrsWeight {
        v = f16::from_f32(v.clamp(-max, max)).to_f32();
    }
    let wanted = Grid::of(format).encode(v.into(), Rounding::NearestEven, Overflow::Saturate);
    assert_eq!(code, wanted, "{x:e} with {applied:?}");
}

/// `|x - value| <= |x| (u + 2^-20) + s h + excess`, for finite blocks whose scale, factor and largest
/// magnitude are normal numbers, where
///
/// - `u` is half a unit in the last place of FP8, relative (2^-4 in E4M3, 2^-3 in E5M2), and `h` half
///   the smallest subnormal: the cast of `v = x / s` to FP8;
/// - 2^-20 leaves room for up to eight f32 roundings, of the scale, the factor and `v`; where the
///   recipe goes through f16 it is 2^-11, and 2^-25 in `v` for f16 subnormals;
/// - `excess` is what clamping takes away where `|v|` exceeds the largest finite value.
///
/// f32 underflow in `v` adds at most `s` times 2^-149. `value` is the exact product of code and
/// scale: in f32 it may overflow where `x` is near the largest f32.
fn check_bound(recipe: Recipe, ty: OperandType, x: f32, amax: f32, stored: f32, applied: Applied, value: f64) {
    let (Applied::MultiplyBy(factor) | Applied::DivideBy(factor)) = applied;
    if !(amax.is_normal() && stored.is_normal() && factor.is_normal() && x.is_finite()) {
        return;
    }
    let format = Fp8Format::from(ty);
    let [x, scale] = [x, stored].map(f64::from);
    let unit = 2f64.powi(-(format.mantissa_bits() as i32) - 1);
    let rounding = if recipe == Recipe::MistralrsWeight { 2f64.powi(-11) } else { 2f64.powi(-20) };
    let excess = (x.abs() - f64::from(format.max_finite()) * scale).max(0.0);
    let smallest = f64::from(format.min_subnormal()) / 2.0 + 2f64.powi(-149);
    let through_f16 = if recipe == Recipe::MistralrsWeight { 2f64.powi(-25) } else { 0.0 };
    let bound = x.abs() * (unit + rounding) + scale * (smallest + through_f16) + excess;
    assert!((x - value).abs() <= bound, "{value:e} for {x:e} with scale {scale:e}: more than {bound:e} away");
}

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    mutate_or_renew(data, size, max_size, seed)
});

fuzz_target!(|case: Case| {
    let steps = s![..;case.steps.0, ..;case.steps.1];
    match case.input {
        Input::F32 => check(&case, case.values.slice(steps)),
        Input::Bf16 => check(&case, case.values.mapv(bf16::from_f32).slice(steps)),
        Input::F16 => check(&case, case.values.mapv(f16::from_f32).slice(steps)),
    }
});
