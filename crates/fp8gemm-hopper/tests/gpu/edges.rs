//! Shapes at the edges of the rules, batch invariance, and recordings of other libraries, through
//! host matrices.

use std::collections::BTreeSet;

use fp8gemm_formats::ScaledMatrix;
use fp8gemm_hopper::{Gpu, HopperError, HostStep, Plan, PlanOptions, gemm_on_gpu};
use fp8gemm_jit::{Compiler, JitError, choose};
use fp8gemm_problem::{Epilogue, Policy, Problem};
use fp8gemm_sim::Matrix;
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::data::{Case, assert_bits, matrix};
use crate::random::idle_outputs;
use crate::recorded::recorded;
use crate::setup;

fn run(gpu: &Gpu, compiler: &Compiler, case: &Case) -> Matrix {
    let c = case.host_c();
    let product = gemm_on_gpu(gpu, compiler, &case.a.view(), &case.b.view(), c.as_ref(), &case.problem).unwrap();
    matrix(product.d)
}

/// Breaks if the shapes at the edges of TMA's and BLAS's rules are computed otherwise.
#[test]
#[ignore = "needs Hopper"]
fn edges() {
    let (gpu, compiler) = setup();
    let mut rng = StdRng::seed_from_u64(4);
    for text in [
        "1x1x1 a=e4m3:1x128 b=e4m3:128x128 d=bf16",
        "1x1x1 a=e5m2:row b=e4m3:tensor d=f32 policy=chain",
        "3x5x129 a=e4m3:128x128 b=e5m2:1x128 d=f16 c=f32 alpha=2 beta=-1",
        "129x130x15 a=e4m3:1x128 b=e4m3:row d=f32 c=bf16 beta=1",
        "2x576x7168 a=e4m3:1x128 b=e4m3:128x128 d=bf16",
        "0x7x5 a=e4m3:1x128 b=e4m3:128x128 d=bf16",
        "7x0x5 a=e4m3:1x128 b=e4m3:128x128 d=f32",
        "7x9x0 a=e4m3:1x128 b=e4m3:128x128 d=bf16",
        "7x9x0 a=e4m3:row b=e4m3:1x128 d=f32 c=bf16 beta=0.5 alpha=-2",
        "30x40x0 a=e4m3:row b=e5m2:row d=f32 c=f32 beta=-1 policy=chain",
        "30x40x0 a=e5m2:row b=e5m2:tensor d=f16",
    ] {
        let case = Case::random(text.parse().unwrap(), &mut rng);
        assert_bits(&run(&gpu, &compiler, &case), &case.twin(), &text);
    }
    // A transposed view, and every second row.
    let wide = Case::random("160x96x64 a=e4m3:tensor b=e4m3:tensor d=f32".parse().unwrap(), &mut rng);
    let (codes, scales) = wide.a.clone().into_parts();
    let view = codes.slice(ndarray::s![..;2, ..]);
    let odd =
        ScaledMatrix::new(wide.a.ty(), wide.a.layout(), view.t().as_standard_layout().into_owned(), scales.clone());
    let a = fp8gemm_formats::ScaledView::new(wide.a.ty(), wide.a.layout(), view, scales.view()).unwrap();
    let problem = Problem { m: 80, ..wide.problem };
    let strided = gemm_on_gpu(&gpu, &compiler, &a, &wide.b.view(), None, &problem).unwrap();
    let full = run(&gpu, &compiler, &wide);
    let even: Vec<usize> = (0..160).step_by(2).collect();
    assert_bits(&matrix(strided.d), &full.view().gather_rows(&even), &"every second row");
    let at = odd.unwrap().transposed().unwrap();
    let transposed = gemm_on_gpu(&gpu, &compiler, &at.view(), &wide.b.view(), None, &problem).unwrap();
    let steps: Vec<String> = transposed.steps.iter().map(ToString::to_string).collect();
    assert!(transposed.steps.iter().any(|step| matches!(step, HostStep::OnGpu { .. })), "{steps:?}");
    assert_bits(&matrix(transposed.d), &full.view().gather_rows(&even), &"column-major A");
}

