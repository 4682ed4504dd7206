//! `fp8gemm tune`: measures candidates on the GPU and keeps the fastest of each shape in the tuning table.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chrono::{SecondsFormat, Utc};
use clap::Args;
use fp8gemm::hopper::HopperError;
use fp8gemm::jit::tuning::{Machine, Tuned, Tuning, first_candidates};
use fp8gemm::jit::{Cache, Compiler, JitError, KernelConfig, Nvrtc};
use fp8gemm::problem::Problem;
use fp8gemm_bench::{BenchError, GpuMeasure, Measure, Options, Session, geometric_mean, tune};
use serde::Serialize;

use super::bench::{self, FlushArgs, failed, one_problem_only, problems};
use super::difftest::parse_time;
use super::kernels::prepare;
use super::shape_list::{ShapeListArgs, distinct};
use super::{DIFFERENT, INTERRUPTED, SUCCESS, bad, print};
use crate::engine::Progress;
use crate::error::{CliError, note};
use crate::interrupt;
use crate::text::{count, duration, table};

const AFTER: &str = "\
Examples:
  fp8gemm tune 64 2112 7168 1x576x7168
  fp8gemm tune --model deepseek-v3 --time 30m
  fp8gemm tune --model qwen3-235b --m 1,8,64,128,4096 --jobs 16
  fp8gemm tune --shapes mine.csv --again

For each shape the cost model's candidates, then neighbours of the best, are compiled, their bits compared \
with the CPU twin, and timed with a cold and a warm L2 cache. The least cold median wins; within 1 % the cost \
model's own choice, else the least warm median. The winner is then timed with other patterns of yield flags in \
its promotion (see bench --interleave); one that is more than 1 % faster is kept with it. The table is written \
after each shape, so that Ctrl-C or --time lose at most the one in hand; what is in it for this machine is \
skipped. Plans use it from then on; FP8GEMM_TUNING=off switches it off. Exit code 1: a kernel's bits were wrong \
(it is not stored).";

/// Runs of each candidate, cold and warm: the medians of 20 differ by less than a tie.
const REPEAT: usize = 20;

/// Flags of the command.
#[derive(Debug, Args)]
#[command(after_help = AFTER)]
pub(crate) struct TuneArgs {
    /// Problems: `M N K`, `MxNxK` (1x128 by 128x128 scales, bf16 out), or whole ones in quotes
    #[arg(value_name = "PROBLEM", allow_negative_numbers = true)]
    words: Vec<String>,
    #[command(flatten)]
    lists: ShapeListArgs,
    /// Ends after this time, e.g. 60s, 10m, with what it has
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    time: Option<Duration>,
    /// Tune again what is in the table for this machine
    #[arg(long)]
    again: bool,
    /// The table's file [default: FP8GEMM_TUNING, else tuning.json beside the cached kernels]
    #[arg(long, value_name = "FILE")]
    table: Option<PathBuf>,
    /// Processes that compile side by side [default: one for each core]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// Runs of each candidate with a cold and with a warm L2 cache
    #[arg(long, value_name = "RUNS", default_value_t = REPEAT)]
    repeat: usize,
    #[command(flatten)]
    flush: FlushArgs,
    /// Ordinal of the GPU [default: the first Hopper]
    #[arg(long, value_name = "N")]
    device: Option<u32>,
}

#[derive(Serialize)]
struct Report {
    command: &'static str,
    version: &'static str,
    /// What the table is for.
    machine: Machine,
    table: String,
    /// In the table now, but for the last one where it could not be written.
    tuned: Vec<Row>,
    /// In the table before.
    skipped: Vec<String>,
    /// Not reached.
    left: usize,
    failures: Vec<String>,
    /// Configuration and difference: errors of ours, or of the machine.
    wrong_bits: Vec<(String, String)>,
    interrupted: bool,
    timed_out: bool,
    /// The error that ended the run before its end: a table that cannot be written, a GPU that is lost.
    stopped_by: Option<String>,
    /// Geometric mean of the cost model's cold time over the winner's.
    gain: Option<f64>,
    seconds: f64,
}

#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    tuned: Tuned,
    /// Configurations that the compiler spoils, and its words.
    rejected: Vec<(String, String)>,
}

