//! `fp8gemm difftest cublaslt`: which accumulation policy cuBLASLt's FP8 products have, and recordings of
//! them.

use std::path::Path;

use clap::Args;
use fp8gemm::problem::{OperandSpec, Policy, Problem};
use fp8gemm::sim::Matrix;
use fp8gemm_bench::{BenchError, CublasLtRecorder, LtInputs};
use fp8gemm_difftest::{Case, DataRegime, Generator, Menu, Only, ScaleRegime, cublaslt_tensor};
use serde::Serialize;

use super::case_file;
use super::gpu::{GpuArgs, ordinal};
use crate::commands::{SUCCESS, print};
use crate::engine::Progress;
use crate::error::CliError;
use crate::text::{count, list, table};

/// What lacks a GPU, or the library.
const ENGINE: &str = "cuBLASLt";

/// Most bytes of operands, C and D of a product that is recorded unasked.
const RECORDED: u128 = 1 << 20;

/// Algorithms of the heuristic that are tried for each product.
const ALGORITHMS: usize = 8;

/// Behind a policy: with cuBLASLt's epilogue, alpha in the scale and beta * c rounded.
const OWN_EPILOGUE: &str = "(own epilogue)";

/// The products: beyond what `vectors/` has, scales other than 1, bf16 results, alpha, beta and C, block
/// scales, and K that is long enough to be split.
const PROBLEMS: [&str; 18] = [
    "192x320x1024 a=e4m3:tensor b=e4m3:tensor d=f32",
    "192x320x1024 a=e4m3:tensor b=e4m3:tensor d=bf16",
    "192x320x1024 a=e5m2:tensor b=e4m3:tensor d=f32",
    "192x320x1024 a=e4m3:tensor b=e5m2:tensor d=f16",
    "192x320x1024 a=e4m3:tensor b=e4m3:tensor d=f32 alpha=0.75",
    "192x320x1024 a=e4m3:tensor b=e4m3:tensor d=f32 c=f32 beta=1",
    "192x320x1024 a=e4m3:tensor b=e4m3:tensor d=f32 c=f32 alpha=0.75 beta=-0.3",
    "192x320x1024 a=e4m3:tensor b=e4m3:tensor d=bf16 c=bf16 alpha=0.75 beta=1",
    "64x128x16384 a=e4m3:tensor b=e4m3:tensor d=f32",
    "64x128x65536 a=e4m3:tensor b=e4m3:tensor d=f32",
    "16x64x65536 a=e4m3:tensor b=e4m3:tensor d=f32",
    "192x320x1024 a=e4m3:1x128 b=e4m3:128x128 d=f32",
    "192x320x1024 a=e4m3:1x128 b=e4m3:128x128 d=bf16",
    "192x320x1024 a=e4m3:128x128 b=e4m3:1x128 d=f32",
    "192x320x1024 a=e4m3:1x128 b=e4m3:1x128 d=f32",
    "192x320x1024 a=e4m3:1x128 b=e4m3:1x128 d=f32 c=f32 beta=1",
    "192x320x1024 a=e4m3:1x128 b=e4m3:1x128 d=bf16 alpha=0.75",
    "64x128x16384 a=e4m3:1x128 b=e4m3:128x128 d=f32",
];

#[derive(Debug, Args)]
pub(super) struct CublasltArgs {
    #[command(flatten)]
    gpu: GpuArgs,
    /// Record products of more than 1 MiB of operands and results too
    #[arg(long, requires = "record")]
    record_all: bool,
}

#[derive(Serialize)]
struct Report {
    command: &'static str,
    library: String,
    seed: u64,
    products: Vec<ProductReport>,
    #[serde(skip)]
    folder: Option<String>,
}

#[derive(Serialize)]
struct ProductReport {
    problem: String,
    fast: bool,
    /// What cuBLASLt said, if it computed nothing.
    refused: Option<String>,
    /// Of each algorithm that computed: the policies that give all of its bits.
    algorithms: Vec<Vec<String>>,
    file: Option<String>,
}

