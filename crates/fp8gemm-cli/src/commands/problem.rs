//! A problem on the command line: sizes and flags, or the text that problems print as.

use clap::Args;
use fp8gemm::hopper::{check_sizes, probe};
use fp8gemm::jit::{KernelConfig, choose};
use fp8gemm::problem::{OperandType, OutputType, Policy, Problem, ScaleLayout};

use super::bench;
use super::shape_list::distinct;
use crate::error::CliError;

/// SMs of an H100 SXM, H200 and GH200.
const USUAL_SMS: u32 = 132;

/// Which problem is meant.
#[derive(Debug, Args)]
#[command(next_help_heading = "Problem")]
pub(crate) struct ProblemArgs {
    /// M N K or MxNxK with the flags below, or the whole problem as text, e.g.
    /// "4096x7168x16384 a=e4m3:1x128 b=e4m3:128x128 d=bf16"
    #[arg(value_name = "PROBLEM", allow_negative_numbers = true)]
    pub(crate) words: Vec<String>,
    /// Type of A: e4m3 or e5m2 [default: e4m3]
    #[arg(long, value_name = "TYPE")]
    dtype_a: Option<OperandType>,
    /// Type of B [default: e4m3]
    #[arg(long, value_name = "TYPE")]
    dtype_b: Option<OperandType>,
    /// Scales of A: tensor, row, 1x128 or 128x128 [default: 1x128]
    #[arg(long, value_name = "LAYOUT")]
    scales_a: Option<ScaleLayout>,
    /// Scales of B [default: 128x128]
    #[arg(long, value_name = "LAYOUT")]
    scales_b: Option<ScaleLayout>,
    /// Type of D: bf16, f16 or f32 [default: bf16]
    #[arg(long, value_name = "TYPE")]
    output_type: Option<OutputType>,
    /// There is a C of this type
    #[arg(long, value_name = "TYPE")]
    c: Option<OutputType>,
    /// How products are accumulated: promote128, chain, or split2, split4 and split8 for few rows [default: promote128]
    #[arg(long)]
    policy: Option<Policy>,
    /// Factor of C [default: 1 where there is a C, else 0]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    beta: Option<f32>,
    /// Streaming multiprocessors of the GPU that is meant, e.g. 78, 114 or 132 [default: those of
    /// the GPU here, else 132]
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..))]
    sms: Vec<u32>,
}

impl ProblemArgs {
    /// The problem; none if no word names one.
    ///
    /// # Errors
    /// [`CliError::Usage`] and [`CliError::Problem`].
    pub(crate) fn problem(&self) -> Result<Option<Problem>, CliError> {
        let Some(first) = self.words.first() else {
            return if self.flags() { Err(usage("the flags of a problem need its sizes: M N K")) } else { Ok(None) };
        };
        if self.words.iter().any(|word| word.contains('=')) {
            if self.flags() {
                return Err(usage("a problem as text says everything itself: leave the flags out"));
            }
            let problem = self.words.join(" ").parse()?;
            expect_sizes(&problem)?;
            return Ok(Some(problem));
        }
        let sizes: Vec<&str> = match &self.words[..] {
            [_] => first.split('x').collect(),
            words => words.iter().map(String::as_str).collect(),
        };
        let [m, n, k] = sizes[..] else {
            return Err(CliError::Usage(format!(
                "`{}`: a problem is M N K, MxNxK, or a text such as \"MxNxK a=e4m3:1x128 b=e4m3:128x128 d=bf16\"",
                self.words.join(" ")
            )));
        };
        let (m, n, k) = (size("M", m)?, size("N", n)?, size("K", k)?);
        let mut text = format!(
            "{m}x{n}x{k} a={}:{} b={}:{} d={} policy={}",
            self.dtype_a.unwrap_or(OperandType::E4m3),
            self.scales_a.unwrap_or(ScaleLayout::Block1x128),
            self.dtype_b.unwrap_or(OperandType::E4m3),
            self.scales_b.unwrap_or(ScaleLayout::Block128x128),
            self.output_type.unwrap_or(OutputType::Bf16),
            self.policy.unwrap_or_default(),
        );
        if let Some(c) = self.c {
            text += &format!(" c={c}");
        }
        let beta = self.beta.unwrap_or(if self.c.is_some() { 1.0 } else { 0.0 });
        text += &format!(" beta={beta:?}");
        let problem = text.parse()?;
        expect_sizes(&problem)?;
        Ok(Some(problem))
    }