/// Runs the command; 1 if a kernel's bits were wrong.
pub(crate) fn run(args: &TuneArgs, json: bool) -> Result<u8, CliError> {
    let begin = Instant::now();
    let mut wanted = distinct(problems(&args.words)?.into_iter().map(|shape| shape.problem))?;
    wanted.extend(args.lists.problems()?);
    let wanted = distinct(wanted)?;
    if wanted.is_empty() {
        return Err(CliError::Usage("which problems? M N K, --shapes or --model".to_owned()));
    }
    let mut options = Options::default();
    (options.rivals, options.floor, options.repeat) = (false, false, args.repeat);
    args.flush.set(&mut options);
    options.check().map_err(failed)?;
    let compiler = Compiler::new(Cache::from_environment(), None);
    let Some(path) = args.table.clone().or_else(|| compiler.tuning_path()) else {
        return Err(CliError::Usage("there is no cache folder: set FP8GEMM_CACHE_DIR or --table".to_owned()));
    };
    let tables = tables(&path)?;
    Tuning::probe(&path)?;
    let session = bench::open(args.device, compiler, options)?;
    let machine = Machine::new(&session.device(), Some(session.compiler().nvrtc().map(Nvrtc::version)?));

    let known = if args.again { Vec::new() } else { known(&tables, &machine) };
    let (skipped, wanted): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|problem| known.contains(problem));
    let (sms, jobs) = (machine.sms, args.jobs.map(usize::from));
    let mut report = Report::new(machine, &path, &skipped);
    let steps = Steps::new(wanted.len());
    let compile = |problem: &Problem, configs: &[KernelConfig]| reasons(&session, problem, sms, configs, jobs, &steps);
    let mut measure = GpuMeasure::new(&session, Box::new(compile));
    let late = || args.time.is_some_and(|time| begin.elapsed() >= time);
    let fatal = all(&mut measure, &path, &wanted, interrupt::asks(), &late, &steps, &mut report);
    steps.progress.finish();
    report.gain = geometric_mean(report.tuned.iter().map(|row| gain(&row.tuned)));
    report.seconds = begin.elapsed().as_secs_f64();
    print(json, &report, || report.text())?;
    fatal?;
    Ok(match (report.wrong_bits.is_empty(), report.failures.is_empty(), report.interrupted) {
        (false, _, _) => DIFFERENT,
        (true, false, _) => return Err(CliError::Usage(report.failures.join("; "))),
        (true, true, true) => INTERRUPTED,
        (true, true, false) => SUCCESS,
    })
}

/// Tunes one problem after the other, and stores each, until it is interrupted or late.
fn all(
    measure: &mut dyn Measure,
    path: &Path,
    wanted: &[Problem],
    stop: &AtomicBool,
    late: &dyn Fn() -> bool,
    steps: &Steps,
    report: &mut Report,
) -> Result<(), CliError> {
    let sms = report.machine.sms;
    // Asked before each kernel and each round.
    let go_on = || {
        steps.one();
        !stop.load(Ordering::Relaxed) && !late()
    };
    for (index, problem) in wanted.iter().enumerate() {
        report.left = wanted.len() - index;
        steps.begin(index, problem, sms);
        if !go_on() {
            break;
        }
        let date = Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true);
        match tune(measure, problem, sms, &date, &go_on) {
            Ok(None) => break,
            Ok(Some(outcome)) => {
                report.wrong_bits.extend(outcome.wrong);
                match outcome.tuned {
                    Some(tuned) => {
                        let own = Tuning::of(report.machine.clone(), vec![tuned.clone()]);
                        // Before it is stored: where that fails, the report at least has it.
                        report.tuned.push(Row { tuned, rejected: outcome.rejected });
                        report.left = wanted.len() - index - 1;
                        own.store(path, true).map_err(|error| report.stopped(error.into()))?;
                    }
                    None => report.failures.push(none(problem, &outcome.rejected)),
                }
            }
            Err(error) if one_problem_only(&error) => {
                let (name, text) = (problem.to_string(), error.to_string());
                report.failures.push(if text.contains(&name) { text } else { format!("{name}: {text}") });
            }
            Err(error) => return Err(report.stopped(failed(error))),
        }
        report.left = wanted.len() - index - 1;
    }
    report.interrupted = stop.load(Ordering::Relaxed) && report.left > 0;
    report.timed_out = !report.interrupted && report.left > 0;
    Ok(())
}

/// The bar. Each problem has the same share of it, and its kernels, compiled, compared and timed, share that.
struct Steps {
    progress: Progress,
    /// Where the problem in hand begins, its steps so far, and as many as it may have.
    begun: AtomicU64,
    made: AtomicU64,
    most: AtomicU64,
}

impl Steps {
    /// Of a problem.
    const SHARE: u64 = 1000;

    fn new(problems: usize) -> Self {
        let [begun, made, most] = [0, 0, 1].map(AtomicU64::new);
        Self { progress: Progress::new("tuning", problems as u128 * u128::from(Self::SHARE)), begun, made, most }
    }

    fn begin(&self, index: usize, problem: &Problem, sms: u32) {
        self.progress.about(format!("tuning {}x{}x{}", problem.m, problem.n, problem.k));
        self.begun.store(index as u64 * Self::SHARE, Ordering::Relaxed);
        self.made.store(0, Ordering::Relaxed);
        // Neighbours are about as many as candidates; each is compiled, unless it is cached, and compared.
        let candidates = first_candidates(problem, sms).map_or(0, |candidates| candidates.len());
        self.most.store(4 * candidates as u64 + 1, Ordering::Relaxed);
    }

    /// From any thread.
    fn one(&self) {
        let made = self.made.fetch_add(1, Ordering::Relaxed) + 1;
        // Those that are more than was thought move nothing; the next problem does.
        let within = (made * Self::SHARE / self.most.load(Ordering::Relaxed)).min(Self::SHARE - 1);
        self.progress.set(self.begun.load(Ordering::Relaxed) + within);
    }
}

