//! `fp8gemm bench`: our kernels beside cuBLASLt on a Hopper GPU.

mod table;

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use fp8gemm::hopper::HopperError;
use fp8gemm::jit::sass::Interleave;
use fp8gemm::jit::{Cache, Compiler, Destination, JitError};
use fp8gemm::problem::Problem;
use fp8gemm_bench::{
    BenchError, Flush, List, Machine, Options, Row, Session, Shape, floor_mean, geometric_means, write_csv,
};
use serde::Serialize;

use super::shape_list::{self, Listed};
use super::{DIFFERENT, SUCCESS, destination, print};
use crate::engine;
use crate::error::CliError;

const AFTER: &str = "\
Examples:
  fp8gemm bench                                     the lists dense and wgrad
  fp8gemm bench 4096 7168 2048                      one shape, as `4096x7168x2048`
  fp8gemm bench '512x4096x7168 a=e4m3:row b=e4m3:row d=bf16 policy=chain' --regime all
  fp8gemm bench 4096 7168 16384 --interleave none,deepgemm-2025,one-in-four --regime cold,sustained
  fp8gemm bench --shapes mine.csv --csv out.csv     columns m,n,k[,out,accumulate][,<name>_us ...]
  fp8gemm bench --list decode --m-at-most 64 --regime cold,warm,graph

cold: 8 GB are set before each run, kernel times by CUPTI, rivals taking turns; warm: the same launch again \
and again; sustained: back to back; graph: for each of 20 or more kernels with different weights. Ratios are \
the other's time over ours. floor: a kernel that reads the weights and A and writes as much as D has. Before it is \
timed, rows of our result are compared with the CPU twin, every bit.";

/// Flags of the command.
#[derive(Debug, Args)]
#[command(after_help = AFTER)]
pub(crate) struct BenchArgs {
    /// Problems: `M N K`, `MxNxK` (1x128 by 128x128 scales, bf16 out), or whole ones in quotes
    #[arg(value_name = "PROBLEM", allow_negative_numbers = true)]
    problems: Vec<String>,
    /// A file of shapes: CSV, or a line for each, as for `tune`
    #[arg(long, value_name = "FILE")]
    shapes: Option<PathBuf>,
    /// A list with times that were recorded for DeepGEMM and cuBLASLt; dense and wgrad if nothing is given, with --m-at-most decode too
    #[arg(long, value_enum, value_name = "LIST")]
    list: Vec<ListName>,
    /// Of all shapes, those with M of at most this
    #[arg(long, value_name = "M", default_value_t = usize::MAX, hide_default_value = true)]
    m_at_most: usize,
    /// Of all shapes, those with M of at least this
    #[arg(long, value_name = "M", default_value_t = 0, hide_default_value = true)]
    m_at_least: usize,
    /// What to measure
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Regime::Cold])]
    regime: Vec<Regime>,
    /// Runs of each rival in regimes cold and warm, replays in regime graph
    #[arg(long, value_name = "RUNS", default_value_t = Options::default().repeat)]
    repeat: usize,
    #[command(flatten)]
    flush: FlushArgs,
    /// Seconds of regime sustained, for each rival
    #[arg(long, value_name = "SECONDS", default_value_t = Options::default().seconds, allow_negative_numbers = true)]
    seconds: f64,
    /// Kernel configuration instead of the chosen one: words of a name of `kernels explain`, such as
    /// 256x112 or 128x48_s5_xa_g8: a tile, stages (s4), blocks in flight (f4), what clusters share
    /// (x: nothing, xa, xb), a schedule (co: cooperative, pp: ping-pong, sk: stream-K), d (direct stores), a group (g8)
    #[arg(long, value_name = "NAME")]
    config: Option<String>,
    /// Time our kernel also with these patterns of yield flags in its promotion, beside what the compiler
    /// made: none, deepgemm-2025, one-in-four, reuse, reuse-deepgemm-2025, reuse-one-in-four (docs/jit.md). The
    /// pattern that plans load is left out then
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    interleave: Vec<Interleave>,
    /// Ordinal of the GPU [default: the first Hopper]
    #[arg(long, value_name = "N")]
    device: Option<u32>,
    /// Time kernels without comparing their results with the twin's
    #[arg(long)]
    no_check: bool,
    /// Only our kernels
    #[arg(long)]
    no_rivals: bool,
    /// Leave the kernel out that only moves memory
    #[arg(long)]
    no_floor: bool,
    /// Times by events (about a microsecond more) even where CUPTI is found
    #[arg(long)]
    events: bool,
    /// Also write the rows to this file, after each shape anew; it is replaced when the first is measured
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
}

/// How the L2 cache is flushed.
#[derive(Debug, Args)]
pub(super) struct FlushArgs {
    /// What empties the L2 cache before each cold run
    #[arg(long, value_enum, default_value_t = FlushName::Memset)]
    flush: FlushName,
    /// Bytes that are set or read for that [default: 8000000000 set, 536870912 read]
    #[arg(long, value_name = "BYTES")]
    flush_bytes: Option<usize>,
}

