//! `fp8gemm difftest instructions`: single instructions on a GPU against the model.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use clap::Args;
use fp8gemm::jit::{ProbeAccumulator, ProbeKernel};
use fp8gemm::problem::OperandType;
use fp8gemm_difftest::instruction::{
    Examined, QUESTIONS, Scalars, ask, examine, examine_scalars, mmas, scalar, wgmmas,
};
use fp8gemm_difftest::{DataRegime, HopperSubject, Subject};
use serde::Serialize;

use super::gpu::{GpuArgs, open};
use crate::commands::{DIFFERENT, SUCCESS, bad, good, print};
use crate::engine::Progress;
use crate::error::{CliError, InFile};
use crate::files::{Output, OutputTensor, StoredType, write};
use crate::text::{count, grouped, table};

/// Random triples of the f32 instructions.
const TRIPLES: usize = 1 << 20;

/// Words of the f32 instructions that are asked about and not predicted: additions in memory.
const OPEN: [usize; 2] = [3, 4];

#[derive(Debug, Args)]
pub(super) struct InstructionsArgs {
    /// Random tiles for each kernel of at most 32 columns; a sixth for wider ones
    #[arg(long, value_name = "N", default_value_t = 84, value_parser = clap::value_parser!(u32).range(1..))]
    tiles: u32,
    #[command(flatten)]
    gpu: GpuArgs,
}

#[derive(Serialize)]
struct Report {
    command: &'static str,
    device: String,
    seed: u64,
    /// Whether everything that the model predicts is so.
    equal: bool,
    instructions: Vec<InstructionReport>,
    questions: Vec<QuestionReport>,
    scalars: Vec<ScalarReport>,
    files: Vec<String>,
}

#[derive(Serialize)]
struct InstructionReport {
    name: &'static str,
    kernels: usize,
    outputs: usize,
    differing: usize,
    /// Of the first kernel that differs.
    first: Option<String>,
}

#[derive(Serialize)]
struct QuestionReport {
    name: &'static str,
    answer: String,
    model: String,
    equal: bool,
}

#[derive(Serialize)]
struct ScalarReport {
    name: &'static str,
    elements: usize,
    /// From IEEE arithmetic with canonical NaN.
    differing: usize,
    /// From an addition that flushes subnormals; only of additions in memory.
    not_flushed: Option<usize>,
    /// x, y, z, found and expected.
    first: Option<[String; 5]>,
}

