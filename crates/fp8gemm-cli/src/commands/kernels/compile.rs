//! `fp8gemm kernels compile`: fills the cache, for one problem, for many or for all.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use fp8gemm::jit::catalog::{self, Entry};
use fp8gemm::jit::sass::Interleave;
use fp8gemm::jit::{Cache, Compiler};
use serde::Serialize;

use super::list::Present;
use super::workers::{self, Done, Job};
use super::{PassedOver, make, prepare};
use crate::commands::problem::ProblemArgs;
use crate::commands::shape_list::{ShapeListArgs, distinct};
use crate::commands::{DIFFERENT, SUCCESS, bad, destination, print};
use crate::error::CliError;
use crate::text::{count, duration, grouped, table};

#[derive(Debug, Args)]
pub(crate) struct CompileArgs {
    /// Every kernel that can be chosen (but those for split<p>); those that are cached are skipped, so that an interrupted
    /// run continues where it was
    #[arg(long, conflicts_with_all = ["words", "shapes", "model", "bundle"])]
    all: bool,
    /// Only the small set that CI compiles (see list)
    #[arg(long, conflicts_with_all = ["words", "all", "shapes", "model", "bundle"])]
    cover: bool,
    /// Processes that compile side by side [default: one for each core]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// Compile what standard input names
    #[arg(long, hide = true)]
    worker: bool,
    /// Also write what these problems need into a bundle (tar) for `fp8gemm cache import`: kernels of their plans,
    /// with a workspace and without, those that quantise, transpose and repack operands, and the tuning tables for
    /// these kernels and GPUs with so many SMs
    #[arg(long, value_name = "FILE")]
    bundle: Option<PathBuf>,
    #[command(flatten)]
    lists: ShapeListArgs,
    #[command(flatten)]
    problem: ProblemArgs,
}

pub(super) fn run(args: &CompileArgs, json: bool) -> Result<u8, CliError> {
    if args.worker {
        return workers::work();
    }
    let compiler = Compiler::new(Cache::from_environment(), None);
    if args.lists.is_given() || args.bundle.is_some() || args.problem.are_several() {
        return many(args, &compiler, json);
    }
    if !args.all && !args.cover {
        return one(args, &compiler, json);
    }
    if args.problem.problem()?.is_some() {
        return Err(CliError::Usage("--all and --cover take no problem".to_owned()));
    }
    if args.problem.has_sms() {
        return Err(CliError::Usage("--sms: --all and --cover are the kernels for GPUs of every size".to_owned()));
    }
    let begin = Instant::now();
    let version = compiler.nvrtc()?.version();
    writable(compiler.cache())?;
    let present = Present::of(compiler.cache(), vec![version])?;
    let wanted: Vec<Entry> =
        if args.all { catalog::entries() } else { catalog::cover().into_iter().map(Entry::Gemm).collect() };
    let asked = wanted.len();
    // By their places in the list of all, which a worker makes too.
    let all = catalog::entries();
    let wanted: std::collections::HashSet<_> = wanted.into_iter().collect();
    let missing = all.iter().enumerate().filter(|(_, entry)| wanted.contains(entry));
    let missing: Vec<_> =
        missing.filter(|(_, entry)| !present.has(entry)).map(|(place, entry)| Job::at(place, entry)).collect();
    let cached = asked - missing.len();
    let kernels = workers::compile_shown(&missing, args.jobs.map(usize::from))?;
    let report = Report {
        command: "kernels",
        action: "compile",
        nvrtc: version_of(&compiler),
        cached,
        failed: kernels.iter().filter(|kernel| kernel.error.is_some()).count(),
        kernels,
        passed_over: Vec::new(),
        bundle: None,
        bundle_not_written: None,
        seconds: begin.elapsed().as_secs_f64(),
    };
    print(json, &report, || report.text())?;
    Ok(if report.failed > 0 { DIFFERENT } else { SUCCESS })
}

