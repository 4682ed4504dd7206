//! Runs fp8gemm's GEMM kernels on NVIDIA Hopper GPUs (compute capability 9.0).
//!
//! ```text
//! D[m, n] = alpha * sum_k (A[m, k] * scale_a) * (B[n, k] * scale_b) + beta * C[m, n]
//! ```
//!
//! with every bit as `fp8gemm-sim` predicts it for the problem's policy (`promote128` or `chain`).
//!
//! | item | what it does |
//! |---|---|
//! | [`probe`], [`Gpu`] | finds Hopper GPUs and opens one; a missing driver is an error value |
//! | [`Plan`] | problem -> configuration -> compiled and loaded kernel |
//! | [`Plan::gemm`], [`Plan::gemm_add`], [`Plan::gemm_accumulate`] | launches on cudarc's slices, on the caller's stream |
//! | [`Plan::with_workspace`] | the same for plans made with [`PlanOptions::workspace`] |
//! | [`Plan::prepare`], [`Prepared::launch`] | raw pointers: checked and encoded; then one driver call |
//! | [`QuantizePlan`] | bf16, f16 or f32 to FP8 codes and block scales, transposing if need be |
//! | [`RelayoutPlan`], [`DeviceStep`] | FP8 codes transposed or repacked for the GEMM, and what a step costs |
//! | [`Probe`] | single instructions on many tiles of host data: what the hardware does |
//! | [`gemm_on_gpu`] | host matrices in, host matrix out; quantises on the GPU what is not FP8 |
//!
//! Nothing of CUDA is needed to build. At run time: the NVIDIA driver, and NVRTC or a cache of
//! compiled kernels (see `fp8gemm-jit`).
//!
//! ```no_run
//! use fp8gemm_formats::ScaledMatrix;
//! use fp8gemm_hopper::{Gpu, gemm_on_gpu};
//! use fp8gemm_jit::{Cache, Compiler};
//! use fp8gemm_problem::{OperandType, Problem};
//! use ndarray::Array2;
//!
//! let gpu = Gpu::open(0)?;
//! let compiler = Compiler::new(Cache::from_environment(), None);
//! let problem: Problem = "64x256x512 a=e4m3:tensor b=e4m3:tensor d=bf16".parse()?;
//! let a = ScaledMatrix::unscaled(OperandType::E4m3, Array2::from_elem((64, 512), 0x38));
//! let b = ScaledMatrix::unscaled(OperandType::E4m3, Array2::from_elem((256, 512), 0x38));
//! let product = gemm_on_gpu(&gpu, &compiler, &a.view(), &b.view(), None, &problem)?;
//! println!("{:?}", product.d); // 512 everywhere: 0x38 is 1.0
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![deny(unsafe_op_in_unsafe_fn)]

mod arguments;
mod context;
mod device;
mod elementwise;
mod error;
mod host;
mod host_matrix;
mod kernel;
mod l2;
mod launch;
mod layout;
mod on_device;
mod operands;
mod plan;
mod probe_kernel;
mod quantize;
mod relayout;
mod scales;
mod slices;
mod tensor_map;
mod upload;
mod workspace;

pub use cudarc;

pub use device::{DeviceInfo, Gpu, driver_version, probe};
pub use error::HopperError;
pub use host::{HostStep, Product, gemm_on_gpu};
pub use host_matrix::{HostMatrix, HostOperand, HostView};
pub use l2::{EVICT_NORMAL, l2_policy};
pub use launch::{LaunchOptions, Prepared};
pub use layout::{DeviceStep, GemmLayout, OperandLayout, StepBytes};
pub use on_device::QuantizedOnGpu;
pub use operands::{DeviceMatrix, Operands};
pub use plan::{Plan, PlanOptions, check_sizes};
pub use probe_kernel::Probe;
pub use quantize::{Quantization, QuantizeOperands, QuantizePlan};
pub use relayout::RelayoutPlan;
pub use scales::ScaleForm;
pub use slices::{Fp8, Inputs, OutputElement, Strided, StridedMut};
pub use workspace::WithWorkspace;