    /// Whether the words are several problems, as `tune` takes them.
    pub(crate) fn are_several(&self) -> bool {
        let part_of_text = |word: &String| word.contains('=') && !word.contains(char::is_whitespace);
        let size = |word: &String| !word.contains(|c: char| c == 'x' || c.is_whitespace());
        let one = match &self.words[..] {
            [] | [_] => true,
            words if words.iter().any(part_of_text) => true,
            words => words.len() == 3 && words.iter().all(size),
        };
        !one
    }

    /// All problems that are named, each once.
    ///
    /// # Errors
    /// As [`problem`](Self::problem), and where several are named and flags that are of one.
    pub(crate) fn problems(&self) -> Result<Vec<Problem>, CliError> {
        if !self.are_several() {
            return distinct(self.problem()?);
        }
        if self.flags() {
            return Err(usage("the flags of a problem are of one problem: of several, give each as text, in quotes"));
        }
        distinct(bench::problems(&self.words)?.into_iter().map(|shape| shape.problem))
    }

    /// The problem, which must be there.
    pub(crate) fn needed(&self) -> Result<Problem, CliError> {
        self.problem()?.ok_or_else(|| {
            usage("which problem? M N K, or a text such as \"MxNxK a=e4m3:1x128 b=e4m3:128x128 d=bf16\"")
        })
    }

    /// The numbers of SMs that are meant.
    pub(crate) fn sms(&self) -> Vec<u32> {
        if !self.sms.is_empty() {
            return self.sms.clone();
        }
        let here = probe().ok().and_then(|devices| Some(devices.first()?.sms));
        vec![here.unwrap_or(USUAL_SMS)]
    }

    /// Whether numbers of SMs are named.
    pub(crate) fn has_sms(&self) -> bool {
        !self.sms.is_empty()
    }

    /// The one number of SMs that is meant.
    pub(crate) fn one_sms(&self) -> Result<u32, CliError> {
        match self.sms()[..] {
            [sms] => Ok(sms),
            _ => Err(usage("--sms: one number is needed here")),
        }
    }

    fn flags(&self) -> bool {
        let Self { words: _, dtype_a, dtype_b, scales_a, scales_b, output_type, c, policy, beta, sms: _ } = self;
        dtype_a.is_some()
            || dtype_b.is_some()
            || scales_a.is_some()
            || scales_b.is_some()
            || output_type.is_some()
            || c.is_some()
            || policy.is_some()
            || beta.is_some()
    }
}

/// Refuses sizes that no plan takes, which otherwise a GPU would be needed to learn.
///
/// # Errors
/// [`CliError::Usage`] naming the size and the rule.
pub(crate) fn expect_sizes(problem: &Problem) -> Result<(), CliError> {
    // Of sizes that are refused anyway, but that the cost model can count with.
    let [m, n, k] = [problem.m, problem.n, problem.k].map(|size| size.min(1 << 32));
    // Where no kernel computes the problem, whoever needs one says why.
    let Ok(choice) = choose(&Problem { m, n, k, ..*problem }, USUAL_SMS) else { return Ok(()) };
    let fits = |config: &KernelConfig| check_sizes(problem, config);
    if choice.candidates.iter().any(|estimate| fits(&estimate.config).is_ok()) {
        return Ok(());
    }
    fits(&choice.config()).map_err(|error| CliError::Usage(error.to_string()))
}

fn size(name: &str, text: &str) -> Result<usize, CliError> {
    match text.parse() {
        Ok(size) if size > 0 => Ok(size),
        _ => Err(CliError::Usage(format!("{name} is \"{text}\", but must be a whole number from 1"))),
    }
}

fn usage(text: &str) -> CliError {
    CliError::Usage(text.to_owned())
}
