//! `fp8gemm kernels`: list, compile, disassemble and explain the GPU kernels. No GPU is needed.

mod compile;
mod explain;
mod list;
pub(crate) mod prepare;
mod sass;
pub(crate) mod workers;

use clap::{Args, Subcommand};
use fp8gemm::jit::catalog::Entry;
use fp8gemm::jit::sass::Interleave;
use fp8gemm::jit::{Compiler, JitError, KernelConfig, Made};
use serde::Serialize;

use crate::error::CliError;

const AFTER: &str = "\
Examples:
  fp8gemm kernels explain 4096 7168 16384 --sms 78,132
  fp8gemm kernels explain 4096 2112 7168 --device 1
  fp8gemm kernels compile 512 7168 2048 --output-type f32
  fp8gemm kernels compile --all
  fp8gemm kernels sass 4096 7168 2048 --interleave one-in-four
  fp8gemm kernels compile --model deepseek-v3 --m 1,16,64,128,4096 --bundle kernels.tar
  fp8gemm kernels sass --summary \"4096x4096x7168 a=e4m3:1x128 b=e4m3:1x128 d=f32 c=f32 beta=1\"

Kernels are compiled by NVRTC, which needs no GPU, into the cache of compiled kernels (see `fp8gemm \
cache`). sass needs nvdisasm or cuobjdump, from a CUDA toolkit or the Python wheel \
nvidia-cuda-nvdisasm. Exit code 1: a kernel is not as it should be; 3: NVRTC or a disassembler is \
missing.";

/// Flags of the command.
#[derive(Debug, Args)]
#[command(after_help = AFTER)]
pub(crate) struct KernelsArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Print every kernel that can be chosen (but those for split<p>), with its resources and whether it is cached
    List(list::ListArgs),
    /// Compile into the cache: the kernels of one problem, of many, or all that can be chosen
    Compile(Box<compile::CompileArgs>),
    /// Print the machine code of a problem's kernel, or what was counted in it
    Sass(sass::SassArgs),
    /// Print what was considered for a problem, and what is chosen
    Explain(explain::ExplainArgs),
}

/// Runs the command.
pub(crate) fn run(args: &KernelsArgs, json: bool) -> Result<u8, CliError> {
    match &args.what {
        What::List(args) => list::run(args, json),
        What::Compile(args) => compile::run(args, json),
        What::Sass(args) => sass::run(args, json),
        What::Explain(args) => explain::run(args, json),
    }
}

/// What a configuration takes from an SM.
#[derive(Serialize)]
struct Resources {
    configuration: String,
    rows: u32,
    columns: u32,
    stages: u32,
    cluster: u32,
    threads: u32,
    /// Of a thread that computes, and of one that loads; absent where all keep what the compiler gives them.
    registers: Option<(u32, u32)>,
    shared_bytes: u32,
}

impl From<&KernelConfig> for Resources {
    fn from(config: &KernelConfig) -> Self {
        Self {
            configuration: config.to_string(),
            rows: config.block_m,
            columns: config.block_n,
            stages: config.stages,
            cluster: config.cluster(),
            threads: config.threads(),
            registers: config.registers(),
            shared_bytes: config.shared_bytes(),
        }
    }
}

impl Resources {
    /// Cells under [`HEADINGS`](Self::HEADINGS).
    fn row(&self) -> Vec<String> {
        vec![
            self.configuration.clone(),
            format!("{}x{}", self.rows, self.columns),
            self.stages.to_string(),
            self.cluster.to_string(),
            self.registers.map_or_else(|| "-".to_owned(), |(math, load)| format!("{math}/{load}")),
            format!("{} bytes", self.shared_bytes),
        ]
    }

    const HEADINGS: [&str; 6] = ["configuration", "tile", "stages", "cluster", "registers", "shared memory"];
}

/// The configurations that the compiler at hand makes spill, and its words.
type PassedOver = Vec<(String, String)>;

/// The kernel that a plan takes, from the cache or compiled now: the first of these candidates that the
/// compiler does not spoil, with a pattern in its promotion.
fn make(
    compiler: &Compiler,
    candidates: impl IntoIterator<Item = KernelConfig>,
    interleave: Interleave,
) -> Result<(KernelConfig, Made, PassedOver), CliError> {
    let mut passed_over = Vec::new();
    let mut last = None;
    for config in candidates {
        let entry = Entry::Gemm(config);
        let (source, name) = (entry.source(), entry.to_string());
        match compiler.make_interleaved(&entry.unit(&source, &name), interleave) {
            Ok(made) => return Ok((config, made, passed_over)),
            Err(error @ JitError::Rejected { .. }) => {
                passed_over.push((name, error.to_string()));
                last = Some(error);
            }
            Err(error) => return Err(error.into()),
        }
    }
    // `choose` gives at least one candidate.
    Err(last.map_or_else(|| CliError::Usage("there is no candidate".to_owned()), CliError::Jit))
}
