//! A few tiny problems that touch every part of the kernel, for
//! `compute-sanitizer --tool memcheck|racecheck|synccheck|initcheck`.

use std::collections::BTreeSet;

use fp8gemm_hopper::{HopperError, Plan};
use fp8gemm_jit::{JitError, KernelConfig, Schedule, Share, Store, choose, tiles};
use fp8gemm_problem::Problem;
use rand::{SeedableRng, rngs::StdRng};

use crate::data::Case;
use crate::{guarded, setup};

const PROBLEMS: [&str; 11] = [
    "130x250x300 a=e4m3:1x128 b=e4m3:128x128 d=bf16",
    "70x132x260 a=e5m2:1x128 b=e4m3:1x128 d=f32 c=f32 beta=1",
    "129x40x128 a=e4m3:row b=e5m2:tensor d=f16 alpha=0.5",
    "33x161x513 a=e4m3:tensor b=e4m3:row d=f32 policy=chain",
    "300x272x130 a=e4m3:1x128 b=e4m3:128x128 d=bf16 c=f16 beta=-1",
    "300x272x130 a=e4m3:1x128 b=e4m3:128x128 d=bf16 c=bf16 beta=-1",
    "1x1x1 a=e4m3:1x128 b=e4m3:128x128 d=bf16",
    "9x72x2100 a=e4m3:1x128 b=e4m3:128x128 d=bf16",
    "9x72x4400 a=e4m3:1x128 b=e4m3:128x128 d=f32 policy=split2",
    "40x72x3300 a=e4m3:1x128 b=e4m3:128x128 d=bf16",
    "1030x4000x260 a=e4m3:1x128 b=e4m3:128x128 d=bf16",
];

/// Blocks of K that one CTA takes.
fn blocks(problem: &Problem, config: &KernelConfig) -> usize {
    problem.k.div_ceil(128).div_ceil(config.accumulation.parts() as usize)
}

/// What a problem on a configuration exercises.
fn traits(problem: &Problem, config: &KernelConfig, sms: u32) -> Vec<String> {
    // Ping-pong takes turns, and runs of stream-K follow whole tiles, only where there are several.
    let several = if tiles(problem, config) > u64::from(sms) { "several tiles" } else { "one tile" };
    let line = 128 / config.output.size() as u32;
    let parts = config.accumulation.parts();
    // Only then is a stage given back to be loaded again.
    let uses = if blocks(problem, config) > (config.stages * config.stage_blocks()) as usize {
        "used again"
    } else {
        "used once"
    };
    let way = match config.schedule {
        Schedule::Swapped if parts > 1 => format!("Swapped, 64 columns: {}, K split", config.block_n == 64),
        Schedule::Swapped => format!("Swapped, 64 columns: {}", config.block_n == 64),
        _ if config.in_flight > 1 => "several blocks in flight".to_owned(),
        schedule => format!("{schedule:?}"),
    };
    let mut traits = vec![
        format!("scales {:?}, {:?}", config.scales, config.accumulation),
        format!("scales {:?}, 64 columns or more: {}", config.scales, config.block_n >= 64),
        format!("{:?}, {several} for a CTA", config.schedule),
        format!("{:?}, {} waves", config.schedule, config.waves()),
        format!("{way}, ring {uses}"),
        format!("{:?}, store {:?}", config.schedule, config.store),
        format!("share {:?}", config.share),
        format!("store {:?}, C {}", config.store, config.c.is_some()),
    ];
    if config.store == Store::Tma && !config.block_n.is_multiple_of(line) {
        traits.push("a tile that ends inside a line of D".to_owned());
    }
    traits
}

/// For each problem the chosen configuration, and whatever has a trait that none before had: first
/// candidates, then candidates in ping-pong (never chosen).
fn selection(sms: u32) -> Vec<(Problem, KernelConfig)> {
    let mut selected = Vec::new();
    let mut covered = BTreeSet::new();
    for text in PROBLEMS {
        let problem: Problem = text.parse().unwrap();
        let candidates: Vec<_> =
            choose(&problem, sms).unwrap().candidates.into_iter().map(|candidate| candidate.config).collect();
        let ping_pong = candidates
            .iter()
            .filter(|config| config.schedule == Schedule::Cooperative)
            .map(|config| KernelConfig { schedule: Schedule::PingPong, block_m: config.block_m / 2, ..*config });
        let legal = ping_pong.filter(|config| config.check().is_ok());
        for (index, config) in candidates.iter().copied().chain(legal).enumerate() {
            let before = covered.len();
            covered.extend(traits(&problem, &config, sms));
            if index == 0 || covered.len() > before {
                selected.push((problem, config));
            }
        }
    }
    selected
}

