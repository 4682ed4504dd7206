//! What cuBLASLt makes of tensor scales: the twin's sums, but an epilogue of its own.
//!
//! ```text
//! s = fl(alpha * fl(sa * sb))
//! D = cast( fl(s * acc) )                    without C
//! D = cast( fma(s, acc, fl(beta * c)) )      with C
//! ```
//!
//! `acc` is the sum of a policy ([`Policy::PROMOTE_128`] without fast accumulation, [`Policy::Chain`] with
//! it). Our kernels and DeepGEMM's multiply by alpha after the scales, and round beta * c only once with the sum; the
//! two agree where alpha is 1 and there is no C, or where its product with beta is exact.
//!
//! Source: cuBLASLt 13.1 on an H200, 192 x 320 x 1024, E4M3, f32. Alpha: every output, on normal and on wide
//! data (one recording is `vectors/difftest/cublaslt_alpha.safetensors`). With C it held on a sample of 3,038 finite outputs
//! of one product, and not on all outputs of wide data: **there it is not a prediction**.

use fp8gemm_formats::ScaledMatrix;
use fp8gemm_problem::{Epilogue, OutputType, Policy, ScaleLayout};
use fp8gemm_sim::Matrix;
use ndarray::Zip;

use crate::{Case, DifftestError};

/// What cuBLASLt gives for `case` if it accumulates by `policy`; `None` where a scale is not of a whole
/// tensor: those cases have the twin's own epilogue.
///
/// # Errors
/// [`DifftestError::Sim`] for a case that is not legal.
///
/// ```
/// use fp8gemm_difftest::{DataRegime, Generator, Menu, Only, ScaleRegime, cublaslt_tensor};
/// use fp8gemm_problem::Policy;
///
/// let generator = Generator::new(0, Menu::kernels(), Only::default());
/// let problem = "16x16x256 a=e4m3:tensor b=e4m3:tensor d=f32".parse()?;
/// let case = generator.fill(&problem, 0, DataRegime::Normal, ScaleRegime::Ordinary)?;
/// // Without alpha and C it is what our kernels give.
/// let theirs = cublaslt_tensor(&case, Policy::PROMOTE_128)?.unwrap();
/// assert!(theirs.view().bits_equal(&case.gemm().run()?.view()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn cublaslt_tensor(case: &Case, policy: Policy) -> Result<Option<Matrix>, DifftestError> {
    if [&case.a, &case.b].iter().any(|operand| operand.layout() != ScaleLayout::Tensor) {
        return Ok(None);
    }
    let bare = |operand: &ScaledMatrix| ScaledMatrix::unscaled(operand.ty(), operand.codes().to_owned());
    let mut sums = case.with(bare(&case.a), bare(&case.b), None).with_policy(policy);
    sums.problem.epilogue = Epilogue::IDENTITY;
    sums.problem.d = OutputType::F32;
    let mut d = sums.gemm().run()?.to_f32();
    let Epilogue { alpha, beta, .. } = case.problem.epilogue;
    let scale = alpha * (case.a.scales()[[0, 0]] * case.b.scales()[[0, 0]]);
    match case.c.as_ref().filter(|_| case.problem.epilogue.reads_c()) {
        None => d.mapv_inplace(|acc| scale * acc),
        Some(c) => Zip::from(&mut d).and(&c.to_f32()).for_each(|d, c| *d = scale.mul_add(*d, beta * c)),
    }
    // Whatever NaN Rust's operations gave, a GPU's give one.
    d.mapv_inplace(|x| if x.is_nan() { f32::from_bits(0x7FFF_FFFF) } else { x });
    Ok(Some(Matrix::from_f32(d, case.problem.d)))
}
