//! [`Recipe`]: the named recipes, each a row of a table over the rules of `rule.rs`.

use core::fmt;
use core::str::FromStr;

use fp8gemm_problem::{OperandType, ScaleLayout};

use super::element::Element;
use super::rule::{Cap, Factor, Floor, Mx, NanAmax, NanElement, Rule, ScaleRule, Target, stored_and_factor};
use crate::FormatError;

/// A way to turn numbers into FP8 codes and scales, as one library does it, bit for bit.
///
/// In the formulas `a` is the largest magnitude of the block, `max` is 448 (E4M3) or 57344 (E5M2),
/// and every operation is one f32 operation rounded to nearest even. The scale is what
/// [`ScaledMatrix`](crate::ScaledMatrix) stores and what dequantisation multiplies by. Every cast
/// rounds to nearest even and saturates; every NaN becomes the code `7F`.
///
/// Sources are named as repository, file and commit. Where a source knows only E4M3, E5M2 is the
/// same formula with 57344. The commits are those of a public file index which also holds
/// forks of these repositories: the text at that commit is what was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Recipe {
    /// `deepgemm`: `a' = max(a, 1e-4)`, scale `a' * (1 / max)`, code `cast(x * (1 / scale))`.
    ///
    /// deepseek-ai/DeepGEMM `deep_gemm/utils/math.py`@38939a4: `per_token_cast_to_fp8` (1x128,
    /// and 1x32 by `gran_k`), `per_block_cast_to_fp8`, `per_channel_cast_to_fp8`,
    /// `per_custom_dims_cast_to_fp8` (row, tensor), as they run on a GPU: the file says
    /// `x_amax / 448.0`, and torch divides a CUDA tensor by a Python number by multiplying with
    /// its reciprocal (pytorch/pytorch `aten/src/ATen/native/cuda/BinaryDivTrueKernel.cu`@318a916,
    /// issue 191495). All scales of DeepGEMM runs that were recorded on an H200 are of this form.
    DeepGemm,
    /// `deepgemm-cpu`: as [`DeepGemm`](Self::DeepGemm) with scale `a' / max`: the same file on CPU
    /// tensors, where torch divides.
    DeepGemmCpu,
    /// `deepgemm-ue8m0`: as [`DeepGemm`](Self::DeepGemm), the scale rounded up to a power of two, at
    /// most `2^127`. Same file, `use_ue8m0=True`; GPU and CPU agree.
    DeepGemmUe8m0,
    /// `deepgemm-v1`: `a' = max(a, 1e-4)`, scale `a' * (1 / max)`, code
    /// `cast(x * ((1 / a') * max))`.
    ///
    /// deepseek-ai/DeepGEMM `tests/test_core.py`@1169f83, the form of its first release, on a GPU:
    /// it says `x_view * (448.0 / x_amax)`, and torch computes a number divided by a tensor as the
    /// tensor's reciprocal times the number, on any device.
    DeepGemmV1,
    /// `te-current`: TransformerEngine's per-tensor current scaling. `f = max / a`, 1 where `a` is 0
    /// or infinite, the largest f32 where it overflows; code `cast(x * f)`, scale `1 / f`.
    ///
    /// NVIDIA/TransformerEngine `transformer_engine/common/recipe/recipe_common.cuh`@01c24fe,
    /// `recipe/current_scaling.cu`@0064fbd, cast in `util/vectorized_pointwise.h`@02a3582,
    /// reciprocal in `utils.cuh`@04801f4; epsilon 0 in `recipe/__init__.py`@000b637.
    TeCurrent,
    /// `te-current-pow2`: [`TeCurrent`](Self::TeCurrent) with the mantissa of `f` cleared
    /// (`NVTE_FP8_CURRENT_SCALING_POWER_2_SCALES=1`).
    TeCurrentPow2,
    /// `te-block`: TransformerEngine's block scaling, power-of-two scales (its default). As
    /// [`TeCurrentPow2`](Self::TeCurrentPow2) for each block; an `f` that overflows becomes the
    /// largest finite value of the *input* type before its mantissa is cleared.
    ///
    /// NVIDIA/TransformerEngine `transpose/quantize_transpose_vector_blockwise.cu`@03e35e3 (1x128
    /// and 128x1), `quantize_transpose_square_blockwise.cu`@102e676 (128x128),
    /// `util/type_extrema.h`@b946091, `recipe/recipe_common.cuh`@01c24fe, all under
    /// `transformer_engine/common`.
    TeBlock,
    /// `te-block-f32`: [`TeBlock`](Self::TeBlock) without clearing the mantissa
    /// (`NVTE_FP8_BLOCK_SCALING_FP32_SCALES=1`).
    TeBlockF32,
    /// `torchao-mx-floor`: scale `2^(floor(log2 a) - emax)`, emax 8 (E4M3) or 15 (E5M2), at least
    /// `2^-127`; code `cast(x / scale)`. May clip: `a = 1.76` scales to 450.6. OCP MX 1.0, 6.3.
    ///
    /// pytorch/ao `torchao/prototype/mx_formats/mx_tensor.py`@050515e, `to_mx`, mode FLOOR (its
    /// default).
    TorchaoMxFloor,
    /// `torchao-mx-rceil`: scale `2^ceil(log2(a * (1 / max)))`, at least `2^-127`; never clips.
    /// Same file, mode RCEIL; the rule of cuBLAS.
    TorchaoMxRceil,
    /// `torchao-mx-ceil`: scale `2^(ceil(log2 a) - emax)`. Same file, mode CEIL.
    TorchaoMxCeil,
    /// `torchao-mx-even`: as FLOOR, after half a unit of the FP8 mantissa was added to `a`'s bits.
    /// Same file, mode EVEN.
    TorchaoMxEven,
    /// `torchao-float8`: `f = f32((1 / max(a, 1e-12)) * max)` computed in f64, code `cast(x * f)`, scale
    /// `1 / f`. Tensor-wise and row-wise training.
    ///
    /// pytorch/ao `torchao/float8/float8_utils.py`@00141f4 (`amax_to_scale`, `to_fp8_saturated`);
    /// multiplication and reciprocal in `float8_training_tensor.py` and `float8_ops.py` of
    /// torchao 0.18.0.
    TorchaoFloat8,
    /// `vllm-tensor`: scale `a / max`, code `cast(clamp(x * (1 / scale)))`.
    ///
    /// vllm-project/vllm `csrc/quantization/w8a8/fp8/common.cu`@096d3dc
    /// (`dynamic_scaled_fp8_quant`), `common.cuh`@0f5257e.
    VllmTensor,
    /// `vllm-token`: scale `max(a / max, 1 / (max * 512))`, code `cast(clamp(x / scale))`.
    ///
    /// Same files (`dynamic_per_token_scaled_fp8_quant` without an upper bound),
    /// `csrc/quantization/utils.cuh`@1f89a92 for the floor.
    VllmToken,
    /// `vllm-group`: scale `max(a, 1e-10) / max`, code `cast(clamp(x / scale))`.
    ///
    /// vllm-project/vllm `csrc/quantization/w8a8/fp8/per_token_group_quant.cu`@0f5257e; eps in
    /// `vllm/model_executor/layers/quantization/utils/fp8_utils.py`@007d500.
    VllmGroup,
    /// `vllm-group-ue8m0`: scale `max(a, 1e-10) / max`, raised to 1e-10, then up to a power of two.
    ///
    /// Same file, the register kernel. Its other kernel computes `exp2f(ceilf(log2f(s)))`, which
    /// for `s` within about 1e-6 above a power of two may not go up.
    VllmGroupUe8m0,
    /// `sglang-tensor`: the arithmetic of [`VllmTensor`](Self::VllmTensor).
    ///
    /// sgl-project/sglang `sgl-kernel/csrc/gemm/per_tensor_quant_fp8.cu`@28f9412.
    SglangTensor,
    /// `sglang-token`: scale `a / max`, code `cast(clamp(x * r))` with `r = 1 / scale`, 0 where the
    /// scale is 0.
    ///
    /// sgl-project/sglang `sgl-kernel/csrc/gemm/per_token_quant_fp8.cu`@0490047, the warp kernel,
    /// taken for many tokens. The kernel for few tokens has no guard: zeros become 448 there.
    SglangToken,
    /// `sglang-group`: `a' = max(a, 1e-10)`, scale `a' * (1 / max)`, code
    /// `cast(clamp(x * (max / a')))`.
    ///
    /// sgl-project/sglang `sgl-kernel/csrc/gemm/per_token_group_quant_8bit_v2.cu`@037cd6e. The
    /// sm90 build of sgl-kernel passes `-use_fast_math` (`sgl-kernel/CMakeLists.txt`@00390b8): its
    /// division is approximate, so codes next to a tie may differ from these.
    SglangGroup,
    /// `sglang-group-ue8m0`: `a' = max(a, 1e-10)`, scale `2^ceil(log2(a' * (1 / max)))`, code
    /// `cast(clamp(x / scale))`. Same file, column-major scales; no division, so fast math does
    /// not matter.
    SglangGroupUe8m0,
    /// `mistralrs-deepgemm`: `f = max / a`, 1 where `a` is 0; code `cast(x * f)`, scale `1 / f`.
    ///
    /// EricLBuehler/mistral.rs
    /// `mistralrs-quant/third_party/deepgemm_sm90/mistralrs_deepgemm_sm90.cu`@e77ec21.
    MistralrsDeepGemm,
    /// `mistralrs-cutlass`: the arithmetic of [`VllmGroup`](Self::VllmGroup).
    ///
    /// EricLBuehler/mistral.rs
    /// `mistralrs-quant/kernels/blockwise_fp8/blockwise_fp8_cutlass_sm90.cu`@e4dcc29. IEEE division
    /// is assumed in the `mistralrs` recipes; `mistralrs-quant/build.rs`@004dd2b passes
    /// `--use_fast_math`, under which the CUDA kernels divide approximately.
    MistralrsCutlass,
    /// `mistralrs-weight`: scale `max(a / max, 1e-12)`, code `cast(f16(clamp(x / scale)))`: rounded
    /// twice, through f16.
    ///
    /// EricLBuehler/mistral.rs
    /// `mistralrs-quant/kernels/blockwise_fp8/blockwise_fp8.cu`@30b5167 (CUDA).
    MistralrsWeight,
    /// `mistralrs-weight-cpu`: scale `a / max`, `1e-12` where `a` is 0; code
    /// `cast(clamp(x / scale))`.
    ///
    /// EricLBuehler/mistral.rs `mistralrs-quant/src/blockwise_fp8/ops.rs`@0bd0f26 (CPU, Rust).
    MistralrsWeightCpu,
}

