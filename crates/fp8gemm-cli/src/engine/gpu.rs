//! A Hopper GPU as an engine.

use std::time::{Duration, Instant};

use fp8gemm::convert::{host_view, matrix};
use fp8gemm::formats::ScaledMatrix;
use fp8gemm::hopper::{
    DeviceInfo, Gpu, HopperError, HostOperand, Plan, PlanOptions, QuantizePlan, QuantizedOnGpu, gemm_on_gpu, probe,
};
use fp8gemm::jit::{Cache, Compiler, JitError, choose};
use fp8gemm::problem::{Epilogue, OperandSpec, OperandType, OutputType, Policy, Problem, ScaleLayout, Side};
use fp8gemm::sim::MatrixView;
use serde::Serialize;

use super::{Computed, Task};
use crate::text::{Number, duration};

/// What there are kernels for, in words.
pub(crate) const COMPUTES: &str = "promote128 with tensor, row, 1x128 or 128x128 scales, chain with tensor or row \
                                   scales, and, up to 32 rows and without C, split2, split4 and split8 with block \
                                   scales (of B 128x128 or tensor)";

/// `CUDA_ERROR_OUT_OF_MEMORY` of `cuda.h`.
const OUT_OF_MEMORY: u32 = 2;

/// An opened GPU, and what makes its kernels.
pub(crate) struct Hopper {
    gpu: Gpu,
    compiler: Compiler,
}

/// How a GPU computed one product.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct GpuRun {
    /// Ordinal and name of the GPU.
    pub(crate) device: usize,
    pub(crate) name: String,
    /// The kernel's configuration in one word.
    pub(crate) configuration: String,
    pub(crate) kernel: Origin,
    /// Time until the kernel, and those that quantise, were compiled, or read from the cache, and loaded.
    prepare_seconds: Number,
    #[serde(skip)]
    prepare: Duration,
    /// Quantisation, and copies that were necessary besides those of the operands there and of D back.
    pub(crate) steps: Vec<String>,
}

/// Where a kernel came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Origin {
    Compiled,
    Cached,
}

impl GpuRun {
    /// `GPU 0, NVIDIA H200`.
    pub(crate) fn device_text(&self) -> String {
        format!("GPU {}, {}", self.device, self.name)
    }

    /// `CONFIGURATION, compiled and loaded in 312 ms`.
    pub(crate) fn kernel_text(&self) -> String {
        let origin = match self.kernel {
            Origin::Compiled => "compiled",
            Origin::Cached => "read from the cache",
        };
        format!("{}, {origin} and loaded in {}", self.configuration, duration(self.prepare))
    }
}

/// The GPU of this ordinal, or the first Hopper: what `--device` means wherever there is one.
///
/// # Errors
/// Those of [`probe`], where none is named.
pub(crate) fn ordinal(device: Option<u32>) -> Result<usize, HopperError> {
    match device {
        Some(ordinal) => Ok(ordinal as usize),
        // `probe` gives at least one.
        None => Ok(probe()?.first().map_or(0, |device| device.ordinal)),
    }
}

impl Hopper {
    /// Opens the GPU of this ordinal, or the first Hopper.
    ///
    /// # Errors
    /// Those of [`probe`] and [`Gpu::open`].
    pub(crate) fn open(device: Option<u32>) -> Result<Self, HopperError> {
        let ordinal = ordinal(device)?;
        let start = Instant::now();
        let gpu = Gpu::open(ordinal)?;
        tracing::info!(gpu = gpu.info().name, ordinal, time = %duration(start.elapsed()), "GPU opened");
        Ok(Self { gpu, compiler: Compiler::new(Cache::from_environment(), None) })
    }

    /// What the driver says of it.
    pub(crate) fn info(&self) -> &DeviceInfo {
        self.gpu.info()
    }

    /// Computes D of operands that are FP8.
    ///
    /// # Errors
    /// Those of [`gemm_on_gpu`].
    pub(crate) fn run(&self, task: &Task<'_>) -> Result<Computed, HopperError> {
        self.multiply(&task.problem(), (&task.a).into(), (&task.b).into(), task.c.as_ref())
    }

