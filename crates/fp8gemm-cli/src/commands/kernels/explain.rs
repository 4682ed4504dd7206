//! `fp8gemm kernels explain`: what the cost model says of each candidate, which one is taken, and whether
//! that is the model's choice or a tuning table's.

use std::cmp::Reverse;

use clap::Args;
use fp8gemm::hopper::{DeviceInfo, probe};
use fp8gemm::jit::sass::Interleave;
use fp8gemm::jit::tuning::{Device, Machine, Selection, Source, Tuned, Tuning, Untuned};
use fp8gemm::jit::{Cache, Compiler, Estimate, JitError};
use fp8gemm::problem::Problem;
use serde::Serialize;

use super::Resources;
use crate::commands::problem::ProblemArgs;
use crate::commands::{SUCCESS, print};
use crate::engine::one_line;
use crate::error::CliError;
use crate::text::{Number, count, list};

#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    /// Ordinal of the GPU that is meant [default: the first Hopper with so many SMs]
    #[arg(long, value_name = "N", conflicts_with = "sms")]
    device: Option<usize>,
    #[command(flatten)]
    problem: ProblemArgs,
}

#[derive(Serialize)]
struct Report {
    command: &'static str,
    action: &'static str,
    problem: String,
    choices: Vec<Chosen>,
}

#[derive(Serialize)]
struct Chosen {
    sms: u32,
    /// The GPU that is meant: the one here, else one that a tuning table is for; absent where there is neither.
    gpu: Option<String>,
    /// Its ordinal, if it is here.
    device: Option<usize>,
    /// `tuned` or `model`.
    source: &'static str,
    /// The table's problem and its times, where it has chosen.
    tuned: Option<Tuned>,
    /// Why the model has chosen, where it has.
    why: Option<String>,
    /// What plans with a workspace take: the first candidate.
    with_workspace: Option<Taken>,
    /// What plans without one take, as they are by default: the first candidate that needs none.
    without_workspace: Option<Taken>,
    candidates: Vec<Candidate>,
    #[serde(skip)]
    selection: Selection,
}

#[derive(Clone, PartialEq, Serialize)]
struct Taken {
    configuration: String,
    /// Name of the pattern in its promotion: a table's, or `as-compiled`.
    interleave: &'static str,
}

#[derive(Serialize)]
struct Candidate {
    #[serde(flatten)]
    resources: Resources,
    tiles: u64,
    waves: u64,
    compute_us: Number,
    memory_us: Number,
    terms: Terms,
}

/// [`fp8gemm::jit::Terms`], in cycles.
#[derive(Serialize)]
struct Terms {
    tensor: Number,
    l2: Number,
    k_blocks: Number,
    pairing: Number,
    ends: Number,
    rounds: Number,
    handover: Number,
    launch: Number,
    clock_hz: Number,
}

impl From<fp8gemm::jit::Terms> for Terms {
    fn from(terms: fp8gemm::jit::Terms) -> Self {
        let fp8gemm::jit::Terms { tensor, l2, k_blocks, pairing, ends, rounds, handover, launch, clock } = terms;
        let [tensor, l2, k_blocks, pairing, ends] = [tensor, l2, k_blocks, pairing, ends].map(Number);
        let [rounds, handover, launch, clock_hz] = [rounds, handover, launch, clock].map(Number);
        Self { tensor, l2, k_blocks, pairing, ends, rounds, handover, launch, clock_hz }
    }
}

