//! Wrong arithmetic around the tensor core: promotions in another order or with another rounding, an
//! epilogue that does things in another order.

use fp8gemm_problem::{Epilogue, OutputType, Policy, Problem};
use fp8gemm_sim::{Matrix, Path, f32_to_bf16, f32_to_f16};
use half::{bf16, f16};
use ndarray::{Array2, Zip};

use super::{Mutant, Part};
use crate::{Case, DifftestError};

/// Mutants of the accumulation. Where a policy has no place for the mistake, they are right.
pub(super) fn policies() -> Vec<Mutant> {
    vec![
        Mutant::of_case(Part::Policy, "promoted every 64", |case| as_policy(case, Policy::Promote { every: 64 })),
        Mutant::of_case(Part::Policy, "promoted every 32", |case| as_policy(case, Policy::Promote { every: 32 })),
        Mutant::of_case(Part::Policy, "promoted every 256", |case| as_policy(case, Policy::Promote { every: 256 })),
        Mutant::of_case(Part::Policy, "never promoted", |case| as_policy(case, Policy::Chain)),
        Mutant::of_case(Part::Policy, "promoted where it is a chain", |case| {
            let chain = case.problem.policy == Policy::Chain;
            Ok(if chain { case.with_policy(Policy::PROMOTE_128) } else { case.clone() })
        }),
        Mutant::of_case(Part::Policy, "scales applied one after the other", |case| as_policy(case, Policy::Cutlass128)),
        Mutant::of_case(Part::Policy, "K split in two", |case| as_policy(case, Policy::Split { parts: 2 })),
        // The first two blocks change places; the last, which may be short, stays.
        Mutant::of_case(Part::Policy, "promotions out of order", |case| {
            let whole = case.problem.k / case.k_block();
            let mut blocks: Vec<usize> = (0..case.problem.k.div_ceil(case.k_block())).collect();
            if whole >= 2 {
                blocks.swap(0, 1);
            }
            case.k_blocks(&blocks)
        }),
        promotion("promotion not fused", |acc, s, x, _| acc + s * x),
        promotion("first promotion a multiplication", |acc, s, x, first| if first { s * x } else { s.mul_add(x, acc) }),
        promotion("scaled sum flushed to zero below 2^-126", |acc, s, x, _| {
            let sum = s.mul_add(x, acc);
            if sum.is_subnormal() { 0.0f32.copysign(sum) } else { sum }
        }),
    ]
}

/// The case under another policy, if it was under `promote128` and the other is legal.
fn as_policy(case: &Case, policy: Policy) -> Result<Case, DifftestError> {
    let legal = policy.check(case.problem.a.scales, case.problem.b.scales).is_ok();
    let wanted = case.problem.policy == Policy::PROMOTE_128 && legal;
    Ok(if wanted { case.with_policy(policy) } else { case.clone() })
}

/// Another promotion of block-scaled `promote128`: `step` gets accumulator, scale product, chain, and
/// whether it is the first.
fn promotion(name: &'static str, step: fn(f32, f32, f32, bool) -> f32) -> Mutant {
    Mutant::new(Part::Policy, name, move |case| {
        let block_scaled = case.problem.a.scales.k_block().or(case.problem.b.scales.k_block()).is_some();
        if case.problem.policy != Policy::PROMOTE_128 || !block_scaled {
            return case.twin(Path::best());
        }
        let mut acc = Array2::zeros((case.problem.m, case.problem.n));
        for block in 0..case.problem.k.div_ceil(128) {
            let part = case.k_blocks(&[block])?;
            let chain = chain(&part)?;
            let (a, b) = (part.a.view(), part.b.view());
            Zip::indexed(&mut acc).and(&chain).for_each(|(row, column), acc: &mut f32, x| {
                *acc = step(*acc, a.scale_at(row, 0) * b.scale_at(column, 0), *x, block == 0);
            });
        }
        finish(case, acc, |r, _| r)
    })
}

