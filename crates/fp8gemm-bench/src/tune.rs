//! Finds the fastest configuration of a problem by measuring. What is measured is behind a trait; what is
//! tried, and who wins, is decided here.
//!
//! Three rounds: the cost model's candidates; then the model's choice and the best three of them beside
//! the neighbours of those (a stage more or less, half or twice the raster group). The winner is the second
//! round's. So far each has the usual pattern in its promotion, as in a plan without a table. In a third the winner is
//! timed with every other one that its promotion takes, as compiled too; another pattern
//! is kept if it is faster than a tie. The model's choice is timed beside them, so that the gain over it is of one round:
//! it does not compete again, but where it is faster than the pattern the second round's times stand. All times of a round are taken in turns,
//! so that they can be compared. Bits of every kernel are compared with the twin before it is timed.

use fp8gemm_jit::KernelConfig;
use fp8gemm_jit::sass::Interleave;
use fp8gemm_jit::tuning::{Timed, Tuned, first_candidates, neighbours};
use fp8gemm_problem::Problem;

use crate::BenchError;

/// Medians that differ by no more than this are a tie: a hundredth, about what they vary by from run to run.
const TIE: f64 = 0.01;
/// Candidates of the first round whose neighbours are tried.
const BEST: usize = 3;
/// Configurations that a table keeps.
const KEPT: usize = 8;

/// A kernel that can be timed: a configuration, and what is changed in what the compiler makes of it.
pub type Variant = (KernelConfig, Interleave);

/// What tuning needs of a machine.
pub trait Measure {
    /// Compiles. For each configuration why it has no kernel that may be run, if so.
    ///
    /// # Errors
    /// Where nothing can be compiled at all.
    fn compile(&mut self, problem: &Problem, configs: &[KernelConfig]) -> Result<Vec<Option<String>>, BenchError>;

    /// Patterns that make another kernel of a compiled configuration; none where its promotion takes none.
    ///
    /// # Errors
    /// Where its kernel is not to be had.
    fn patterns(&mut self, config: &KernelConfig) -> Result<Vec<Interleave>, BenchError>;

    /// Compares rows of D with the twin, every bit.
    ///
    /// # Errors
    /// [`BenchError::WrongBits`] where they differ; others where the GPU cannot go on.
    fn check(&mut self, problem: &Problem, variant: Variant) -> Result<(), BenchError>;

    /// Median microseconds of each, after a flush of the L2 cache and with it warm.
    ///
    /// # Errors
    /// Those of the launches.
    fn time(&mut self, problem: &Problem, variants: &[Variant]) -> Result<Vec<(f64, f64)>, BenchError>;
}

/// What became of one problem.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// What goes into the table; nothing if no candidate is right.
    pub tuned: Option<Tuned>,
    /// Configurations that do not compile as they must, and why: expected of some.
    pub rejected: Vec<(String, String)>,
    /// Kernels whose bits are not the twin's (a pattern behind the configuration), and where. Never expected.
    pub wrong: Vec<(String, String)>,
}

/// A kernel that was timed.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Time {
    config: KernelConfig,
    pattern: Interleave,
    cold: f64,
    warm: f64,
}

impl Time {
    fn variant(&self) -> Variant {
        (self.config, self.pattern)
    }
}

/// Tunes one problem; `None` if `go_on` said no in the middle of it. `date` is what the table will say.
///
/// # Errors
/// Those of [`choose`](fp8gemm_jit::choose) where there is no kernel for the problem, and of `measure`.
pub fn tune(
    measure: &mut dyn Measure,
    problem: &Problem,
    sms: u32,
    date: &str,
    go_on: &dyn Fn() -> bool,
) -> Result<Option<Outcome>, BenchError> {
    let first = first_candidates(problem, sms).map_err(fp8gemm_hopper::HopperError::Jit)?;
    let mut outcome = Outcome { tuned: None, rejected: Vec::new(), wrong: Vec::new() };
    let Some(sound) = sound(measure, problem, &first, &mut outcome, go_on)? else { return Ok(None) };
    // What a plan without a table takes: the first that the compiler does not spoil.
    let Some(model) = sound.first().copied() else { return Ok(Some(outcome)) };
    let mut before = timed(measure, problem, &sound)?;
    before.sort_by(|one, other| one.cold.total_cmp(&other.cold));

    let mut again = vec![model];
    again.extend(before.iter().take(BEST).map(Time::variant).filter(|variant| *variant != model));
    let mut around: Vec<KernelConfig> = Vec::new();
    for config in again.iter().flat_map(|(config, _)| neighbours(problem, config)) {
        if !first.contains(&config) && !around.contains(&config) {
            around.push(config);
        }
    }
    let tried = first.len() + around.len();
    let Some(around) = self::sound(measure, problem, &around, &mut outcome, go_on)? else { return Ok(None) };
    again.extend(around);
    if !go_on() {
        return Ok(None);
    }
    let mut times = timed(measure, problem, &again)?;
    // `again` begins with it.
    let mut of_model = times[0];
    times.sort_by(|one, other| one.cold.total_cmp(&other.cold));
    let mut best = vec![winner(&times, &model)];
    times.retain(|time| time.config != best[0].config);
    let usual = [best[0].variant(), model];
    let Some(third) = patterned(measure, problem, usual, &mut outcome, go_on)? else { return Ok(None) };
    if let [fastest, usual, model] = third[..] {
        (best, of_model) = (vec![fastest, usual], model);
    }
    let others = before.into_iter().filter(|time| !again.contains(&time.variant()));
    let order = best.into_iter().chain(times).chain(others);
    outcome.tuned = Some(Tuned {
        problem: *problem,
        date: date.to_owned(),
        tried,
        model: entry(&of_model),
        ranking: kept(order).iter().map(entry).collect(),
    });
    Ok(Some(outcome))
}

