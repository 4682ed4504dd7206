//! The one error type of this crate.

use cudarc::driver::DriverError;
use cudarc::driver::sys::CUresult;
use fp8gemm_formats::FormatError;
use fp8gemm_formats::quantize::Quantizer;
use fp8gemm_jit::JitError;
use fp8gemm_problem::{OutputType, Problem, ProblemError};

/// Why a GPU could not be used, or a product not be computed on it. Each names the argument, its
/// value and the rule, or the CUDA function and its code.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HopperError {
    /// The NVIDIA driver is not there, or cannot be used.
    #[error("no NVIDIA driver: {reason}")]
    NoDriver {
        /// What was tried and what it said.
        reason: String,
    },
    /// The driver is there, a GPU is not.
    #[error("the NVIDIA driver sees no GPU")]
    NoDevice,
    /// An ordinal that no GPU has.
    #[error("device {ordinal} does not exist: the driver sees {count}, counted from 0")]
    NoSuchDevice {
        /// The ordinal as given.
        ordinal: usize,
        /// GPUs that the driver sees.
        count: usize,
    },
    /// A GPU of another generation.
    #[error("{name} has compute capability {}.{}, but these kernels need 9.0 (Hopper)", cc.0, cc.1)]
    NotHopper {
        /// The GPU's name.
        name: String,
        /// Its compute capability, major and minor.
        cc: (i32, i32),
    },
    /// A driver without the functions that are called.
    #[error("the driver supports CUDA {}, but at least {} is needed", version(*found), version(*needed))]
    DriverTooOld {
        /// `1000 * major + 10 * minor`, as `cuDriverGetVersion` gives it.
        found: i32,
        /// The oldest that will do, likewise.
        needed: i32,
    },
    /// A function of the CUDA driver failed.
    #[error("{call} failed with code {code}: {name}{}", advice(*code))]
    Cuda {
        /// What was called.
        call: &'static str,
        /// Its `CUresult`.
        code: u32,
        /// The driver's name of the code.
        name: String,
    },
    /// A kernel or copy did something illegal, here or earlier, and every CUDA call in this process
    /// fails from now on: memory of the GPU is lost.
    #[error("{call} failed with code {code}: {name}; the GPU's context is lost, only a new process can use it again")]
    ContextLost {
        /// The call that was told of it.
        call: &'static str,
        /// Its `CUresult`.
        code: u32,
        /// The driver's name of the code.
        name: String,
    },
    /// No configuration, no compiler, or a kernel that does not compile.
    #[error(transparent)]
    Jit(#[from] JitError),
    /// A problem that is not legal at all.
    #[error(transparent)]
    Problem(#[from] ProblemError),
    /// Data that does not fit its scale layout.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A legal problem that this crate does not compute.
    #[error("{problem} is not computed on the GPU: {rule}")]
    Unsupported {
        /// The problem.
        problem: Problem,
        /// Why not, and what to do.
        rule: &'static str,
    },
    /// A way of quantising that this crate has no kernel for.
    #[error("{quantizer} is not computed on the GPU: {rule}")]
    Quantizer {
        /// Recipe, layout and type.
        quantizer: Quantizer,
        /// What there are kernels for.
        rule: &'static str,
    },
    /// A kernel configuration that does not compute the problem.
    #[error("configuration {configuration} does not compute {problem}: its {field} does not fit")]
    WrongConfiguration {
        /// The configuration.
        configuration: String,
        /// The problem.
        problem: Problem,
        /// What of it does not fit the problem, or the GPU.
        field: &'static str,
    },
    /// A matrix whose shape is not the problem's.
    #[error("{argument} is {} x {}, but the problem wants {} x {}", found.0, found.1, expected.0, expected.1)]
    Shape {
        /// Which matrix.
        argument: &'static str,
        /// Its rows and columns.
        found: (usize, usize),
        /// The problem's.
        expected: (usize, usize),
    },
    /// A matrix whose element type or scale layout is not the problem's.
    #[error("{argument} is {found}, but the problem wants {expected}")]
    Type {
        /// Which matrix.
        argument: &'static str,
        /// What it is.
        found: String,
        /// What the problem says.
        expected: String,
    },
    /// C is there and the problem has none, or the other way round.
    #[error("C is {}, but the problem wants {}", presence(*found), presence(*expected))]
    PresenceOfC {
        /// The C that was given.
        found: Option<OutputType>,
        /// The problem's.
        expected: Option<OutputType>,
    },
    /// A device pointer that the kernel or TMA cannot take.
    #[error("{argument}: device pointer {value:#x} {rule}")]
    Pointer {
        /// Which matrix.
        argument: &'static str,
        /// The address.
        value: u64,
        /// The rule it breaks.
        rule: &'static str,
    },
    /// A stride that the kernel or TMA cannot take.
    #[error("{argument}: row stride of {value} elements: {rule}")]
    Stride {
        /// Which matrix.
        argument: &'static str,
        /// Elements between rows.
        value: usize,
        /// The rule it breaks.
        rule: String,
    },
    /// Sizes beyond what the kernel counts in 32 bits.
    #[error("{what} is {value}: {rule}")]
    TooLarge {
        /// Which size.
        what: &'static str,
        /// Its value.
        value: u128,
        /// The limit.
        rule: &'static str,
    },
    /// A slice of device memory that is too short for its matrix.
    #[error("{argument} has {found} elements, but its shape and stride need {needed}")]
    Length {
        /// Which matrix.
        argument: &'static str,
        /// The slice's elements.
        found: usize,
        /// Elements from the first to the last that is read or written.
        needed: u128,
    },
    /// A stream or memory of another context than the plan's. Launches on slices need the `CudaContext`
    /// object of [`Gpu::context`](crate::Gpu::context): with another one, also of the same GPU, cudarc's
    /// events would not order them.
    #[error(
        "{what} is of another CudaContext (device {found}) than the plan (device {plan}); streams and memory come \
         from Gpu::context"
    )]
    WrongContext {
        /// The stream, or which matrix.
        what: &'static str,
        /// Its device.
        found: usize,
        /// The plan's device.
        plan: usize,
    },
}