/// The kernels that plans for many problems take, and a bundle of them.
fn many(args: &CompileArgs, compiler: &Compiler, json: bool) -> Result<u8, CliError> {
    let begin = Instant::now();
    let mut problems = args.lists.problems()?;
    problems.extend(args.problem.problems()?);
    let problems = distinct(problems)?;
    if problems.is_empty() {
        return Err(CliError::Usage("--bundle: of which problems? M N K, --model or --shapes".to_owned()));
    }
    args.bundle.as_deref().map(destination).transpose()?;
    let sms = args.problem.sms();
    let tuning = prepare::tables(compiler, &sms);
    let prepared = prepare::plans(compiler, &tuning, &problems, &sms, args.jobs.map(usize::from))?;
    let (kernels, passed): (Vec<_>, Vec<_>) = prepared.done.into_iter().partition(|done| !done.rejected);
    let failed = kernels.iter().filter(|kernel| kernel.error.is_some()).count();
    let bundle_not_written =
        (args.bundle.is_some() && failed > 0).then(|| format!("{} failed", count(failed as u64, "kernel")));
    let bundle = match &args.bundle {
        Some(path) if failed == 0 => {
            let kernels = compiler.cache().export_only(path, &prepared.keys.into_values().collect(), &tuning)?;
            let (file, elementwise) = (path.display().to_string(), prepared.elementwise);
            Some(Bundle { file, kernels, elementwise, problems: problems.len(), tuned: tuning.len() })
        }
        _ => None,
    };
    let report = Report {
        command: "kernels",
        action: "compile",
        nvrtc: version_of(compiler),
        cached: prepared.cached,
        failed,
        kernels,
        passed_over: passed.into_iter().map(|done| (done.name, done.error.unwrap_or_default())).collect(),
        bundle,
        bundle_not_written,
        seconds: begin.elapsed().as_secs_f64(),
    };
    print(json, &report, || report.text())?;
    Ok(if report.failed > 0 { DIFFERENT } else { SUCCESS })
}

/// The kernels of one problem that plans take, as for many; without NVRTC those that are cached.
fn one(args: &CompileArgs, compiler: &Compiler, json: bool) -> Result<u8, CliError> {
    let begin = Instant::now();
    let problem = args.problem.needed()?;
    let (mut kernels, mut passed_over, mut cached) = (Vec::new(), Vec::new(), 0);
    let mut names = BTreeSet::new();
    let tables = prepare::tables(compiler, &args.problem.sms());
    for sms in args.problem.sms() {
        for order in prepare::orders(&tables, &problem, sms)? {
            let configs = order.into_iter().map(|(_, _, config)| config);
            let (config, made, passed) = make(compiler, configs, Interleave::AsCompiled)?;
            passed_over.extend(passed.into_iter().filter(|(name, _)| names.insert(name.clone())));
            if !names.insert(config.kernel_name()) {
                continue;
            }
            match made.compiled {
                Some((report, time)) => {
                    // Only here, where a kernel was compiled: a folder that cannot be written will do as long as every
                    // kernel is in it, but for those that the compiler spoils, which are never stored.
                    writable(compiler.cache())?;
                    kernels.push(Done::new(config.kernel_name(), &report, time));
                }
                None => cached += 1,
            }
        }
    }
    let nvrtc = version_of(compiler);
    let seconds = begin.elapsed().as_secs_f64();
    let report = Report {
        command: "kernels",
        action: "compile",
        nvrtc,
        cached,
        failed: 0,
        kernels,
        passed_over,
        bundle: None,
        bundle_not_written: None,
        seconds,
    };
    print(json, &report, || report.text())?;
    Ok(SUCCESS)
}

/// The version of NVRTC here. Without one everything came from the cache.
fn version_of(compiler: &Compiler) -> Option<String> {
    let (major, minor) = compiler.nvrtc().ok()?.version();
    Some(format!("{major}.{minor}"))
}

/// Hours of compiling into a folder that takes nothing would be in vain.
pub(super) fn writable(cache: &Cache) -> Result<(), CliError> {
    let Some(folder) = cache.folder() else {
        return Err(CliError::Usage("there is no cache folder: set FP8GEMM_CACHE_DIR".to_owned()));
    };
    std::fs::create_dir_all(folder)
        .and_then(|()| tempfile::tempfile_in(folder))
        .map(drop)
        .map_err(|error| CliError::Usage(format!("the cache folder {} cannot be written: {error}", folder.display())))
}

