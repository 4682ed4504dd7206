//! The GPU against the twin, bit for bit. Needs a Hopper GPU, its driver and NVRTC:
//! `cargo test --release -p fp8gemm-hopper --test gpu -- --ignored --nocapture`.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::time::Instant;

use common::{Case, assert_bits, family, matrix, recorded};
use fp8gemm_formats::ScaledMatrix;
use fp8gemm_hopper::cudarc::driver::{DevicePtr, DevicePtrMut};
use fp8gemm_hopper::{DeviceMatrix, Gpu, HopperError, Operands, Plan, gemm_on_gpu};
use fp8gemm_jit::{Cache, Compiler, JitError, KernelConfig, choose};
use fp8gemm_problem::{Epilogue, Policy, Problem};
use fp8gemm_sim::Matrix;
use ndarray::Array2;
use rand::{Rng, SeedableRng, rngs::StdRng};

fn setup() -> (Gpu, Compiler) {
    (Gpu::open(0).unwrap_or_else(|error| panic!("{error}")), Compiler::new(Cache::from_environment(), None))
}

fn run(gpu: &Gpu, compiler: &Compiler, case: &Case) -> Matrix {
    let c = case.host_c();
    let product = gemm_on_gpu(gpu, compiler, &case.a.view(), &case.b.view(), c.as_ref(), &case.problem).unwrap();
    matrix(product.d)
}

/// Any of the candidates, not only the one that would be chosen. A kernel that this compiler makes
/// spill is passed over, as a plan does; the kernels lane of `fp8gemm-jit` judges those.
fn random_config(gpu: &Gpu, compiler: &Compiler, problem: &Problem, rng: &mut StdRng) -> KernelConfig {
    let mut candidates = choose(problem, gpu.sms()).unwrap().candidates;
    loop {
        let config = candidates.swap_remove(rng.random_range(0..candidates.len())).config;
        match Plan::with_config(gpu, compiler, problem, config) {
            Ok(_) => return config,
            Err(HopperError::Jit(JitError::Rejected { .. })) => println!("passed over: {config} spills"),
            Err(error) => panic!("{problem} on {config}: {error}"),
        }
    }
}

/// Breaks if any tile, scale layout, type, epilogue or tail gives one bit that the twin does not:
/// 70 families of problems, each on a random legal configuration and 5 shapes.
#[test]
#[ignore = "needs Hopper"]
fn random_problems() {
    let (gpu, compiler) = setup();
    println!("{:?}", gpu.info());
    let mut rng = StdRng::seed_from_u64(3);
    let (mut problems, mut outputs, mut configurations, mut nans) = (0, 0, BTreeSet::new(), 0usize);
    for _ in 0..70 {
        let largest = Problem { m: 512, n: 512, k: 1536, ..family(&mut rng) };
        let config = random_config(&gpu, &compiler, &largest, &mut rng);
        configurations.insert(config.to_string());
        for shape in 0..5 {
            let mut size = |most: usize, unit: usize| {
                let free = rng.random_range(1..=most);
                if rng.random() { free } else { free.next_multiple_of(unit) }
            };
            // One problem of each family has more tiles than there are SMs.
            let (m, n) = if shape == 0 { (size(1600, 16), size(1600, 16)) } else { (size(512, 16), size(512, 8)) };
            let problem = Problem { m, n, k: size(if shape == 0 { 300 } else { 1536 }, 16), ..largest };
            let case = Case::random(problem, &mut rng);
            let plan = Plan::with_config(&gpu, &compiler, &problem, config)
                .unwrap_or_else(|error| panic!("{problem} on {config}: {error}"));
            let product = plan.run(&case.a.view(), &case.b.view(), case.host_c().as_ref()).unwrap();
            let expected = case.twin();
            nans += expected.to_f32().iter().filter(|x| x.is_nan()).count();
            assert_bits(&matrix(product.d), &expected, &format!("{problem} on {config}"));
            problems += 1;
            outputs += m * n;
        }
    }
    println!(
        "{problems} problems, {} configurations, {outputs} outputs ({nans} NaN): every bit equal",
        configurations.len()
    );
    assert!(problems >= 200 && nans * 2 < outputs);
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
    assert_bits(&matrix(transposed.d), &full.view().gather_rows(&even), &"column-major A");
}

