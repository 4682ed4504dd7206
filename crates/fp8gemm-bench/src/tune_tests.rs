//! Tuning on a machine that is made up: any time for any configuration, bits that are wrong, kernels that do
//! not compile.

use std::cell::Cell;

use fp8gemm_jit::tuning::{Device, Machine, Tuning};
use fp8gemm_jit::{Schedule, choose};

use super::*;

const DATE: &str = "2026-11-29T13:00:00Z";

/// Times by configuration; what it was asked for is noted.
struct MadeUp<F> {
    cold: F,
    spoilt: Vec<KernelConfig>,
    wrong: Vec<KernelConfig>,
    checked: Vec<KernelConfig>,
    rounds: Vec<Vec<KernelConfig>>,
}

impl<F: Fn(&KernelConfig) -> f64> MadeUp<F> {
    fn new(cold: F) -> Self {
        Self { cold, spoilt: Vec::new(), wrong: Vec::new(), checked: Vec::new(), rounds: Vec::new() }
    }

    fn tune(&mut self, problem: &Problem) -> Outcome {
        tune(self, problem, 132, DATE, &|| true).unwrap().unwrap()
    }
}

impl<F: Fn(&KernelConfig) -> f64> Measure for MadeUp<F> {
    fn compile(&mut self, _: &Problem, configs: &[KernelConfig]) -> Result<Vec<Option<String>>, BenchError> {
        Ok(configs.iter().map(|config| self.spoilt.contains(config).then(|| "spills".to_owned())).collect())
    }

    fn check(&mut self, problem: &Problem, config: &KernelConfig) -> Result<(), BenchError> {
        self.checked.push(*config);
        if !self.wrong.contains(config) {
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

    fn time(&mut self, _: &Problem, configs: &[KernelConfig]) -> Result<Vec<(f64, f64)>, BenchError> {
        assert!(configs.iter().all(|config| self.checked.contains(config)), "timed before it was checked");
        self.rounds.push(configs.to_vec());
        Ok(configs.iter().map(|config| ((self.cold)(config), (self.cold)(config) / 2.0)).collect())
    }
}

fn problem() -> Problem {
    crate::Shape::dense(4096, 7168, 2048).problem
}

fn candidates() -> Vec<KernelConfig> {
    choose(&problem(), 132).unwrap().candidates.iter().map(|estimate| estimate.config).collect()
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
    assert_eq!(machine.rounds[0], candidates());
    assert!(!machine.rounds[0].contains(&near));
    let tuned = outcome.tuned.unwrap();
    assert_eq!((tuned.problem, tuned.date.as_str(), tuned.model.cold_us), (problem(), DATE, 10.0));
    assert_eq!((tuned.ranking[0].cold_us, tuned.ranking[0].warm_us, tuned.ranking[1].cold_us), (5.0, 2.5, 6.0));
    assert!(tuned.ranking.len() == KEPT && tuned.tried > candidates().len());
    let here = Machine::new(&Device { name: "made up".into(), sms: 132, driver: 13_000 }, Some((13, 0)));
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
    let time = |config: KernelConfig, cold, warm| Time { config, cold, warm };
    let times = [time(configs[1], 10.0, 7.0), time(configs[2], 10.05, 6.0), time(configs[3], 10.2, 1.0)];
    assert_eq!(winner(&times, &configs[0]).config, configs[2]);
    assert_eq!(winner(&times, &configs[1]).config, configs[1]);
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
    assert!(machine.rounds.iter().flatten().all(|config| *config != fast));

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
    let time = |config, cold| Time { config, cold, warm: cold };
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
    tune(&mut MadeUp::new(|_: &KernelConfig| 1.0), &problem(), 132, DATE, &count).unwrap().unwrap();
    let all = steps.get();
    assert!(all > candidates().len());
    for last in 0..all {
        let left = Cell::new(last);
        let go_on = || {
            let go_on = left.get() > 0;
            left.set(left.get().saturating_sub(1));
            go_on
        };
        let mut machine = MadeUp::new(|_: &KernelConfig| 1.0);
        assert_eq!(tune(&mut machine, &problem(), 132, DATE, &go_on).unwrap(), None, "after {last} steps");
        assert!(machine.rounds.len() < 2);
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
