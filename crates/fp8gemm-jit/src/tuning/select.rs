//! Which configuration a problem gets: the table's where one fits, else the cost model's.

use fp8gemm_problem::Problem;

use super::{Machine, Timed, Tuned, Tuning, all_candidates};
use crate::choose::estimate;
use crate::sass::Interleave;
use crate::{Choice, JitError, KernelConfig, Schedule, choose, streams};

/// Rows up to which a bucket ends at a power of two.
const SMALL: usize = 128;

/// Candidates for a problem, in the order in which they are to be taken, and who has ordered them.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    /// The candidates: those of the table first, then the cost model's in its order.
    pub choice: Choice,
    /// Who has chosen the first.
    pub source: Source,
}

/// Who has chosen.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// A measurement of this problem, or of one with about as many rows.
    Tuned(Box<Tuned>),
    /// The cost model.
    Model(Untuned),
}

/// Why the cost model has chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Untuned {
    /// It was asked to.
    Off,
    /// Nothing is tuned.
    NoTable,
    /// There is a file of tables that cannot be used, or the environment names one that is not there: which, and what
    /// is wrong with it.
    Ignored(String),
    /// What is tuned is for another machine, and in what that differs.
    OtherMachine(String),
    /// The problem is not in the table.
    NotTuned,
    /// The table has configurations for it, but none that this version knows and the problem allows.
    Unusable,
}

impl Source {
    /// How much it knows of a problem: more for a measurement than for a table of this machine that has not helped,
    /// more for that than for none.
    pub fn knowledge(&self) -> u8 {
        match self {
            Self::Tuned(_) => 2,
            Self::Model(Untuned::NotTuned | Untuned::Unusable) => 1,
            Self::Model(_) => 0,
        }
    }
}

impl Selection {
    /// The cost model's choice.
    ///
    /// # Errors
    /// Those of [`choose`].
    pub fn model(problem: &Problem, sms: u32, why: Untuned) -> Result<Self, JitError> {
        Ok(Self { choice: choose(problem, sms)?, source: Source::Model(why) })
    }

    /// The chosen configuration.
    pub fn config(&self) -> KernelConfig {
        self.choice.config()
    }

    /// What the table that has chosen knows of a configuration; nothing if it does not name it, or the
    /// cost model has chosen. The first entry counts, unless this version does not know its pattern.
    pub fn timed(&self, config: &KernelConfig) -> Option<&Timed> {
        let Source::Tuned(tuned) = &self.source else { return None };
        let name = config.to_string();
        tuned.ranking.iter().find(|timed| timed.configuration == name && timed.pattern().is_ok())
    }

    /// The pattern that goes with a configuration: the [table's](Self::timed), else the [usual](Interleave::usual) one.
    pub fn interleave(&self, config: &KernelConfig) -> Interleave {
        self.timed(config).and_then(|timed| timed.pattern().ok()).unwrap_or_else(|| Interleave::usual(config))
    }
}

/// The number of rows that stands for this one in a table: up to 128 the power of two that is not
/// smaller, beyond it the multiple of 128. Problems of one bucket have as many tiles in every shape of
/// tile, so that what is fastest for one is a good choice for the others.
///
/// ```
/// use fp8gemm_jit::tuning::bucket;
///
/// assert_eq!([1, 5, 64, 65, 128, 129, 4096].map(bucket), [1, 8, 64, 128, 128, 256, 4096]);
/// ```
pub fn bucket(m: usize) -> usize {
    if m <= SMALL { m.next_power_of_two() } else { m.checked_next_multiple_of(SMALL).unwrap_or(m) }
}

