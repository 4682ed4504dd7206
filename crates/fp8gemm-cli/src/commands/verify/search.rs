//! The search for policies. The GPU computes all rows at once; on the CPU a sample of rows comes
//! first, then all rows for the policies that agree there.

use std::time::{Duration, Instant};

use fp8gemm::formats::ScaledMatrix;
use fp8gemm::problem::{Policy, Problem};
use fp8gemm::sim::{Comparison, Matrix, compare, compare_with_c};

use super::policies::{Group, candidates};
use crate::engine::{Engines, GpuRun, Task, twin};
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
    /// The kernel, where the GPU computed this.
    pub(super) gpu: Option<GpuRun>,
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

/// What is to be tried with one reading of the scales' shapes.
struct Reading {
    layouts: Layouts,
    groups: Vec<Group>,
}

/// Tries `only` one policy, or all that are legal, with each reading of the scales' shapes.
pub(super) fn search(
    inputs: &Inputs<'_>,
    recorded: &Matrix,
    only: Option<Policy>,
    engines: &Engines,
) -> Result<Found, CliError> {
    let start = Instant::now();
    let readings = readings(inputs, recorded, only)?;
    let mut problems = Vec::new();
    for reading in &readings {
        for group in &reading.groups {
            problems.push(inputs.task(reading.layouts, recorded.ty(), group.policy)?.problem());
        }
    }
    engines.announce(&problems)?;

    let mut trials = Vec::new();
    for Reading { layouts, groups } in readings {
        let rows = sample::rows(recorded.dim().0, SAMPLE);
        let screen = only.is_none() && rows.len() < recorded.dim().0;
        let mut screened: Option<Sample> = None;
        for group in groups {
            let task = inputs.task(layouts, recorded.ty(), group.policy)?;
            let trial = if !screen || engines.gpu_takes(&task.problem()) {
                full_trial(group, layouts, inputs, recorded, engines)?
            } else {
                let sample = match screened.take() {
                    Some(sample) => sample,
                    None => Sample::new(inputs, layouts, recorded, &rows)?,
                };
                let trial = sample.trial(group, inputs, layouts)?;
                screened = Some(sample);
                trial
            };
            tracing::debug!(policy = %trial.group.policy, rows = trial.rows, differing = trial.differing, "tried");
            trials.push(trial);
        }
    }
    for index in worth_all_rows(&trials) {
        trials[index] = full_trial(trials[index].group.clone(), trials[index].layouts, inputs, recorded, engines)?;
    }
    let complete = trials.iter().position(Trial::equal);
    let best = complete.or_else(|| nearest(&trials)).unwrap_or(0);
    Ok(Found { trials, best, time: start.elapsed() })
}

/// The readings of the scales' shapes for which something is legal.
fn readings(inputs: &Inputs<'_>, recorded: &Matrix, only: Option<Policy>) -> Result<Vec<Reading>, CliError> {
    let mut readings = Vec::new();
    let mut illegal = None;
    for &layouts in &inputs.readings {
        let task = inputs.task(layouts, recorded.ty(), Policy::default())?;
        let Problem { k, .. } = task.problem();
        let groups = match only {
            Some(policy) => vec![Group { policy, same: Vec::new() }],
            None => candidates(layouts.0, layouts.1, k),
        };
        // Also where nothing is legal: the error then says why, unless another reading is legal.
        let policy = groups.first().map_or(Policy::default(), |group| group.policy);
        match task.gemm().policy(policy).check() {
            Ok(()) => readings.push(Reading { layouts, groups }),
            Err(error) => illegal = illegal.or(Some(error)),
        }
    }
    match illegal {
        Some(error) if readings.is_empty() => Err(error.into()),
        _ => Ok(readings),
    }
}

/// The policies that were tried on a sample and could still give every bit; if none can, and none
/// that was tried on all rows does, the one that came nearest, so that its first difference is found.
fn worth_all_rows(trials: &[Trial]) -> Vec<usize> {
    let open: Vec<usize> =
        (0..trials.len()).filter(|&i| trials[i].full.is_none() && trials[i].differing == 0).collect();
    if !open.is_empty() || trials.iter().any(Trial::equal) {
        return open;
    }
    let nearest = (0..trials.len()).min_by(|&x, &y| trials[x].share().total_cmp(&trials[y].share()));
    nearest.into_iter().filter(|&i| trials[i].full.is_none()).collect()
}

