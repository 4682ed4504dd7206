//! `fp8gemm difftest`: generated cases on a kernel, every bit against the CPU model.

mod case_file;
mod cublaslt;
mod fit;
mod folder;
mod gpu;
mod instructions;
mod mutants;
mod replay;
mod report;

use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, FromArgMatches, Subcommand};
use fp8gemm::problem::Policy;
use fp8gemm::sim::Path;
use fp8gemm_difftest::{Event, External, Generator, Menu, Only, Options, Subject, TwinPath, run as run_cases};

use super::{DIFFERENT, INTERRUPTED, SUCCESS, print};
use crate::args::Engine;
use crate::engine::Progress;
use crate::error::{CliError, note};
use crate::interrupt;

fn after() -> String {
    format!(
        "\
Examples:
  fp8gemm difftest                                    the GPU's kernels where there is one, else the
                                                      twin's SIMD paths against its specification
  fp8gemm difftest --cases 2000 --seed 7 --only sparse,alignment-limit,shape-tails
  fp8gemm difftest --external ./libmine.so            a kernel behind fp8gemm_external.h
  fp8gemm difftest write problems                     problem files; run your kernel on each, add `d`
  fp8gemm difftest check problems
  fp8gemm difftest replay found                       kept cases again
  fp8gemm difftest mutants                            how good the generated cases are
  fp8gemm difftest instructions                       single wgmma, mma.sync and f32 instructions
  fp8gemm difftest fit vectors/wgmma_m64n8k32.safetensors

A case that fails is shrunk and kept as a file that `fp8gemm verify` reads. One seed gives the same cases \
and the same JSON but for times. Ctrl-C ends a run with what it has found.

Regimes: {}.",
        Only::names().join(", ")
    )
}

/// Flags of the command.
#[derive(Debug, Args)]
#[command(after_help = after())]
struct Parsed {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    run: RunArgs,
}

/// The flags, where those of a run may not stand before a subcommand, which would not look at them. Clap's
/// own rule for that refuses `difftest --json mutants` too.
#[derive(Debug)]
pub(crate) struct DifftestArgs(Parsed);

impl FromArgMatches for DifftestArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        if let Some(subcommand) = matches.subcommand_name() {
            // Those of every command have a meaning there as well.
            let run = RunArgs::augment_args(clap::Command::new("run"));
            let given = |arg: &&Arg| matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine);
            if let Some(flag) = run.get_arguments().find(given).and_then(Arg::get_long) {
                let what =
                    format!("--{flag} stands before the subcommand '{subcommand}', which has flags of its own\n");
                return Err(clap::Error::raw(ErrorKind::ArgumentConflict, what));
            }
        }
        Parsed::from_arg_matches(matches).map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for DifftestArgs {
    fn augment_args(command: clap::Command) -> clap::Command {
        Parsed::augment_args(command)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Parsed::augment_args_for_update(command)
    }
}

#[derive(Debug, Subcommand)]
enum What {
    /// Write generated problems into a folder, without D
    Write(folder::WriteArgs),
    /// Compare the D that was added to each file of a folder
    Check(folder::CheckArgs),
    /// Run kept cases again, on every configuration of the GPU's kernels or every path of the twin
    Replay(replay::ReplayArgs),
    /// Run the generated cases on kernels that are wrong in one thing each: all must be found
    Mutants(mutants::MutantsArgs),
    /// Run single tensor-core and f32 instructions on a GPU and hold them against the model
    Instructions(instructions::InstructionsArgs),
    /// Ask cuBLASLt on a GPU which accumulation policy its FP8 products have, and record them
    Cublaslt(cublaslt::CublasltArgs),
    /// Infer a tensor core's parameters from recorded single instructions
    Fit(fit::FitArgs),
}

/// Which cases.
#[derive(Debug, Args)]
pub(super) struct CaseArgs {
    /// Cases
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) cases: u64,
    /// Seed of the cases
    #[arg(long, value_name = "S", default_value_t = 0, allow_negative_numbers = true)]
    pub(super) seed: u64,
    /// Only these regimes of shapes, codes or scales; of a kind of which none is named, all
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(super) only: Vec<String>,
}

impl CaseArgs {
    pub(super) fn generator(&self, menu: Menu) -> Result<Generator, CliError> {
        Ok(Generator::new(self.seed, menu, Only::parse(self.only.iter().map(String::as_str))?))
    }
}

#[derive(Debug, Args)]
struct RunArgs {
    #[command(flatten)]
    cases: CaseArgs,
    /// Ends the run after this time, e.g. 60s, 10m (cases then depend on the machine's speed)
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    time: Option<Duration>,
    #[command(flatten)]
    engine: EngineArgs,
    /// Test this library, which exports the functions of fp8gemm_external.h
    #[arg(long, value_name = "LIB", conflicts_with_all = ["engine", "device"])]
    external: Option<PathBuf>,
    /// Policies of the cases for --external: promote<n>, chain, cutlass128 or split<p>
    #[arg(long, value_name = "POLICY", value_delimiter = ',', requires = "external",
          conflicts_with = "engine", default_values_t = [Policy::PROMOTE_128, Policy::Chain])]
    policy: Vec<Policy>,
    /// Folder for the files of cases that fail
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// Threads that make cases ahead of their turn: data, the twin's results, compiled kernels. Changes
    /// nothing but the time [default: one for each core but one, at most 32]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(..=1024))]
    jobs: Option<u16>,
}

/// What is tested, where that is no library.
#[derive(Debug, Args)]
struct EngineArgs {
    /// What is tested: a GPU's kernels against the twin, or the twin's SIMD paths against its
    /// specification; auto takes the GPU where there is one
    #[arg(long, value_enum, default_value_t = Engine::Auto)]
    engine: Engine,
    /// Ordinal of the GPU [default: the first Hopper]
    #[arg(long, value_name = "N")]
    device: Option<u32>,
}

