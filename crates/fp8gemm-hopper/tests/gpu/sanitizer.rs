//! A few tiny problems that touch every part of the kernel, for
//! `compute-sanitizer --tool memcheck|racecheck|synccheck|initcheck`.

use std::collections::BTreeSet;

use fp8gemm_hopper::{HopperError, Plan};
use fp8gemm_jit::{JitError, Schedule, Share, choose};
use fp8gemm_problem::Problem;
use rand::{SeedableRng, rngs::StdRng};

use crate::data::Case;
use crate::{guarded, setup};

/// Breaks if a problem that stands for a path of the kernel gives other bits than the twin; what
/// the sanitizer says about it is for its reader. For each problem: the chosen configuration, and
/// the first with a cluster, with stream-K, with 256 rows and with a tile that ends inside a 128-byte line of D, and the
/// smallest tile.
#[test]
#[ignore = "needs Hopper"]
fn sanitizer_set() {
    let (gpu, compiler) = setup();
    let stream = gpu.context().new_stream().unwrap();
    let mut rng = StdRng::seed_from_u64(21);
    // Kernels stay loaded: racecheck (2025.3.1) crashed at the end where they had been unloaded.
    let mut plans = Vec::new();
    for text in [
        "130x250x300 a=e4m3:1x128 b=e4m3:128x128 d=bf16",
        "70x130x260 a=e5m2:1x128 b=e4m3:1x128 d=f32 c=f32 beta=1",
        "129x40x128 a=e4m3:row b=e5m2:tensor d=f16 alpha=0.5",
        "33x161x513 a=e4m3:tensor b=e4m3:row d=f32 policy=chain",
        "300x272x130 a=e4m3:1x128 b=e4m3:128x128 d=bf16 c=f16 beta=-1",
        "1x1x1 a=e4m3:1x128 b=e4m3:128x128 d=bf16",
        "1030x4000x260 a=e4m3:1x128 b=e4m3:128x128 d=bf16",
    ] {
        let problem: Problem = text.parse().unwrap();
        let candidates: Vec<_> =
            choose(&problem, gpu.sms()).unwrap().candidates.into_iter().map(|candidate| candidate.config).collect();
        let mut configs = vec![candidates[0]];
        configs.extend(candidates.iter().find(|config| config.share != Share::Nothing));
        configs.extend(candidates.iter().find(|config| config.schedule == Schedule::StreamK));
        configs.extend(candidates.iter().find(|config| config.block_m == 256));
        configs.extend(candidates.iter().find(|config| !config.block_n.is_multiple_of(64)));
        // Several tiles for each CTA, if the problem is large enough.
        configs.extend(candidates.iter().min_by_key(|config| config.block_m * config.block_n));
        let case = Case::random(problem, &mut rng);
        let twin = case.twin();
        let mut seen = BTreeSet::new();
        for config in configs {
            if !seen.insert(config.to_string()) {
                continue;
            }
            let plan = match Plan::with_config(&gpu, &compiler, &problem, config) {
                Err(HopperError::Jit(JitError::Rejected { .. })) => continue,
                plan => plan.unwrap(),
            };
            guarded::check(&plan, &case, &twin, &stream, &format!("{text} on {config}"), &mut rng);
            println!("{text} on {config}: equal");
            plans.push(plan);
        }
    }
    stream.synchronize().unwrap();
    drop(stream);
    println!("{} kernels", plans.len());
}
