//! Every pattern of yield and reuse flags in the promotion against the twin, bit for bit, on a GPU.
//! Needs a Hopper GPU, its driver and NVRTC:
//! `cargo test --release -p fp8gemm-hopper --test interleave_gpu -- --ignored --nocapture`.
//!
//! With `FP8GEMM_NVRTC` naming NVRTC 12.8, the kernels are those whose ptxas interleaves nothing.
//! (`cargo test --test interleave` in `fp8gemm-jit` looks at the machine code, and needs no GPU.)

#![allow(clippy::unwrap_used)]

use fp8gemm_formats::{Fp8Format, Overflow, Rounding, ScaledMatrix};
use fp8gemm_hopper::{Gpu, HopperError, HostMatrix, HostView, Plan};
use fp8gemm_jit::sass::Interleave;
use fp8gemm_jit::{Cache, Compiler, JitError, KernelConfig, choose};
use fp8gemm_problem::{OperandSpec, OutputType, Problem};
use fp8gemm_sim::{Gemm, Matrix};
use ndarray::Array2;
use rand::{Rng, SeedableRng, rngs::StdRng};

fn setup() -> (Gpu, Compiler) {
    (Gpu::open(0).unwrap_or_else(|error| panic!("{error}")), Compiler::new(Cache::from_environment(), None))
}

/// Codes of numbers around 1, of both signs, with scales that are no powers of two.
fn operand(spec: OperandSpec, rows: usize, k: usize, rng: &mut StdRng) -> ScaledMatrix {
    let format: Fp8Format = spec.ty.into();
    let codes = Array2::from_shape_simple_fn((rows, k), || {
        let x = (0..6).map(|_| rng.random::<f32>()).sum::<f32>() - 3.0;
        format.encode(x, Rounding::NearestEven, Overflow::Saturate)
    });
    let scales = Array2::from_shape_simple_fn(spec.scales.scale_shape(rows, k), || rng.random_range(0.01..2.0f32));
    ScaledMatrix::new(spec.ty, spec.scales, codes, scales).unwrap()
}

/// A problem, its operands and what the twin makes of them.
struct Case {
    problem: Problem,
    a: ScaledMatrix,
    b: ScaledMatrix,
    c: Option<Array2<f32>>,
    twin: Matrix,
}

impl Case {
    fn new(text: &str) -> Self {
        let problem: Problem = text.parse().unwrap();
        let mut rng = StdRng::seed_from_u64(11);
        let a = operand(problem.a, problem.m, problem.k, &mut rng);
        let b = operand(problem.b, problem.n, problem.k, &mut rng);
        let element = || rng.random_range(-4.0..4.0f32);
        let c = problem.c.map(|_| Array2::from_shape_simple_fn((problem.m, problem.n), element));
        let gemm = Gemm::new(a.view(), b.view()).output(problem.d).policy(problem.policy).epilogue(problem.epilogue);
        let twin = match c.clone().map(|c| Matrix::from_f32(c, OutputType::F32)) {
            Some(c) => gemm.c(c.view()).run().unwrap(),
            None => gemm.run().unwrap(),
        };
        let telling = twin.to_f32().iter().filter(|x| **x != 0.0 && !x.is_nan()).count();
        assert!(2 * telling > problem.m * problem.n, "{text}: most of D is 0 or NaN");
        Self { problem, a, b, c, twin }
    }

    /// Runs all patterns of one configuration; how many it has.
    fn all_patterns(&self, gpu: &Gpu, compiler: &Compiler, config: KernelConfig) -> usize {
        let Self { problem, a, b, c, twin } = self;
        let mut plans = Vec::new();
        for pattern in Interleave::ALL {
            let plan = match Plan::with_interleave(gpu, compiler, problem, config, pattern) {
                // A narrow tile, whose runs are short; or NVRTC spoils the kernel.
                Err(HopperError::Jit(error @ (JitError::NoFfmaRun { .. } | JitError::Rejected { .. }))) => {
                    println!("{problem}, {config}, {pattern}: {error}");
                    continue;
                }
                plan => plan.unwrap(),
            };
            assert_eq!(plan.interleave(), pattern);
            let c = c.as_ref().map(|c| HostView::F32(c.view()));
            let found = match plan.run(&a.view(), &b.view(), c.as_ref()).unwrap().d {
                HostMatrix::Bf16(x) => Matrix::Bf16(x),
                HostMatrix::F16(x) => Matrix::F16(x),
                HostMatrix::F32(x) => Matrix::F32(x),
            };
            assert!(found.view().bits_equal(&twin.view()), "{problem}, {config}, {pattern}: other bits");
            plans.push(plan);
        }
        let mut loaded: Vec<_> = plans.iter().map(|plan| plan.cu_function() as usize).collect();
        loaded.sort_unstable();
        loaded.dedup();
        assert_eq!(loaded.len(), plans.len(), "{problem}, {config}: patterns share a loaded kernel");
        println!("{problem}, {config}: {} patterns, every bit", plans.len());
        plans.len()
    }
}

/// Breaks if a pattern changes a bit of a result (a register that is read from the operand collector when it
/// is not there), a plan runs another kernel than the one it was asked for, or two patterns share one.
#[test]
#[ignore = "needs Hopper"]
fn every_pattern_gives_the_twins_bits() {
    let (gpu, compiler) = setup();
    println!("{}, {}", gpu.info().name, compiler.nvrtc().unwrap());
    for text in [
        // Rows and columns that fill no tile, K that ends in a block; long and short K.
        "1000x1000x2000 a=e4m3:1x128 b=e4m3:128x128 d=f32",
        "2000x3504x1536 a=e4m3:1x128 b=e4m3:128x128 d=bf16",
        "512x576x7168 a=e4m3:1x128 b=e4m3:128x128 d=bf16",
        "700x900x1200 a=e4m3:1x128 b=e5m2:1x128 d=f32 c=f32 beta=1",
    ] {
        let case = Case::new(text);
        // The best candidate of each of four tiles: they have runs of other lengths.
        let (mut tiles, mut whole) = (Vec::new(), 0);
        for config in choose(&case.problem, gpu.sms()).unwrap().candidates.iter().map(|one| one.config) {
            let tile = (config.block_m, config.block_n);
            if tiles.len() < 4 && !tiles.contains(&tile) {
                tiles.push(tile);
                whole += usize::from(case.all_patterns(&gpu, &compiler, config) == Interleave::ALL.len());
            }
        }
        assert!(whole > 0, "{text}: no tile has all patterns");
    }
}

/// Breaks if a kernel without a promotion by FFMA is run as if the pattern were in it.
#[test]
#[ignore = "needs Hopper"]
fn kernels_without_a_promotion_are_refused() {
    let (gpu, compiler) = setup();
    let problem: Problem = "512x512x1024 a=e4m3:tensor b=e4m3:tensor d=bf16 policy=chain".parse().unwrap();
    let config = choose(&problem, gpu.sms()).unwrap().config();
    let error = Plan::with_interleave(&gpu, &compiler, &problem, config, Interleave::None).unwrap_err();
    assert!(matches!(error, HopperError::Jit(JitError::NoFfmaRun { .. })), "{error}");
    assert!(Plan::with_interleave(&gpu, &compiler, &problem, config, Interleave::AsCompiled).is_ok());
}