pub(super) fn run(args: &ExplainArgs, json: bool) -> Result<u8, CliError> {
    let problem = args.problem.needed()?;
    let compiler = Compiler::new(Cache::from_environment(), None);
    let (gpus, sizes) = match args.device {
        Some(ordinal) => {
            let gpu = device(ordinal)?;
            (vec![gpu.clone()], vec![gpu.sms])
        }
        None => (probe().unwrap_or_default(), args.problem.sms()),
    };
    let choices = sizes.into_iter().map(|sms| match gpus.iter().find(|gpu| gpu.sms == sms) {
        Some(gpu) => {
            let device = gpu.device();
            let selection = compiler.choose(&problem, &device)?;
            Ok(Chosen::new(selection, sms, Some(device.name), Some(gpu.ordinal)))
        }
        None => {
            let found = match compiler.tuning() {
                Some(tuning) => elsewhere(tuning, &problem, sms, &compiler.versions())?,
                None => None,
            };
            let (selection, gpu) = match found {
                Some((selection, gpu)) => (selection, Some(gpu)),
                None => (Selection::model(&problem, sms, compiler.no_table())?, None),
            };
            if let Source::Model(Untuned::OtherMachine(difference)) = &selection.source {
                tracing::warn!(sms, gpu, difference, "no tuning table fits: the cost model chooses kernels");
            }
            Ok(Chosen::new(selection, sms, gpu, None))
        }
    });
    let choices = choices.collect::<Result<_, CliError>>()?;
    let report = Report { command: "kernels", action: "explain", problem: problem.to_string(), choices };
    print(json, &report, || report.text())?;
    Ok(SUCCESS)
}

/// The Hopper GPU of this ordinal.
fn device(ordinal: usize) -> Result<DeviceInfo, CliError> {
    let missing = |reason| CliError::Missing { engine: "hopper", reason };
    let gpus = probe().map_err(|error| missing(one_line(&error)))?;
    let known: Vec<_> = gpus.iter().map(|gpu| gpu.ordinal).collect();
    let found = gpus.into_iter().find(|gpu| gpu.ordinal == ordinal);
    found.ok_or_else(|| missing(format!("device {ordinal} is no Hopper GPU here: they are {}", list(&known))))
}

/// What a plan takes on a GPU of that size that is not here, and its name: one that a tuning table is for, with the
/// kernels that are here and of these versions of NVRTC. Of several tables the one that knows most of the problem;
/// `None` where there is none.
fn elsewhere(
    tuning: &Tuning,
    problem: &Problem,
    sms: u32,
    versions: &[Option<(u32, u32)>],
) -> Result<Option<(Selection, String)>, JitError> {
    let mut found = Vec::new();
    for table in tuning.tables().iter().filter(|table| table.machine.sms == sms && !table.problems.is_empty()) {
        let gpu = table.machine.gpu.clone();
        let here = Machine::new(&Device { name: gpu.clone(), sms, driver: 0, driver_version: None }, None);
        let here = Machine { driver: table.machine.driver.clone(), ..here };
        // Alone, so that no reason is another table's.
        let alone = tuning.only(|machine| *machine == table.machine);
        found.push((alone.choose_among(&here, versions, problem)?, gpu));
    }
    Ok(found.into_iter().min_by_key(|(selection, _)| Reverse(selection.source.knowledge())))
}

fn reason(why: &Untuned) -> String {
    let text = match why {
        Untuned::Off => "tuning tables are switched off".to_owned(),
        Untuned::NoTable => "nothing is tuned for such a GPU".to_owned(),
        Untuned::Ignored(why) => format!("no tuning table is used: {why}"),
        Untuned::OtherMachine(difference) => format!("the tuning table is not used: {difference}"),
        Untuned::NotTuned => "the tuning table has no such problem".to_owned(),
        Untuned::Unusable => "what the tuning table names for it is no candidate any more".to_owned(),
        other => format!("{other:?}"),
    };
    // A file's name, or what is in it, may hold line feeds and escape sequences.
    text.chars().map(crate::printable).collect()
}

impl Chosen {
    fn new(selection: Selection, sms: u32, gpu: Option<String>, device: Option<usize>) -> Self {
        let (source, tuned, why) = match &selection.source {
            Source::Tuned(tuned) => ("tuned", Some(Tuned::clone(tuned)), None),
            Source::Model(why) => ("model", None, Some(reason(why))),
        };
        let candidates = selection.choice.candidates.iter().map(|estimate| Candidate {
            resources: Resources::from(&estimate.config),
            tiles: estimate.tiles,
            waves: estimate.waves,
            compute_us: Number(estimate.compute_us),
            memory_us: Number(estimate.memory_us),
            terms: estimate.terms.into(),
        });
        let candidates = candidates.collect();
        let [with_workspace, without_workspace] = [true, false].map(|workspace| {
            let config = allowed(&selection, workspace).next()?.1.config;
            Some(Taken { configuration: config.to_string(), interleave: selection.interleave(&config).name() })
        });
        Self { sms, gpu, device, source, tuned, why, with_workspace, without_workspace, candidates, selection }
    }

