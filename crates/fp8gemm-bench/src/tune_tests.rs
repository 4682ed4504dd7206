//! Tuning on a machine that is made up: any time for any kernel, bits that are wrong, kernels that do not
//! compile.

use std::cell::Cell;

use fp8gemm_jit::tuning::{Device, Machine, Tuning};
use fp8gemm_jit::{Schedule, choose};

use super::*;

const DATE: &str = "2026-11-29T13:00:00Z";

/// Times by configuration, and of patterns as a factor; what it was asked for is noted.
struct MadeUp<F> {
    cold: F,
    /// Patterns that all kernels take, and their times' ratio to those as compiled.
    patterns: Vec<(Interleave, f64)>,
    spoilt: Vec<KernelConfig>,
    wrong: Vec<KernelConfig>,
    wrong_pattern: Option<Interleave>,
    /// A configuration with another time from a round on, counted from 0.
    changing: Option<(usize, KernelConfig, f64)>,
    checked: Vec<Variant>,
    rounds: Vec<Vec<Variant>>,
}

impl<F: Fn(&KernelConfig) -> f64> MadeUp<F> {
    fn new(cold: F) -> Self {
        let (patterns, wrong_pattern, changing) = (Vec::new(), None, None);
        let [spoilt, wrong] = [Vec::new(), Vec::new()];
        Self { cold, patterns, spoilt, wrong, wrong_pattern, changing, checked: Vec::new(), rounds: Vec::new() }
    }

    fn tune(&mut self, problem: &Problem) -> Outcome {
        tune(self, problem, 132, DATE, &|| true).unwrap().unwrap()
    }
}

impl<F: Fn(&KernelConfig) -> f64> Measure for MadeUp<F> {
    fn compile(&mut self, _: &Problem, configs: &[KernelConfig]) -> Result<Vec<Option<String>>, BenchError> {
        Ok(configs.iter().map(|config| self.spoilt.contains(config).then(|| "spills".to_owned())).collect())
    }

    fn patterns(&mut self, _: &KernelConfig) -> Result<Vec<Interleave>, BenchError> {
        Ok(self.patterns.iter().map(|(pattern, _)| *pattern).collect())
    }

    fn check(&mut self, problem: &Problem, variant: Variant) -> Result<(), BenchError> {
        self.checked.push(variant);
        let (config, pattern) = variant;
        if !self.wrong.contains(&config) && self.wrong_pattern != Some(pattern) {
            return Ok(());
        }
        Err(BenchError::WrongBits {
            problem: *problem,
            configuration: config.to_string(),
            different: 1,
            compared: 10,
            row: 0,
            column: 3,
            found: 1,
            expected: 2,
        })
    }

    fn time(&mut self, _: &Problem, variants: &[Variant]) -> Result<Vec<(f64, f64)>, BenchError> {
        assert!(variants.iter().all(|variant| self.checked.contains(variant)), "timed before it was checked");
        let round = self.rounds.len();
        self.rounds.push(variants.to_vec());
        let factor = |pattern| self.patterns.iter().find(|(known, _)| *known == pattern).map_or(1.0, |known| known.1);
        let changed = |config| self.changing.filter(|(from, one, _)| round >= *from && *one == config);
        let plain = |config| changed(config).map_or_else(|| (self.cold)(&config), |(_, _, cold)| cold);
        let cold = |(config, pattern): &Variant| plain(*config) * factor(*pattern);
        Ok(variants.iter().map(|variant| (cold(variant), cold(variant) / 2.0)).collect())
    }
}

fn problem() -> Problem {
    crate::Shape::dense(4096, 7168, 2048).problem
}

fn candidates() -> Vec<KernelConfig> {
    choose(&problem(), 132).unwrap().candidates.iter().map(|estimate| estimate.config).collect()
}

fn as_compiled(configs: &[KernelConfig]) -> Vec<Variant> {
    configs.iter().map(|config| (*config, Interleave::AsCompiled)).collect()
}

fn winner_of(outcome: &Outcome) -> &str {
    &outcome.tuned.as_ref().unwrap().ranking[0].configuration
}