    /// Computes D, and quantises on the GPU what is not FP8; codes and scales of that come back after
    /// the time is taken.
    ///
    /// # Errors
    /// Those of [`gemm_on_gpu`].
    pub(crate) fn multiply(
        &self,
        problem: &Problem,
        a: HostOperand<'_>,
        b: HostOperand<'_>,
        c: Option<&MatrixView<'_>>,
    ) -> Result<Computed, HopperError> {
        let start = Instant::now();
        let before = self.compiler.statistics().compiled;
        let compiled = || self.compiler.statistics().compiled > before;
        // As `gemm_on_gpu` makes it.
        let options = PlanOptions::default().workspace(true);
        // Without products the library needs no plan for this problem.
        let mut planned = None;
        if problem.macs() > 0 {
            let plan = Plan::with_options(&self.gpu, &self.compiler, problem, options)?;
            planned = Some((plan, compiled()));
            for quantization in [a.quantization(), b.quantization()].into_iter().flatten() {
                QuantizePlan::new(&self.gpu, &self.compiler, &quantization)?;
            }
        }
        let prepare = start.elapsed();

        let c = c.map(host_view);
        let start = Instant::now();
        // Makes the plan once more, of the kernel that is loaded by now.
        let product = gemm_on_gpu(&self.gpu, &self.compiler, a, b, c.as_ref(), problem)?;
        let time = start.elapsed();
        let made = planned.as_ref().map_or_else(compiled, |(_, compiled)| *compiled);
        let origin = if made { Origin::Compiled } else { Origin::Cached };
        let mut steps: Vec<String> = product.steps.iter().map(ToString::to_string).collect();
        let quantized = [
            download(Side::A, product.quantized_a.as_ref(), &mut steps)?,
            download(Side::B, product.quantized_b.as_ref(), &mut steps)?,
        ];
        let info = self.info();
        let run = GpuRun {
            device: info.ordinal,
            name: info.name.clone(),
            // There is one unless D is empty, which no engine is asked for.
            configuration: product.config.map_or_else(|| "none".to_owned(), |config| config.to_string()),
            kernel: origin,
            prepare_seconds: Number(prepare.as_secs_f64()),
            prepare,
            steps,
        };
        tracing::info!(%problem, kernel = run.kernel_text(), time = %duration(time), "computed by the GPU");
        Ok(Computed { d: matrix(product.d), time, gpu: Some(run), quantized })
    }
}

/// Codes and scales that were made on the GPU: the exact product, and whoever stores them, need them.
fn download(
    side: Side,
    quantized: Option<&QuantizedOnGpu>,
    steps: &mut Vec<String>,
) -> Result<Option<ScaledMatrix>, HopperError> {
    let Some(quantized) = quantized else { return Ok(None) };
    let start = Instant::now();
    let matrix = quantized.download()?;
    tracing::info!(%side, time = %duration(start.elapsed()), "codes and scales copied from the GPU");
    let megabytes = quantized.bytes() as f64 / 1e6;
    steps.push(format!("codes and scales of {side} copied back, for the error report: {megabytes:.1} MB"));
    Ok(Some(matrix))
}

/// The rule by which no kernel computes this problem; nothing where one does.
pub(super) fn rule_against(problem: &Problem) -> Option<String> {
    // Without M or N there is nothing to compute, without K the kernel for K = 1 does it.
    let [m, n, k] = [problem.m, problem.n, problem.k].map(|size| size.max(1));
    let problem = &Problem { m, n, k, ..*problem };
    // The number of SMs ranks the configurations; whether there is one does not depend on it.
    match choose(problem, 132) {
        Ok(_) => None,
        Err(JitError::Unsupported { rule, .. }) => Some(rule),
        Err(other) => Some(other.to_string()),
    }
}

/// The rule by which no kernel computes this policy, whatever the scales.
pub(super) fn rule_against_policy(policy: Policy) -> Option<String> {
    // Every policy is legal for tensor scales; some have a kernel for block scales alone.
    let with = |[a, b]: [ScaleLayout; 2]| {
        let [a, b] = [a, b].map(|scales| OperandSpec { ty: OperandType::E4m3, scales });
        let (c, d, epilogue) = (None, OutputType::Bf16, Epilogue::default());
        rule_against(&Problem { m: 1, n: 1, k: 1, a, b, c, d, policy, epilogue })
    };
    let tensor = with([ScaleLayout::Tensor; 2])?;
    with([ScaleLayout::Block1x128, ScaleLayout::Block128x128]).map(|_| tensor)
}

