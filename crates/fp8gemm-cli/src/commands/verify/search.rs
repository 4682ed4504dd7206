//! The search for policies: a sample of rows first, then all rows for those that agree there.

use std::time::{Duration, Instant};

use fp8gemm::formats::ScaledMatrix;
use fp8gemm::problem::Policy;
use fp8gemm::sim::{Comparison, Gemm, Matrix, compare, compare_with_c};

use super::gemm;
use super::policies::{Group, candidates};
use crate::engine;
use crate::error::CliError;
use crate::operands::{Inputs, Layouts};
use crate::sample;

/// Rows that policies are screened on. With some hundred columns that is some thousand outputs,
/// and two policies differ in one output of two (f32) to one of some thousand (bf16).
const SAMPLE: usize = 16;

/// What is known of one policy.
pub(super) struct Trial {
    pub(super) group: Group,
    /// How the shapes of the scales were read.
    pub(super) layouts: Layouts,
    /// Rows compared: all of D, or the sample.
    pub(super) rows: usize,
    pub(super) elements: usize,
    pub(super) differing: usize,
    /// The comparison of all of D; nothing where the sample was enough to rule the policy out.
    pub(super) full: Option<Comparison>,
    /// Time of the pass over all of D.
    pub(super) time: Duration,
}

impl Trial {
    /// Whether every bit of D is equal.
    pub(super) fn equal(&self) -> bool {
        self.full.as_ref().is_some_and(Comparison::bits_equal)
    }

    fn share(&self) -> f64 {
        self.differing as f64 / self.elements.max(1) as f64
    }
}

/// What the search found.
pub(super) struct Found {
    /// Every policy tried, in the order tried.
    pub(super) trials: Vec<Trial>,
    /// Index of the trial to report: the first that gives every bit, else the nearest.
    pub(super) best: usize,
    /// Time of everything.
    pub(super) time: Duration,
}

/// Tries `only` one policy, or all that are legal, with each reading of the scales' shapes.
pub(super) fn search(inputs: &Inputs<'_>, recorded: &Matrix, only: Option<Policy>) -> Result<Found, CliError> {
    let start = Instant::now();
    let mut trials = Vec::new();
    let mut screened_any = false;
    let mut illegal = None;
    for &layouts in &inputs.readings {
        let gemm = gemm(inputs, recorded, layouts)?;
        let problem = gemm.problem();
        let groups = match only {
            Some(policy) => vec![Group { policy, same: Vec::new() }],
            None => candidates(layouts.0, layouts.1, problem.k),
        };
        // Also where nothing is legal: the error then says why, unless another reading is legal.
        let probe = groups.first().map_or(Policy::default(), |group| group.policy);
        if let Err(error) = gemm.clone().policy(probe).check() {
            illegal = illegal.or(Some(error));
            continue;
        }
        let rows = sample::rows(problem.m, SAMPLE);
        let screen = only.is_none() && rows.len() < problem.m;
        let screened = if screen { Some(Sample::new(inputs, layouts, recorded, rows)?) } else { None };
        screened_any |= screen;
        for group in groups {
            let trial = match &screened {
                Some(sample) => sample.trial(group, inputs, layouts)?,
                None => full_trial(group, inputs, layouts, recorded)?,
            };
            tracing::debug!(policy = %trial.group.policy, rows = trial.rows, differing = trial.differing, "tried");
            trials.push(trial);
        }
    }
    if let Some(error) = illegal.filter(|_| trials.is_empty()) {
        return Err(error.into());
    }
    if screened_any {
        let mut survivors: Vec<usize> = (0..trials.len()).filter(|&i| trials[i].differing == 0).collect();
        if survivors.is_empty() {
            survivors.extend(nearest(&trials));
        }
        for index in survivors {
            trials[index] = full_trial(trials[index].group.clone(), inputs, trials[index].layouts, recorded)?;
        }
    }
    let complete = trials.iter().position(Trial::equal);
    let best = complete.or_else(|| nearest(&trials)).unwrap_or(0);
    Ok(Found { trials, best, time: start.elapsed() })
}

/// The trial with the smallest share of differing elements, the first of equals; those that saw
/// all of D before those that saw a sample.
fn nearest(trials: &[Trial]) -> Option<usize> {
    let order = |trial: &Trial| (trial.full.is_none(), trial.share());
    (0..trials.len()).min_by(|&x, &y| order(&trials[x]).partial_cmp(&order(&trials[y])).unwrap_or(x.cmp(&y)))
}

fn full_trial(group: Group, inputs: &Inputs<'_>, layouts: Layouts, recorded: &Matrix) -> Result<Trial, CliError> {
    let gemm = gemm(inputs, recorded, layouts)?;
    let (d, time) = engine::run(&gemm.policy(group.policy), &group.policy.to_string())?;
    let comparison = match &inputs.c {
        Some(c) => compare_with_c(&d.view(), &recorded.view(), &c.view(), inputs.epilogue.beta)?,
        None => compare(&d.view(), &recorded.view())?,
    };
    let (elements, differing) = (comparison.elements, comparison.differing);
    Ok(Trial { group, layouts, rows: recorded.dim().0, elements, differing, full: Some(comparison), time })
}

/// The sampled rows of A, C and D.
struct Sample {
    a: ScaledMatrix,
    c: Option<Matrix>,
    recorded: Matrix,
}

impl Sample {
    fn new(inputs: &Inputs<'_>, layouts: Layouts, recorded: &Matrix, rows: Vec<usize>) -> Result<Self, CliError> {
        let a = inputs.a.view_as(layouts.0)?.gather_rows(&rows);
        let a = a.map_err(|source| CliError::Quantize { tensor: inputs.a.tensor.clone(), source })?;
        let c = inputs.c.as_ref().map(|c| c.view().gather_rows(&rows));
        Ok(Self { a, c, recorded: recorded.view().gather_rows(&rows) })
    }

    /// An output depends on its own row of A only, so the rows of a sample are those of the whole.
    fn trial(&self, group: Group, inputs: &Inputs<'_>, layouts: Layouts) -> Result<Trial, CliError> {
        let mut gemm = Gemm::new(self.a.view(), inputs.b.view_as(layouts.1)?)
            .output(self.recorded.ty())
            .epilogue(inputs.epilogue)
            .policy(group.policy);
        if let Some(c) = &self.c {
            gemm = gemm.c(c.view());
        }
        let what = format!("{} on {} rows", group.policy, self.recorded.dim().0);
        let (d, _) = engine::run(&gemm, &what)?;
        let comparison = compare(&d.view(), &self.recorded.view())?;
        Ok(Trial {
            group,
            layouts,
            rows: self.recorded.dim().0,
            elements: comparison.elements,
            differing: comparison.differing,
            full: None,
            time: Duration::ZERO,
        })
    }
}