/// Breaks if the fastest candidate does not win, its neighbours are not tried, or what is stored is not
/// what a plan then takes.
#[test]
fn the_fastest_wins_neighbours_among_them() {
    let favourite = candidates()[5];
    let near =
        neighbours(&problem(), &favourite).into_iter().find(|other| other.stages + 1 == favourite.stages).unwrap();
    let cold = |config: &KernelConfig| match *config {
        config if config == near => 5.0,
        config if config == favourite => 6.0,
        _ => 10.0,
    };
    let mut machine = MadeUp::new(cold);
    let outcome = machine.tune(&problem());
    assert_eq!(winner_of(&outcome), near.to_string());
    assert_eq!(machine.rounds.len(), 2);
    assert_eq!(machine.rounds[0], as_compiled(&candidates()));
    assert!(!candidates().contains(&near));
    let tuned = outcome.tuned.unwrap();
    assert_eq!((tuned.problem, tuned.date.as_str(), tuned.model.cold_us), (problem(), DATE, 10.0));
    assert_eq!((tuned.ranking[0].cold_us, tuned.ranking[0].warm_us, tuned.ranking[1].cold_us), (5.0, 2.5, 6.0));
    assert!(tuned.ranking.len() == KEPT && tuned.tried > candidates().len());
    let here =
        Machine::new(&Device { name: "made up".into(), sms: 132, driver: 13_000, driver_version: None }, Some((13, 0)));
    let tables = Tuning::parse(&Tuning::of(here.clone(), vec![tuned]).to_json()).unwrap();
    assert_eq!(tables.choose(&here, &problem()).unwrap().config(), near);
}

/// Breaks if noise replaces the model's choice, or a real gain does not.
#[test]
fn ties_go_to_the_model() {
    let [model, other] = [candidates()[0], candidates()[3]];
    let tuned = |gain: f64| {
        let cold = move |config: &KernelConfig| match *config {
            config if config == model => 100.0,
            config if config == other => 100.0 - gain,
            _ => 150.0,
        };
        winner_of(&MadeUp::new(cold).tune(&problem())).to_owned()
    };
    assert_eq!(tuned(0.9), model.to_string());
    assert_eq!(tuned(1.5), other.to_string());
}

/// Breaks if, of two that are equally fast with a cold cache, the slower with a warm one is taken.
#[test]
fn warm_times_decide_between_equals() {
    let configs = candidates();
    let pattern = Interleave::AsCompiled;
    let time = |config: KernelConfig, cold, warm| Time { config, pattern, cold, warm };
    let times = [time(configs[1], 10.0, 7.0), time(configs[2], 10.05, 6.0), time(configs[3], 10.2, 1.0)];
    assert_eq!(winner(&times, &(configs[0], pattern)).config, configs[2]);
    assert_eq!(winner(&times, &(configs[1], pattern)).config, configs[1]);
}

/// Breaks if the winner's patterns are not timed beside it, the fastest is not what is stored and then taken,
/// noise replaces what the compiler made, or the times that are stored together are of different rounds.
#[test]
fn a_pattern_is_kept_if_it_is_faster() {
    let [model, best] = [candidates()[0], candidates()[3]];
    let cold = |config: &KernelConfig| if *config == best { 80.0 } else { 100.0 };
    let tuned = |patterns: &[(Interleave, f64)]| {
        let mut machine = MadeUp::new(cold);
        machine.patterns = patterns.to_vec();
        let tuned = machine.tune(&problem()).tuned.unwrap();
        (tuned, machine.rounds)
    };
    let (none, rounds) = tuned(&[]);
    assert_eq!((none.ranking[0].interleave.clone(), rounds.len()), (None, 2));

    let patterns = [(Interleave::None, 1.1), (Interleave::DeepGemm2025, 0.97), (Interleave::OneInFour, 0.9)];
    let (faster, rounds) = tuned(&patterns);
    let third = [(best, Interleave::AsCompiled), (model, Interleave::AsCompiled)];
    assert_eq!(rounds[2], [&third[..], &patterns.map(|(pattern, _)| (best, pattern))].concat());
    let [with, without] = [&faster.ranking[0], &faster.ranking[1]];
    assert_eq!((with.interleave.as_deref(), with.cold_us, with.warm_us), (Some("one-in-four"), 72.0, 36.0));
    // For a version that does not know the pattern, or a compiler whose kernel does not take it.
    assert_eq!((without.configuration.clone(), without.cold_us), (best.to_string(), 80.0));
    assert_eq!((&with.configuration, without.interleave.clone()), (&without.configuration, None));
    assert_eq!((faster.ranking.len(), &faster.model), (KEPT, &none.model));
    let here =
        Machine::new(&Device { name: "made up".into(), sms: 132, driver: 13_000, driver_version: None }, Some((13, 0)));
    let selection = Tuning::of(here.clone(), vec![faster]).choose(&here, &problem()).unwrap();
    assert_eq!((selection.config(), selection.interleave(&best)), (best, Interleave::OneInFour));

    assert_eq!(tuned(&[(Interleave::OneInFour, 0.995)]).0, none, "a tie");
    assert_eq!(tuned(&[(Interleave::OneInFour, 1.2)]).0, none, "slower");
}