impl FlushArgs {
    pub(super) fn set(&self, options: &mut Options) {
        options.flush = match self.flush {
            FlushName::Memset => Flush::Memset,
            FlushName::Read => Flush::Read,
        };
        options.flush_bytes = self.flush_bytes.unwrap_or(options.flush.default_bytes());
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ListName {
    /// M >= 512, bf16 out
    Dense,
    /// M <= 128, bf16 out
    Decode,
    /// f32 out, accumulating
    Wgrad,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Regime {
    Cold,
    Warm,
    Sustained,
    Graph,
    All,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FlushName {
    /// A memset: dirty lines, as with the recorded times
    Memset,
    /// A kernel that reads: clean lines
    Read,
}

#[derive(Serialize)]
struct Report {
    command: &'static str,
    version: &'static str,
    machine: Machine,
    repeat: usize,
    flush: Flush,
    flush_bytes: usize,
    rows: Vec<Line>,
    failures: Vec<String>,
    /// Of each ratio: over how many rows, and the mean.
    geometric_means: std::collections::BTreeMap<String, (f64, usize)>,
    /// Geometric mean of our time over the floor, for M <= 64, and over how many rows.
    over_floor: Option<(f64, usize)>,
    /// The same over a floor whose loads have no L2 policy.
    over_plain_floor: Option<(f64, usize)>,
}

#[derive(Serialize)]
struct Line {
    #[serde(flatten)]
    row: Row,
    flop: f64,
    bytes: f64,
    ratios: std::collections::BTreeMap<String, f64>,
    over_floor: Option<f64>,
    over_plain_floor: Option<f64>,
}

/// Runs the command; 1 if a kernel's bits were wrong.
pub(crate) fn run(args: &BenchArgs, json: bool) -> Result<u8, CliError> {
    let shapes = shapes(args)?;
    let options = options(args);
    options.check().map_err(failed)?;
    let csv = args.csv.as_deref().map(destination).transpose()?;
    let compiler = Compiler::new(Cache::from_environment(), None);
    let session = open(args.device, compiler, options.clone())?;
    let machine = session.machine();
    if !json {
        table::head(&machine, &options)?;
    }
    let mut measured = Measured::default();
    let show = |row: &Row| if json { Ok(()) } else { table::row(row) };
    let fatal = measured.all(&shapes, |shape| session.run(shape), show, csv.as_ref());
    let Measured { rows, failures, wrong } = measured;
    let means = geometric_means(&rows);
    let (over_floor, over_plain_floor) = (floor_mean(&rows, Row::over_floor), floor_mean(&rows, Row::over_plain_floor));
    if json {
        let line = |row: Row| Line {
            flop: row.flop(),
            bytes: row.bytes(),
            ratios: row.ratios(),
            over_floor: row.over_floor(),
            over_plain_floor: row.over_plain_floor(),
            row,
        };
        let report = Report {
            command: "bench",
            version: env!("CARGO_PKG_VERSION"),
            machine,
            repeat: options.repeat,
            flush: options.flush,
            flush_bytes: options.flush_bytes,
            rows: rows.into_iter().map(line).collect(),
            failures: failures.clone(),
            geometric_means: means,
            over_floor,
            over_plain_floor,
        };
        print(true, &report, String::new)?;
    } else {
        table::foot(&means, over_floor, over_plain_floor)?;
    }
    fatal?;
    match wrong {
        true => Ok(DIFFERENT),
        false if !failures.is_empty() => Err(usage(failures.join("; "))),
        false => Ok(SUCCESS),
    }
}

/// What came of the shapes so far.
#[derive(Default)]
struct Measured {
    rows: Vec<Row>,
    failures: Vec<String>,
    /// Whether the bits of some kernel were wrong.
    wrong: bool,
}

impl Measured {
    /// Measures one shape after the other. All rows are written after each, so that an interruption loses none: a later
    /// row may have other columns.
    fn all(
        &mut self,
        shapes: &[Shape],
        mut run: impl FnMut(&Shape) -> Result<Row, BenchError>,
        show: impl Fn(&Row) -> Result<(), CliError>,
        csv: Option<&Destination>,
    ) -> Result<(), CliError> {
        for shape in shapes {
            match run(shape) {
                Ok(row) => {
                    // Shown last, since standard output may be gone, but also where the file cannot be written.
                    self.rows.push(row);
                    let write = |csv: &Destination| csv.replace(|file| write_csv(&self.rows, file).map_err(Into::into));
                    let written = csv.map_or(Ok(()), write);
                    let shown = self.rows.last().map_or(Ok(()), &show);
                    written?;
                    shown?;
                }
                Err(error) if one_problem_only(&error) => {
                    self.wrong |= matches!(error, BenchError::WrongBits { .. });
                    let (name, text) = (shape.problem.to_string(), error.to_string());
                    let text = if text.contains(&name) { text } else { format!("{name}: {text}") };
                    tracing::error!("{text}");
                    self.failures.push(text);
                }
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }
}

/// Opens the GPU of this ordinal, or the first Hopper.
pub(super) fn open(device: Option<u32>, compiler: Compiler, options: Options) -> Result<Session, CliError> {
    let ordinal = engine::ordinal(device).map_err(|error| failed(error.into()))?;
    Session::open(ordinal, compiler, options).map_err(failed)
}

/// Another problem has another kernel and other sizes; after other errors the GPU may not be usable.
pub(super) fn one_problem_only(error: &BenchError) -> bool {
    use BenchError::{Configuration, Hopper, WrongBits};
    match error {
        WrongBits { .. } | Configuration { .. } => true,
        Hopper(HopperError::Jit(error)) => !matches!(error, JitError::NvrtcNotFound { .. }),
        Hopper(HopperError::TooLarge { .. } | HopperError::Unsupported { .. }) => true,
        error => error.is_out_of_memory(),
    }
}

fn options(args: &BenchArgs) -> Options {
    let has = |regime| args.regime.contains(&regime) || args.regime.contains(&Regime::All);
    let mut options = Options::default();
    options.cold = has(Regime::Cold);
    options.warm = has(Regime::Warm);
    options.sustained = has(Regime::Sustained);
    options.graph = has(Regime::Graph);
    options.repeat = args.repeat;
    args.flush.set(&mut options);
    options.seconds = args.seconds;
    options.check = !args.no_check;
    options.rivals = !args.no_rivals;
    options.floor = !args.no_floor;
    options.events = args.events;
    options.configuration = args.config.clone();
    options.interleave = args.interleave.clone();
    options
}

fn shapes(args: &BenchArgs) -> Result<Vec<Shape>, CliError> {
    let mut shapes: Vec<Listed> = problems(&args.problems)?.into_iter().map(Listed::from).collect();
    if let Some(path) = &args.shapes {
        shapes.extend(shape_list::read(path)?);
    }
    let nothing = shapes.is_empty() && args.shapes.is_none() && args.list.is_empty();
    let all = [ListName::Decode, ListName::Dense, ListName::Wgrad];
    let lists = match (nothing, args.m_at_most) {
        (true, usize::MAX) => &all[1..],
        // Whoever asks for few rows means decode as well.
        (true, _) => &all[..],
        (false, _) => &args.list,
    };
    for list in lists {
        let list = match list {
            ListName::Dense => List::Dense,
            ListName::Decode => List::Decode,
            ListName::Wgrad => List::Wgrad,
        };
        shapes.extend(list.shapes().map_err(failed)?.into_iter().map(Listed::from));
    }
    shapes.retain(|listed| (args.m_at_least..=args.m_at_most).contains(&listed.shape.problem.m));
    if shapes.is_empty() {
        return Err(usage("no shape is left: see --m-at-least, --m-at-most and --shapes".to_owned()));
    }
    shapes.iter().try_for_each(Listed::check)?;
    Ok(shapes.into_iter().map(|listed| listed.shape).collect())
}

/// Three numbers in a row are a shape; so is `MxNxK`; anything with a blank is a whole problem.
pub(super) fn problems(words: &[String]) -> Result<Vec<Shape>, CliError> {
    let mut shapes = Vec::new();
    let mut numbers = Vec::new();
    let bad = |word: &str| usage(format!("`{word}` is no problem: give M N K, MxNxK, or a whole one in quotes"));
    for word in words {
        if let Ok(number) = word.parse::<usize>() {
            numbers.push(number);
            if let [m, n, k] = numbers[..] {
                shapes.push(known(Shape::dense(m, n, k))?);
                numbers.clear();
            }
            continue;
        }
        if !numbers.is_empty() {
            return Err(bad(word));
        }
        if word.contains(char::is_whitespace) {
            let problem: Problem = word.parse()?;
            shapes.push(known(Shape { problem, ..Shape::dense(1, 1, 1) })?);
        } else {
            let sizes: Vec<usize> =
                word.split('x').map(|size| size.parse().map_err(|_| bad(word))).collect::<Result<_, _>>()?;
            let [m, n, k] = sizes[..] else { return Err(bad(word)) };
            shapes.push(known(Shape::dense(m, n, k))?);
        }
    }
    match numbers.last() {
        Some(number) => Err(usage(format!("`{number}`: M, N and K come in threes"))),
        None => Ok(shapes),
    }
}

/// With the recorded times, where the same problem is in a list.
fn known(shape: Shape) -> Result<Shape, CliError> {
    if shape.problem.macs() == 0 {
        return Err(usage(format!("{}: M, N and K must be at least 1", shape.problem)));
    }
    for list in [List::Dense, List::Decode, List::Wgrad] {
        let found = list.shapes().map_err(failed)?.into_iter().find(|known| known.problem == shape.problem);
        if let Some(found) = found {
            return Ok(found);
        }
    }
    Ok(shape)
}

fn usage(reason: String) -> CliError {
    CliError::Usage(reason)
}

pub(super) fn failed(error: BenchError) -> CliError {
    if error.is_missing() {
        return CliError::Missing { engine: "hopper", reason: error.to_string() };
    }
    usage(error.to_string())
}

#[cfg(test)]
mod tests;