/// What every recipe has that says nothing else.
const PLAIN: Rule = Rule {
    amax_floor: 0.0,
    nan_amax: NanAmax::Ignored,
    scale: ScaleRule::DeepGemmFirst,
    divide: false,
    nan: NanElement::Nan,
    through_f16: false,
    finite_only: false,
};

/// Of the recipes written in torch: NaN reaches the scale.
const TORCH: Rule = Rule { nan_amax: NanAmax::Propagates, ..PLAIN };

const TENSOR: &[ScaleLayout] = &[ScaleLayout::Tensor];
const ROW: &[ScaleLayout] = &[ScaleLayout::Row];
const GROUP: &[ScaleLayout] = &[ScaleLayout::Block1x128, ScaleLayout::Block1x32];
const BLOCK_1X128: &[ScaleLayout] = &[ScaleLayout::Block1x128];
const BLOCK_1X32: &[ScaleLayout] = &[ScaleLayout::Block1x32];
const BLOCK_128X128: &[ScaleLayout] = &[ScaleLayout::Block128x128];
const DEEPGEMM: &[ScaleLayout] = &[
    ScaleLayout::Block1x128,
    ScaleLayout::Block128x128,
    ScaleLayout::Block128x1,
    ScaleLayout::Row,
    ScaleLayout::Tensor,
    ScaleLayout::Block1x32,
];
const DEEPGEMM_V1: &[ScaleLayout] = &[ScaleLayout::Block1x128, ScaleLayout::Block128x128];
const TE_BLOCK: &[ScaleLayout] = &[ScaleLayout::Block1x128, ScaleLayout::Block128x128, ScaleLayout::Block128x1];

