//! Random problems over every configuration, against the twin.

use std::collections::{BTreeMap, BTreeSet};

use fp8gemm_hopper::{HopperError, Plan};
use fp8gemm_jit::{JitError, KernelConfig, Schedule, Store, catalog, choose, streams, tma_can_store};
use fp8gemm_problem::Problem;
use fp8gemm_sim::Matrix;
use rand::{SeedableRng, rngs::StdRng};

use crate::data::Case;
use crate::problems::{Class, FAMILIES, family};
use crate::{guarded, setup};

/// One problem to run, on one configuration.
struct Trial {
    problem: Problem,
    config: KernelConfig,
    /// Of the operands.
    seed: u64,
    /// Of strides and addresses.
    rng: StdRng,
}

/// What is run of one family: every candidate of [`choose`] for each class of shapes, on a problem of
/// its own, thinned out where that takes long.
fn trials(number: usize, first_seed: u64, sms: u32) -> Vec<Trial> {
    let family = family(number, &mut StdRng::seed_from_u64(first_seed << 32 | number as u64));
    let mut trials = Vec::new();
    for class in Class::ALL {
        let mut candidates = choose(&class.largest(family), sms).unwrap().candidates;
        // Long K has kernels of its own, large outputs take long to compare, and the twin takes long
        // for both at once.
        let thin = match class {
            Class::Few | Class::Tails => 1,
            Class::Many => 3,
            Class::Deep => 4,
            Class::Runs => 2,
        };
        if class == Class::Runs {
            candidates.retain(|candidate| candidate.config.schedule == Schedule::StreamK);
        }
        for (index, candidate) in candidates.into_iter().enumerate() {
            if !(number + index).is_multiple_of(thin) {
                continue;
            }
            let seed = first_seed << 32 | (number << 16 | (class as usize) << 8 | index) as u64;
            let mut rng = StdRng::seed_from_u64(seed);
            let problem = class.problem(family, &mut rng);
            let config = adapt(candidate.config, &problem, sms, seed);
            trials.push(Trial { problem, config, seed, rng });
        }
    }
    trials
}

/// The parts of the kernel that a configuration takes.
fn paths(config: &KernelConfig) -> [String; 4] {
    let c = match (config.c, config.store) {
        (None, _) => "C: none".to_owned(),
        (Some(_), store) => format!("C: {store:?}"),
    };
    [
        format!("schedule: {:?}", config.schedule),
        format!("share: {:?}", config.share),
        format!("store: {:?}", config.store),
        c,
    ]
}

/// All that [`paths`] can say.
const PATHS: [&str; 12] = [
    "C: Direct",
    "C: Tma",
    "C: none",
    "schedule: Cooperative",
    "schedule: PingPong",
    "schedule: StreamK",
    "schedule: Swapped",
    "share: A",
    "share: B",
    "share: Nothing",
    "store: Direct",
    "store: Tma",
];

/// Breaks if any tile, schedule, scale layout, type, epilogue or tail gives one bit that the twin does
/// not, writes outside D, or takes what lies between rows for data: every candidate of [`choose`] for
/// each family of problems and class of shapes, each on data of its own, mostly adversarial. Breaks
/// too if a run of all families leaves out a schedule, a way of sharing or of storing.
///
/// Families are numbered; the environment variable `FP8GEMM_FAMILIES`, `12..24` say, picks some, so
/// that several processes can share the work (compiling takes the longest). `FP8GEMM_SEED` gives
/// other problems.
#[test]
#[ignore = "needs Hopper"]
fn every_configuration() {
    let (gpu, compiler) = setup();
    let stream = gpu.context().new_stream().unwrap();
    let picked = std::env::var("FP8GEMM_FAMILIES").ok();
    let families = picked.as_ref().map_or(0..FAMILIES, |text| {
        let (from, to) = text.split_once("..").expect("FP8GEMM_FAMILIES is FROM..TO");
        from.parse().unwrap()..to.parse().unwrap()
    });
    let first_seed = std::env::var("FP8GEMM_SEED").map_or(0, |text| text.parse::<u64>().unwrap());
    let (mut problems, mut idle, mut outputs) = (0, 0, 0);
    let (mut nan, mut zero) = (0, 0);
    let (mut configurations, mut rejected) = (BTreeSet::new(), BTreeMap::new());
    let mut taken: BTreeMap<String, usize> = BTreeMap::new();
    for number in families.clone() {
        for Trial { problem, config, seed, mut rng } in trials(number, first_seed, gpu.sms()) {
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
            // With an alpha of 0 nothing else can come out.
            idle += usize::from(problem.epilogue.alpha != 0.0 && 2 * (nans + zeros) > values);
            (nan, zero) = (nan + nans, zero + zeros);
            outputs += values;
            problems += 1;
            configurations.insert(config.to_string());
            paths(&config).into_iter().for_each(|path| *taken.entry(path).or_default() += 1);
        }
    }
    println!(
        "families {families:?}: {problems} problems, {} configurations, {outputs} outputs ({nan} NaN, {zero} zero): \
         every bit equal, twice, nothing else written",
        configurations.len()
    );
    println!("problems by path: {taken:?}");
    for (config, error) in &rejected {
        println!("passed over, as plans do: {config}: {error}");
    }
    assert!(problems >= 10 * families.len(), "too few problems");
    assert!(2 * idle < problems, "{idle} problems give mostly 0 or NaN");
    if picked.is_none() {
        assert_eq!(taken.keys().collect::<Vec<_>>(), PATHS, "not every path was taken");
    }
}