/// Those that compile and give the twin's bits, with the pattern that a plan loads; `None` if interrupted.
fn sound(
    measure: &mut dyn Measure,
    problem: &Problem,
    configs: &[KernelConfig],
    outcome: &mut Outcome,
    go_on: &dyn Fn() -> bool,
) -> Result<Option<Vec<Variant>>, BenchError> {
    if !go_on() {
        return Ok(None);
    }
    let mut sound = Vec::with_capacity(configs.len());
    for (config, reason) in configs.iter().zip(measure.compile(problem, configs)?) {
        if let Some(reason) = reason {
            outcome.rejected.push((config.to_string(), reason));
            continue;
        }
        if !go_on() {
            return Ok(None);
        }
        // What a plan does: as compiled where the kernel does not take it.
        let usual = Interleave::usual(config);
        let taken = usual != Interleave::AsCompiled && measure.patterns(config)?.contains(&usual);
        let pattern = if taken { usual } else { Interleave::AsCompiled };
        if right(measure, problem, (*config, pattern), outcome)? {
            sound.push((*config, pattern));
        }
    }
    // Workers that Ctrl-C has ended leave reasons that are none.
    Ok(go_on().then_some(sound))
}

/// Whether a kernel gives the twin's bits.
fn right(
    measure: &mut dyn Measure,
    problem: &Problem,
    variant: Variant,
    outcome: &mut Outcome,
) -> Result<bool, BenchError> {
    match measure.check(problem, variant) {
        Ok(()) => Ok(true),
        Err(error @ BenchError::WrongBits { .. }) => {
            outcome.wrong.push((format!("{}{}", variant.0, variant.1.suffix()), error.to_string()));
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// The third round, of the second's winner and the model's choice: the winner with the fastest of its patterns,
/// the winner with the usual one, the model's choice; nothing where no other pattern is faster than a tie. `None`
/// if interrupted.
fn patterned(
    measure: &mut dyn Measure,
    problem: &Problem,
    usual: [Variant; 2],
    outcome: &mut Outcome,
    go_on: &dyn Fn() -> bool,
) -> Result<Option<Vec<Time>>, BenchError> {
    let mut variants = usual.to_vec();
    variants.dedup();
    let (usual, unchanged) = (variants[0], variants.len());
    let patterns = [vec![Interleave::AsCompiled], measure.patterns(&usual.0)?].concat();
    for pattern in patterns.into_iter().filter(|pattern| *pattern != usual.1) {
        if !go_on() {
            return Ok(None);
        }
        if right(measure, problem, (usual.0, pattern), outcome)? {
            variants.push((usual.0, pattern));
        }
    }
    if variants.len() == unchanged {
        return Ok(Some(Vec::new()));
    }
    if !go_on() {
        return Ok(None);
    }
    let mut times = timed(measure, problem, &variants)?;
    let (of_usual, of_model) = (times[0], times[unchanged - 1]);
    // Whatever the model's choice takes this time, the second round has decided between the two.
    times.retain(|time| time.config == usual.0);
    times.sort_by(|one, other| one.cold.total_cmp(&other.cold));
    let fastest = winner(&times, &usual);
    // No table says that the model's choice was faster than its winner: then the second round's times stand.
    let gains = fastest.variant() != usual && fastest.cold <= of_model.cold;
    Ok(Some(if gains { vec![fastest, of_usual, of_model] } else { Vec::new() }))
}

fn timed(measure: &mut dyn Measure, problem: &Problem, variants: &[Variant]) -> Result<Vec<Time>, BenchError> {
    let times = measure.time(problem, variants)?;
    let time =
        |((config, pattern), (cold, warm)): (&Variant, _)| Time { config: *config, pattern: *pattern, cold, warm };
    Ok(variants.iter().zip(times).map(time).collect())
}

/// Of times in order, not none: the least cold median. Of those within a hundredth of it the `first` choice
/// (the model's; the usual pattern), if it is among them; else the least warm median.
fn winner(times: &[Time], first: &Variant) -> Time {
    let tied = || times.iter().filter(|time| time.cold <= times[0].cold * (1.0 + TIE));
    let warmest = || tied().min_by(|one, other| one.warm.total_cmp(&other.warm));
    *tied().find(|time| time.variant() == *first).or_else(warmest).unwrap_or(&times[0])
}

/// The first few, and the first that needs no workspace: a plan may have to do without.
fn kept(order: impl Iterator<Item = Time>) -> Vec<Time> {
    let mut kept: Vec<Time> = Vec::new();
    for time in order {
        let alone = |time: &Time| !time.config.needs_workspace();
        if kept.len() < KEPT || (alone(&time) && !kept.iter().any(alone)) {
            kept.push(time);
        }
    }
    kept
}

fn entry(time: &Time) -> Timed {
    let interleave = Some(time.pattern).filter(|pattern| *pattern != Interleave::AsCompiled);
    Timed {
        configuration: time.config.to_string(),
        interleave: interleave.map(|pattern| pattern.name().to_owned()),
        cold_us: time.cold,
        warm_us: time.warm,
    }
}

#[cfg(test)]
#[path = "tune_tests.rs"]
mod tests;
