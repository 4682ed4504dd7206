//! `fp8gemm kernels explain`: what the cost model says of each candidate, and which one is taken.

use fp8gemm::jit::{Choice, choose};
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
    /// The first is taken.
    candidates: Vec<Candidate>,
    #[serde(skip)]
    choice: Choice,
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
    let choices = args.sms().into_iter().map(|sms| Chosen::new(&problem, sms)).collect::<Result<_, _>>()?;
    let report = Report { command: "kernels", action: "explain", problem: problem.to_string(), choices };
    print(json, &report, || report.text())?;
    Ok(SUCCESS)
}

impl Chosen {
    fn new(problem: &Problem, sms: u32) -> Result<Self, CliError> {
        let choice = choose(problem, sms)?;
        let candidates = choice.candidates.iter().map(|estimate| Candidate {
            resources: Resources::from(&estimate.config),
            tiles: estimate.tiles,
            waves: estimate.waves,
            compute_us: Number(estimate.compute_us),
            memory_us: Number(estimate.memory_us),
        });
        Ok(Self { sms, candidates: candidates.collect(), choice })
    }

    fn text(&self) -> String {
        let mut text = format!("\n{} SMs; the first is taken\n{}", self.sms, self.choice);
        let [chosen, others @ ..] = &self.choice.candidates[..] else { return text };
        let resources = Resources::from(&chosen.config);
        let (math, load) = resources.registers;
        text += &format!(
            "taken: a tile of {} x {} in {} stages, {} threads of {math} (loading: {load}) registers, {} bytes of shared memory\n",
            resources.rows, resources.columns, resources.stages, resources.threads, resources.shared_bytes,
        );
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
        text
    }
}

impl Report {
    fn text(&self) -> String {
        let choices: String = self.choices.iter().map(Chosen::text).collect();
        format!("{}\n{choices}", self.problem)
    }
}