/// Breaks if the third round, which is about patterns, makes the model's choice the winner because it is faster this
/// time, the ranking then has it twice, with times of two rounds, or a table says that it is faster than the winner.
#[test]
fn the_winner_is_the_second_rounds() {
    let [model, best] = [candidates()[0], candidates()[3]];
    let cold = |config: &KernelConfig| if *config == best { 80.0 } else { 100.0 };
    for (of_pattern, of_model, expected) in [
        (0.9, 75.0, (72.0, 75.0)), // a pattern that is kept is stored with times of its round
        (0.9, 60.0, (80.0, 100.0)),
        (1.2, 60.0, (80.0, 100.0)),
    ] {
        let mut machine = MadeUp::new(cold);
        machine.patterns = vec![(Interleave::OneInFour, of_pattern)];
        machine.changing = Some((2, model, of_model));
        let tuned = machine.tune(&problem()).tuned.unwrap();
        assert_eq!(machine.rounds.len(), 3);
        assert_eq!(tuned.ranking[0].configuration, best.to_string());
        let of_model: Vec<_> = tuned.ranking.iter().filter(|timed| timed.configuration == model.to_string()).collect();
        assert!(of_model.len() <= 1, "{of_model:?}");
        assert_eq!((tuned.ranking[0].cold_us, tuned.model.cold_us), expected);
    }
}

/// Breaks if candidates are timed otherwise than a plan loads them, or what is faster as compiled is stored with the
/// usual pattern, which a plan would then take.
#[test]
fn candidates_have_the_usual_pattern() {
    let [model, best] = [candidates()[0], candidates()[3]];
    let cold = |config: &KernelConfig| if *config == best { 80.0 } else { 100.0 };
    for (usual, stored) in [(0.98, Some("reuse-one-in-four")), (1.2, None)] {
        let mut machine = MadeUp::new(cold);
        machine.patterns = vec![(Interleave::None, 1.5), (Interleave::ReuseOneInFour, usual)];
        let tuned = machine.tune(&problem()).tuned.unwrap();
        let loaded = |config: &KernelConfig| (*config, Interleave::usual(config));
        assert_eq!(machine.rounds[0], candidates().iter().map(loaded).collect::<Vec<_>>());
        assert!(machine.rounds[1].iter().all(|variant| *variant == loaded(&variant.0)));
        let others = [Interleave::AsCompiled, Interleave::None].map(|pattern| (best, pattern));
        assert_eq!(machine.rounds[2], [&[loaded(&best), loaded(&model)], &others[..]].concat());
        assert_eq!(
            (tuned.ranking[0].interleave.as_deref(), &tuned.ranking[0].configuration),
            (stored, &best.to_string())
        );
        let here = Machine::new(
            &Device { name: "made up".into(), sms: 132, driver: 13_000, driver_version: None },
            Some((13, 0)),
        );
        let selection = Tuning::of(here.clone(), vec![tuned]).choose(&here, &problem()).unwrap();
        assert_eq!(selection.interleave(&best).name(), stored.unwrap_or("as-compiled"));
    }
}

/// Breaks if the model's choice is timed twice where it is the winner, or its time is another's then.
#[test]
fn the_models_choice_can_win_with_a_pattern() {
    let model = candidates()[0];
    let mut machine = MadeUp::new(|config: &KernelConfig| if *config == model { 50.0 } else { 100.0 });
    machine.patterns = vec![(Interleave::None, 0.5)];
    let tuned = machine.tune(&problem()).tuned.unwrap();
    assert_eq!(machine.rounds[2], [(model, Interleave::AsCompiled), (model, Interleave::None)]);
    assert_eq!((tuned.ranking[0].cold_us, tuned.model.cold_us, tuned.model.interleave), (25.0, 50.0, None));
}

/// Breaks if a pattern that changes bits gets a time or a place in the table, takes the winner as compiled with
/// it, or goes unreported.
#[test]
fn patterns_with_wrong_bits_are_reported_and_never_stored() {
    let mut machine = MadeUp::new(|_: &KernelConfig| 10.0);
    machine.patterns = vec![(Interleave::None, 0.5), (Interleave::OneInFour, 0.8)];
    machine.wrong_pattern = Some(Interleave::None);
    let outcome = machine.tune(&problem());
    let model = candidates()[0];
    assert_eq!(outcome.wrong.len(), 1);
    assert_eq!(outcome.wrong[0].0, format!("{model}_yield-none"));
    assert_eq!(outcome.tuned.unwrap().ranking[0].interleave.as_deref(), Some("one-in-four"));
    assert!(machine.rounds.iter().flatten().all(|(_, pattern)| *pattern != Interleave::None));
    machine.patterns.truncate(1);
    let ranking = machine.tune(&problem()).tuned.unwrap().ranking;
    assert_eq!((ranking[0].configuration.clone(), ranking[0].interleave.clone()), (model.to_string(), None));
}

