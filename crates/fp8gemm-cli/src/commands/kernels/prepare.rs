//! The kernels of many problems, compiled side by side: for tuning, and for a bundle that a server imports.

use std::collections::{BTreeMap, BTreeSet};

use fp8gemm::jit::catalog::Entry;
use fp8gemm::jit::tuning::{Source, Tuning, kernel_version};
use fp8gemm::jit::{
    BASE_OPTIONS, BlockScales, Choice, Compiler, ElementwiseKernel, KernelConfig, Key, QuantizeKernel, choose,
};
use fp8gemm::problem::{Problem, ScaleLayout};

use super::compile::writable;
use super::workers::{self, Done, Job, Step};
use crate::error::{CliError, note};
use crate::text::count;

/// A configuration of a problem, for a number of SMs.
pub(crate) type Wanted = (Problem, u32, KernelConfig);

/// What became of kernels.
#[derive(Debug, Default)]
pub(crate) struct Prepared {
    /// Names of those that can be run, and their keys.
    pub(crate) keys: BTreeMap<String, Key>,
    /// Of those, how many the cache had.
    pub(crate) cached: usize,
    /// Of those, how many quantise, transpose or repack.
    pub(crate) elementwise: usize,
    /// What the workers did.
    pub(crate) done: Vec<Done>,
}

/// Compiles the kernels of these configurations, each once, as far as the cache has them not.
///
/// # Errors
/// [`CliError::Jit`] without NVRTC where one is missing; [`CliError::Usage`] where no process can be started.
pub(crate) fn compile(
    compiler: &Compiler,
    wanted: &[Wanted],
    processes: Option<usize>,
    step: Step<'_>,
) -> Result<Prepared, CliError> {
    let (mut prepared, missing) = split(compiler, gemms(wanted)?);
    prepared.make(compiler, missing, |jobs| workers::compile(jobs, processes, step))?;
    Ok(prepared)
}

fn gemms(wanted: &[Wanted]) -> Result<Vec<(Entry, Job)>, CliError> {
    let one = |(problem, sms, config): &Wanted| Ok((Entry::Gemm(*config), Job::candidate(problem, *sms, config)?));
    wanted.iter().map(one).collect()
}

/// Which the cache has, and which not; each once.
fn split(compiler: &Compiler, wanted: Vec<(Entry, Job)>) -> (Prepared, Vec<(Entry, Job)>) {
    let (mut prepared, mut missing) = (Prepared::default(), Vec::new());
    let mut seen = BTreeSet::new();
    for (entry, job) in wanted {
        if !seen.insert(job.name.clone()) {
            continue;
        }
        let source = entry.source();
        match compiler.cached(&entry.unit(&source, &job.name)) {
            Some(key) => {
                prepared.keys.insert(job.name, key);
                prepared.cached += 1;
            }
            None => missing.push((entry, job)),
        }
    }
    (prepared, missing)
}

impl Prepared {
    /// Compiles what is missing; NVRTC is needed for that alone.
    fn make(
        &mut self,
        compiler: &Compiler,
        missing: Vec<(Entry, Job)>,
        compile: impl FnOnce(&[Job]) -> Result<Vec<Done>, CliError>,
    ) -> Result<(), CliError> {
        if missing.is_empty() {
            return Ok(());
        }
        let version = compiler.nvrtc()?.version();
        let (entries, jobs): (Vec<_>, Vec<_>) = missing.into_iter().unzip();
        let done = compile(&jobs)?;
        let good: BTreeSet<_> = done.iter().filter(|done| done.error.is_none()).map(|done| &done.name).collect();
        for (entry, job) in entries.iter().zip(jobs).filter(|(_, job)| good.contains(&job.name)) {
            self.keys.insert(job.name, Key::new(&entry.source(), &BASE_OPTIONS, version));
        }
        self.done.extend(done);
        Ok(())
    }
}

/// The tuning tables that plans of this build use on GPUs of these sizes; a note says that there are others.
pub(super) fn tables(compiler: &Compiler, sms: &[u32]) -> Tuning {
    let Some(all) = compiler.tuning() else { return Tuning::default() };
    let stale = all.only(|machine| machine.kernels != kernel_version());
    if !stale.is_empty() {
        let problems = count(stale.len() as u64, "tuned problem");
        note(format!("the tuning table has {problems} of other kernels than this version has: left out"));
    }
    all.only(|machine| machine.kernels == kernel_version() && sms.contains(&machine.sms))
}

/// The candidates of a problem in the orders in which plans may take them: by the cost model, and by each
/// tuning table for such a GPU, with a workspace and without. Of each the first that compiles is needed.
///
/// # Errors
/// [`CliError::Jit`] where no kernel computes the problem.
pub(super) fn orders(tuning: &Tuning, problem: &Problem, sms: u32) -> Result<Vec<Vec<Wanted>>, CliError> {
    let of = |problem: &Problem, choice: &Choice| {
        choice.candidates.iter().map(|estimate| (*problem, sms, estimate.config)).collect::<Vec<_>>()
    };
    let model = of(problem, &choose(problem, sms)?);
    let mut orders = vec![model.clone()];
    for table in tuning.tables().iter().filter(|table| table.machine.sms == sms) {
        // Each alone: of two that fit here, a plan with another driver takes the other.
        let selection = tuning.only(|machine| *machine == table.machine).choose(&table.machine, problem)?;
        if let Source::Tuned(tuned) = &selection.source {
            // A worker finds a table's configuration among the candidates of the table's problem.
            let by = |wanted: Wanted| if model.contains(&wanted) { wanted } else { (tuned.problem, sms, wanted.2) };
            orders.push(of(problem, &selection.choice).into_iter().map(by).collect());
        }
    }
    let alone = |(_, _, config): &&Wanted| !config.needs_workspace();
    Ok(orders.into_iter().flat_map(|order| [order.iter().filter(alone).copied().collect(), order]).collect())
}

