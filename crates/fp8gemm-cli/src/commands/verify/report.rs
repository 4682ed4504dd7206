//! What `verify` says of a whole kernel, to people and as JSON.

use std::collections::BTreeMap;

use fp8gemm::problem::{OutputType, Policy, Problem};
use fp8gemm::sim::{Matrix, Path};
use serde::Serialize;

use super::difference::DifferenceReport;
use super::search::{Found, Trial};
use crate::commands::{bad, good};
use crate::engine::{Chosen, GpuRun, twin_name};
use crate::error::CliError;
use crate::files::TensorFile;
use crate::operands::{Inputs, Operand};
use crate::text::{Number, count, duration, gmacs, grouped, path_name, percent, speed, table};

/// The result of `verify`, in the form of its JSON document.
#[derive(Serialize)]
pub(super) struct Report {
    command: &'static str,
    file: String,
    metadata: BTreeMap<String, String>,
    /// The problem with the best policy, as `Problem` prints and parses it.
    problem: String,
    m: usize,
    n: usize,
    k: usize,
    /// `hopper` if the GPU computed any of the policies; each says which engine computed it.
    engine: Chosen,
    /// The twin's implementation and threads.
    path: &'static str,
    threads: usize,
    /// Whether some policy gives every bit of D.
    pub(super) equal: bool,
    /// Names of the policies that do.
    reproduced_by: Vec<String>,
    /// Where none does, the one that comes nearest.
    nearest: Option<String>,
    policies: Vec<PolicyReport>,
    macs: u128,
    /// Time of the whole search, and speed of the pass over all rows with the best policy.
    seconds: Number,
    gmac_per_s: Number,
    #[serde(skip)]
    text: Text,
    /// Index of the policy that `nearest` names.
    #[serde(skip)]
    best: usize,
}

/// What the text needs and the document has in another form.
struct Text {
    head: Vec<Vec<String>>,
    ty: OutputType,
    speed: String,
    time: String,
}

#[derive(Serialize)]
struct PolicyReport {
    policy: String,
    /// Scale layouts of A and B that were assumed: shapes can mean several.
    scale_layout_a: String,
    scale_layout_b: String,
    /// Policies that are the same arithmetic for this K and these scales.
    same_as: Vec<String>,
    engine: Chosen,
    /// Where a GPU computed: which, and how.
    gpu: Option<GpuRun>,
    outcome: Outcome,
    /// Rows compared: all, or the sample that ruled the policy out.
    rows: usize,
    elements: usize,
    differing: usize,
    #[serde(flatten)]
    difference: Option<DifferenceReport>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    /// Every bit of D is equal.
    Equal,
    /// Some bits of D differ.
    Differs,
    /// Some bits of the sample differ; the rest was not computed.
    ScreenedOut,
}