impl Recipe {
    /// Every recipe.
    pub const ALL: [Self; 25] = [
        Self::DeepGemm,
        Self::DeepGemmCpu,
        Self::DeepGemmUe8m0,
        Self::DeepGemmV1,
        Self::TeCurrent,
        Self::TeCurrentPow2,
        Self::TeBlock,
        Self::TeBlockF32,
        Self::TorchaoMxFloor,
        Self::TorchaoMxRceil,
        Self::TorchaoMxCeil,
        Self::TorchaoMxEven,
        Self::TorchaoFloat8,
        Self::VllmTensor,
        Self::VllmToken,
        Self::VllmGroup,
        Self::VllmGroupUe8m0,
        Self::SglangTensor,
        Self::SglangToken,
        Self::SglangGroup,
        Self::SglangGroupUe8m0,
        Self::MistralrsDeepGemm,
        Self::MistralrsCutlass,
        Self::MistralrsWeight,
        Self::MistralrsWeightCpu,
    ];

    /// The name, the rule and the layouts of a recipe: the whole table.
    const fn entry(self) -> (&'static str, Rule, &'static [ScaleLayout]) {
        use Recipe as R;
        const FLOOR_1E10: Rule = Rule { amax_floor: 1e-10, nan: NanElement::NegativeLargest, ..PLAIN };
        const QUOTIENT: ScaleRule = ScaleRule::Quotient { floor: Floor::None, factor: Factor::Reciprocal };
        const DIVISION: ScaleRule = ScaleRule::Quotient { floor: Floor::None, factor: Factor::Scale };
        match self {
            R::DeepGemm => ("deepgemm", Rule { amax_floor: 1e-4, scale: ScaleRule::DeepGemm, ..TORCH }, DEEPGEMM),
            R::DeepGemmCpu => {
                ("deepgemm-cpu", Rule { amax_floor: 1e-4, scale: ScaleRule::DeepGemmCpu, ..TORCH }, DEEPGEMM)
            }
            R::DeepGemmUe8m0 => {
                ("deepgemm-ue8m0", Rule { amax_floor: 1e-4, scale: ScaleRule::DeepGemmPow2, ..TORCH }, DEEPGEMM)
            }
            R::DeepGemmV1 => {
                ("deepgemm-v1", Rule { amax_floor: 1e-4, scale: ScaleRule::DeepGemmFirst, ..TORCH }, DEEPGEMM_V1)
            }
            R::TeCurrent => (
                "te-current",
                Rule { scale: ScaleRule::TransformerEngine { pow2: false, cap: Cap::F32 }, ..PLAIN },
                TENSOR,
            ),
            R::TeCurrentPow2 => (
                "te-current-pow2",
                Rule { scale: ScaleRule::TransformerEngine { pow2: true, cap: Cap::F32 }, ..PLAIN },
                TENSOR,
            ),
            R::TeBlock => (
                "te-block",
                Rule { scale: ScaleRule::TransformerEngine { pow2: true, cap: Cap::Input }, ..PLAIN },
                TE_BLOCK,
            ),
            R::TeBlockF32 => (
                "te-block-f32",
                Rule { scale: ScaleRule::TransformerEngine { pow2: false, cap: Cap::Input }, ..PLAIN },
                TE_BLOCK,
            ),
            R::TorchaoMxFloor => ("torchao-mx-floor", Rule { scale: ScaleRule::Mx(Mx::Floor), ..TORCH }, BLOCK_1X32),
            R::TorchaoMxRceil => ("torchao-mx-rceil", Rule { scale: ScaleRule::Mx(Mx::Rceil), ..TORCH }, BLOCK_1X32),
            R::TorchaoMxCeil => ("torchao-mx-ceil", Rule { scale: ScaleRule::Mx(Mx::Ceil), ..TORCH }, BLOCK_1X32),
            R::TorchaoMxEven => ("torchao-mx-even", Rule { scale: ScaleRule::Mx(Mx::Even), ..TORCH }, BLOCK_1X32),
            R::TorchaoFloat8 => (
                "torchao-float8",
                Rule { scale: ScaleRule::TorchaoFloat8, ..TORCH },
                &[ScaleLayout::Row, ScaleLayout::Tensor],
            ),
            R::VllmTensor => ("vllm-tensor", Rule { scale: QUOTIENT, nan: NanElement::Largest, ..PLAIN }, TENSOR),
            R::VllmToken => (
                "vllm-token",
                Rule {
                    scale: ScaleRule::Quotient { floor: Floor::VllmToken, factor: Factor::Scale },
                    divide: true,
                    nan: NanElement::Largest,
                    ..PLAIN
                },
                ROW,
            ),
            R::VllmGroup => ("vllm-group", Rule { scale: DIVISION, divide: true, ..FLOOR_1E10 }, GROUP),
            R::VllmGroupUe8m0 => {
                ("vllm-group-ue8m0", Rule { scale: ScaleRule::VllmPow2, divide: true, ..FLOOR_1E10 }, GROUP)
            }
            R::SglangTensor => ("sglang-tensor", Rule { scale: QUOTIENT, nan: NanElement::Largest, ..PLAIN }, TENSOR),
            R::SglangToken => (
                "sglang-token",
                Rule {
                    scale: ScaleRule::Quotient { floor: Floor::None, factor: Factor::ReciprocalOrZero },
                    nan: NanElement::Largest,
                    ..PLAIN
                },
                ROW,
            ),
            R::SglangGroup => ("sglang-group", Rule { scale: ScaleRule::Sglang, ..FLOOR_1E10 }, GROUP),
            R::SglangGroupUe8m0 => {
                ("sglang-group-ue8m0", Rule { scale: ScaleRule::SglangPow2, finite_only: true, ..FLOOR_1E10 }, GROUP)
            }
            R::MistralrsDeepGemm => {
                ("mistralrs-deepgemm", Rule { scale: ScaleRule::MistralrsDeepGemm, ..PLAIN }, BLOCK_1X128)
            }
            R::MistralrsCutlass => {
                ("mistralrs-cutlass", Rule { scale: DIVISION, divide: true, ..FLOOR_1E10 }, BLOCK_1X128)
            }
            R::MistralrsWeight => (
                "mistralrs-weight",
                Rule {
                    scale: ScaleRule::Quotient { floor: Floor::Absolute(1e-12), factor: Factor::Scale },
                    divide: true,
                    through_f16: true,
                    ..PLAIN
                },
                BLOCK_128X128,
            ),
            R::MistralrsWeightCpu => {
                ("mistralrs-weight-cpu", Rule { scale: ScaleRule::MistralrsCpu, divide: true, ..PLAIN }, BLOCK_128X128)
            }
        }
    }

