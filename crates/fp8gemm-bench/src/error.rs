//! The one error type of this crate.

use cudarc::driver::DriverError;
use cudarc::driver::sys::CUresult;
use fp8gemm_formats::FormatError;
use fp8gemm_hopper::HopperError;
use fp8gemm_problem::{Problem, ProblemError};
use fp8gemm_sim::SimError;

/// Why something was not measured. Each names the argument or the function called, and its value.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// The GPU, a kernel or a launch.
    #[error(transparent)]
    Hopper(#[from] HopperError),
    /// A problem that is not legal.
    #[error(transparent)]
    Problem(#[from] ProblemError),
    /// Input that was not quantised.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The twin refused the sample that checks a kernel.
    #[error(transparent)]
    Sim(#[from] SimError),
    /// A list of shapes that cannot be read.
    #[error("list of shapes, line {line}: {reason}")]
    Shapes {
        /// Counted from 1, the header is line 1.
        line: u64,
        /// What is wrong.
        reason: String,
    },
    /// The name of a kernel configuration that does not parse.
    #[error("configuration `{text}`: {reason}")]
    Configuration {
        /// As given.
        text: String,
        /// What is wrong.
        reason: String,
    },
    /// An option out of its range.
    #[error("{option} is {value}: {rule}")]
    Option {
        /// Which one.
        option: &'static str,
        /// As given.
        value: String,
        /// What it must be.
        rule: &'static str,
    },
    /// A library that is not there, or lacks a function.
    #[error("{library} cannot be used: {reason}")]
    Library {
        /// Which one.
        library: &'static str,
        /// What was tried and what it said.
        reason: String,
    },
    /// A function of the CUDA driver failed.
    #[error("{call} failed with code {code}: {name}")]
    Cuda {
        /// What was called.
        call: &'static str,
        /// Its `CUresult`.
        code: u32,
        /// The driver's name of the code.
        name: String,
    },
    /// A problem whose matrices alone are larger than what the GPU has free.
    #[error("{problem} needs {needed} bytes of device memory, but {free} are free")]
    Memory {
        /// What was to be computed.
        problem: Problem,
        /// Bytes of its codes and D.
        needed: u128,
        /// Bytes that are free.
        free: u64,
    },
    /// A function of another NVIDIA library failed.
    #[error("{call} failed: {status}")]
    Call {
        /// What was called.
        call: &'static str,
        /// What it returned.
        status: String,
    },
    /// CUPTI's records are not those of the launches that were made.
    #[error("CUPTI recorded {found} kernels where {expected} were launched{detail}")]
    Records {
        /// Kernels launched.
        expected: usize,
        /// Kernels recorded.
        found: usize,
        /// What else is known.
        detail: String,
    },
    /// The kernel's result is not the twin's. It gets no time.
    #[error(
        "WRONG BITS: {problem} with {configuration}: {different} of {compared} outputs differ, \
         first [{row}, {column}]: GPU {found:#x}, twin {expected:#x}"
    )]
    WrongBits {
        /// What was computed.
        problem: Problem,
        /// The kernel's configuration.
        configuration: String,
        /// Outputs that differ.
        different: usize,
        /// Outputs that were compared.
        compared: usize,
        /// Row of the first.
        row: usize,
        /// Column of the first.
        column: usize,
        /// The GPU's bits there.
        found: u32,
        /// The twin's.
        expected: u32,
    },
}

impl BenchError {
    /// Wraps a driver's error together with what was called.
    pub(crate) fn cuda(call: &'static str) -> impl FnOnce(DriverError) -> Self {
        move |error| {
            let name = error.error_name().map_or_else(|_| "no name".to_owned(), |name| name.to_string_lossy().into());
            Self::Cuda { call, code: error.0 as u32, name }
        }
    }

    /// Whether the GPU had too little memory, as it may have enough for a smaller problem.
    pub fn is_out_of_memory(&self) -> bool {
        const CODE: u32 = CUresult::CUDA_ERROR_OUT_OF_MEMORY as u32;
        matches!(
            self,
            Self::Memory { .. } | Self::Cuda { code: CODE, .. } | Self::Hopper(HopperError::Cuda { code: CODE, .. })
        )
    }

    /// Whether the machine lacks something, as opposed to wrong input or a wrong kernel.
    pub fn is_missing(&self) -> bool {
        use HopperError as H;
        match self {
            Self::Library { .. } => true,
            Self::Hopper(error) => matches!(
                error,
                H::NoDriver { .. }
                    | H::NoDevice
                    | H::NoSuchDevice { .. }
                    | H::NotHopper { .. }
                    | H::DriverTooOld { .. }
                    | H::Jit(fp8gemm_jit::JitError::NvrtcNotFound { .. })
            ),
            _ => false,
        }
    }
}