/// Runs the command. Which policy it is decides nothing: cuBLASLt promises none.
pub(super) fn run(args: &CublasltArgs, json: bool) -> Result<u8, CliError> {
    let missing = |reason: String| CliError::Missing { engine: ENGINE, reason };
    let device = ordinal(args.gpu.device, ENGINE)?;
    let recorder = CublasLtRecorder::open(device).map_err(|error| missing(error.to_string()))?;
    args.gpu.ready()?;
    let generator = Generator::new(args.gpu.seed, Menu::kernels(), Only::default());
    let progress = Progress::new("cuBLASLt", 2 * PROBLEMS.len() as u128);
    let mut products = Vec::new();
    for (index, text) in PROBLEMS.into_iter().enumerate() {
        let problem: Problem = text.parse()?;
        // Of normal data most sums are exact in f32, whatever their order: others tell orders apart.
        let cases = [DataRegime::Normal, DataRegime::Wide]
            .map(|data| generator.fill(&problem, index as u64, data, ScaleRegime::Ordinary));
        let [normal, wide] = cases;
        let cases = [normal?, wide?];
        for fast in [false, true] {
            progress.advance(1);
            // Fast accumulation is a matter of tensor scales.
            if fast && problem.a.scales.k_block().is_some() {
                continue;
            }
            let folder = args.gpu.record.as_deref().filter(|_| args.record_all || bytes(&problem) <= RECORDED);
            products.push(product(&recorder, &cases, fast, folder, index)?);
        }
    }
    progress.finish();
    let library = recorder.describe();
    let folder = args.gpu.record.as_ref().map(|folder| folder.display().to_string());
    let report = Report { command: "difftest cublaslt", library, seed: args.gpu.seed, products, folder };
    print(json, &report, || report.text())?;
    Ok(SUCCESS)
}

fn product(
    recorder: &CublasLtRecorder,
    cases: &[Case],
    fast: bool,
    folder: Option<&Path>,
    index: usize,
) -> Result<ProductReport, CliError> {
    let problem = cases[0].problem;
    let text = problem.to_string();
    let mut report = ProductReport { problem: text, fast, refused: None, algorithms: Vec::new(), file: None };
    let mut policies = Policy::COMMON.to_vec();
    policies.extend([256, 512, 1024].map(|every| Policy::Promote { every }));
    policies.extend([3, 5, 6, 7, 16].map(|parts| Policy::Split { parts }));
    policies.retain(|policy| policy.check(problem.a.scales, problem.b.scales).is_ok());
    let mut first = None;
    for case in cases {
        let inputs = LtInputs {
            a: case.a.view(),
            b: case.b.view(),
            c: case.c.as_ref().map(Matrix::view),
            output: problem.d,
            epilogue: problem.epilogue,
            fast,
        };
        let results = match recorder.run(&inputs, ALGORITHMS) {
            Ok(results) => results,
            Err(error @ BenchError::Call { .. }) => {
                report.refused = Some(error.to_string());
                return Ok(report);
            }
            Err(error) => return Err(CliError::Missing { engine: ENGINE, reason: error.to_string() }),
        };
        let mut with_all_bits = vec![Vec::new(); results.len()];
        for policy in &policies {
            let ours = Some(case.with_policy(*policy).gemm().run()?);
            // Where only this one fits, it is said.
            let theirs = cublaslt_tensor(case, *policy)?;
            for (found, names) in results.iter().zip(&mut with_all_bits) {
                let fits = |one: &Option<Matrix>| one.as_ref().is_some_and(|one| found.view().bits_equal(&one.view()));
                if fits(&ours) {
                    names.push(policy.to_string());
                }
                if fits(&theirs) {
                    names.push(format!("{policy} {OWN_EPILOGUE}"));
                }
            }
        }
        for names in &mut with_all_bits {
            let plain: Vec<String> = names.iter().filter(|name| !name.ends_with(OWN_EPILOGUE)).cloned().collect();
            names.retain(|name| {
                name.strip_suffix(OWN_EPILOGUE).is_none_or(|name| !plain.iter().any(|one| one == name.trim_end()))
            });
        }
        if first.is_none() {
            first = results.into_iter().next();
            report.algorithms = with_all_bits;
        } else {
            // The heuristic does not see the data: the same algorithms in the same order.
            for (names, others) in report.algorithms.iter_mut().zip(with_all_bits) {
                names.retain(|name| others.contains(name));
            }
        }
    }
    if let (Some(folder), Some(d), Some(case)) = (folder, &first, cases.first()) {
        let kind = if fast { "fast" } else { "precise" };
        let path = folder.join(format!("cublaslt_{kind}_{index:02}.safetensors"));
        let mut metadata = case_file::metadata(case);
        metadata.remove("policy");
        metadata.insert(
            "kernel".to_owned(),
            format!("cuBLASLt FP8, fast accumulation {}", if fast { "on" } else { "off" }),
        );
        metadata.insert("device".to_owned(), recorder.describe());
        case_file::save(&path, case, &[("d", d)], &metadata)?;
        report.file = Some(path.display().to_string());
    }
    Ok(report)
}