/// Whether results go from a stage's buffer to that of two stages later by the barrier that racecheck
/// takes to order no reads (docs/hopper.md).
fn narrow_ring(problem: &Problem, config: &KernelConfig) -> bool {
    config.schedule == Schedule::Swapped
        && config.block_n < 64
        && blocks(problem, config) > 2 * config.stage_blocks() as usize
}

/// Breaks if a problem that stands for a path of the kernel gives other bits than the twin, or if its
/// kernel cannot be had; what the sanitizer says about it is for its reader.
#[test]
#[ignore = "needs Hopper"]
fn sanitizer_set() {
    run_selected(|problem, config| !narrow_ring(problem, config));
}

/// The same for those of which racecheck reports writes after reads that the barrier does order.
#[test]
#[ignore = "needs Hopper"]
fn sanitizer_set_narrow_rings() {
    run_selected(narrow_ring);
}

fn run_selected(wants: impl Fn(&Problem, &KernelConfig) -> bool) {
    let (gpu, compiler) = setup();
    let stream = gpu.context().new_stream().unwrap();
    let mut rng = StdRng::seed_from_u64(21);
    // Kernels stay loaded: racecheck (2025.3.1) crashed at the end where they had been unloaded.
    let mut plans = Vec::new();
    let (mut wanted, mut run) = (BTreeSet::new(), BTreeSet::new());
    for (problem, config) in selection(gpu.sms()).into_iter().filter(|(problem, config)| wants(problem, config)) {
        wanted.extend(traits(&problem, &config, gpu.sms()));
        let plan = match Plan::with_config(&gpu, &compiler, &problem, config) {
            Err(HopperError::Jit(error @ JitError::Rejected { .. })) => {
                println!("passed over, as plans do: {config}: {error}");
                continue;
            }
            plan => plan.unwrap(),
        };
        let case = Case::random(problem, &mut rng);
        guarded::check(&plan, &case, &case.twin(), &stream, &format!("{problem} on {config}"), &mut rng);
        println!("{problem} on {config}: equal");
        run.extend(traits(&problem, &config, gpu.sms()));
        plans.push(plan);
    }
    stream.synchronize().unwrap();
    drop(stream);
    println!("{} kernels", plans.len());
    assert_eq!(run, wanted, "no kernel was left for some of them");
}

/// Breaks if the set leaves out a schedule, a way of sharing, of storing or of scaling, or grows to
/// what racecheck cannot finish. Needs no GPU.
#[test]
fn sanitizer_set_is_small_and_complete() {
    for sms in [78, 132] {
        let selected = selection(sms);
        let covered: BTreeSet<_> = selected.iter().flat_map(|(problem, config)| traits(problem, config, sms)).collect();
        for (problem, config) in &selected {
            println!("{problem} on {config}");
        }
        println!("{sms} SMs: {} kernels, {covered:#?}", selected.len());
        for way in [
            "Cooperative",
            "PingPong",
            "several blocks in flight",
            "Swapped, 64 columns: true",
            "Swapped, 64 columns: false",
            "Swapped, 64 columns: true, K split",
            "Swapped, 64 columns: false, K split",
        ] {
            assert!(covered.contains(&format!("{way}, ring used again")), "{way}");
        }
        for schedule in [Schedule::Cooperative, Schedule::PingPong, Schedule::StreamK] {
            assert!(covered.contains(&format!("{schedule:?}, several tiles for a CTA")), "{schedule:?}");
        }
        assert!(covered.contains("PingPong, 2 waves"), "ping-pong with 128 rows");
        for share in [Share::Nothing, Share::A, Share::B] {
            assert!(covered.contains(&format!("share {share:?}")), "{share:?}");
        }
        for (store, c) in [(Store::Tma, false), (Store::Tma, true), (Store::Direct, false), (Store::Direct, true)] {
            assert!(covered.contains(&format!("store {store:?}, C {c}")), "{store:?}, {c}");
        }
        assert_eq!(covered.iter().filter(|one| one.starts_with("scales")).count(), 5 + 6);
        let narrow_rings: Vec<_> = selected
            .iter()
            .filter(|(problem, config)| narrow_ring(problem, config))
            .map(|(_, config)| config)
            .collect();
        assert_eq!(narrow_rings.len(), 4, "{narrow_rings:?}");
        assert!(covered.contains("a tile that ends inside a line of D"));
        assert!(selected.len() <= 34, "{}", selected.len());
    }
}
