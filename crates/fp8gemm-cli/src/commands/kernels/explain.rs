//! `fp8gemm kernels explain`: what the cost model says of each candidate, which one is taken, and whether
//! that is the model's choice or a tuning table's.

use fp8gemm::hopper::probe;
use fp8gemm::jit::sass::Interleave;
use fp8gemm::jit::tuning::{Device, Machine, Selection, Source, Tuned, Untuned, kernel_version};
use fp8gemm::jit::{Cache, Compiler};
use fp8gemm::problem::Problem;
use serde::Serialize;

use super::Resources;
use crate::commands::problem::ProblemArgs;
use crate::commands::{SUCCESS, print};
use crate::error::CliError;
use crate::text::Number;

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
    /// `tuned` or `model`.
    source: &'static str,
    /// The table's problem and its times, where it has chosen.
    tuned: Option<Tuned>,
    /// Why the model has chosen, where it has.
    why: Option<String>,
    /// Name of the pattern in the promotion of the first: a table's, or `as-compiled`.
    interleave: &'static str,
    /// The first is taken.
    candidates: Vec<Candidate>,
    #[serde(skip)]
    selection: Selection,
}

#[derive(Serialize)]
struct Candidate {
    #[serde(flatten)]
    resources: Resources,
    tiles: u64,
    waves: u64,
    compute_us: Number,
    memory_us: Number,
}

pub(super) fn run(args: &ProblemArgs, json: bool) -> Result<u8, CliError> {
    let problem = args.needed()?;
    let compiler = Compiler::new(Cache::from_environment(), None);
    let here = probe().ok().and_then(|devices| devices.into_iter().next());
    let here = here.map(|gpu| gpu.device());
    let choices = args.sms().into_iter().map(|sms| {
        let here = here.as_ref().filter(|device| device.sms == sms);
        Ok(Chosen::new(select(&compiler, &problem, sms, here)?, sms))
    });
    let choices = choices.collect::<Result<_, CliError>>()?;
    let report = Report { command: "kernels", action: "explain", problem: problem.to_string(), choices };
    print(json, &report, || report.text())?;
    Ok(SUCCESS)
}

/// What a plan on the GPU here takes; without one here, on the GPU of that size that a table is for.
fn select(compiler: &Compiler, problem: &Problem, sms: u32, here: Option<&Device>) -> Result<Selection, CliError> {
    if let Some(device) = here {
        return Ok(compiler.choose(problem, device)?);
    }
    let Some(tuning) = compiler.tuning() else { return Ok(Selection::model(problem, sms, Untuned::Off)?) };
    let such = tuning.tables().iter().map(|table| &table.machine).filter(|machine| machine.sms == sms);
    // One of this version's kernels, if there is one; else the reason says that it is of others.
    match such.max_by_key(|machine| machine.kernels == kernel_version()) {
        Some(machine) => {
            let machine = Machine { kernels: kernel_version().to_owned(), ..machine.clone() };
            Ok(tuning.choose(&machine, problem)?)
        }
        None => Ok(Selection::model(problem, sms, Untuned::NoTable)?),
    }
}

fn reason(why: &Untuned) -> String {
    match why {
        Untuned::Off => "tuning tables are switched off".to_owned(),
        Untuned::NoTable => "nothing is tuned for such a GPU".to_owned(),
        Untuned::OtherMachine(difference) => format!("the tuning table is not used: {difference}"),
        Untuned::NotTuned => "the tuning table has no such problem".to_owned(),
        Untuned::Unusable => "what the tuning table names for it is no candidate any more".to_owned(),
        other => format!("{other:?}"),
    }
}

impl Chosen {
    fn new(selection: Selection, sms: u32) -> Self {
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
        });
        let candidates = candidates.collect();
        let interleave = selection.interleave(&selection.config()).name();
        Self { sms, source, tuned, why, interleave, candidates, selection }
    }

    fn text(&self) -> String {
        let choice = &self.selection.choice;
        let mut text = format!("\n{} SMs; the first is taken\n{choice}", self.sms);
        let [chosen, others @ ..] = &choice.candidates[..] else { return text };
        let resources = Resources::from(&chosen.config);
        let (math, load) = resources.registers;
        text += &format!(
            "taken: a tile of {} x {} in {} stages, {} threads of {math} (loading: {load}) registers, {} bytes of shared memory\n",
            resources.rows, resources.columns, resources.stages, resources.threads, resources.shared_bytes,
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
            return text + &self.pattern("tuned");
        }
        let limit =
            if chosen.compute_us >= chosen.memory_us { "the tensor cores and what surrounds them" } else { "memory" };
        text += &format!(
            "why:   least estimate, {:.1} us, set by {limit}; {} tiles in {} rounds over the SMs",
            chosen.us(),
            chosen.tiles,
            chosen.waves,
        );
        if let Some(next) = others.first() {
            text += &format!("; next best {:.1} % longer", 100.0 * (next.us() / chosen.us() - 1.0));
        }
        text.push('\n');
        if let Some(why) = &self.why {
            text += &format!("by:    the cost model; {why}\n");
        }
        text + &self.pattern("usual for such tiles")
    }

    /// The pattern in the promotion, if there is one.
    fn pattern(&self, why: &str) -> String {
        match self.interleave {
            name if name == Interleave::AsCompiled.name() => String::new(),
            name => format!("FFMA:  pattern {name}, {why}\n"),
        }
    }
}

impl Report {
    fn text(&self) -> String {
        let choices: String = self.choices.iter().map(Chosen::text).collect();
        format!("{}\n{choices}", self.problem)
    }
}