/// Bytes of a product's operands, scales, C and D.
fn bytes(problem: &Problem) -> u128 {
    let Problem { m, n, k, .. } = *problem;
    let area = |(rows, columns): (usize, usize)| rows as u128 * columns as u128;
    let operand = |operand: OperandSpec, rows| area((rows, k)) + 4 * area(operand.scales.scale_shape(rows, k));
    let results = [Some(problem.d), problem.c].into_iter().flatten().map(|ty| ty.size() as u128 * area((m, n)));
    operand(problem.a, m) + operand(problem.b, n) + results.sum::<u128>()
}

impl Report {
    fn text(&self) -> String {
        let head = ["product", "fast", "algorithms", "policies with all bits of the first", "of others"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for product in &self.products {
            let named = |names: &Vec<String>| if names.is_empty() { "none".to_owned() } else { list(names) };
            let first = product.algorithms.first().map(named);
            let first = first.or_else(|| product.refused.clone()).unwrap_or_else(|| "no algorithm".to_owned());
            let mut others: Vec<String> = product.algorithms.iter().skip(1).map(named).collect();
            others.sort();
            others.dedup();
            let others = if others.is_empty() { "-".to_owned() } else { others.join("; ") };
            let fast = if product.fast { "on" } else { "off" }.to_owned();
            rows.push(vec![product.problem.clone(), fast, product.algorithms.len().to_string(), first, others]);
        }
        let mut text = format!("{}\n{}", self.library, table(2, &rows));
        if let Some(folder) = &self.folder {
            let files = self.products.iter().filter(|product| product.file.is_some()).count();
            text += &format!("  recorded: {} in {folder}\n", count(files as u64, "file"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Breaks if a product of the list is not legal, or is one that cuBLASLt refuses by its rules on
    /// alignment.
    #[test]
    fn products_are_legal() {
        for text in PROBLEMS {
            let problem: Problem = text.parse().unwrap();
            problem.check().unwrap();
            assert!(problem.k.is_multiple_of(16) && (problem.n * problem.d.size()).is_multiple_of(16), "{text}");
            assert!(problem.c.is_none_or(|c| c == problem.d), "{text}");
        }
    }

    /// Breaks if what is recorded unasked leaves out a kind of product that is not of long K, or lets one
    /// of long K in: the folder would have tens of megabytes.
    #[test]
    fn small_products_are_recorded() {
        for text in PROBLEMS {
            let problem: Problem = text.parse().unwrap();
            assert_eq!(bytes(&problem) <= RECORDED, problem.k <= 1024, "{text}: {} bytes", bytes(&problem));
        }
        let problem = "192x320x1024 a=e4m3:1x128 b=e4m3:1x128 d=f32 c=f32 beta=1".parse().unwrap();
        assert_eq!(bytes(&problem), (192 + 320) * 1024 + (192 + 320) * 8 * 4 + 2 * 192 * 320 * 4);
    }
}