/// Breaks if a row's bits depend on the other rows of the batch, or on how many they are.
#[test]
#[ignore = "needs Hopper"]
fn batch_invariance() {
    let (gpu, compiler) = setup();
    let mut rng = StdRng::seed_from_u64(5);
    for scales in ["a=e4m3:1x128 b=e4m3:128x128", "a=e5m2:1x128 b=e4m3:1x128", "a=e4m3:row b=e5m2:tensor"] {
        let problem: Problem = format!("2000x800x1000 {scales} d=f32").parse().unwrap();
        let case = Case::random(problem, &mut rng);
        let full = run(&gpu, &compiler, &case);
        for count in [1, 3, 100, 257] {
            let rows: Vec<usize> = (0..count).map(|_| rng.random_range(0..problem.m)).collect();
            let few = Case {
                problem: Problem { m: count, ..problem },
                a: case.a.view().gather_rows(&rows).unwrap(),
                b: case.b.clone(),
                c: None,
            };
            let what = format!("{count} rows of {problem}");
            assert_bits(&run(&gpu, &compiler, &few), &full.view().gather_rows(&rows), &what);
        }
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

/// Breaks if a launch reads A or B beyond K, writes outside D's rows or beyond the 16 bytes in which
/// a row of D ends (TMA clips stores no finer), leaves an element of D unwritten, gives other bits the second time, or if C may not be D. Also prints the host
/// time of a relaunch.
#[test]
#[ignore = "needs Hopper"]
fn guards_and_relaunch() {
    const GUARD: usize = 4096;
    let (gpu, compiler) = setup();
    let stream = gpu.context().default_stream();
    let mut rng = StdRng::seed_from_u64(6);
    let mut padding_written = 0;
    for (m, n) in [(1usize, 1usize), (130, 130), (257, 391), (300, 1040), (1000, 576)] {
        let problem: Problem = format!("{m}x{n}x250 a=e4m3:tensor b=e4m3:tensor d=f32 c=f32 beta=1").parse().unwrap();
        let case = Case::random(problem, &mut rng);
        let expected = case.twin().to_f32();
        let c = case.c.as_ref().unwrap().to_f32();
        let stride = n.next_multiple_of(4) + 8;
        let poison = f32::from_bits(0xABAB_ABAB);
        let mut stored = vec![poison; 2 * GUARD + m * stride];
        for ((i, j), value) in c.indexed_iter() {
            stored[GUARD + i * stride + j] = *value;
        }
        // NaN between K and the stride: TMA must not take it for data.
        let upload = |x: &ScaledMatrix| {
            let mut padded = Array2::from_elem((x.rows(), 256), 0x7Fu8);
            padded.slice_mut(ndarray::s![.., ..250]).assign(&x.codes());
            stream.clone_htod(padded.as_slice().unwrap()).unwrap()
        };
        let scale = |x: &ScaledMatrix| stream.clone_htod(&[x.scales()[(0, 0)]]).unwrap();
        let (a, b, sa, sb) = (upload(&case.a), upload(&case.b), scale(&case.a), scale(&case.b));
        for candidate in choose(&problem, gpu.sms()).unwrap().candidates {
            let plan = match Plan::with_config(&gpu, &compiler, &problem, candidate.config) {
                Err(HopperError::Jit(JitError::Rejected { .. })) => continue,
                plan => plan.unwrap(),
            };
            let mut results = Vec::new();
            for _ in 0..2 {
                let mut d = stream.clone_htod(&stored).unwrap();
                {
                    let at = |pointer, stride| DeviceMatrix { pointer, stride };
                    let in_place = at(d.device_ptr_mut(&stream).0 + 4 * GUARD as u64, stride);
                    let operands = Operands {
                        a: at(a.device_ptr(&stream).0, 256),
                        b: at(b.device_ptr(&stream).0, 256),
                        scale_a: at(sa.device_ptr(&stream).0, 1),
                        scale_b: at(sb.device_ptr(&stream).0, 1),
                        c: Some(in_place),
                        d: in_place,
                    };
                    // SAFETY: all of it was allocated above with these shapes, on this stream.
                    unsafe { plan.launch(&stream, &operands).unwrap() };
                }
                results.push(stream.clone_dtoh(&d).unwrap());
            }
            let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&results[0]), bits(&results[1]), "twice: {problem} {}", candidate.config);
            let mut whole = stored.clone();
            for ((i, j), value) in expected.indexed_iter() {
                whole[GUARD + i * stride + j] = *value;
            }
            for i in 0..m {
                for j in n..n.next_multiple_of(4) {
                    let at = GUARD + i * stride + j;
                    padding_written += usize::from(results[0][at].to_bits() != stored[at].to_bits());
                    whole[at] = results[0][at];
                }
            }
            let pairs = results[0].iter().zip(&whole).enumerate();
            let bad: Vec<_> = pairs
                .filter(|(_, (found, expected))| found.to_bits() != expected.to_bits())
                .map(|(at, (found, expected))| {
                    let at = at as isize - GUARD as isize;
                    let place = (at.div_euclid(stride as isize), at.rem_euclid(stride as isize));
                    (place, found.to_bits(), expected.to_bits())
                })
                .collect();
            let first = &bad[..bad.len().min(8)];
            assert!(bad.is_empty(), "{problem} {}: {} words differ, {first:x?}", candidate.config, bad.len());
        }
    }
    println!("{padding_written} words of padding written, all before the next multiple of 16 bytes");
    relaunch_time(&gpu, &compiler);
}