/// The tensor core's chain over all of K, without scales.
fn chain(case: &Case) -> Result<Array2<f32>, DifftestError> {
    use fp8gemm_formats::ScaledMatrix;
    let [a, b] = [&case.a, &case.b].map(|x| ScaledMatrix::unscaled(x.ty(), x.codes().to_owned()));
    let product = case.with(a, b, None);
    let epilogue = Epilogue::IDENTITY;
    let problem = Problem { d: OutputType::F32, policy: Policy::Chain, epilogue, ..product.problem };
    Ok(Case { problem, ..product }.twin(Path::best())?.to_f32())
}

/// What the accumulation gives, before the epilogue.
fn accumulated(case: &Case) -> Result<Array2<f32>, DifftestError> {
    let problem = Problem { d: OutputType::F32, c: None, epilogue: Epilogue::IDENTITY, ..case.problem };
    Ok(Case { problem, c: None, ..case.clone() }.twin(Path::best())?.to_f32())
}

/// The right epilogue, with the sum (alpha and C in it) changed before the cast.
fn finish(case: &Case, acc: Array2<f32>, last: fn(f32, OutputType) -> f32) -> Result<Matrix, DifftestError> {
    let Epilogue { alpha, beta } = case.problem.epilogue;
    finish_with(case, acc, last, move |acc, c| {
        let r = if alpha == 1.0 { acc } else { alpha * acc };
        c.map_or(r, |c| beta.mul_add(c, r))
    })
}

/// An epilogue of one's own: `epilogue` gets the accumulator, and C where beta is not 0.
fn finish_with(
    case: &Case,
    acc: Array2<f32>,
    last: fn(f32, OutputType) -> f32,
    epilogue: impl Fn(f32, Option<f32>) -> f32,
) -> Result<Matrix, DifftestError> {
    let c = case.c.as_ref().filter(|_| case.problem.epilogue.reads_c());
    let mut values = acc;
    values.indexed_iter_mut().for_each(|((row, column), value)| {
        let c = c.map(|c| c.view().get(row, column));
        let r = last(epilogue(*value, c), case.problem.d);
        // The casts below make the other types' NaN canonical.
        *value = if r.is_nan() { f32::from_bits(fp8gemm_sim::NAN_F32) } else { r };
    });
    Ok(Matrix::from_f32(values, case.problem.d))
}

