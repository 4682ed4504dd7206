//! Random problems over every configuration, against the twin.

use std::collections::{BTreeMap, BTreeSet};

use fp8gemm_hopper::{HopperError, Plan};
use fp8gemm_jit::{JitError, KernelConfig, Schedule, Store, choose, streams, tma_can_store};
use fp8gemm_problem::Problem;
use fp8gemm_sim::Matrix;
use rand::{SeedableRng, rngs::StdRng};

use crate::data::Case;
use crate::problems::{Class, FAMILIES, family};
use crate::{guarded, setup};

/// Breaks if any tile, scale layout, type, epilogue or tail gives one bit that the twin does not,
/// writes outside D, or takes what lies between rows for data: every candidate of [`choose`] for
/// each family of problems and class of shapes, each on data of its own, mostly adversarial.
///
/// Families are numbered; the environment variable `FP8GEMM_FAMILIES`, `12..24` say, picks some, so
/// that several processes can share the work (compiling takes the longest). `FP8GEMM_SEED` gives
/// other problems.
#[test]
#[ignore = "needs Hopper"]
fn every_configuration() {
    let (gpu, compiler) = setup();
    let stream = gpu.context().new_stream().unwrap();
    let families = std::env::var("FP8GEMM_FAMILIES").map_or(0..FAMILIES, |text| {
        let (from, to) = text.split_once("..").expect("FP8GEMM_FAMILIES is FROM..TO");
        from.parse().unwrap()..to.parse().unwrap()
    });
    let first_seed = std::env::var("FP8GEMM_SEED").map_or(0, |text| text.parse::<u64>().unwrap());
    let (mut problems, mut idle, mut outputs) = (0, 0, 0);
    let (mut nan, mut zero) = (0, 0);
    let (mut configurations, mut rejected) = (BTreeSet::new(), BTreeMap::new());
    for number in families.clone() {
        let family = family(number, &mut StdRng::seed_from_u64(first_seed << 32 | number as u64));
        for class in [Class::Few, Class::Tails, Class::Many, Class::Deep] {
            let candidates = choose(&class.largest(family), gpu.sms()).unwrap().candidates;
            for (index, candidate) in candidates.into_iter().enumerate() {
                // Long K has kernels of its own, and large outputs take long to compare.
                let thin = match class {
                    Class::Deep => 4,
                    Class::Many => 3,
                    _ => 1,
                };
                if !(number + index).is_multiple_of(thin) {
                    continue;
                }
                let seed = first_seed << 32 | (number << 16 | (class as usize) << 8 | index) as u64;
                let mut rng = StdRng::seed_from_u64(seed);
                let problem = class.problem(family, &mut rng);
                let config = adapt(candidate.config, &problem, gpu.sms(), seed);
                let plan = match Plan::with_config(&gpu, &compiler, &problem, config) {
                    // As a plan does; the kernels lane of `fp8gemm-jit` judges those.
                    Err(HopperError::Jit(error @ JitError::Rejected { .. })) => {
                        rejected.insert(config.to_string(), error.to_string());
                        continue;
                    }
                    plan => plan.unwrap_or_else(|error| panic!("{problem} on {config}: {error}")),
                };
                let case = Case::seeded(problem, seed);
                let what = format!("{problem} on {config} (seed {seed:#x}; {})", case.kinds);
                let twin = case.twin();
                guarded::check(&plan, &case, &twin, &stream, &what, &mut rng);
                let values = problem.m * problem.n;
                let (nans, zeros) = idle_outputs(&twin);
                idle += usize::from(2 * (nans + zeros) > values);
                (nan, zero) = (nan + nans, zero + zeros);
                outputs += values;
                problems += 1;
                configurations.insert(config.to_string());
            }
        }
    }
    println!(
        "families {families:?}: {problems} problems, {} configurations, {outputs} outputs ({nan} NaN, {zero} zero): \
         every bit equal, twice, nothing else written",
        configurations.len()
    );
    for (config, error) in &rejected {
        println!("passed over, as plans do: {config}: {error}");
    }
    assert!(problems >= 10 * families.len(), "too few problems");
    assert!(2 * idle < problems, "{idle} problems give mostly 0 or NaN");
}

/// NaN and zeros among the outputs, which tell little.
fn idle_outputs(x: &Matrix) -> (usize, usize) {
    let values = x.to_f32();
    (values.iter().filter(|x| x.is_nan()).count(), values.iter().filter(|x| **x == 0.0).count())
}

/// Breaks if the generator makes problems that are not legal or that no kernel computes, stops
/// covering a pair of choices, or makes data whose products are nearly all 0 or NaN. Needs no GPU.
#[test]
fn problems_are_legal_and_varied() {
    let mut pairs = BTreeSet::new();
    let (mut outputs, mut idle) = (0, 0);
    for number in 0..FAMILIES {
        let mut rng = StdRng::seed_from_u64(number as u64);
        let family = family(number, &mut rng);
        for class in [Class::Few, Class::Tails, Class::Many, Class::Deep] {
            for sms in [78, 132] {
                assert!(!choose(&class.largest(family), sms).unwrap().candidates.is_empty());
            }
            for _ in 0..20 {
                let problem = class.problem(family, &mut rng);
                problem.check().unwrap();
                let most = class.largest(family);
                assert!(problem.m <= most.m && problem.n <= most.n && problem.k <= most.k, "{problem}");
            }
        }
        let scales = choose(&Class::Few.largest(family), 132).unwrap().config().scales.to_string();
        let traits = [
            format!("{} {}", family.a.ty, family.b.ty),
            format!("{scales} {}", family.policy),
            format!("D {}", family.d),
            format!("C {:?}", family.c),
        ];
        for (i, one) in traits.iter().enumerate() {
            pairs.extend(traits[i + 1..].iter().map(|other| format!("{one}, {other}")));
        }
        let twin = Case::seeded(fp8gemm_problem::Problem { m: 20, n: 30, k: 200, ..family }, number as u64).twin();
        outputs += 600;
        let (nan, zero) = idle_outputs(&twin);
        idle += nan + zero;
    }
    // Four type mixes, four ways, three Ds, four Cs.
    assert_eq!(pairs.len(), 4 * 4 + 4 * 3 + 4 * 4 + 4 * 3 + 4 * 4 + 3 * 4, "{pairs:#?}");
    assert!(2 * idle < outputs, "{idle} of {outputs} outputs are 0 or NaN");
}

/// The candidate of a larger problem for this one, and now and then something that is never chosen:
/// ping-pong, direct stores, a width that is an odd multiple of 8.
fn adapt(candidate: KernelConfig, problem: &Problem, sms: u32, seed: u64) -> KernelConfig {
    let mut config = candidate;
    if !tma_can_store(problem) {
        config.store = Store::Direct;
    }
    if config.schedule == Schedule::StreamK && !streams(problem, &config, sms) {
        config.schedule = Schedule::Cooperative;
    }
    let other = match ((seed >> 16) * 7 + (seed >> 8 & 0xFF) * 3 + (seed & 0xFF) * 5) % 16 {
        3 => KernelConfig { schedule: Schedule::PingPong, block_m: config.block_m / 2, ..config },
        7 => KernelConfig { store: Store::Direct, ..config },
        11 => KernelConfig { block_n: config.block_n - 8, ..config },
        _ => config,
    };
    if other.check().is_ok() { other } else { config }
}
