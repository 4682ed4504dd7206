//! The command line itself: flags, their help and their defaults.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use fp8gemm::formats::quantize::Recipe;
use fp8gemm::problem::{OperandType, OutputType, Policy, ScaleLayout};

use crate::commands::{
    bench::BenchArgs, cache::CacheArgs, difftest::DifftestArgs, kernels::KernelsArgs, study::StudyArgs, tune::TuneArgs,
};

const ABOUT: &str = "\
FP8 matrix multiplication with fine-grained scaling: quantise, multiply on a Hopper GPU or on a CPU \
model of its tensor cores with the same bits, and verify recorded kernels bit for bit.

D[M,N] = alpha * A[M,K] B[N,K]^T + beta * C[M,N], both operands K-major.";

const AFTER: &str = "\
Tensors are named `a`, `b`, `scale_a`, `scale_b`, `c` and `d`. Scales multiply on dequantisation; a \
missing scale is 1. Files are safetensors or .npy; an .npy file holds one tensor, whatever its name.

Exit codes: 0 success, every bit equal; 1 bits differ; 2 wrong usage or input; 3 the machine lacks \
something (GPU, NVRTC).

With --json, standard output is one JSON document; NaN and infinities are strings in it.";

/// The `fp8gemm` command.
#[derive(Debug, Parser)]
#[command(name = "fp8gemm", version, about = ABOUT, after_help = AFTER, propagate_version = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Global {
    /// Print one JSON document instead of a report
    #[arg(long, global = true, help_heading = "Reporting", display_order = 900)]
    pub(crate) json: bool,
    /// Log what is done to standard error; twice for more
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Reporting", display_order = 901)]
    pub(crate) verbose: u8,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Recompute a recorded result and say which accumulation policy gives its bits
    Verify(VerifyArgs),
    /// Multiply two matrices as a Hopper kernel would, bit for bit
    Gemm(GemmArgs),
    /// Turn f32, f16 or bf16 tensors into FP8 codes and scales
    Quantize(QuantizeArgs),
    /// List, compile, disassemble and explain the GPU kernels; no GPU needed
    Kernels(KernelsArgs),
    /// Look after the cache of compiled kernels
    Cache(CacheArgs),
    /// Time the GPU kernels beside cuBLASLt
    Bench(BenchArgs),
    /// Find the fastest GPU kernels of given shapes by measuring, for every later run
    Tune(Box<TuneArgs>),
    /// Run numerical studies on the CPU: published figures beside ours, tables, plots, a report
    Study(StudyArgs),
    /// Hold a kernel against the CPU model on generated cases, bit for bit, and shrink what fails
    Difftest(Box<DifftestArgs>),
    /// Say what this machine offers and what is missing
    Doctor,
}

/// What computes the product. (Documented at its flag: help on each value makes `--help` long.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Engine {
    // The GPU where there is one, else the twin.
    Auto,
    // The CPU model.
    Twin,
    // A Hopper GPU.
    Hopper,
}

const VERIFY_AFTER: &str = "\
Examples:
  fp8gemm verify vectors/deepgemm_1d2d_n0.safetensors
  fp8gemm verify vectors/deepgemm_1d2d_n0.safetensors --engine hopper --policy promote128
  fp8gemm verify d.npy --a a.npy --b b.npy --dtype e4m3 --policy chain

The file holds `a`, `b`, `d` and, where there are any, `scale_a`, `scale_b` and `c`; flags take them \
from other files. Without --policy, all policies that are legal for the scales are tried: by the GPU on \
all rows; by the CPU on a sample of rows, and those that agree there on all rows. Files of single wgmma \
instructions, as vectors/wgmma_m64n8k32.safetensors, are recognised by their tensors.