    /// The name, as printed and parsed.
    pub const fn name(self) -> &'static str {
        self.entry().0
    }

    /// The layouts that the source offers, the usual one first.
    pub const fn layouts(self) -> &'static [ScaleLayout] {
        self.entry().2
    }

    pub(super) const fn rule(self) -> Rule {
        self.entry().1
    }

    /// The scale that a block gets whose largest magnitude is `amax`: NaN for a block with a NaN,
    /// which counts for nothing where the source's reduction ignores it.
    ///
    /// This is all of a recipe but the reduction before it and the multiplication and cast after
    /// it. `T` is the input type, which matters to [`TeBlock`](Self::TeBlock) alone.
    ///
    /// ```
    /// use fp8gemm_formats::quantize::{Applied, Recipe};
    /// use fp8gemm_problem::OperandType;
    ///
    /// let scale = Recipe::TorchaoMxFloor.block_scale::<f32>(OperandType::E4m3, 1.76);
    /// assert_eq!(scale.stored, 2f32.powi(-8));
    /// assert_eq!(scale.applied, Applied::MultiplyBy(256.0));
    /// ```
    pub fn block_scale<T: Element>(self, ty: OperandType, amax: f32) -> BlockScale {
        BlockScale::new(&self.rule(), &Target::of(ty), amax, T::LARGEST)
    }
}

/// The scale of one block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlockScale {
    /// What dequantisation multiplies by.
    pub stored: f32,
    /// What quantisation does to each element before the cast.
    pub applied: Applied,
}

impl BlockScale {
    pub(super) fn new(rule: &Rule, target: &Target, amax: f32, largest_input: f32) -> Self {
        let amax = match rule.nan_amax {
            NanAmax::Ignored if amax.is_nan() => 0.0,
            _ => amax.abs(),
        };
        let (stored, factor) = stored_and_factor(rule, target, amax, largest_input);
        let applied = if rule.divide { Applied::DivideBy(factor) } else { Applied::MultiplyBy(factor) };
        Self { stored, applied }
    }
}

/// How a scale is applied to an element: one f32 operation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Applied {
    /// `x * factor`.
    MultiplyBy(f32),
    /// `x / divisor`.
    DivideBy(f32),
}

impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Recipe {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        Self::ALL
            .into_iter()
            .find(|recipe| recipe.name() == text)
            .ok_or_else(|| FormatError::UnknownRecipe { text: text.to_owned() })
    }
}
