//! Few rows of A: the kernels with swapped operands, promoting as all others do or with K split over a cluster,
//! and weights that are loaded before the kernel before has ended.

use std::collections::BTreeSet;

use fp8gemm_formats::ScaledMatrix;
use fp8gemm_hopper::cudarc::driver::{CudaSlice, DevicePtr, DevicePtrMut};
use fp8gemm_hopper::{DeviceMatrix, HopperError, LaunchOptions, Operands, Plan};
use fp8gemm_jit::{JitError, KernelConfig, Schedule, choose};
use fp8gemm_problem::{OutputType, Policy, Problem};
use fp8gemm_sim::Matrix;
use half::bf16;
use ndarray::Array2;
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::data::{Case, assert_bits, bytes};
use crate::{guarded, setup};

/// Problems; the last few are so wide that four CTAs share an SM, whose room is then for a single stage.
const PROBLEMS: usize = 135;
const WIDE: usize = 120;

/// A problem for kernels with swapped operands. The number decides types, policy and rows, `rng` the rest.
fn problem(number: usize, rng: &mut StdRng) -> Problem {
    let types = ["e4m3", "e5m2"];
    let (a, b) = (types[number % 2], types[number / 2 % 2]);
    let d = OutputType::ALL[number % 3];
    let policies = [Policy::PROMOTE_128, Policy::PROMOTE_128, Policy::PROMOTE_128].into_iter();
    let policies: Vec<_> = policies.chain([2, 4, 8].map(|parts| Policy::Split { parts })).collect();
    let policy = policies[number / 4 % 6];
    let most = [8, 16, 32][number / 3 % 3];
    let m = if rng.random() { most } else { rng.random_range(most / 2 + 1..=most) };
    let m = if number.is_multiple_of(7) { 1 } else { m };
    let n = [1, 8, 63, 64, 65, 128, 200, 576, 700, 1601][rng.random_range(0..10)];
    let k = [1, 127, 128, 129, 512, 640, 1000, 1024, 2050, 4096, 7168][rng.random_range(0..11)];
    let (n, k) = if number < WIDE { (n, k) } else { (24_576, [512, 1024, 1536][number % 3]) };
    let alpha = ["1", "-0.75", "3.1e-5"][rng.random_range(0..3)];
    let scales_a = ["1x128", "128x128", "row"][rng.random_range(0..3)];
    let text = format!("{m}x{n}x{k} a={a}:{scales_a} b={b}:128x128 d={d} alpha={alpha} policy={policy}");
    text.parse().unwrap()
}

fn swapped(problem: &Problem, sms: u32) -> Vec<KernelConfig> {
    let candidates = choose(problem, sms).unwrap().candidates.into_iter().map(|candidate| candidate.config);
    candidates.filter(|config| config.schedule == Schedule::Swapped).collect()
}

/// Breaks if a kernel with swapped operands gives one bit that the twin does not, writes outside D, or
/// takes what lies between rows, or beside the rows that exist, for data: every such candidate of 135 problems.
#[test]
#[ignore = "needs Hopper"]
fn few_rows() {
    let (gpu, compiler) = setup();
    let stream = gpu.context().new_stream().unwrap();
    let (mut configurations, mut problems) = (BTreeSet::new(), 0);
    for number in 0..PROBLEMS {
        let mut rng = StdRng::seed_from_u64(number as u64);
        let problem = problem(number, &mut rng);
        let case = Case::random(problem, &mut rng);
        let twin = case.twin();
        for config in swapped(&problem, gpu.sms()) {
            let plan = match Plan::with_config(&gpu, &compiler, &problem, config) {
                Err(HopperError::Jit(error @ JitError::Rejected { .. })) => {
                    println!("passed over, as plans do: {config}: {error}");
                    continue;
                }
                plan => plan.unwrap_or_else(|error| panic!("{problem} on {config}: {error}")),
            };
            guarded::check(&plan, &case, &twin, &stream, &format!("{problem} on {config}"), &mut rng);
            configurations.insert(config.kernel_name());
            problems += 1;
        }
    }
    assert!(problems > 300 && configurations.len() > 200, "{problems} of {}", configurations.len());
    assert!(["split2", "split4", "split8"].iter().all(|split| configurations.iter().any(|name| name.contains(split))));
    println!("{problems} launches of {} kernels: every bit equal, twice, nothing else written", configurations.len());
}