/// Breaks if a tile of any width, also those that are never chosen, gives other bits or writes beyond D.
#[test]
#[ignore = "needs Hopper"]
fn every_width() {
    let (gpu, compiler) = setup();
    let stream = gpu.context().new_stream().unwrap();
    let widths = catalog::widths();
    for (seed, config) in widths.iter().enumerate() {
        // Two tiles and a part of one each way, scales of B that end inside tiles, a ring that is used again.
        let (m, n) = (2 * config.block_m + 40, 2 * config.block_n + 72);
        let problem: Problem = format!("{m}x{n}x1100 a=e4m3:1x128 b=e4m3:128x128 d=bf16").parse().unwrap();
        let plan =
            Plan::with_config(&gpu, &compiler, &problem, *config).unwrap_or_else(|error| panic!("{config}: {error}"));
        let case = Case::seeded(problem, seed as u64);
        let mut rng = StdRng::seed_from_u64(seed as u64);
        guarded::check(
            &plan,
            &case,
            &case.twin(),
            &stream,
            &format!("{problem} on {config} ({})", case.kinds),
            &mut rng,
        );
    }
    println!("{} widths: every bit equal, twice, nothing else written", widths.len());
}

/// NaN and zeros among the outputs, which tell little.
pub(crate) fn idle_outputs(x: &Matrix) -> (usize, usize) {
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
        for class in Class::ALL {
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

/// Breaks if the configurations that are tried leave out a path, or a schedule's pair with a way of
/// sharing, of storing or of reading C, or if one of them cannot compute its problem. Needs no GPU.
#[test]
fn trials_take_every_path() {
    for sms in [78, 132] {
        let mut taken: BTreeMap<String, usize> = BTreeMap::new();
        let mut pairs: BTreeMap<String, usize> = BTreeMap::new();
        let mut runs = 0;
        for number in 0..FAMILIES {
            for Trial { problem, config, .. } in trials(number, 0, sms) {
                config.check().unwrap_or_else(|error| panic!("{problem}: {error}"));
                assert!(config.store == Store::Direct || tma_can_store(&problem), "{problem} on {config}");
                let streamed = config.schedule == Schedule::StreamK;
                assert!(!streamed || streams(&problem, &config, sms), "{problem} on {config}");
                runs += usize::from(streamed && problem.k >= 1500);
                let [schedule, share, store, c] = paths(&config);
                for other in [&share, &store, &c] {
                    *pairs.entry(format!("{schedule}, {other}")).or_default() += 1;
                }
                [schedule, share, store, c].into_iter().for_each(|path| *taken.entry(path).or_default() += 1);
            }
        }
        println!("{sms} SMs: {taken:?}; {runs} of stream-K with long K; {pairs:?}");
        assert_eq!(taken.keys().collect::<Vec<_>>(), PATHS);
        // All but stream-K with shared B, which is never chosen; swapped operands are of one kind.
        assert_eq!(pairs.len(), 3 * (3 + 2 + 3) - 1 + 3, "{pairs:#?}");
        assert!(runs >= FAMILIES, "{runs} problems for stream-K");
    }
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
    // Narrower tiles are more tiles, perhaps as many as stream-K has nothing to cut of.
    let whole = other.schedule != Schedule::StreamK || streams(problem, &other, sms);
    if whole && other.check().is_ok() { other } else { config }
}