    fn text(&self) -> String {
        let gpu = match (&self.gpu, self.device) {
            (Some(gpu), Some(device)) => format!(" of GPU {device}, {gpu}"),
            (Some(gpu), None) => format!(" of {gpu}, which is not here but has a tuning table"),
            (None, _) => String::new(),
        };
        let same = self.with_workspace == self.without_workspace;
        let first = if same {
            "the first is taken, with a workspace and without"
        } else {
            "with a workspace the first is taken"
        };
        let mut text = format!("\n{} SMs{gpu}; {first}", self.sms);
        if !same && let Some((place, _)) = allowed(&self.selection, false).next() {
            text += &format!(", without one number {}", place + 1);
        }
        text += &format!("\n{}", self.selection.choice);
        if same {
            return text + &self.taken("", true);
        }
        text + &self.taken(" with a workspace", true) + &self.taken(" without a workspace", false)
    }

    /// What is taken, and why.
    fn taken(&self, how: &str, workspace: bool) -> String {
        let mut allowed = allowed(&self.selection, workspace).map(|(_, estimate)| estimate);
        let Some(chosen) = allowed.next() else { return String::new() };
        let resources = Resources::from(&chosen.config);
        let registers = resources
            .registers
            .map_or_else(String::new, |(math, load)| format!(" of {math} (loading: {load}) registers"));
        let mut text = format!(
            "taken{how}: a tile of {} x {} in {}, {} threads{registers}, {} bytes of shared memory\n",
            resources.rows,
            resources.columns,
            count(resources.stages.into(), "stage"),
            resources.threads,
            resources.shared_bytes,
        );
        if let Some(tuned) = &self.tuned
            && let Some(winner) = self.selection.timed(&chosen.config)
        {
            text += &format!(
                "why:   measured ({}, M = {}, {} candidates): {:.2} us cold, {:.2} us warm; the cost model's {} took {:.2} us\n",
                tuned.date,
                tuned.problem.m,
                tuned.tried,
                winner.cold_us,
                winner.warm_us,
                tuned.model.configuration,
                tuned.model.cold_us,
            );
            return text + &self.pattern(chosen, "tuned");
        }
        let limit =
            if chosen.compute_us >= chosen.memory_us { "the tensor cores and what surrounds them" } else { "memory" };
        text += &format!(
            "why:   least estimate{}, {:.1} us, set by {limit}; {} in {} over the SMs",
            if workspace { "" } else { " of those that need none" },
            chosen.us(),
            count(chosen.tiles, "tile"),
            count(chosen.waves, "round"),
        );
        if let Some(next) = allowed.next() {
            text += &format!("; next best {:.1} % longer", 100.0 * (next.us() / chosen.us() - 1.0));
        }
        text += &format!("\nterms: {}", terms(chosen));
        let why = self.why.as_deref().unwrap_or("the tuning table names none that needs no workspace");
        text += &format!("\nby:    the cost model; {why}\n");
        text + &self.pattern(chosen, "usual for such tiles")
    }

    /// The pattern in the promotion, if there is one.
    fn pattern(&self, chosen: &Estimate, why: &str) -> String {
        match self.selection.interleave(&chosen.config) {
            Interleave::AsCompiled => String::new(),
            pattern => format!("FFMA:  pattern {pattern}, {why}\n"),
        }
    }
}

/// What an estimate is made of, in one sentence.
fn terms(estimate: &Estimate) -> String {
    let terms = &estimate.terms;
    let mut text = format!(
        "a block of K {:.0} cycles (tensor cores and promotion {:.0}, L2 {:.0}); a tile {} blocks, first load and D {:.0}; \
         {:.2} tiles an SM",
        terms.tensor.max(terms.l2) * terms.pairing,
        terms.tensor,
        terms.l2,
        terms.k_blocks,
        terms.ends,
        terms.rounds,
    );
    if terms.handover > 0.0 {
        text += &format!(", hand-over {:.0}", terms.handover);
    }
    text + &format!(
        ", launch {:.0}, at {:.2} GHz; memory {:.1} us",
        terms.launch,
        terms.clock / 1e9,
        estimate.memory_us
    )
}