/// Breaks if a kernel with wrong bits gets a time or a place in the table, or goes unreported.
#[test]
fn wrong_bits_are_reported_and_never_stored() {
    let fast = candidates()[2];
    let mut machine = MadeUp::new(|config: &KernelConfig| if *config == fast { 1.0 } else { 10.0 });
    machine.wrong = vec![fast];
    let outcome = machine.tune(&problem());
    assert_eq!(outcome.wrong.len(), 1);
    assert_eq!(outcome.wrong[0].0, fast.to_string());
    assert!(outcome.wrong[0].1.contains("WRONG BITS"));
    assert!(outcome.tuned.unwrap().ranking.iter().all(|timed| timed.configuration != fast.to_string()));
    assert!(machine.rounds.iter().flatten().all(|(config, _)| *config != fast));

    let mut machine = MadeUp::new(|_: &KernelConfig| 1.0);
    machine.wrong = candidates();
    let outcome = machine.tune(&problem());
    assert_eq!((outcome.tuned, outcome.wrong.len()), (None, candidates().len()));
}

/// Breaks if a kernel that the compiler spoils is timed, or counts as the model's choice, which a plan would
/// pass over.
#[test]
fn spoilt_kernels_are_passed_over() {
    let all = candidates();
    let mut machine = MadeUp::new(|_: &KernelConfig| 10.0);
    machine.spoilt = vec![all[0]];
    let outcome = machine.tune(&problem());
    assert_eq!(outcome.rejected, [(all[0].to_string(), "spills".to_owned())]);
    assert_eq!(outcome.tuned.unwrap().model.configuration, all[1].to_string());
}

/// Breaks if a table has nothing for a plan without a workspace where stream-K fills the first places.
#[test]
fn something_without_a_workspace_is_kept() {
    let all = candidates();
    let stream_k = all.iter().copied().find(|config| config.schedule == Schedule::StreamK).unwrap();
    let alone = *all.iter().find(|config| config.schedule == Schedule::Cooperative).unwrap();
    let time = |config, cold| Time { config, pattern: Interleave::AsCompiled, cold, warm: cold };
    let mut order: Vec<_> = (0..12u16).map(|i| time(stream_k, f64::from(i))).collect();
    order.extend([time(alone, 20.0), time(alone, 21.0)]);
    let kept = kept(order.into_iter());
    assert_eq!(kept.len(), KEPT + 1);
    assert_eq!((kept[KEPT].config, kept[KEPT].cold), (alone, 20.0));
}

/// Breaks if an interruption between any two steps stores half a result, or is not heeded.
#[test]
fn an_interruption_stores_nothing() {
    let steps = Cell::new(0);
    let count = || {
        steps.set(steps.get() + 1);
        true
    };
    let machine = || MadeUp { patterns: vec![(Interleave::None, 0.5)], ..MadeUp::new(|_: &KernelConfig| 1.0) };
    let mut whole = machine();
    tune(&mut whole, &problem(), 132, DATE, &count).unwrap().unwrap();
    assert_eq!(whole.rounds.len(), 3);
    let all = steps.get();
    assert!(all > candidates().len());
    for last in 0..all {
        let left = Cell::new(last);
        let go_on = || {
            let go_on = left.get() > 0;
            left.set(left.get().saturating_sub(1));
            go_on
        };
        let mut machine = machine();
        assert_eq!(tune(&mut machine, &problem(), 132, DATE, &go_on).unwrap(), None, "after {last} steps");
        assert!(machine.rounds.len() < 3);
    }
}

/// Breaks if workers that an interruption has ended make a problem look as if it had no kernel.
#[test]
fn interrupted_workers_are_no_result() {
    let mut machine = MadeUp::new(|_: &KernelConfig| 1.0);
    machine.spoilt = candidates();
    let calls = Cell::new(0);
    let go_on = || calls.replace(calls.get() + 1) == 0;
    assert_eq!(tune(&mut machine, &problem(), 132, DATE, &go_on).unwrap(), None);
    let outcome = machine.tune(&problem());
    assert_eq!((outcome.tuned, outcome.rejected.len()), (None, candidates().len()));
}

/// Breaks if a problem without a kernel is a panic or an empty table.
#[test]
fn problems_without_a_kernel_are_errors() {
    let empty = Problem { m: 0, ..problem() };
    assert!(tune(&mut MadeUp::new(|_: &KernelConfig| 1.0), &empty, 132, DATE, &|| true).is_err());
}