Metadata of the file that is understood: `alpha`, `beta`, `allow_nonfinite_scales` (\"true\"), \
`scale_layout.<tensor>`; flags win.";

#[derive(Debug, Args)]
#[command(after_help = VERIFY_AFTER)]
pub(crate) struct VerifyArgs {
    /// The recorded result: safetensors, or .npy with `d` alone
    pub(crate) file: PathBuf,
    /// Try this policy only: promote<n>, chain, cutlass128 or split<p>
    #[arg(long, value_name = "POLICY")]
    pub(crate) policy: Option<Policy>,
    /// Take A from this file
    #[arg(long, value_name = "FILE")]
    pub(crate) a: Option<PathBuf>,
    /// Take B from this file
    #[arg(long, value_name = "FILE")]
    pub(crate) b: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) operands: OperandArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

const GEMM_AFTER: &str = "\
Examples:
  fp8gemm gemm --a a.safetensors --b b.safetensors --recipe deepgemm -o d.safetensors
  fp8gemm gemm --a x.npy --b model.safetensors --weight model.layers.0.mlp.up_proj \\
      --recipe deepgemm --output-type f32 -o d.npy

Operands that are FP8 are used with their scales; operands that are f32, f16 or bf16 are quantised \
with --recipe, by default with the recipe's usual scales for A and 128x128 scales for B where the \
recipe has them. D is compared with the exact product; beyond 2^30 multiply-adds (2^28 where an \
operand is not FP8) on a sample of rows. M, N and K may be 0, as in BLAS: D is then empty, or beta C \
(not with --with-inputs: verify takes no empty operands, of which every kernel would be right).";

#[derive(Debug, Args)]
#[command(after_help = GEMM_AFTER)]
pub(crate) struct GemmArgs {
    /// A: [M, K]
    #[arg(long, value_name = "FILE")]
    pub(crate) a: PathBuf,
    /// B: [N, K]
    #[arg(long, value_name = "FILE")]
    pub(crate) b: PathBuf,
    /// Where D goes: .safetensors or .npy
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Quantise operands that are not FP8 as this library does, e.g. deepgemm, te-block, vllm-token
    #[arg(long)]
    pub(crate) recipe: Option<Recipe>,
    /// How products are accumulated: promote<n>, chain, cutlass128 or split<p> [default: promote128,
    /// for 1x32 scales promote32]
    #[arg(long)]
    pub(crate) policy: Option<Policy>,
    /// Type of D: bf16, f16 or f32 [default: that of C, else bf16]
    #[arg(long, value_name = "TYPE")]
    pub(crate) output_type: Option<OutputType>,
    /// Store operands, scales and C beside D, for `fp8gemm verify` (.safetensors only)
    #[arg(long)]
    pub(crate) with_inputs: bool,
    #[command(flatten)]
    pub(crate) operands: OperandArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

/// Which tensors are the operands, and how they are read.
#[derive(Debug, Args)]
#[command(next_help_heading = "Operands")]
pub(crate) struct OperandArgs {
    /// Take the scales of A from this file
    #[arg(long, value_name = "FILE")]
    pub(crate) scale_a: Option<PathBuf>,
    /// Take the scales of B from this file
    #[arg(long, value_name = "FILE")]
    pub(crate) scale_b: Option<PathBuf>,
    /// Take C from this file
    #[arg(long, value_name = "FILE")]
    pub(crate) c: Option<PathBuf>,
    /// B is the checkpoint tensor X.weight with the scales X.weight_scale_inv
    #[arg(long, value_name = "X", conflicts_with = "b_tensor")]
    pub(crate) weight: Option<String>,
    /// Name of A in its file; its scales are scale_NAME, NAME_scale_inv or NAME_scale
    #[arg(long, value_name = "NAME", default_value = "a")]
    pub(crate) a_tensor: String,
    /// Name of B in its file
    #[arg(long, value_name = "NAME", default_value = "b")]
    pub(crate) b_tensor: String,
    /// FP8 type of operands stored as plain bytes, and the type that is quantised to: e4m3 or e5m2
    #[arg(long, value_name = "TYPE")]
    pub(crate) dtype: Option<OperandType>,
    /// --dtype for A alone
    #[arg(long, value_name = "TYPE")]
    pub(crate) dtype_a: Option<OperandType>,
    /// --dtype for B alone
    #[arg(long, value_name = "TYPE")]
    pub(crate) dtype_b: Option<OperandType>,
    /// Scales of A: tensor, row, 1x128, 128x128 or 1x32 [default: as their shape says]
    #[arg(long, value_name = "LAYOUT")]
    pub(crate) scale_layout_a: Option<ScaleLayout>,
    /// Scales of B
    #[arg(long, value_name = "LAYOUT")]
    pub(crate) scale_layout_b: Option<ScaleLayout>,
    /// Compute with NaN and infinite scales instead of refusing them
    #[arg(long)]
    pub(crate) allow_nonfinite_scales: bool,
    /// Factor of the product [default: 1]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) alpha: Option<f32>,
    /// Factor of C [default: 1 where there is a C, else 0]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) beta: Option<f32>,
}

impl OperandArgs {
    /// No flag given.
    pub(crate) fn plain() -> Self {
        Self {
            scale_a: None,
            scale_b: None,
            c: None,
            weight: None,
            a_tensor: "a".to_owned(),
            b_tensor: "b".to_owned(),
            dtype: None,
            dtype_a: None,
            dtype_b: None,
            scale_layout_a: None,
            scale_layout_b: None,
            allow_nonfinite_scales: false,
            alpha: None,
            beta: None,
        }
    }
}

#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "Engine")]
pub(crate) struct EngineArgs {
    /// What computes the product: the CPU twin or a Hopper GPU, with the same bits; auto is the GPU
    /// where there is one and a kernel for the problem (promote128, chain; up to 32 rows, without C
    /// and with block scales, of B 128x128 or tensor, split2, 4 and 8), else the twin
    #[arg(long, value_enum, default_value_t = Engine::Auto)]
    pub(crate) engine: Engine,
    /// Ordinal of the GPU [default: the first Hopper]
    #[arg(long, value_name = "N")]
    pub(crate) device: Option<u32>,
}

fn quantize_after() -> String {
    format!(
        "\
Examples:
  fp8gemm quantize x.npy -o x8.safetensors --recipe deepgemm
  fp8gemm quantize model.safetensors -o fp8.safetensors --recipe deepgemm \\
      --tensor model.layers.0.mlp.up_proj.weight

A tensor X.weight becomes X.weight and X.weight_scale_inv, as in DeepSeek checkpoints; any other NAME \
becomes NAME and scale_NAME. The input of an .npy file is named `a` unless --tensor names it.

Recipes: {}.",
        Recipe::ALL.map(Recipe::name).join(", ")
    )
}

#[derive(Debug, Args)]
#[command(after_help = quantize_after())]
pub(crate) struct QuantizeArgs {
    /// Tensors to quantise: safetensors or .npy, f32, f16 or bf16
    pub(crate) input: PathBuf,
    /// Where codes and scales go: .safetensors
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// How scales and codes are computed, e.g. deepgemm, te-block, torchao-mx-rceil, vllm-token
    #[arg(long)]
    pub(crate) recipe: Recipe,
    /// Which elements share a scale: tensor, row, 1x128, 128x128, 128x1 or 1x32 [default: 128x128
    /// for `b` and X.weight where the recipe has it, else the usual one of the recipe]
    #[arg(long)]
    pub(crate) layout: Option<ScaleLayout>,
    /// FP8 type of the codes: e4m3 or e5m2
    #[arg(long, value_name = "TYPE", default_value_t = OperandType::E4m3)]
    pub(crate) dtype: OperandType,
    /// Quantise this tensor [default: every f32, f16 or bf16 matrix]; may be repeated
    #[arg(long, value_name = "NAME")]
    pub(crate) tensor: Vec<String>,
}
