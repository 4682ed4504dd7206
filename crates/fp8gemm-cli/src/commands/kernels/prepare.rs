//! The kernels of many problems, compiled side by side: for tuning, and for a bundle that a server imports.

use std::collections::{BTreeMap, BTreeSet};

use fp8gemm::jit::tuning::{Source, kernel_version};
use fp8gemm::jit::{BASE_OPTIONS, Choice, Compiler, KernelConfig, Key, Schedule, choose};
use fp8gemm::problem::Problem;

use super::workers::{self, Done, Job};
use crate::error::CliError;

/// A configuration of a problem, for a number of SMs.
pub(crate) type Wanted = (Problem, u32, KernelConfig);

/// What became of kernels.
#[derive(Debug, Default)]
pub(crate) struct Prepared {
    /// Names of those that can be run, and their keys.
    pub(crate) keys: BTreeMap<String, Key>,
    /// Of those, how many the cache had.
    pub(crate) cached: usize,
    /// What the workers did.
    pub(crate) done: Vec<Done>,
}

/// Compiles the kernels of these configurations, each once, as far as the cache has them not.
///
/// # Errors
/// [`CliError::Jit`] without NVRTC; [`CliError::Usage`] where no process can be started.
pub(crate) fn compile(
    compiler: &Compiler,
    wanted: &[Wanted],
    processes: Option<usize>,
    show: bool,
) -> Result<Prepared, CliError> {
    let version = compiler.nvrtc()?.version();
    let mut prepared = Prepared::default();
    let (mut jobs, mut missing) = (Vec::new(), BTreeMap::new());
    for (problem, sms, config) in wanted {
        let name = config.kernel_name();
        if prepared.keys.contains_key(&name) || missing.contains_key(&name) {
            continue;
        }
        let key = Key::new(&config.source(), &BASE_OPTIONS, version);
        if compiler.cache().get(&key).is_some() {
            prepared.keys.insert(name, key);
            prepared.cached += 1;
        } else {
            jobs.push(Job::candidate(problem, *sms, config)?);
            missing.insert(name, key);
        }
    }
    prepared.done = workers::compile(&jobs, processes, show)?;
    for done in prepared.done.iter().filter(|done| done.error.is_none()) {
        if let Some(key) = missing.get(&done.name) {
            prepared.keys.insert(done.name.clone(), *key);
        }
    }
    Ok(prepared)
}

/// The candidates of a problem in the orders in which plans may take them: by the cost model, and by each
/// tuning table for such a GPU, with a workspace and without. Of each the first that compiles is needed.
///
/// # Errors
/// [`CliError::Jit`] where no kernel computes the problem.
pub(super) fn orders(compiler: &Compiler, problem: &Problem, sms: u32) -> Result<Vec<Vec<Wanted>>, CliError> {
    let of = |problem: &Problem, choice: &Choice| {
        choice.candidates.iter().map(|estimate| (*problem, sms, estimate.config)).collect::<Vec<_>>()
    };
    let model = of(problem, &choose(problem, sms)?);
    let mut orders = vec![model.clone()];
    let tables = compiler.tuning().into_iter().flat_map(|tuning| tuning.tables().iter().map(move |t| (tuning, t)));
    for (tuning, table) in tables.filter(|(_, table)| table.machine.sms == sms) {
        if table.machine.kernels != kernel_version() {
            continue;
        }
        let selection = tuning.choose(&table.machine, problem)?;
        if let Source::Tuned(tuned) = &selection.source {
            // A worker finds a table's configuration among the candidates of the table's problem.
            let by = |wanted: Wanted| if model.contains(&wanted) { wanted } else { (tuned.problem, sms, wanted.2) };
            orders.push(of(problem, &selection.choice).into_iter().map(by).collect());
        }
    }
    let alone = |(_, _, config): &&Wanted| config.schedule != Schedule::StreamK;
    Ok(orders.into_iter().flat_map(|order| [order.iter().filter(alone).copied().collect(), order]).collect())
}

/// Compiles what plans for these problems take: with a workspace and without, by the cost model and by the
/// tuning tables. Where the compiler spoils a candidate, the next, as a plan does.
pub(crate) fn plans(
    compiler: &Compiler,
    problems: &[Problem],
    sms: &[u32],
    processes: Option<usize>,
) -> Result<Prepared, CliError> {
    let mut lists: Vec<Vec<Wanted>> = Vec::new();
    for problem in problems {
        for sms in sms {
            lists.extend(orders(compiler, problem, *sms)?);
        }
    }
    let mut all = Prepared::default();
    let mut rejected = BTreeSet::new();
    loop {
        let first =
            |list: &Vec<Wanted>| list.iter().find(|(_, _, config)| !rejected.contains(&config.kernel_name())).copied();
        let wanted: Vec<Wanted> = lists.iter().filter_map(first).collect();
        let missing: Vec<Wanted> =
            wanted.into_iter().filter(|(_, _, config)| !all.keys.contains_key(&config.kernel_name())).collect();
        let round = compile(compiler, &missing, processes, true)?;
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