fn none(problem: &Problem, rejected: &[(String, String)]) -> String {
    let first = rejected.first().map(|(config, why)| format!(", e.g. {config}: {why}")).unwrap_or_default();
    format!("{problem}: no candidate can be run{first}")
}

/// Compiles candidates side by side; for each, why it has no kernel.
fn reasons(
    session: &Session,
    problem: &Problem,
    sms: u32,
    configs: &[KernelConfig],
    jobs: Option<usize>,
    steps: &Steps,
) -> Result<Vec<Option<String>>, BenchError> {
    let wanted: Vec<_> = configs.iter().map(|config| (*problem, sms, *config)).collect();
    let prepared = prepare::compile(session.compiler(), &wanted, jobs, &|_, _| steps.one());
    let prepared = prepared.map_err(|error| match error {
        CliError::Jit(error) => BenchError::Hopper(HopperError::Jit(error)),
        error => BenchError::Option { option: "jobs", value: error.to_string(), rule: "kernels must be compiled" },
    })?;
    let reason = |config: &KernelConfig| {
        let name = config.kernel_name();
        if prepared.keys.contains_key(&name) {
            return None;
        }
        let done = prepared.done.iter().find(|done| done.name == name);
        Some(done.and_then(|done| done.error.clone()).unwrap_or_else(|| "it was not compiled".to_owned()))
    };
    Ok(configs.iter().map(reason).collect())
}

/// What the file has; nothing where there is none, or one that is damaged, which storing sets aside.
fn tables(path: &Path) -> Result<Tuning, CliError> {
    match Tuning::read(path) {
        Ok(tables) => Ok(tables.unwrap_or_default()),
        Err(error @ JitError::Tuning { .. }) => {
            note(format!("{}: {error}; it will be set aside", path.display()));
            Ok(Tuning::default())
        }
        Err(error) => Err(error.into()),
    }
}

/// Problems that the table has for this machine.
fn known(tables: &Tuning, machine: &Machine) -> Vec<Problem> {
    let own = tables.tables().iter().filter(|table| table.machine == *machine);
    own.flat_map(|table| table.problems.iter().map(|tuned| tuned.problem)).collect()
}

/// The cost model's cold time over the winner's; at least about 1.
fn gain(tuned: &Tuned) -> f64 {
    tuned.ranking.first().map_or(1.0, |winner| tuned.model.cold_us / winner.cold_us)
}

impl Report {
    fn new(machine: Machine, table: &Path, skipped: &[Problem]) -> Self {
        Self {
            command: "tune",
            version: env!("CARGO_PKG_VERSION"),
            machine,
            table: table.display().to_string(),
            tuned: Vec::new(),
            skipped: skipped.iter().map(ToString::to_string).collect(),
            left: 0,
            failures: Vec::new(),
            wrong_bits: Vec::new(),
            interrupted: false,
            timed_out: false,
            stopped_by: None,
            gain: None,
            seconds: 0.0,
        }
    }

    /// Notes the error that ends the run.
    fn stopped(&mut self, error: CliError) -> CliError {
        self.stopped_by = Some(error.to_string());
        error
    }

    fn text(&self) -> String {
        let mut rows = Vec::new();
        if !self.tuned.is_empty() {
            let headings = ["shape", "model us", "tuned us", "x", "warm us", "tried", "configuration"];
            rows.push(headings.map(str::to_owned).to_vec());
        }
        for Row { tuned, .. } in &self.tuned {
            let Some(winner) = tuned.ranking.first() else { continue };
            let p = &tuned.problem;
            rows.push(vec![
                format!("{}x{}x{}", p.m, p.n, p.k),
                format!("{:.2}", tuned.model.cold_us),
                format!("{:.2}", winner.cold_us),
                format!("{:.3}", gain(tuned)),
                format!("{:.2}", winner.warm_us),
                tuned.tried.to_string(),
                format!("{}{}", winner.configuration, winner.pattern().unwrap_or_default().suffix()),
            ]);
        }
        let mut text = table(0, &rows);
        for (config, what) in &self.wrong_bits {
            text += &format!("{}: {config}: {what}\n", bad("wrong bits"));
        }
        for failure in &self.failures {
            text += &format!("{}: {failure}\n", bad("failed"));
        }
        let time = duration(Duration::from_secs_f64(self.seconds));
        text += &format!("{} tuned in {time}", count(self.tuned.len() as u64, "problem"));
        if let Some(gain) = self.gain {
            text += &format!(", {gain:.3} times as fast as the cost model's choice (geometric mean)");
        }
        if !self.skipped.is_empty() {
            text += &format!("; {} in the table already (--again tunes them anew)", self.skipped.len());
        }
        let why = match (&self.stopped_by, self.interrupted) {
            // Also of the last problem: what is shown of it may not be in the table. The error itself follows.
            (Some(_), _) => Some("stopped by an error"),
            (None, true) => Some("interrupted"),
            (None, false) => self.timed_out.then_some("out of time"),
        };
        if let Some(why) = why {
            text += &format!("; {why} with {} left", self.left);
        }
        format!("{text}\ntable: {}\n", self.table)
    }
}

#[cfg(test)]
mod tests;