/// Breaks if the problems above leave out a kernel shape or a policy, have no kernel, or never use a ring of one
/// stage again. Needs no GPU.
#[test]
fn few_rows_take_every_shape() {
    let (mut shapes, mut policies, mut single) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for number in 0..PROBLEMS {
        let problem = problem(number, &mut StdRng::seed_from_u64(number as u64));
        problem.check().unwrap();
        let configs = swapped(&problem, 132);
        assert!(!configs.is_empty(), "{problem}");
        for config in configs {
            shapes.insert(format!("{}x{} {}", config.block_m, config.block_n, problem.d));
            policies.insert(format!("{} {}", problem.policy, config.block_n));
            // A ring of one stage that is used again.
            if config.stages == 1
                && problem.k.div_ceil(128) > (config.accumulation.parts() * config.stage_blocks()) as usize
            {
                single.insert(format!("{}x{} {}", config.block_m, config.block_n, problem.policy));
            }
        }
    }
    for word in ["8x64 ", "16x64 ", "32x64 ", "16x8 ", "split"] {
        assert!(single.iter().any(|kernel| kernel.contains(word)), "{word}: {single:?}");
    }
    // Nine tiles with three outputs; four policies with four widths, but split8 with 8 columns: its stages are longer than
    // a part of K here.
    assert_eq!((shapes.len(), policies.len()), (27, 15), "{shapes:?} {policies:?}");
}

/// What runs one after the other: two products with one A and two weights, and one whose A is the result of either.
struct Chain {
    first: [Case; 2],
    last: Case,
    /// What comes out of `last` for each of the first.
    expected: [Matrix; 2],
}

/// D of the first is bf16; its bytes are the E4M3 codes of the last one's A.
fn chain() -> Chain {
    let (m, n, k) = (8, 3584, 2048);
    let first: Problem = format!("{m}x{n}x{k} a=e4m3:1x128 b=e4m3:128x128 d=bf16").parse().unwrap();
    let last: Problem = format!("{m}x4096x{} a=e4m3:1x128 b=e4m3:128x128 d=f32", 2 * n).parse().unwrap();
    let of_ones =
        |x: &ScaledMatrix, codes| ScaledMatrix::new(x.ty(), x.layout(), codes, x.scales().mapv(|_| 1.0)).unwrap();
    // Sums of four numbers that are 1, 0 or -1: no byte of such a bf16 is a NaN of E4M3.
    let few = |seed| {
        let mut rng = StdRng::seed_from_u64(seed);
        let case = Case::random(first, &mut rng);
        let a = Array2::from_shape_fn((m, k), |(i, j)| if j % (k / 4) == i { 0x38 } else { 0 });
        let b = Array2::from_shape_fn((n, k), |_| [0x38, 0xB8, 0][rng.random_range(0..3)]);
        let (a, b) = (of_ones(&case.a, a), of_ones(&case.b, b));
        Case { a, b, ..case }
    };
    let first = [few(1), few(2)];
    let mut rng = StdRng::seed_from_u64(3);
    let case = Case::random(last, &mut rng);
    let b = Array2::from_shape_fn((last.n, last.k), |_| [0x38, 0xB0, 0x21, 0][rng.random_range(0..4)]);
    let last = Case { b: of_ones(&case.b, b), a: of_ones(&case.a, case.a.codes().to_owned()), ..case };
    let expected = first.each_ref().map(|case| {
        let codes = Array2::from_shape_vec((m, 2 * n), bytes(&case.twin().view())).unwrap();
        let a = of_ones(&last.a, codes);
        Case { problem: last.problem, a, b: last.b.clone(), c: None, kinds: String::new() }.twin()
    });
    Chain { first, last, expected }
}