/// Runs the command: [`SUCCESS`] only if every bit is as modelled.
pub(super) fn run(args: &InstructionsArgs, json: bool) -> Result<u8, CliError> {
    let gpu = open(args.gpu.device)?;
    args.gpu.ready()?;
    let kernels: [(&'static str, Vec<ProbeKernel>); 2] = [("wgmma", wgmmas()), ("mma.sync", mmas())];
    let all: usize = kernels.iter().map(|(_, kernels)| kernels.len()).sum();
    let progress = Progress::new("instructions", all as u128);
    let mut instructions = Vec::new();
    for (name, kernels) in kernels {
        let mut report = InstructionReport { name, kernels: kernels.len(), outputs: 0, differing: 0, first: None };
        for kernel in kernels {
            let wide = kernel.tile().is_some_and(|(_, columns, _)| columns > 32);
            let tiles = (args.tiles as usize).div_ceil(if wide { 6 } else { 1 });
            for accumulate in [true, false] {
                let examined = examine(gpu.gpu(), gpu.compiler(), kernel, tiles, args.gpu.seed, accumulate)?;
                report.add(&examined);
            }
            progress.advance(1);
        }
        instructions.push(report);
    }
    progress.finish();
    let mut questions = Vec::new();
    for question in QUESTIONS {
        let (answer, model) = (ask(gpu.gpu(), gpu.compiler(), question)?, question.predicted);
        let equal = answer == model;
        let [answer, model] = [answer, model].map(|bits| format!("{bits:#010X}"));
        questions.push(QuestionReport { name: question.name, answer, model, equal });
    }
    let scalars = scalar_reports(&examine_scalars(gpu.gpu(), gpu.compiler(), TRIPLES, args.gpu.seed)?);
    let mut files = Vec::new();
    if let Some(folder) = &args.gpu.record {
        files = record(folder, &gpu, args)?;
    }
    let equal = instructions.iter().all(|report| report.differing == 0)
        && questions.iter().all(|question| question.equal)
        && scalars.iter().all(|scalar| scalar.not_flushed.is_some() || scalar.differing == 0);
    let device = gpu.name();
    let report = Report {
        command: "difftest instructions",
        device,
        seed: args.gpu.seed,
        equal,
        instructions,
        questions,
        scalars,
        files,
    };
    print(json, &report, || report.text())?;
    Ok(if equal { SUCCESS } else { DIFFERENT })
}

impl InstructionReport {
    fn add(&mut self, examined: &Examined) {
        self.outputs += examined.d.len();
        self.differing += examined.differing;
        if let Some((place, found, model)) = examined.first {
            let c = if examined.accumulate { "" } else { ", scale-d 0" };
            let first = || format!("{}{c}, output {place}: {found:#010X}, model {model:#010X}", examined.kernel);
            self.first.get_or_insert_with(first);
        }
    }
}

fn scalar_reports(scalars: &Scalars) -> Vec<ScalarReport> {
    let report = |(word, name): (usize, &&'static str)| ScalarReport {
        name,
        elements: scalars.elements,
        differing: scalars.differing[word],
        not_flushed: OPEN.contains(&word).then_some(scalars.not_flushed[word]),
        first: scalars.first[word].map(|bits| bits.map(|bits| format!("{bits:#010X}"))),
    };
    scalar::WORDS.iter().enumerate().map(report).collect()
}

impl Report {
    fn text(&self) -> String {
        let mut text = format!("{}\n", self.device);
        let mut rows = vec![["instruction", "kernels", "outputs", "not as modelled"].map(str::to_owned).to_vec()];
        for one in &self.instructions {
            let numbers = [one.kernels, one.outputs, one.differing].map(|number| grouped(number as u64));
            rows.push([one.name.to_owned()].into_iter().chain(numbers).collect());
        }
        text += &table(2, &rows);
        for first in self.instructions.iter().filter_map(|one| one.first.as_ref()) {
            text += &format!("  first: {first}\n");
        }
        let answered = self.questions.iter().filter(|question| question.equal).count();
        text += &format!("\n  questions: {answered} of {} have the model's answer\n", self.questions.len());
        for question in self.questions.iter().filter(|question| !question.equal) {
            text += &format!("    {}: {}, model {}\n", question.name, question.answer, question.model);
        }
        let head = ["f32", "elements", "not IEEE", "not flushed"].map(str::to_owned).to_vec();
        let mut rows = vec![head];
        for one in &self.scalars {
            let open = one.not_flushed.map_or_else(|| "-".to_owned(), |number| grouped(number as u64));
            let elements = grouped(one.elements as u64);
            rows.push(vec![one.name.to_owned(), elements, grouped(one.differing as u64), open]);
        }
        text += &format!("\n{}", table(2, &rows));
        for one in &self.scalars {
            if let Some([x, y, z, found, expected]) = &one.first {
                text += &format!("  {}: x {x}, y {y}, z {z}: {found}, IEEE {expected}\n", one.name);
            }
        }
        for file in &self.files {
            text += &format!("  recorded: {file}\n");
        }
        let outputs: usize = self.instructions.iter().map(|one| one.outputs).sum();
        let verdict = if self.equal { good("EQUAL") } else { bad("DIFFERENT") };
        text + &format!("\n{verdict}: {} of tensor-core instructions\n", count(outputs as u64, "output"))
    }
}

/// One instruction of each type mix and accumulator, with C: a file of `wgmma`, one of `mma.sync`.
fn record(folder: &Path, gpu: &HopperSubject, args: &InstructionsArgs) -> Result<Vec<String>, CliError> {
    const WGMMA: &str = "one wgmma.mma_async.sync.aligned.m64n8k32 with scale-d=1: d = a @ b^T + c per tile";
    const MMA: &str = "one mma.sync.aligned.m16n8k32.row.col: d = a @ b^T + c per tile";
    let kernel = |name, a, b, accumulator| match name {
        WGMMA => {
            let (a_in_registers, negate) = (false, [false, false]);
            ProbeKernel::Wgmma { n: 8, a, b, accumulator, steps: 1, a_in_registers, negate }
        }
        _ => ProbeKernel::Mma { a, b, accumulator, steps: 1 },
    };
    let mut files = Vec::new();
    for (name, instruction) in [("wgmma_m64n8k32", WGMMA), ("mma_m16n8k32", MMA)] {
        let path = folder.join(format!("{name}.safetensors"));
        let output = Output::new(&path).in_file(&path)?;
        let names: Vec<&str> = DataRegime::ALL.iter().map(|regime| regime.name()).collect();
        let metadata = BTreeMap::from(
            [
                ("device", gpu.name()),
                ("instruction", instruction.to_owned()),
                ("distributions", names.join(",")),
                ("seed", args.gpu.seed.to_string()),
            ]
            .map(|(key, value)| (key.to_owned(), value)),
        );
        let mut examined = Vec::new();
        for a in OperandType::ALL {
            for b in OperandType::ALL {
                for accumulator in [ProbeAccumulator::F32, ProbeAccumulator::F16] {
                    let kernel = kernel(instruction, a, b, accumulator);
                    let one = examine(gpu.gpu(), gpu.compiler(), kernel, args.tiles as usize, args.gpu.seed, true)?;
                    examined.push((format!("{a}_{b}_{accumulator}"), a, b, accumulator, one));
                }
            }
        }
        let tensors =
            examined.iter().flat_map(|(name, a, b, accumulator, one)| tensors(name, *a, *b, *accumulator, one));
        write(&output, &metadata, tensors.collect()).in_file(&path)?;
        files.push(path.display().to_string());
    }
    Ok(files)
}

fn tensors<'a>(
    name: &str,
    a: OperandType,
    b: OperandType,
    accumulator: ProbeAccumulator,
    examined: &'a Examined,
) -> Vec<OutputTensor<'a>> {
    let Some((m, n, k)) = examined.kernel.tile() else { return Vec::new() };
    let tiles = &examined.tiles;
    let tensor = |part: &str, ty: StoredType, shape: Vec<usize>, bytes: Cow<'a, [u8]>| OutputTensor {
        name: format!("{name}.{part}"),
        ty,
        shape,
        bytes,
    };
    let words = |words: &[u32]| -> (StoredType, Vec<u8>) {
        match accumulator {
            ProbeAccumulator::F32 => (StoredType::F32, words.iter().flat_map(|word| word.to_le_bytes()).collect()),
            ProbeAccumulator::F16 => {
                (StoredType::F16, words.iter().flat_map(|word| (*word as u16).to_le_bytes()).collect())
            }
        }
    };
    let ((c_type, c), (d_type, d)) = (words(&tiles.c), words(&examined.d));
    vec![
        tensor("a", StoredType::Fp8(a), vec![tiles.count, m, k], Cow::Borrowed(&tiles.a)),
        tensor("b", StoredType::Fp8(b), vec![tiles.count, n, k], Cow::Borrowed(&tiles.b)),
        tensor("c", c_type, vec![tiles.count, m, n], Cow::Owned(c)),
        tensor("d", d_type, vec![tiles.count, m, n], Cow::Owned(d)),
        tensor("distribution", StoredType::U8, vec![tiles.count], Cow::Borrowed(&tiles.regimes)),
    ]
}