impl Report {
    pub(super) fn new(
        file: &TensorFile,
        inputs: &Inputs<'_>,
        recorded: &Matrix,
        found: Found,
    ) -> Result<Self, CliError> {
        let Found { trials, best, time } = found;
        let layouts = match trials.get(best) {
            Some(trial) => trial.layouts,
            None => (inputs.a.view()?.layout(), inputs.b.view()?.layout()),
        };
        let mut problem = inputs.task(layouts, recorded.ty(), Policy::default())?.problem();
        let mut equal = false;
        let mut nearest = None;
        let mut speed_of_best = (0.0, String::new());
        if let Some(trial) = trials.get(best) {
            problem.policy = trial.group.policy;
            equal = trial.equal();
            nearest = Some(problem.policy.to_string()).filter(|_| !equal);
            speed_of_best = (gmacs(problem.macs(), trial.time), speed(problem.macs(), trial.time));
        }
        let policies: Vec<_> = trials.iter().map(|trial| PolicyReport::new(trial, problem.d)).collect();
        let reproducing = policies.iter().filter(|report| report.outcome == Outcome::Equal);
        let mut reproduced_by: Vec<String> = Vec::new();
        for name in reproducing.flat_map(|r| [&r.policy].into_iter().chain(&r.same_as)) {
            // Two readings of the scales may agree.
            if !reproduced_by.contains(name) {
                reproduced_by.push(name.clone());
            }
        }
        let mut head = metadata_rows(file);
        head.push(vec!["problem".to_owned(), problem_text(&problem, inputs)]);
        head.push(vec!["engine".to_owned(), engine_text(&policies)]);
        let by_gpu = policies.iter().any(|report| report.gpu.is_some());
        let text = Text { head, ty: problem.d, speed: speed_of_best.1, time: duration(time) };
        Ok(Self {
            command: "verify",
            file: file.path().display().to_string(),
            metadata: file.metadata().clone(),
            problem: problem.to_string(),
            m: problem.m,
            n: problem.n,
            k: problem.k,
            engine: if by_gpu { Chosen::Hopper } else { Chosen::Twin },
            path: path_name(Path::best()),
            threads: rayon::current_num_threads(),
            equal,
            reproduced_by,
            nearest,
            policies,
            macs: problem.macs(),
            seconds: Number(time.as_secs_f64()),
            gmac_per_s: Number(speed_of_best.0),
            text,
            best,
        })
    }

    /// Whether the shapes of the scales were read in more than one way.
    fn ambiguous(&self) -> bool {
        let layouts = |report: &PolicyReport| (report.scale_layout_a.clone(), report.scale_layout_b.clone());
        self.policies.iter().any(|report| layouts(report) != layouts(&self.policies[0]))
    }

    /// The name of a policy, with the reading of the scales where there are several.
    fn name(&self, report: &PolicyReport) -> String {
        if self.ambiguous() {
            format!("{} (A {}, B {})", report.policy, report.scale_layout_a, report.scale_layout_b)
        } else {
            report.policy.clone()
        }
    }

    pub(super) fn text(&self) -> String {
        let mut text = format!("{}\n{}\n", self.file, table(2, &self.text.head));
        let mut rows = vec![["policy", "rows", "differing", "result"].map(str::to_owned).to_vec()];
        // Where all is the CPU's work, the head has said so.
        let by_gpu = self.engine == Chosen::Hopper;
        if by_gpu {
            rows[0].insert(1, "engine".to_owned());
        }
        for report in &self.policies {
            let differing = match report.differing {
                0 => "0".to_owned(),
                n => format!("{} ({})", grouped(n as u64), percent(n as u64, report.elements as u64)),
            };
            let result = match report.outcome {
                Outcome::Equal => good("every bit equal"),
                Outcome::Differs => bad("differs"),
                Outcome::ScreenedOut => "ruled out by the sample".to_owned(),
            };
            let mut row = vec![self.name(report), format!("{} of {}", report.rows, self.m), differing, result];
            if by_gpu {
                row.insert(1, if report.gpu.is_some() { "GPU" } else { "CPU" }.to_owned());
            }
            rows.push(row);
        }
        text += &table(2, &rows);
        for report in self.policies.iter().filter(|report| !report.same_as.is_empty()) {
            text += &format!("  same as {} here: {}\n", self.name(report), report.same_as.join(", "));
        }
        for report in &self.policies {
            let Some(gpu) = &report.gpu else { continue };
            text += &format!("  kernel of {}: {}\n", self.name(report), gpu.kernel_text());
            for step in &gpu.steps {
                text += &format!("    step: {step}\n");
            }
        }
        text += "\n";

        let elements = (self.m * self.n) as u64;
        let Text { speed, time, .. } = &self.text;
        if self.equal {
            let mut readings: Vec<String> = Vec::new();
            for report in self.policies.iter().filter(|report| report.outcome == Outcome::Equal) {
                let reading = format!("A {}, B {}", report.scale_layout_a, report.scale_layout_b);
                if !readings.contains(&reading) {
                    readings.push(reading);
                }
            }
            if self.ambiguous() {
                text += &format!("the shapes of the scales are ambiguous; read as {}:\n", readings.join(" or as "));
            }
            let who = match &self.reproduced_by[..] {
                [one] => format!("{one} gives"),
                many => format!("{} give", crate::text::list(many)),
            };
            let verdict = format!("{}: {who} all {} of d, bit for bit", good("EQUAL"), count(elements, "element"));
            return text + &format!("{verdict} ({speed}; {time} in all)\n");
        }
        let nearest = self.policies.get(self.best);
        let Some(report) = nearest else { return text };
        let differ = if report.differing == 1 { "differs" } else { "differ" };
        let verdict = match self.policies.len() {
            1 => format!("{} does not give the bits of d:", report.policy),
            _ => format!("no policy gives all bits; nearest is {}, where", report.policy),
        };
        text += &format!(
            "{}: {verdict} {} of {} {differ} ({speed}; {time} in all)\n",
            bad("DIFFERENT"),
            grouped(report.differing as u64),
            count(elements, "element"),
        );
        if let Some(difference) = &report.difference {
            text += &table(2, &difference.rows(self.text.ty));
        }
        text
    }
}

