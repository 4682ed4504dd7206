//! The twin: small whole GEMMs of raw code bytes (NaN, infinities, subnormals and all) and raw f32
//! scale bits, under every policy, layout, epilogue and output type.
//!
//! Checks that
//! - every path of this machine (AVX-512, AVX2, portable, generic) gives, bit for bit, what an
//!   independent reading of the specification gives, NaN bits and signed zeros included; that
//!   reading computes each element alone, so batch invariance is checked with it;
//! - the number of threads does not matter;
//! - what `Problem::check` refuses is refused with that error, and nothing else is.
#![no_main]

use std::sync::OnceLock;

use arbitrary::{Arbitrary, Result, Unstructured};
use fp8gemm_formats::ScaledMatrix;
use fp8gemm_fuzz::input::{f32_value, mutate_or_renew, pool, scramble};
use fp8gemm_fuzz::oracle;
use fp8gemm_problem::{Epilogue, OperandType, OutputType, Policy, ScaleLayout};
use fp8gemm_sim::{Gemm, Matrix, MatrixView, Path, SimError};
use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use ndarray::{Array2, ShapeBuilder};
use rayon::{ThreadPool, ThreadPoolBuilder};

#[derive(Debug)]
struct Case {
    a: ScaledMatrix,
    b: ScaledMatrix,
    c: Option<Matrix>,
    policy: Policy,
    epilogue: Epilogue,
    output: OutputType,
}

impl<'a> Arbitrary<'a> for Case {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let (m, n) = (u.int_in_range(0..=20)?, u.int_in_range(0..=36)?);
        // Around the step, the promotion interval and the chunk, or anything.
        let k = match u.int_in_range(0..=4)? {
            0 => u.int_in_range(0..=40)?,
            2 => 128 * u.int_in_range(0..=5)? + u.int_in_range(0..=33)?,
            1 => *u.choose(&[31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 384])?,
            _ => u.int_in_range(0..=400)?,
        };
        let epilogue = match u.int_in_range(0..=3)? {
            0 => Epilogue::IDENTITY,
            1 => Epilogue::ACCUMULATE,
            _ => Epilogue { alpha: f32_value(u)?, beta: f32_value(u)? },
        };
        let a = operand(u, m, k)?;
        let b = operand(u, n, k)?;
        let mut policy = policy(u)?;
        // Illegal pairs are soon tried out.
        for _ in 0..8 {
            if policy.check(a.layout(), b.layout()).is_ok() {
                break;
            }
            policy = self::policy(u)?;
        }
        let c = if u.arbitrary()? {
            let seed = u.arbitrary()?;
            let values = pool(u, 8, f32_value)?;
            let values = Array2::from_shape_fn((m, n), |(r, c)| values[scramble(seed, r, c) % values.len()]);
            Some(Matrix::from_f32(values, *u.choose(&OutputType::ALL)?))
        } else {
            None
        };
        // f32 hides nothing.
        let output = if u.arbitrary()? { OutputType::F32 } else { *u.choose(&OutputType::ALL)? };
        Ok(Self { a, b, c, policy, epilogue, output })
    }
}

fn policy(u: &mut Unstructured<'_>) -> Result<Policy> {
    Ok(match u.int_in_range(0..=7)? {
        0 => Policy::PROMOTE_128,
        1 => Policy::Chain,
        2 => Policy::Cutlass128,
        3 => Policy::Promote { every: 32 * u.int_in_range(0..=12)? },
        4 => Policy::Promote { every: *u.choose(&[32, 64])? },
        5 | 6 => Policy::Split { parts: u.int_in_range(0..=5)? },
        _ => Policy::Split { parts: u.arbitrary()? },
    })
}

fn operand(u: &mut Unstructured<'_>, rows: usize, k: usize) -> Result<ScaledMatrix> {
    let ty = *u.choose(&OperandType::ALL)?;
    // Mostly the layouts that are legal with most policies.
    let layout = match u.int_in_range(0..=3)? {
        0 | 1 => *u.choose(&[ScaleLayout::Tensor, ScaleLayout::Row])?,
        2 => *u.choose(&[ScaleLayout::Block1x128, ScaleLayout::Block128x128])?,
        _ => *u.choose(&ScaleLayout::ALL)?,
    };
    let seed: u32 = u.arbitrary()?;
    // With few zero codes among many, or many among few; NaN only in some of the cases, since one
    // makes a whole row NaN.
    let special: bool = u.int_in_range(0..=3)? == 0;
    let codes = pool(u, 40, |u| {
        let code: u8 = u.arbitrary()?;
        let finite = match ty {
            OperandType::E4m3 => code & 0x7F < 0x7F,
            OperandType::E5m2 => code & 0x7F < 0x7C,
        };
        Ok(if finite || special { code } else { code & 0x83 })
    })?;
    // Any bits, or an ordinary scale with all of its 24 bits.
    let scales = pool(u, 12, |u| {
        if u.ratio(1, 4)? {
            return f32_value(u);
        }
        let bits: u32 = u.arbitrary()?;
        Ok(f32::from_bits((120 + (bits >> 23) % 16) << 23 | bits & 0x7F_FFFF))
    })?;
    // Row-major or column-major codes: views may have any strides.
    let shape = (rows, k).set_f(u.arbitrary()?);
    let codes = Array2::from_shape_fn(shape, |(r, c)| codes[scramble(seed, r, c) % codes.len()]);
    let scales =
        Array2::from_shape_fn(layout.scale_shape(rows, k), |(r, c)| scales[scramble(!seed, r, c) % scales.len()]);
    Ok(ScaledMatrix::new(ty, layout, codes, scales).expect("the scale shape is the layout's"))
}

fn three_threads() -> &'static ThreadPool {
    static POOL: OnceLock<ThreadPool> = OnceLock::new();
    POOL.get_or_init(|| ThreadPoolBuilder::new().num_threads(3).build().expect("three threads"))
}

fn bits(matrix: &MatrixView<'_>) -> Array2<u32> {
    Array2::from_shape_fn(matrix.dim(), |(row, column)| matrix.bits(row, column))
}

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    mutate_or_renew(data, size, max_size, seed)
});

fuzz_target!(|case: Case| {
    let mut gemm =
        Gemm::new(case.a.view(), case.b.view()).policy(case.policy).epilogue(case.epilogue).output(case.output);
    if let Some(c) = &case.c {
        gemm = gemm.c(c.view());
    }
    if let Err(error) = gemm.problem().check() {
        // As texts, because a NaN beta in the error is unequal to itself.
        assert_eq!(gemm.run().expect_err("an illegal problem").to_string(), SimError::Problem(error).to_string());
        return;
    }
    let wide = case.c.as_ref().map(Matrix::to_f32);
    let wanted = oracle::gemm(case.a.view(), case.b.view(), wide.as_ref(), case.policy, case.epilogue, case.output);
    for &path in Path::available() {
        let d = gemm.clone().path(path).run().expect("a legal problem");
        assert_eq!(d.ty(), case.output);
        assert_eq!(bits(&d.view()), wanted, "{path:?}: {}", gemm.problem());
    }
    let d = three_threads().install(|| gemm.run()).expect("a legal problem");
    assert_eq!(bits(&d.view()), wanted, "three threads: {}", gemm.problem());
});