/// The trial with the smallest share of differing elements, the first of equals; those that saw
/// all of D before those that saw a sample.
fn nearest(trials: &[Trial]) -> Option<usize> {
    let order = |trial: &Trial| (trial.full.is_none(), trial.share());
    (0..trials.len()).min_by(|&x, &y| order(&trials[x]).partial_cmp(&order(&trials[y])).unwrap_or(x.cmp(&y)))
}

fn full_trial(
    group: Group,
    layouts: Layouts,
    inputs: &Inputs<'_>,
    recorded: &Matrix,
    engines: &Engines,
) -> Result<Trial, CliError> {
    let computed = engines.compute(&inputs.task(layouts, recorded.ty(), group.policy)?)?;
    let d = computed.d.view();
    let comparison = match &inputs.c {
        Some(c) => compare_with_c(&d, &recorded.view(), &c.view(), inputs.epilogue.beta)?,
        None => compare(&d, &recorded.view())?,
    };
    Ok(Trial {
        group,
        layouts,
        rows: recorded.dim().0,
        elements: comparison.elements,
        differing: comparison.differing,
        full: Some(comparison),
        time: computed.time,
        gpu: computed.gpu,
    })
}

/// The sampled rows of A, C and D.
struct Sample {
    a: ScaledMatrix,
    c: Option<Matrix>,
    recorded: Matrix,
}

impl Sample {
    fn new(inputs: &Inputs<'_>, layouts: Layouts, recorded: &Matrix, rows: &[usize]) -> Result<Self, CliError> {
        let a = inputs.a.view_as(layouts.0)?.gather_rows(rows);
        let a = a.map_err(|source| CliError::Quantize { tensor: inputs.a.tensor.clone(), source })?;
        let c = inputs.c.as_ref().map(|c| c.view().gather_rows(rows));
        Ok(Self { a, c, recorded: recorded.view().gather_rows(rows) })
    }

    /// An output depends on its own row of A only, so the rows of a sample are those of the whole.
    fn trial(&self, group: Group, inputs: &Inputs<'_>, layouts: Layouts) -> Result<Trial, CliError> {
        let whole = inputs.task(layouts, self.recorded.ty(), group.policy)?;
        let task = Task { a: self.a.view(), c: self.c.as_ref().map(Matrix::view), ..whole };
        let rows = self.recorded.dim().0;
        let computed = twin(&task, &format!("{} on {rows} rows", group.policy))?;
        let comparison = compare(&computed.d.view(), &self.recorded.view())?;
        Ok(Trial {
            group,
            layouts,
            rows,
            elements: comparison.elements,
            differing: comparison.differing,
            full: None,
            time: Duration::ZERO,
            gpu: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fp8gemm::problem::ScaleLayout;
    use ndarray::array;

    /// A trial with so many of its elements differing, seen on all rows or on a sample.
    fn trial(differing: usize, elements: usize, all_rows: bool) -> Trial {
        let matrix = |x: f32| Matrix::F32(array![[x]]);
        let full = compare(&matrix(0.0).view(), &matrix(f32::from(u8::from(differing > 0))).view()).unwrap();
        let group = Group { policy: Policy::Chain, same: Vec::new() };
        let layouts = (ScaleLayout::Tensor, ScaleLayout::Tensor);
        let (full, time, gpu) = (all_rows.then_some(full), Duration::ZERO, None);
        Trial { group, layouts, rows: 1, elements, differing, full, time, gpu }
    }

    /// Breaks if a candidate that the GPU tried on all rows hides one of the CPU's that comes nearer
    /// or could give every bit, or if rows are computed that can change nothing.
    #[test]
    fn the_cpus_candidates_compete_with_the_gpus() {
        let worth = |trials: &[Trial]| worth_all_rows(trials);
        // Nothing gives every bit; the nearest was sampled.
        assert_eq!(worth(&[trial(50, 100, true), trial(1, 10, false), trial(2, 10, false)]), [1]);
        // The nearest is known in full already.
        assert!(worth(&[trial(5, 100, true), trial(1, 10, false)]).is_empty());
        // One gives every bit: the others only if they still can.
        assert_eq!(worth(&[trial(0, 100, true), trial(1, 10, false), trial(0, 10, false)]), [2]);
        assert!(worth(&[trial(0, 100, true), trial(1, 10, false)]).is_empty());
        assert!(worth(&[]).is_empty());
        // What was nearest on the sample is reported if it stays nearest.
        assert_eq!(nearest(&[trial(50, 100, true), trial(10, 100, true), trial(1, 100, false)]), Some(1));
    }
}
