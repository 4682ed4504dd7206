//! A problem on the command line: sizes and flags, or the text that problems print as.

use clap::Args;
use fp8gemm::hopper::probe;
use fp8gemm::problem::{OperandType, OutputType, Policy, Problem, ScaleLayout};

use crate::error::CliError;

/// SMs of an H100 SXM, H200 and GH200.
const USUAL_SMS: u32 = 132;

/// Which problem is meant.
#[derive(Debug, Args)]
#[command(next_help_heading = "Problem")]
pub(crate) struct ProblemArgs {
    /// M N K or MxNxK with the flags below, or the whole problem as text, e.g.
    /// "4096x7168x16384 a=e4m3:1x128 b=e4m3:128x128 d=bf16"
    #[arg(value_name = "PROBLEM")]
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
            return Ok(Some(self.words.join(" ").parse()?));
        }
        let sizes = match &self.words[..] {
            [_] => first.clone(),
            [m, n, k] => format!("{m}x{n}x{k}"),
            _ => {
                return Err(usage(
                    "a problem is M N K, MxNxK, or a text such as \"MxNxK a=e4m3:1x128 b=e4m3:128x128 d=bf16\"",
                ));
            }
        };
        let mut text = format!(
            "{sizes} a={}:{} b={}:{} d={} policy={}",
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
        Ok(Some(text.parse()?))
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

fn usage(text: &str) -> CliError {
    CliError::Usage(text.to_owned())
}
