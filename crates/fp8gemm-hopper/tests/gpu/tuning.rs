//! Plans that a tuning table chooses for.

use fp8gemm_hopper::{Plan, PlanOptions};
use fp8gemm_jit::sass::Interleave;
use fp8gemm_jit::tuning::{Machine, Timed, Tuned, Tuning, all_candidates};
use fp8gemm_jit::{Cache, Compiler, KernelConfig, Schedule, Store, choose};
use fp8gemm_problem::Problem;

use crate::setup;

/// Breaks if a plan does not take what the table names, takes it where it is told not to, or cannot do without
/// a workspace that the table's winner needs.
#[test]
#[ignore = "needs Hopper"]
fn plans_take_what_is_tuned() {
    let (gpu, compiler) = setup();
    let version = compiler.nvrtc().unwrap().version();
    // A few more tiles than SMs, so that stream-K is among the candidates.
    let problem: Problem = "1500x3000x1024 a=e4m3:tensor b=e4m3:tensor d=f32".parse().unwrap();
    let all = all_candidates(&problem, gpu.sms()).unwrap();
    let model = choose(&problem, gpu.sms()).unwrap().config();
    let stream_k = *all.iter().find(|config| config.schedule == Schedule::StreamK).unwrap();
    let alone = *all.iter().rev().find(|config| config.schedule == Schedule::Cooperative).unwrap();
    assert!(alone != model && stream_k != model);
    let timed = |configuration: String| Timed { configuration, interleave: None, cold_us: 2.0, warm_us: 1.0 };
    let tuned = Tuned {
        problem,
        date: "2026-11-29T13:00:00Z".into(),
        tried: all.len(),
        model: timed(model.to_string()),
        ranking: [stream_k, alone].map(|config| timed(config.to_string())).into(),
    };
    let tables = Tuning::of(Machine::new(&gpu.device(), Some(version)), vec![tuned]);
    let compiler = Compiler::new(Cache::from_environment(), None).with_tuning(Some(tables));
    let plan = |options| Plan::with_options(&gpu, &compiler, &problem, options).unwrap().config();
    let options = PlanOptions::default();
    assert_eq!(plan(options.workspace(true)), stream_k);
    assert_eq!(plan(options), alone);
    let untuned = plan(options.model_only(true).workspace(true));
    assert!(untuned != stream_k || model == stream_k, "{untuned}");
    // Another bucket of M is not tuned.
    let other = Problem { m: 1600, ..problem };
    let chosen = Plan::with_options(&gpu, &compiler, &other, options.workspace(true)).unwrap().config();
    assert_eq!(chosen, choose(&other, gpu.sms()).unwrap().config());
}

/// Breaks if a plan does not load the pattern that the table has with its configuration, loads it for one that
/// its options have changed, or fails where the kernel takes none (tensor scales).
#[test]
#[ignore = "needs Hopper"]
fn plans_take_the_tuned_pattern() {
    let (gpu, compiler) = setup();
    let version = compiler.nvrtc().unwrap().version();
    for (text, expected) in [
        ("4096x3072x1024 a=e4m3:1x128 b=e4m3:128x128 d=bf16", [Interleave::OneInFour, Interleave::ReuseOneInFour]),
        ("4096x3072x1024 a=e4m3:tensor b=e4m3:tensor d=bf16", [Interleave::AsCompiled; 2]),
    ] {
        let [expected, usual] = expected;
        let problem: Problem = text.parse().unwrap();
        let all = all_candidates(&problem, gpu.sms()).unwrap();
        let fits = |config: &&KernelConfig| {
            config.block_n == 128 && config.schedule == Schedule::Cooperative && config.store == Store::Tma
        };
        let config = *all.iter().find(fits).unwrap();
        let timed = |interleave| Timed { configuration: config.to_string(), interleave, cold_us: 2.0, warm_us: 1.0 };
        let tuned = Tuned {
            problem,
            date: "2026-11-29T13:00:00Z".into(),
            tried: all.len(),
            model: timed(None),
            ranking: vec![timed(Some("one-in-four".into()))],
        };
        let tables = Tuning::of(Machine::new(&gpu.device(), Some(version)), vec![tuned]);
        let compiler = Compiler::new(Cache::from_environment(), None).with_tuning(Some(tables));
        let plan = |options| Plan::with_options(&gpu, &compiler, &problem, options).unwrap();
        let options = PlanOptions::default();
        let taken = plan(options);
        assert_eq!((taken.config(), taken.interleave()), (config, expected), "{text}");
        let changed = plan(options.direct_store(true));
        assert_eq!((changed.config().store, changed.interleave()), (Store::Direct, usual), "{text}");
        assert_eq!(plan(options.model_only(true)).interleave(), usual, "{text}");
    }
}