/// The kernels that bring operands of these problems into shape: every input that they can be quantised from, in
/// every order of its elements, and codes transposed and repacked.
fn elementwise(problems: &[Problem]) -> Vec<ElementwiseKernel> {
    let has = |codes, scales| {
        let operands = problems.iter().flat_map(|problem| [problem.a, problem.b]);
        operands.into_iter().any(|operand| operand.ty == codes && operand.scales == scales)
    };
    let layout = |scales| match scales {
        BlockScales::Block1x128 => ScaleLayout::Block1x128,
        BlockScales::Block128x128 => ScaleLayout::Block128x128,
    };
    let needed = |kernel: &ElementwiseKernel| match kernel {
        ElementwiseKernel::Quantize(QuantizeKernel { codes, scales, .. }) => has(*codes, layout(*scales)),
        ElementwiseKernel::TransposeCodes | ElementwiseKernel::RepackCodes => true,
    };
    ElementwiseKernel::all().into_iter().filter(needed).collect()
}

/// Compiles what these problems take: kernels of plans with a workspace and without, by the cost model and by the
/// tuning tables, and those that quantise, transpose and repack operands. Where the compiler spoils a candidate,
/// the next, as a plan does.
pub(super) fn plans(
    compiler: &Compiler,
    tuning: &Tuning,
    problems: &[Problem],
    sms: &[u32],
    processes: Option<usize>,
) -> Result<Prepared, CliError> {
    let mut lists: Vec<Vec<Wanted>> = Vec::new();
    for problem in problems {
        for sms in sms {
            lists.extend(orders(tuning, problem, *sms)?);
        }
    }
    let mut others: Vec<_> = elementwise(problems)
        .into_iter()
        .map(|kernel| (Entry::Elementwise(kernel), Job::elementwise(kernel)))
        .collect();
    let mut all = Prepared { elementwise: others.len(), ..Prepared::default() };
    let mut rejected = BTreeSet::new();
    loop {
        let first =
            |list: &Vec<Wanted>| list.iter().find(|(_, _, config)| !rejected.contains(&config.kernel_name())).copied();
        let wanted: Vec<Wanted> = lists.iter().filter_map(first).collect();
        let new: Vec<Wanted> =
            wanted.into_iter().filter(|(_, _, config)| !all.keys.contains_key(&config.kernel_name())).collect();
        let mut wanted = gemms(&new)?;
        wanted.append(&mut others);
        let (mut round, missing) = split(compiler, wanted);
        if !missing.is_empty() {
            // Told here, where it is known what an import lacks.
            if compiler.nvrtc().is_err() {
                let (some, name) = (count(missing.len() as u64, "kernel"), &missing[0].1.name);
                note(format!("the cache lacks {some} of {}, e.g. {name}", round.cached + missing.len()));
            }
            writable(compiler.cache())?;
        }
        round.make(compiler, missing, |jobs| workers::compile_shown(jobs, processes))?;
        all.cached += round.cached;
        all.keys.extend(round.keys);
        let spoilt: Vec<_> = round.done.iter().filter(|done| done.rejected).map(|done| done.name.clone()).collect();
        let again = !spoilt.is_empty();
        rejected.extend(spoilt);
        all.done.extend(round.done);
        // Every further round has fewer candidates left.
        if !again {
            return Ok(all);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fp8gemm::jit::tuning::{Device, Machine, Timed, Tuned};

    /// Breaks if a bundle lacks the kernel of a table that it carries: of two for one GPU, one knows its driver and comes
    /// first there, and the other is what a server with another driver takes.
    #[test]
    fn every_table_has_its_kernels() {
        let problem: Problem = "64x2112x7168 a=e4m3:1x128 b=e4m3:128x128 d=bf16".parse().unwrap();
        let choice = choose(&problem, 132).unwrap();
        let winners: Vec<_> = choice.candidates.iter().rev().take(2).map(|estimate| estimate.config).collect();
        let mut tuning = Tuning::default();
        for (driver, winner) in [None, Some("580.1")].into_iter().zip(&winners) {
            let driver_version = driver.map(str::to_owned);
            let device = Device { name: "NVIDIA H200".into(), sms: 132, driver: 13_000, driver_version };
            let timed = Timed { configuration: winner.to_string(), interleave: None, cold_us: 6.5, warm_us: 3.25 };
            let (date, model, ranking) = ("today".to_owned(), timed.clone(), vec![timed]);
            let tuned = Tuned { problem, date, tried: 31, model, ranking };
            tuning.merge(&Tuning::of(Machine::new(&device, Some((13, 0))), vec![tuned]), true);
        }
        assert_eq!(tuning.tables().len(), 2);
        let first: BTreeSet<_> =
            orders(&tuning, &problem, 132).unwrap().iter().map(|order| order[0].2.kernel_name()).collect();
        for config in winners.iter().chain([&choice.config()]) {
            assert!(first.contains(&config.kernel_name()), "{config}: {first:?}");
        }
    }
}