/// Whether the machine lacks something that the twin does without: memory, or an NVRTC that compiles
/// the kernel.
pub(super) fn is_lack(error: &HopperError) -> bool {
    matches!(
        error,
        HopperError::Jit(_)
            | HopperError::Cuda { code: OUT_OF_MEMORY, .. }
            | HopperError::TooLarge { .. }
            | HopperError::Unsupported { .. }
    )
}

/// The error in one line.
pub(crate) fn one_line(error: &HopperError) -> String {
    if let HopperError::Jit(JitError::NvrtcNotFound { .. }) = error {
        return "the kernel is not in the cache, and NVRTC, which would compile it, was not found (set FP8GEMM_NVRTC, \
                or install the Python wheel nvidia-cuda-nvrtc; `fp8gemm doctor` says where it was looked for)"
            .to_owned();
    }
    let text = error.to_string();
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Breaks if a problem that a kernel computes is left to the twin, or the rule against one that
    /// none computes is lost.
    #[test]
    fn what_the_kernels_compute() {
        let rule = |text: &str| rule_against(&text.parse().unwrap());
        for scales in ["tensor", "row", "1x128", "128x128"] {
            assert_eq!(rule(&format!("3x5x7 a=e4m3:{scales} b=e5m2:{scales} d=f16")), None);
        }
        assert_eq!(rule("3x5x7 a=e4m3:row b=e5m2:tensor d=f32 policy=chain"), None);
        // As the library does: K = 0 gives beta C, and an empty D takes nothing.
        for sizes in ["0x5x7", "3x0x7", "3x5x0"] {
            assert_eq!(rule(&format!("{sizes} a=e4m3:1x128 b=e4m3:128x128 d=f16")), None);
        }
        let mx = rule("3x5x64 a=e4m3:1x32 b=e4m3:1x32 d=f32 policy=promote32").unwrap();
        assert!(mx.contains("128x128"), "{mx}");
        for policy in Policy::COMMON {
            let known = matches!(policy, Policy::PROMOTE_128 | Policy::Chain | Policy::Split { parts: 2 | 4 });
            assert_eq!(rule_against_policy(policy).is_none(), known, "{policy}");
        }
        assert!(rule_against_policy(Policy::Cutlass128).unwrap().contains("promote128, chain"));
    }

    /// Breaks if the rules of the kernels are others than [`COMPUTES`], which the doctor says, and the help of `--engine`
    /// have in words.
    #[test]
    fn the_words_are_the_rules() {
        use ScaleLayout::{Block1x128, Block128x128, Row, Tensor};
        let scales = [Tensor, Row, Block1x128, Block128x128];
        let policies = ["promote128", "chain", "split2", "split4", "split8", "split3", "promote64", "cutlass128"];
        for (a, b) in scales.into_iter().flat_map(|a| scales.map(|b| (a, b))) {
            for (policy, m, c) in policies
                .into_iter()
                .flat_map(|policy| [(policy, 32, ""), (policy, 33, ""), (policy, 32, " c=f32 beta=1")])
            {
                let block = |scales| matches!(scales, Block1x128 | Block128x128);
                let said = match policy {
                    "promote128" => true,
                    "chain" => !block(a) && !block(b),
                    "split2" | "split4" | "split8" => {
                        (block(a) || block(b)) && matches!(b, Block128x128 | Tensor) && m <= 32 && c.is_empty()
                    }
                    _ => false,
                };
                let text = format!("{m}x512x4096 a=e4m3:{a} b=e4m3:{b} d=bf16 policy={policy}{c}");
                // A problem that is not legal is nobody's.
                let computed = text.parse().is_ok_and(|problem| rule_against(&problem).is_none());
                assert_eq!(computed, said, "{text}");
            }
        }
    }

    /// Breaks if an error of several lines is printed as several lines, or loses one.
    #[test]
    fn errors_are_one_line() {
        let compile = JitError::Compile { name: "k".into(), code: "E".into(), log: "one\n  two\n".into() };
        assert_eq!(one_line(&compile.into()), "kernel k does not compile (E):; one; two");
        let absent = JitError::NvrtcNotFound { attempts: fp8gemm::jit::Attempts::default() };
        let text = one_line(&absent.into());
        assert!(text.contains("FP8GEMM_NVRTC") && !text.contains('\n'), "{text}");
    }
}
