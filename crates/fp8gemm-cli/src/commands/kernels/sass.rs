//! `fp8gemm kernels sass`: the machine code of a problem's kernel.

use clap::Args;
use fp8gemm::jit::sass::{Disassembler, FfmaRuns, Interleave, Listing, Summary};
use fp8gemm::jit::tuning::first_candidates;
use fp8gemm::jit::{Cache, Compiler, KERNEL};
use fp8gemm_bench::find_configuration;
use serde::Serialize;

use super::{PassedOver, make};
use crate::commands::problem::ProblemArgs;
use crate::commands::{DIFFERENT, SUCCESS, bad, good, print};
use crate::error::CliError;
use crate::text::table;

#[derive(Debug, Args)]
pub(crate) struct SassArgs {
    /// Count instructions and compare with what the configuration asks for, instead of printing them
    #[arg(long)]
    summary: bool,
    /// Another configuration than the cost model's first, by its name or a part of it, as `bench
    /// --config` has it: e.g. 256x112 or 64x40_s8_f4
    #[arg(long, value_name = "NAME")]
    config: Option<String>,
    /// Set yield and reuse flags in the promotion as this pattern says: none, deepgemm-2025, one-in-four,
    /// reuse, reuse-deepgemm-2025, or reuse-one-in-four, which plans mostly load
    #[arg(long, value_name = "PATTERN", default_value_t)]
    interleave: Interleave,
    #[command(flatten)]
    problem: ProblemArgs,
}

#[derive(Serialize)]
struct Report {
    command: &'static str,
    action: &'static str,
    problem: String,
    configuration: String,
    /// Candidates that the compiler makes spill, and how.
    passed_over: PassedOver,
    disassembler: String,
    summary: Summary,
    /// Yield and reuse flags in the promotion.
    ffma_runs: Option<FfmaRuns>,
    /// What is not as it should be.
    faults: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sass: Option<String>,
}

pub(super) fn run(args: &SassArgs, json: bool) -> Result<u8, CliError> {
    let problem = args.problem.needed()?;
    let sms = args.problem.one_sms()?;
    let candidates = match &args.config {
        Some(name) => {
            vec![find_configuration(name, &problem, sms).map_err(|error| CliError::Usage(error.to_string()))?]
        }
        None => first_candidates(&problem, sms)?,
    };
    let compiler = Compiler::new(Cache::from_environment(), None);
    let nvrtc = compiler.nvrtc().ok().map(|nvrtc| nvrtc.path().to_owned());
    let tool = Disassembler::find(nvrtc.as_deref())?;
    let (config, made, passed_over) = make(&compiler, candidates, args.interleave)?;
    let text = tool.disassemble(&made.cubin)?;
    let summary = Listing::parse(&text)?.summary();
    let faults: Vec<_> = summary.faults(&config).iter().map(ToString::to_string).collect();
    let code = if args.summary && !faults.is_empty() { DIFFERENT } else { SUCCESS };
    let report = Report {
        command: "kernels",
        action: "sass",
        problem: problem.to_string(),
        configuration: config.kernel_name() + &args.interleave.suffix(),
        passed_over,
        disassembler: tool.path().display().to_string(),
        summary,
        // Of an FFMA that is not known, the listing tells more than this.
        ffma_runs: FfmaRuns::of(&made.cubin, KERNEL).ok(),
        faults,
        sass: (!args.summary).then_some(text),
    };
    print(json, &report, || report.text())?;
    Ok(code)
}

impl Report {
    fn text(&self) -> String {
        // As comments, so that the listing stays one.
        let mut text = format!("// {}\n// {}\n", self.problem, self.configuration);
        for (config, why) in &self.passed_over {
            text += &format!("// passed over: {config}: {why}\n");
        }
        match &self.sass {
            Some(sass) => text += sass,
            None => text += &self.counts(),
        }
        text
    }

    fn counts(&self) -> String {
        let summary = &self.summary;
        let mut rows = vec![
            ("instructions", summary.instructions),
            ("QGMMA (wgmma of FP8)", summary.qgmma),
            ("UTMALDG (TMA loads)", summary.utmaldg),
            ("UTMASTG (TMA stores)", summary.utmastg),
            ("LDL, STL (local memory)", summary.local),
            ("FFMA (promotion and epilogue)", summary.ffma),
            ("FFMA with a register-bank conflict", summary.ffma_conflicts),
            ("main loops", summary.main_loops.len() as u32),
        ];
        for one in &summary.main_loops {
            rows.extend([
                ("  instructions", one.instructions),
                ("  QGMMA", one.qgmma),
                ("  FFMA", one.ffma),
                ("  MEMBAR.ALL", one.membar_all),
            ]);
        }
        if let Some(runs) = &self.ffma_runs {
            rows.extend([
                ("FFMA in runs of 8 and more", runs.ffma),
                ("  that yield", runs.yielding),
                ("  that keep a source for the next", runs.reusing),
            ]);
        }
        let rows: Vec<_> = rows.into_iter().map(|(what, count)| vec![what.to_owned(), format!("{count:>6}")]).collect();
        let verdict = match &self.faults[..] {
            [] => format!("{}: as the configuration asks\n", good("good")),
            faults => faults.iter().map(|fault| format!("{}: {fault}\n", bad("fault"))).collect(),
        };
        table(0, &rows) + &verdict
    }
}