/// Breaks if a row's bits depend on the other rows of the batch, on how many they are, or on the
/// configuration: every candidate for every M.
#[test]
#[ignore = "needs Hopper"]
fn batch_invariance() {
    let (gpu, compiler) = setup();
    let mut rng = StdRng::seed_from_u64(5);
    for text in [
        "2000x800x1000 a=e4m3:1x128 b=e4m3:128x128 d=f32",
        "2000x800x1000 a=e5m2:1x128 b=e4m3:1x128 d=f32",
        "2000x800x1000 a=e4m3:row b=e5m2:tensor d=f32",
        // Whole blocks of K, as decoding has them: loads of several blocks at once.
        "2000x800x1024 a=e4m3:1x128 b=e4m3:128x128 d=bf16",
    ] {
        let problem: Problem = text.parse().unwrap();
        let case = Case::random(problem, &mut rng);
        let full = run(&gpu, &compiler, &case);
        for count in [1, 3, 8, 9, 16, 17, 33, 100, 128, 256, 1999] {
            let rows: Vec<usize> = (0..count).map(|_| rng.random_range(0..problem.m)).collect();
            let few = case.rows(&rows);
            for candidate in choose(&few.problem, gpu.sms()).unwrap().candidates {
                let plan = match Plan::with_config(&gpu, &compiler, &few.problem, candidate.config) {
                    Err(HopperError::Jit(JitError::Rejected { .. })) => continue,
                    plan => plan.unwrap(),
                };
                let product = plan.run(&few.a.view(), &few.b.view(), None).unwrap();
                let what = format!("{count} rows of {problem} on {}", candidate.config);
                assert_bits(&matrix(product.d), &full.view().gather_rows(&rows), &what);
            }
        }
    }
}

/// Breaks if the bits of a row depend on how many rows there are, from 1 to 256, each on the configuration that the
/// cost model takes: what a server sees whose batch grows and shrinks.
#[test]
#[ignore = "needs Hopper"]
fn every_number_of_rows() {
    let (gpu, compiler) = setup();
    let mut rng = StdRng::seed_from_u64(6);
    for text in [
        "300x1600x1024 a=e4m3:1x128 b=e4m3:128x128 d=bf16",
        "300x800x2048 a=e4m3:1x128 b=e4m3:128x128 d=f16 alpha=0.75",
    ] {
        let problem: Problem = text.parse().unwrap();
        let case = Case::seeded(problem, 7);
        let full = run(&gpu, &compiler, &case);
        let (nan, zero) = idle_outputs(&full);
        assert!(2 * (nan + zero) < problem.m * problem.n, "{text}: {nan} NaN and {zero} zeros tell nothing");
        let mut configurations = BTreeSet::new();
        for count in 1..=256 {
            let rows: Vec<usize> = (0..count).map(|_| rng.random_range(0..problem.m)).collect();
            let few = case.rows(&rows);
            let options = PlanOptions::default().workspace(true).model_only(true);
            let plan = Plan::with_options(&gpu, &compiler, &few.problem, options).unwrap();
            let product = plan.run(&few.a.view(), &few.b.view(), None).unwrap();
            let what = format!("{count} rows of {problem} on {}", plan.config());
            assert_bits(&matrix(product.d), &full.view().gather_rows(&rows), &what);
            configurations.insert(plan.config().kernel_name());
        }
        println!("{text}: 1 to 256 rows equal on {} kernels", configurations.len());
        assert!(configurations.len() >= 4, "{configurations:?}");
    }
}

/// Breaks if the GPU no longer gives what DeepGEMM and cuBLASLt gave.
#[test]
#[ignore = "needs Hopper"]
fn recordings_of_other_libraries() {
    let (gpu, compiler) = setup();
    for (name, policy, epilogue) in [
        ("deepgemm_1d2d_n0", Policy::PROMOTE_128, Epilogue::IDENTITY),
        ("deepgemm_1d2d_n1", Policy::PROMOTE_128, Epilogue::IDENTITY),
        ("deepgemm_1d1d_n0", Policy::PROMOTE_128, Epilogue::ACCUMULATE),
        ("deepgemm_1d1d_n1", Policy::PROMOTE_128, Epilogue::ACCUMULATE),
        ("cublaslt_precise_n0", Policy::PROMOTE_128, Epilogue::IDENTITY),
        ("cublaslt_precise_n1", Policy::PROMOTE_128, Epilogue::IDENTITY),
        ("cublaslt_fast_n0", Policy::Chain, Epilogue::IDENTITY),
        ("cublaslt_fast_n1", Policy::Chain, Epilogue::IDENTITY),
    ] {
        let (case, d) = recorded(name, policy, epilogue);
        assert_bits(&run(&gpu, &compiler, &case), &d, &name);
        println!("{name}: {} equal", case.problem);
    }
}
