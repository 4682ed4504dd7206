//! What `gemm` says.

use std::path::Path;

use fp8gemm::problem::{OperandSpec, Problem, ScaleLayout};
use fp8gemm::sim;
use serde::Serialize;

use super::errors::{ErrorReport, Reference};
use crate::engine::{Chosen, Computed, GpuRun, twin_name};
use crate::operands::{Inputs, Operand, Place};
use crate::text::{Number, count, gmacs, grouped, path_name, speed, table};

/// The result of `gemm`, in the form of its JSON document.
#[derive(Serialize)]
pub(super) struct Report {
    command: &'static str,
    output: String,
    /// The problem, as `Problem` prints and parses it.
    problem: String,
    m: usize,
    n: usize,
    k: usize,
    /// `recipe:layout:type` of operands that were quantised in this run.
    quantized_a: Option<String>,
    quantized_b: Option<String>,
    /// Whether the CPU or the GPU quantised them.
    quantized_a_on: Option<Place>,
    quantized_b_on: Option<Place>,
    /// Absent where D is empty: nothing was computed.
    engine: Option<Chosen>,
    /// The twin's implementation and threads, whichever engine computed.
    path: &'static str,
    threads: usize,
    /// Where a GPU computed: which, and how.
    gpu: Option<GpuRun>,
    macs: u128,
    /// Time of the computation; on a GPU with the copies there and back and the quantisation there,
    /// without making the kernels.
    seconds: Number,
    gmac_per_s: Number,
    errors: Vec<ErrorReport>,
    #[serde(skip)]
    head: Vec<Vec<String>>,
}

impl Report {
    pub(super) fn new(
        output: &Path,
        inputs: &Inputs<'_>,
        problem: &Problem,
        computed: &Computed,
        errors: Vec<ErrorReport>,
    ) -> Self {
        let quantized = |operand: &Operand<'_>| operand.original().map(|(_, quantizer)| quantizer.to_string());
        let macs = problem.macs();
        Self {
            command: "gemm",
            output: output.display().to_string(),
            problem: problem.to_string(),
            m: problem.m,
            n: problem.n,
            k: problem.k,
            quantized_a: quantized(&inputs.a),
            quantized_b: quantized(&inputs.b),
            quantized_a_on: inputs.a.quantized_on(),
            quantized_b_on: inputs.b.quantized_on(),
            engine: computed.engine(),
            path: path_name(sim::Path::best()),
            threads: rayon::current_num_threads(),
            gpu: computed.gpu.clone(),
            macs,
            seconds: Number(computed.time.as_secs_f64()),
            gmac_per_s: Number(gmacs(macs, computed.time)),
            errors,
            head: head(inputs, problem, computed),
        }
    }

    pub(super) fn text(&self) -> String {
        let mut text = format!("{}\n{}\n", self.output, table(2, &self.head));
        if self.errors.is_empty() {
            return text + "  D is empty: there is nothing to compare\n";
        }
        let header = ["error against the exact product", "rows", "SNR", "calc_diff", "max |e/x|", "bias"];
        let mut rows = vec![header.map(str::to_owned).to_vec()];
        for error in &self.errors {
            let against = match error.against {
                Reference::Fp8Operands => "of the FP8 operands",
                Reference::Inputs => "of the inputs, before quantisation",
            };
            let figure = |text: String| if error.elements == 0 { "-".to_owned() } else { text };
            let of = if error.sampled { format!("{} of {}", error.rows, self.m) } else { error.rows.to_string() };
            rows.push(vec![
                against.to_owned(),
                of,
                figure(format!("{:.2} dB", error.snr_db.0)),
                figure(format!("{:.3e}", error.calc_diff.0)),
                figure(format!("{:.3e}", error.max_relative.0)),
                figure(format!("{:+.3e}", error.bias.0)),
            ]);
        }
        text += &table(2, &rows);
        for error in &self.errors {
            if error.non_finite > 0 {
                let (left_out, all) = (error.non_finite as u64, (error.elements + error.non_finite) as u64);
                let (left_out, all, differing) = (grouped(left_out), count(all, "element"), error.non_finite_differing);
                text += &format!("  {left_out} of {all} are not finite, left out; {differing} of them disagree\n");
                break;
            }
        }
        if self.errors.iter().any(|error| error.sampled) {
            text +=
                "  (beyond 2^30 multiply-adds, 2^28 from f32, the exact product is computed for evenly spaced rows)\n";
        }
        text
    }
}

fn head(inputs: &Inputs<'_>, problem: &Problem, computed: &Computed) -> Vec<Vec<String>> {
    let operand = |operand: &Operand<'_>, layout: ScaleLayout| match (operand.original(), &operand.scale_tensor) {
        (Some((_, quantizer)), _) => {
            let by = format!("{} {layout}, quantised by {}", quantizer.ty, quantizer.recipe);
            match operand.quantized_on() {
                Some(Place::Gpu) => format!("{by} on the GPU"),
                // Where everything else is on the CPU too, it goes without saying.
                Some(Place::Cpu) if computed.engine() != Some(Chosen::Twin) => format!("{by} on the CPU"),
                _ => by,
            }
        }
        (None, Some(_)) => layout.to_string(),
        (None, None) => "no scales (1.0)".to_owned(),
    };
    let describe = |side: &Operand<'_>, spec: OperandSpec| match side.original() {
        Some(_) => operand(side, spec.scales),
        None => format!("{} {}", spec.ty, operand(side, spec.scales)),
    };
    let mut epilogue = vec![format!("{} of type {}", problem.policy, problem.d)];
    if problem.epilogue.alpha != 1.0 {
        epilogue.push(format!("alpha {}", problem.epilogue.alpha));
    }
    if let Some(c) = problem.c {
        epilogue.push(format!("C {c} with beta {}", problem.epilogue.beta));
    }
    let row = |name: &str, what: String| vec![name.to_owned(), what];
    let mut rows = vec![
        row("problem", format!("{} x {} x {}", problem.m, problem.n, problem.k)),
        row("A", describe(&inputs.a, problem.a)),
        row("B", describe(&inputs.b, problem.b)),
        row("D", epilogue.join(", ")),
    ];
    if computed.engine().is_none() {
        rows.push(row("engine", "none: D is empty, nothing was computed".to_owned()));
        return rows;
    }
    let speed = speed(problem.macs(), computed.time);
    let Some(gpu) = &computed.gpu else {
        rows.push(row("engine", twin_name()));
        rows.push(row("time", speed));
        return rows;
    };
    rows.push(row("engine", gpu.device_text()));
    rows.push(row("kernel", gpu.kernel_text()));
    rows.extend(gpu.steps.iter().map(|step| row("step", step.clone())));
    let there = [&inputs.a, &inputs.b].iter().any(|operand| operand.quantized_on() == Some(Place::Gpu));
    let included = if there { "copies to the GPU and back and quantising there" } else { "copies to the GPU and back" };
    rows.push(row("time", format!("{speed} ({included} included, the making of kernels not)")));
    rows
}