/// Mutants of the epilogue.
pub(super) fn epilogues() -> Vec<Mutant> {
    let own = |name, epilogue: fn(Epilogue, f32, Option<f32>) -> f32| {
        Mutant::new(Part::Epilogue, name, move |case| {
            finish_with(case, accumulated(case)?, |r, _| r, |acc, c| epilogue(case.problem.epilogue, acc, c))
        })
    };
    let cast = |name, last: fn(f32, OutputType) -> f32| {
        Mutant::new(Part::Epilogue, name, move |case| finish(case, accumulated(case)?, last))
    };
    vec![
        own("C ignored", |e, acc, _| e.alpha * acc),
        own("beta ignored", |e, acc, c| c.map_or(e.alpha * acc, |c| e.alpha * acc + c)),
        own("alpha ignored", |e, acc, c| c.map_or(acc, |c| e.beta.mul_add(c, acc))),
        own("alpha of the sum with C", |e, acc, c| e.alpha * c.map_or(acc, |c| e.beta.mul_add(c, acc))),
        own("beta not fused", |e, acc, c| c.map_or(e.alpha * acc, |c| e.alpha * acc + e.beta * c)),
        own("alpha fused, beta not", |e, acc, c| c.map_or(e.alpha * acc, |c| e.alpha.mul_add(acc, e.beta * c))),
        Mutant::of_case(Part::Epilogue, "alpha before the scales", |case| {
            let Epilogue { alpha, beta } = case.problem.epilogue;
            let scales = case.a.scales().mapv(|scale| alpha * scale);
            let codes = case.a.codes().to_owned();
            let a = fp8gemm_formats::ScaledMatrix::new(case.a.ty(), case.a.layout(), codes, scales)?;
            let changed = case.with(a, case.b.clone(), case.c.clone());
            let epilogue = Epilogue { alpha: 1.0, beta };
            Ok(Case { problem: Problem { epilogue, ..changed.problem }, ..changed })
        }),
        Mutant::new(Part::Epilogue, "C read though beta is 0", |case| {
            let d = case.twin(Path::best())?;
            let Some(c) = case.c.as_ref().filter(|_| !case.problem.epilogue.reads_c()) else { return Ok(d) };
            let values = Zip::from(&accumulated(case)?)
                .and(&c.to_f32())
                .map_collect(|acc, c| 0.0f32.mul_add(*c, case.problem.epilogue.alpha * acc));
            Ok(Matrix::from_f32(values, case.problem.d))
        }),
        Mutant::new(Part::Epilogue, "C of the transposed place", |case| {
            let Some(c) = &case.c else { return case.twin(Path::best()) };
            let (m, n) = c.dim();
            let values = c.to_f32();
            let flat: Vec<f32> = (0..m * n).map(|at| values[(at % m, at / m % n)]).collect();
            let moved = Array2::from_shape_fn((m, n), |(row, column)| flat[row * n + column]);
            Case { c: Some(Matrix::from_f32(moved, c.ty())), ..case.clone() }.twin(Path::best())
        }),
        cast("cast toward zero", |r, ty| match ty {
            OutputType::Bf16 => f32::from_bits(r.to_bits() & 0xFFFF_0000),
            OutputType::F16 => truncated_f16(r),
            OutputType::F32 => r,
        }),
        cast("cast with halves away from zero", |r, ty| match ty {
            OutputType::Bf16 if r.is_finite() => f32::from_bits(r.to_bits().wrapping_add(0x8000) & 0xFFFF_0000),
            _ => r,
        }),
        cast("cast twice, through f16", |r, ty| if ty == OutputType::Bf16 { f32_to_f16(r).to_f32() } else { r }),
        cast("f16 saturated instead of infinite", |r, ty| match ty {
            OutputType::F16 if !r.is_nan() => r.clamp(-65504.0, 65504.0),
            _ => r,
        }),
        cast("subnormal results flushed", |r, ty| match ty {
            OutputType::F16 if r.abs() < 6.103_515_6e-5 => 0.0f32.copysign(r),
            OutputType::Bf16 if f32_to_bf16(r).to_f32().is_subnormal() => 0.0f32.copysign(r),
            OutputType::F32 if r.is_subnormal() => 0.0f32.copysign(r),
            _ => r,
        }),
        cast("-0 as +0", |r, _| r + 0.0),
        Mutant::new(Part::Epilogue, "NaN with other bits", |case| {
            Ok(match case.twin(Path::best())? {
                Matrix::Bf16(x) => Matrix::Bf16(x.mapv(|x| if x.is_nan() { bf16::NAN } else { x })),
                Matrix::F16(x) => Matrix::F16(x.mapv(|x| if x.is_nan() { f16::NAN } else { x })),
                Matrix::F32(x) => Matrix::F32(x.mapv(|x| if x.is_nan() { f32::NAN } else { x })),
            })
        }),
    ]
}

/// Nothing is changed: promotions, epilogue and cast as rebuilt here are the twin's, so that a mutant is
/// wrong only in what it changes.
#[cfg(test)]
pub(super) fn unchanged() -> Vec<Mutant> {
    let own = |case: &Case| {
        let Epilogue { alpha, beta } = case.problem.epilogue;
        let epilogue = |acc, c: Option<f32>| c.map_or(alpha * acc, |c| beta.mul_add(c, alpha * acc));
        finish_with(case, accumulated(case)?, |r, _| r, epilogue)
    };
    vec![
        promotion("promotion", |acc, s, x, _| s.mul_add(x, acc)),
        Mutant::new(Part::Epilogue, "cast", |case| finish(case, accumulated(case)?, |r, _| r)),
        Mutant::new(Part::Epilogue, "own", own),
    ]
}

/// f16 toward zero, as the f32 of that value.
fn truncated_f16(r: f32) -> f32 {
    let nearest = f32_to_f16(r);
    if nearest.to_f32().abs() > r.abs() { f16::from_bits(nearest.to_bits() - 1).to_f32() } else { nearest.to_f32() }
}