#[derive(Serialize)]
struct Report {
    command: &'static str,
    action: &'static str,
    /// Version of the compiler; absent where there is none.
    nvrtc: Option<String>,
    /// Those that were there already.
    cached: usize,
    /// Those that were compiled now, or could not be.
    kernels: Vec<Done>,
    failed: usize,
    /// Candidates of the problem that the compiler makes spill: a plan passes over them, too.
    passed_over: PassedOver,
    /// What was written for other machines; absent where nothing was asked for, or a kernel is missing.
    bundle: Option<Bundle>,
    /// Why there is none, where one was asked for.
    bundle_not_written: Option<String>,
    seconds: f64,
}

#[derive(Serialize)]
struct Bundle {
    file: String,
    kernels: usize,
    /// Of those, how many quantise, transpose or repack operands.
    elementwise: usize,
    /// Problems whose plans find all they need in it.
    problems: usize,
    /// Problems in its tuning table.
    tuned: usize,
}

impl Report {
    fn text(&self) -> String {
        let mut text = String::new();
        for (config, why) in &self.passed_over {
            text += &format!("passed over: {config}: {why}\n");
        }
        let (failed, mut good): (Vec<_>, Vec<_>) = self.kernels.iter().partition(|kernel| kernel.error.is_some());
        good.sort_by(|one, other| other.milliseconds.total_cmp(&one.milliseconds));
        for kernel in &failed {
            text += &format!("{}: {}: {}\n", bad("failed"), kernel.name, kernel.error.as_deref().unwrap_or_default());
        }
        const SHOWN: usize = 10;
        let rows = good.iter().take(SHOWN).map(|kernel| {
            vec![
                format!("{:>5.0} ms", kernel.milliseconds),
                format!("{} registers", kernel.registers),
                format!("{} bytes spilled", kernel.spills),
                kernel.name.clone(),
            ]
        });
        text += &table(0, &rows.collect::<Vec<_>>());
        if good.len() > SHOWN {
            let middle = good[good.len() / 2].milliseconds;
            text += &format!(
                "... and {} that took less; {middle:.0} ms is the median\n",
                grouped((good.len() - SHOWN) as u64)
            );
        }
        let (compiled, time) = (count(good.len() as u64, "kernel"), duration(Duration::from_secs_f64(self.seconds)));
        let failed = if failed.is_empty() { String::new() } else { format!(", {} failed", failed.len()) };
        let by = self.nvrtc.as_ref().map_or_else(String::new, |version| format!(" by NVRTC {version}"));
        let cached = grouped(self.cached as u64);
        text += &format!("{compiled} compiled{by} in {time}, {cached} cached already{failed}\n");
        if let Some(why) = &self.bundle_not_written {
            text += &format!("{}: {why}\n", bad("bundle not written"));
        }
        if let Some(Bundle { file, kernels, elementwise, problems, tuned }) = &self.bundle {
            let (kernels, problems) = (count(*kernels as u64, "kernel"), count(*problems as u64, "problem"));
            let tuned = match tuned {
                0 => String::new(),
                some => format!(" and a table of {}", count(*some as u64, "tuned problem")),
            };
            text += &format!(
                "wrote {kernels} ({elementwise} to bring operands into shape) for {problems}{tuned} to {file}\n"
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Breaks if a bundle that was asked for is missing without a word, in the report or in JSON.
    #[test]
    fn a_missing_bundle_is_told() {
        let mut report = Report {
            command: "kernels",
            action: "compile",
            nvrtc: None,
            cached: 3,
            kernels: Vec::new(),
            failed: 29,
            passed_over: Vec::new(),
            bundle: None,
            bundle_not_written: Some("29 kernels failed".to_owned()),
            seconds: 1.0,
        };
        assert!(report.text().contains("bundle not written") && report.text().contains(": 29 kernels failed\n"));
        assert_eq!(serde_json::to_value(&report).unwrap()["bundle_not_written"], "29 kernels failed");
        report.bundle_not_written = None;
        assert!(!report.text().contains("bundle"), "{}", report.text());
    }
}