fn relaunch_time(gpu: &Gpu, compiler: &Compiler) {
    let stream = gpu.context().new_stream().unwrap();
    let problem: Problem = "64x64x128 a=e4m3:tensor b=e4m3:tensor d=f32".parse().unwrap();
    let plan = Plan::new(gpu, compiler, &problem).unwrap();
    let codes = Array2::<u8>::zeros((64, 128));
    let a = stream.clone_htod(codes.as_slice().unwrap()).unwrap();
    let scale = stream.clone_htod(&[1.0f32]).unwrap();
    let d = stream.clone_htod(&[0.0f32; 64 * 64]).unwrap();
    let at = |pointer, stride| DeviceMatrix { pointer, stride };
    let operands = Operands {
        a: at(a.device_ptr(&stream).0, 128),
        b: at(a.device_ptr(&stream).0, 128),
        scale_a: at(scale.device_ptr(&stream).0, 1),
        scale_b: at(scale.device_ptr(&stream).0, 1),
        c: None,
        d: at(d.device_ptr(&stream).0, 64),
    };
    let prepared = plan.prepare(&operands).unwrap();
    let time = |launch: &dyn Fn()| {
        let mut rounds: Vec<f64> = (0..50)
            .map(|_| {
                stream.synchronize().unwrap();
                let start = Instant::now();
                (0..200).for_each(|_| launch());
                start.elapsed().as_secs_f64() * 1e6 / 200.0
            })
            .collect();
        rounds.sort_by(f64::total_cmp);
        stream.synchronize().unwrap();
        rounds[25]
    };
    // SAFETY: all of it was allocated above with these shapes, on this stream.
    let same = time(&|| unsafe { prepared.launch(&stream).unwrap() });
    // SAFETY: likewise.
    let new = time(&|| unsafe { plan.launch(&stream, &operands).unwrap() });
    println!(
        "host time of a launch: {same:.2} us prepared, {new:.2} us with pointers checked and encoded (median of 50 x 200)"
    );
}