/// Runs the command.
pub(crate) fn run(args: &DifftestArgs, json: bool) -> Result<u8, CliError> {
    let DifftestArgs(args) = args;
    match &args.what {
        Some(What::Write(args)) => folder::write(args, json),
        Some(What::Check(args)) => folder::check(args, json),
        Some(What::Replay(args)) => replay::run(args, json),
        Some(What::Mutants(args)) => mutants::run(args, json),
        Some(What::Instructions(args)) => instructions::run(args, json),
        Some(What::Cublaslt(args)) => cublaslt::run(args, json),
        Some(What::Fit(args)) => fit::run(args, json),
        None => run_engine(&args.run, json),
    }
}

/// What is tested, on what, and against what.
struct Setup {
    engine: &'static str,
    subjects: Vec<Box<dyn Subject>>,
    menu: Menu,
    oracle: Path,
}

fn run_engine(args: &RunArgs, json: bool) -> Result<u8, CliError> {
    let Setup { engine, mut subjects, menu, oracle } = setup(args)?;
    let generator = args.cases.generator(menu)?;
    case_file::ready(&args.out)?;
    let mut options = Options::cases(args.cases.cases);
    options.time = args.time;
    options.oracle = oracle;
    options.stop = Some(interrupt::asks());
    if let Some(jobs) = args.jobs {
        options.jobs = jobs.into();
    }
    let progress = Progress::new(engine, u128::from(args.cases.cases));
    let (mut files, mut failures) = (Vec::new(), Vec::new());
    let summary = run_cases(&generator, &mut subjects, &options, &mut |event| match event {
        Event::Done(_) => progress.advance(1),
        // At once, and again when it is smaller: whatever ends this process, what was found is kept.
        Event::Found(finding) => {
            tracing::info!(case = %finding.case, "a finding is kept, then made smaller");
            files.push(case_file::keep(&args.out, finding).ok());
        }
        Event::Shrunk(finding) => {
            let before = files.pop().flatten();
            // What was found is told even where the file cannot be written.
            files.push(case_file::keep(&args.out, finding).map(Some).unwrap_or_else(|error| {
                failures.push(format!("the case of {} is not kept: {error}", finding.subject));
                before
            }));
        }
        _ => {}
    })?;
    progress.finish();
    failures.into_iter().for_each(note);
    if summary.cases == 0 && summary.findings.is_empty() && !summary.interrupted && !summary.timed_out {
        let (passed, rule) = (summary.passed_over, summary.rule.unwrap_or_default());
        return Err(CliError::Usage(format!("{engine} computes none of {passed} cases: {rule}")));
    }
    let code = match (summary.findings.is_empty(), summary.interrupted) {
        (false, _) => DIFFERENT,
        (true, true) => INTERRUPTED,
        (true, false) => SUCCESS,
    };
    let report = report::Report::new(engine, oracle, &args.cases, &summary, &files, options.jobs);
    print(json, &report, || report.text())?;
    Ok(code)
}

fn setup(args: &RunArgs) -> Result<Setup, CliError> {
    if let Some(library) = &args.external {
        let menu = Menu { policies: args.policy.clone(), empty: true, ..Menu::kernels() };
        let subjects: Vec<Box<dyn Subject>> = vec![Box::new(External::open(library)?)];
        return Ok(Setup { engine: "external", subjects, menu, oracle: Path::best() });
    }
    engine(&args.engine)
}

fn engine(args: &EngineArgs) -> Result<Setup, CliError> {
    let twin = || {
        let paths = TwinPath::all().into_iter().map(|path| Box::new(path) as Box<dyn Subject>);
        Setup { engine: "twin", subjects: paths.collect(), menu: Menu::twin(), oracle: Path::Generic }
    };
    if args.engine == Engine::Twin {
        return match args.device {
            Some(device) => Err(CliError::Usage(format!("--device {device} names a GPU, but engine twin uses none"))),
            None => Ok(twin()),
        };
    }
    match gpu::open(args.device) {
        Ok(gpu) => {
            let subjects: Vec<Box<dyn Subject>> = vec![Box::new(gpu)];
            Ok(Setup { engine: "hopper", subjects, menu: Menu::gpu(), oracle: Path::best() })
        }
        Err(CliError::Missing { reason, .. }) if args.engine == Engine::Auto => {
            note(format!("engine auto compares the twin's SIMD paths with its specification: {reason}"));
            Ok(twin())
        }
        Err(error) => Err(error),
    }
}

/// `60`, `60s`, `1.5m`, `2h`.
pub(crate) fn parse_time(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "s" => 1.0,
        "ms" => 1e-3,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err("a time is a number with s, m or h, e.g. 60s".to_owned()),
    };
    let seconds: f64 = digits.parse().map_err(|_| "a time is a number with s, m or h, e.g. 60s".to_owned())?;
    match Duration::try_from_secs_f64(seconds * unit) {
        Ok(time) if time.is_zero() => Err("a time is longer than 0".to_owned()),
        time => time.map_err(|error| error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Breaks if a time means another one, or nonsense passes.
    #[test]
    fn times() {
        assert_eq!(parse_time("60s"), Ok(Duration::from_secs(60)));
        assert_eq!(parse_time("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_time("250ms"), Ok(Duration::from_millis(250)));
        for bad in ["", "s", "0", "0s", "60x", "-1s", "nan", "1e400"] {
            assert!(parse_time(bad).is_err(), "{bad:?}");
        }
    }
}