impl HopperError {
    /// Wraps a driver's error together with what was called. Only for use once libcuda is loaded:
    /// cudarc asks it for the name.
    pub(crate) fn cuda(call: &'static str) -> impl FnOnce(DriverError) -> Self {
        move |error| {
            let name = error.error_name().map_or_else(|_| "no name".to_owned(), |name| name.to_string_lossy().into());
            let code = error.0 as u32;
            if is_sticky(error.0) { Self::ContextLost { call, code, name } } else { Self::Cuda { call, code, name } }
        }
    }
}

/// Errors that CUDA documents as leaving the process in an inconsistent state.
fn is_sticky(code: CUresult) -> bool {
    matches!(
        code,
        CUresult::CUDA_ERROR_ECC_UNCORRECTABLE
            | CUresult::CUDA_ERROR_NVLINK_UNCORRECTABLE
            | CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
            | CUresult::CUDA_ERROR_LAUNCH_TIMEOUT
            | CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED
            | CUresult::CUDA_ERROR_ASSERT
            | CUresult::CUDA_ERROR_HARDWARE_STACK_ERROR
            | CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION
            | CUresult::CUDA_ERROR_MISALIGNED_ADDRESS
            | CUresult::CUDA_ERROR_INVALID_ADDRESS_SPACE
            | CUresult::CUDA_ERROR_INVALID_PC
            | CUresult::CUDA_ERROR_LAUNCH_FAILED
    )
}

/// What to do about it, where that is known.
fn advice(code: u32) -> &'static str {
    if code == CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH as u32 {
        "; libcuda and the driver in the kernel are not of one version: after an update of the driver restart the \
         machine; in a container use the host's libcuda (NVIDIA Container Toolkit), not one of the image or of \
         cuda-compat"
    } else {
        ""
    }
}

fn version(number: i32) -> String {
    format!("{}.{}", number / 1000, number % 1000 / 10)
}

fn presence(ty: Option<OutputType>) -> String {
    ty.map_or_else(|| "not given".to_owned(), |ty| format!("a matrix of {ty}"))
}