impl Tuning {
    /// Chooses for a problem: the table of this machine if it has the problem, else the cost model.
    ///
    /// Types, scales, policy, N, K and whether C is read must be those of a tuned problem, M in the same
    /// [`bucket`]: the same M before all, then the least that is larger, then the largest. Alpha and
    /// beta may be any.
    ///
    /// # Errors
    /// Those of [`choose`]: where no kernel computes the problem.
    pub fn choose(&self, machine: &Machine, problem: &Problem) -> Result<Selection, JitError> {
        let sms = machine.sms;
        if self.is_empty() {
            return Selection::model(problem, sms, Untuned::NoTable);
        }
        let mut differences = Vec::new();
        let mut fitting = Vec::new();
        for table in self.tables() {
            match table.machine.differs_from(machine) {
                None => fitting.push(table),
                Some(difference) => differences.push(difference),
            }
        }
        // Of two entries as near, that of a table which knows the driver.
        fitting.sort_by_key(|table| table.machine.driver_version.is_none());
        if fitting.is_empty() {
            return Selection::model(problem, sms, Untuned::OtherMachine(differences.join("; ")));
        }
        let tuned = fitting.iter().flat_map(|table| &table.problems).filter(|tuned| alike(&tuned.problem, problem));
        let distance = |tuned: &&Tuned| match tuned.problem.m {
            m if m >= problem.m => (0, m - problem.m),
            m => (1, problem.m - m),
        };
        let Some(tuned) = tuned.min_by_key(distance) else {
            return Selection::model(problem, sms, Untuned::NotTuned);
        };
        let mut choice = choose(problem, sms)?;
        let ranked = resolve(tuned, problem, sms)?;
        if ranked.is_empty() {
            return Ok(Selection { choice, source: Source::Model(Untuned::Unusable) });
        }
        choice.candidates.retain(|estimate| !ranked.contains(&estimate.config));
        let first = ranked.into_iter().map(|config| estimate(problem, config, sms.max(1)));
        choice.candidates = first.chain(choice.candidates).collect();
        Ok(Selection { choice, source: Source::Tuned(Box::new(tuned.clone())) })
    }

    /// As [`choose`](Self::choose) for a machine that takes kernels of several versions of NVRTC, whatever its own
    /// says: the selection that [knows](Source::knowledge) most of the problem, of equal ones that of the first version.
    /// `None` is a machine without NVRTC, for which no table is refused. [`Compiler::versions`] says which a plan takes.
    ///
    /// # Errors
    /// Those of [`choose`].
    ///
    /// [`Compiler::versions`]: crate::Compiler::versions
    pub fn choose_among(
        &self,
        machine: &Machine,
        versions: &[Option<(u32, u32)>],
        problem: &Problem,
    ) -> Result<Selection, JitError> {
        let (first, others) = versions.split_first().map_or((None, versions), |(first, others)| (*first, others));
        let mut selection = self.choose(&machine.with_nvrtc(first), problem)?;
        for version in others {
            let other = self.choose(&machine.with_nvrtc(*version), problem)?;
            if other.source.knowledge() > selection.source.knowledge() {
                selection = other;
            }
        }
        Ok(selection)
    }
}

/// Whether what was measured for one holds for the other.
fn alike(tuned: &Problem, problem: &Problem) -> bool {
    let kind = |p: &Problem| (p.n, p.k, p.a, p.b, p.d, p.policy, p.c.filter(|_| p.epilogue.reads_c()));
    kind(tuned) == kind(problem) && bucket(tuned.m) == bucket(problem.m)
}

/// The configurations that the names of a ranking mean, as far as they are legal for the problem and their
/// patterns known. Each once: its first pattern is its pattern.
fn resolve(tuned: &Tuned, problem: &Problem, sms: u32) -> Result<Vec<KernelConfig>, JitError> {
    let known: Vec<_> =
        all_candidates(&tuned.problem, sms)?.into_iter().map(|config| (config.to_string(), config)).collect();
    let meant = |name: &String| known.iter().find(|(own, _)| own == name).map(|(_, config)| *config);
    let usable = tuned.ranking.iter().filter(|timed| timed.pattern().is_ok());
    let found = usable.filter_map(|timed| meant(&timed.configuration));
    // All other rules are of what both problems have in common.
    let legal = |config: &KernelConfig| config.schedule != Schedule::StreamK || streams(problem, config, sms);
    let mut configs = Vec::new();
    for config in found.filter(legal) {
        if !configs.contains(&config) {
            configs.push(config);
        }
    }
    Ok(configs)
}