/// The candidates that plans may take, with their places.
fn allowed(selection: &Selection, workspace: bool) -> impl Iterator<Item = (usize, &Estimate)> {
    let all = selection.choice.candidates.iter().enumerate();
    all.filter(move |(_, estimate)| workspace || !estimate.config.needs_workspace())
}

impl Report {
    fn text(&self) -> String {
        let choices: String = self.choices.iter().map(Chosen::text).collect();
        format!("{}\n{choices}", self.problem)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fp8gemm::jit::choose;
    use fp8gemm::jit::tuning::Timed;

    /// A table of this GPU, in which the cost model's last candidate has won.
    fn table(gpu: &str, kernels: Option<&str>, nvrtc: (u32, u32), problem: &Problem) -> Tuning {
        let machine =
            Machine::new(&Device { name: gpu.into(), sms: 132, driver: 12_080, driver_version: None }, Some(nvrtc));
        let kernels = kernels.map_or_else(|| machine.kernels.clone(), str::to_owned);
        let last = choose(problem, 132).unwrap().candidates.last().unwrap().config.to_string();
        let timed = Timed { configuration: last, interleave: None, cold_us: 6.5, warm_us: 3.25 };
        let (date, model, ranking) = ("2026-11-29T13:00:00Z".to_owned(), timed.clone(), vec![timed]);
        Tuning::of(Machine { kernels, ..machine }, vec![Tuned { problem: *problem, date, tried: 31, model, ranking }])
    }

    /// Breaks if, where the GPU is not here, a table that a plan would refuse counts, a table that counts is not
    /// found beside others of GPUs of the same size, its GPU is not the one named, or a reason is about a GPU that
    /// nobody has.
    #[test]
    fn tables_of_gpus_that_are_not_here() {
        let [problem, other] = ["64x2112x7168", "64x576x7168"]
            .map(|text| format!("{text} a=e4m3:1x128 b=e4m3:128x128 d=bf16").parse().unwrap());
        let [h100, h200] = ["NVIDIA H100 80GB HBM3", "NVIDIA H200"];
        let among = |tables: &[Tuning], versions: &[_]| {
            let mut all = Tuning::default();
            tables.iter().for_each(|table| all.merge(table, true));
            let (selection, gpu) = elsewhere(&all, &problem, 132, versions).unwrap().unwrap();
            let why = match selection.source {
                Source::Tuned(_) => "tuned".to_owned(),
                Source::Model(why) => reason(&why),
            };
            (gpu, why)
        };
        let ask = |tables: &[Tuning], nvrtc| among(tables, &[nvrtc]);
        let fits = |gpu| table(gpu, None, (13, 0), &problem);
        for nvrtc in [None, Some((13, 0))] {
            assert_eq!(ask(&[fits(h100), table(h200, None, (13, 0), &other)], nvrtc), (h100.into(), "tuned".into()));
            assert_eq!(ask(&[table(h100, Some("0"), (13, 0), &problem), fits(h200)], nvrtc).0, h200);
        }
        assert_eq!(ask(&[table(h100, None, (13, 0), &other)], None).1, reason(&Untuned::NotTuned));
        let (gpu, why) = ask(&[table(h200, None, (12, 8), &problem)], Some((13, 0)));
        assert!(gpu == h200 && why.contains("of NVRTC 12.8, here is 13.0"), "{gpu}: {why}");
        let stale = [h200, h100].map(|gpu| table(gpu, Some("0"), (13, 0), &problem));
        let (gpu, why) = ask(&stale, Some((13, 0)));
        assert!(gpu == h200 && why.contains("other kernels") && !why.contains("NVIDIA"), "{gpu}: {why}");
        // As a plan, which takes imported kernels and their table: the newest where the one here has none.
        let old = [table(h200, None, (12, 8), &problem)];
        assert_eq!(among(&old, &[Some((13, 5)), Some((13, 0)), Some((12, 8))]).1, "tuned");
        let why = among(&old, &[Some((13, 5)), Some((13, 0))]).1;
        assert!(why.contains("of NVRTC 12.8, here is 13.5"), "{why}");
        assert_eq!(elsewhere(&fits(h200), &problem, 114, &[None]).unwrap(), None);
    }
}