/// Shapes, types and scales, and what of the epilogue is not the default.
fn problem_text(problem: &Problem, inputs: &Inputs<'_>) -> String {
    let scales = |operand: &Operand<'_>, layout| match &operand.scale_tensor {
        Some(_) => format!("{layout}"),
        None => "no scales (1.0)".to_owned(),
    };
    let mut text = format!("{} x {} x {}", problem.m, problem.n, problem.k);
    text += &format!(", A {} {}", problem.a.ty, scales(&inputs.a, problem.a.scales));
    text += &format!(", B {} {}, D {}", problem.b.ty, scales(&inputs.b, problem.b.scales), problem.d);
    if problem.epilogue.alpha != 1.0 {
        text += &format!(", alpha {}", problem.epilogue.alpha);
    }
    if let Some(c) = problem.c {
        text += &format!(", C {c} with beta {}", problem.epilogue.beta);
    }
    text
}

/// The GPU, the twin, or both.
fn engine_text(policies: &[PolicyReport]) -> String {
    match policies.iter().find_map(|report| report.gpu.as_ref()) {
        None => twin_name(),
        Some(gpu) if policies.iter().all(|report| report.gpu.is_some()) => gpu.device_text(),
        Some(gpu) => format!("{}; {} for policies without a kernel", gpu.device_text(), twin_name()),
    }
}

impl PolicyReport {
    fn new(trial: &Trial, ty: OutputType) -> Self {
        let outcome = match &trial.full {
            Some(comparison) if comparison.bits_equal() => Outcome::Equal,
            Some(_) => Outcome::Differs,
            None => Outcome::ScreenedOut,
        };
        let difference = trial.full.as_ref().filter(|comparison| !comparison.bits_equal());
        Self {
            policy: trial.group.policy.to_string(),
            scale_layout_a: trial.layouts.0.to_string(),
            scale_layout_b: trial.layouts.1.to_string(),
            same_as: trial.group.same.iter().map(ToString::to_string).collect(),
            engine: if trial.gpu.is_some() { Chosen::Hopper } else { Chosen::Twin },
            gpu: trial.gpu.clone(),
            outcome,
            rows: trial.rows,
            elements: trial.elements,
            differing: trial.differing,
            difference: difference.map(|comparison| DifferenceReport::new(comparison, ty)),
        }
    }
}

/// What the file's metadata says of its origin, one line each.
pub(super) fn metadata_rows(file: &TensorFile) -> Vec<Vec<String>> {
    const LONGEST: usize = 160;
    let mut rows = Vec::new();
    for key in ["kernel", "instruction", "device", "selection"] {
        if let Some(text) = file.metadata().get(key) {
            // Whoever wrote the file may have written anything.
            let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect();
            rows.push(vec![key.to_owned(), text]);
        }
    }
    rows
}