/// Breaks if the chain below cannot tell an old A from a new one. Needs no GPU.
#[test]
fn the_chain_tells_results_apart() {
    let expected = chain().expected.map(|one| bytes(&one.view()));
    let same = expected[0].chunks(4).zip(expected[1].chunks(4)).filter(|(one, other)| one == other).count();
    assert!(same * 100 < expected[0].len() / 4, "{same} outputs are the same");
}

/// Breaks if a kernel that loads its weights early also reads A early: A is what the kernel before it, which may
/// still run, writes. 20 times in turn with two results, so that an old one is a wrong one.
#[test]
#[ignore = "needs Hopper"]
fn early_weights_are_not_early_tokens() {
    let (gpu, compiler) = setup();
    let stream = gpu.context().new_stream().unwrap();
    let Chain { first: cases, last, expected } = chain();
    let (m, n, k, columns) = (cases[0].problem.m, cases[0].problem.n, cases[0].problem.k, last.problem.n);
    let plans = [cases[0].problem, last.problem].map(|problem| Plan::new(&gpu, &compiler, &problem).unwrap());
    assert!(plans.iter().all(|plan| plan.config().schedule == Schedule::Swapped));
    let put = |bytes: &[u8]| stream.clone_htod(bytes).unwrap();
    let codes = |x: &ScaledMatrix| put(x.codes().as_slice().unwrap());
    let numbers = |x: Vec<f32>| put(&x.iter().flat_map(|x| x.to_ne_bytes()).collect::<Vec<_>>());
    let by_blocks = |x: &ScaledMatrix| numbers(x.scales().t().iter().copied().collect());
    let squares = |x: &ScaledMatrix| numbers(x.scales().iter().copied().collect());
    let a = cases.each_ref().map(|case| (codes(&case.a), by_blocks(&case.a)));
    let b = cases.each_ref().map(|case| (codes(&case.b), squares(&case.b)));
    let (scale_a, b_last) = (by_blocks(&last.a), (codes(&last.b), squares(&last.b)));
    let mut between: CudaSlice<u8> = stream.alloc_zeros(m * n * 2).unwrap();
    let mut results: Vec<CudaSlice<f32>> = (0..20).map(|_| stream.alloc_zeros(m * columns).unwrap()).collect();
    let at = |pointer, stride| DeviceMatrix { pointer, stride };
    let between_at = between.device_ptr_mut(&stream).0;
    let options = LaunchOptions::default().overlapping_previous(true).constant_weights(true);
    for (turn, d) in results.iter_mut().enumerate() {
        let i = turn % 2;
        let pointer = |x: &CudaSlice<u8>| x.device_ptr(&stream).0;
        let operands = Operands {
            a: at(pointer(&a[i].0), k),
            b: at(pointer(&b[i].0), k),
            scale_a: at(pointer(&a[i].1), m),
            scale_b: at(pointer(&b[i].1), k / 128),
            c: None,
            d: at(between_at, n),
        };
        let then = Operands {
            a: at(between_at, 2 * n),
            b: at(pointer(&b_last.0), 2 * n),
            scale_a: at(pointer(&scale_a), m),
            scale_b: at(pointer(&b_last.1), 2 * n / 128),
            c: None,
            d: at(d.device_ptr_mut(&stream).0, columns),
        };
        for (plan, operands) in plans.iter().zip([operands, then]) {
            // SAFETY: all buffers live until the end of this function, which waits for the stream; no kernel
            // writes weights; each kernel waits for the one before it before it touches anything else.
            unsafe { plan.prepare(&operands).unwrap().launch_with(&stream, options) }.unwrap();
        }
    }
    for (turn, d) in results.iter().enumerate() {
        let found = Array2::from_shape_vec((m, columns), stream.clone_dtoh(d).unwrap()).unwrap();
        assert_bits(&Matrix::F32(found), &expected[turn % 2], &format!("turn {turn}"));
    }
    let middle: Vec<bf16> =
        stream.clone_dtoh(&between).unwrap().chunks_exact(2).map(|x| bf16::from_le_bytes([x[0], x[1]])).collect();
    assert_bits(&Matrix::Bf16(Array2::from_shape_vec((m, n), middle).unwrap()), &cases[1].twin(), &"between");
}
