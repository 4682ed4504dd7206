//! cuBLASLt's FP8 products as rivals: one scale for each operand ("per-tensor", an easier operation),
//! and 1x128 by 128x128 or 1x128 by 1x128 scales ("block-scaled", CUDA 12.9 and newer).
//!
//! cuBLASLt is column-major: our `D[M, N] = A[M, K] B[N, K]^T`, row-major, is its
//! `D[N, M] = op(B[K, N]) A[K, M]` with `op` the transposition ("TN"), without moving anything.

use std::ffi::c_void;
use std::path::PathBuf;
use std::ptr::null_mut;
use std::sync::{Arc, OnceLock};

use cudarc::cublaslt::result::{self as lt, CublasError};
use cudarc::cublaslt::sys;
use cudarc::driver::CudaStream;
use fp8gemm_problem::{OperandType, OutputType, ScaleLayout};
use libloading::Library;
use sys::cublasLtMatmulDescAttributes_t as Attribute;
use sys::cublasLtMatmulMatrixScale_t as Mode;

use crate::BenchError;
use crate::library::{Wanted, mapped, open};
use crate::memory::Buffer;

/// What PyTorch takes on Hopper, and NVIDIA's advice.
const WORKSPACE: usize = 32 << 20;
/// `cublasOperation_t`, which these bindings leave out.
const AS_IT_IS: i32 = 0;
/// Likewise.
const TRANSPOSED: i32 = 1;
/// Algorithms that are asked for.
const ALGORITHMS: usize = 16;

/// One operand as cuBLASLt reads it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LtOperand {
    pub(crate) ty: OperandType,
    pub(crate) rows: usize,
    pub(crate) codes: u64,
    pub(crate) scales: u64,
    /// `Tensor`, `Block1x128` or `Block128x128`.
    pub(crate) layout: ScaleLayout,
}

/// A product.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LtProblem {
    pub(crate) a: LtOperand,
    pub(crate) b: LtOperand,
    pub(crate) k: usize,
    pub(crate) ty: OutputType,
    pub(crate) d: u64,
    /// Elements between rows of D.
    pub(crate) stride_d: usize,
    pub(crate) alpha: f32,
    /// C is D.
    pub(crate) beta: f32,
    /// Fast accumulation.
    pub(crate) fast: bool,
}

/// The library with a handle and a workspace.
pub(crate) struct CublasLt {
    handle: sys::cublasLtHandle_t,
    workspace: Buffer,
    path: PathBuf,
    version: usize,
}

impl CublasLt {
    /// Loads the library, never panicking where it is missing.
    ///
    /// # Errors
    /// [`BenchError::Library`], [`BenchError::Call`], [`BenchError::Cuda`].
    pub(crate) fn load(stream: &Arc<CudaStream>) -> Result<Self, BenchError> {
        static LIBRARY: OnceLock<Library> = OnceLock::new();
        let (library, path) = open(&Wanted {
            name: "cuBLASLt",
            files: &["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"],
            variable: "FP8GEMM_CUBLASLT",
            symbols: &[
                "cublasLtGetVersion",
                "cublasLtCreate",
                "cublasLtDestroy",
                "cublasLtMatmul",
                "cublasLtMatmulDescCreate",
                "cublasLtMatmulDescDestroy",
                "cublasLtMatmulDescSetAttribute",
                "cublasLtMatrixLayoutCreate",
                "cublasLtMatrixLayoutDestroy",
                "cublasLtMatmulPreferenceCreate",
                "cublasLtMatmulPreferenceDestroy",
                "cublasLtMatmulPreferenceSetAttribute",
                "cublasLtMatmulAlgoGetHeuristic",
            ],
        })?;
        // SAFETY: the type is the header's, the function takes nothing.
        let opened = unsafe { library.get::<unsafe extern "C" fn() -> usize>("cublasLtGetVersion").map(|f| f()) };
        LIBRARY.get_or_init(|| library);
        // From here on cudarc finds the library that is loaded already: the loader knows it by the
        // name that cudarc tries.
        // SAFETY: takes nothing.
        let version = unsafe { sys::cublasLtGetVersion() };
        let files = mapped("libcublasLt.so");
        if opened.ok() != Some(version) || files.len() > 1 {
            let also: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
            let reason =
                format!("{} was opened, but the loader finds another one: {}", path.display(), also.join(", "));
            return Err(BenchError::Library { library: "cuBLASLt", reason });
        }
        let path = files.into_iter().next().unwrap_or(path);
        let workspace = Buffer::filled(stream, WORKSPACE, 0)?;
        let handle = lt::create_handle().map_err(failed("cublasLtCreate"))?;
        Ok(Self { handle, workspace, path, version })
    }

    /// "cuBLASLt 130002 (path)".
    pub(crate) fn describe(&self) -> String {
        format!("cuBLASLt {} ({})", self.version, self.path.display())
    }
}

impl Drop for CublasLt {
    fn drop(&mut self) {
        // SAFETY: created in `load`, and every `Matmul` borrows `self`. There is nobody to tell of
        // a failure.
        let _ = unsafe { lt::destroy_handle(self.handle) };
    }
}

/// Descriptors of one product on one set of buffers, with an algorithm.
pub(crate) struct Matmul<'a> {
    library: &'a CublasLt,
    problem: LtProblem,
    description: sys::cublasLtMatmulDesc_t,
    /// Of cuBLASLt's A (our B), its B (our A), and C and D.
    layouts: [sys::cublasLtMatrixLayout_t; 3],
    algorithm: sys::cublasLtMatmulAlgo_t,
}

impl<'a> Matmul<'a> {
    /// All algorithms that the heuristic names, its best first; each can be launched.
    ///
    /// # Errors
    /// [`BenchError::Call`]; `CUBLAS_STATUS_NOT_SUPPORTED` where cuBLASLt does not do this.
    pub(crate) fn algorithms(
        library: &'a CublasLt,
        problem: &LtProblem,
    ) -> Result<Vec<sys::cublasLtMatmulAlgo_t>, BenchError> {
        let probe = Self::new(library, problem, sys::cublasLtMatmulAlgo_t { data: [0; 8] })?;
        let preference = lt::create_matmul_pref().map_err(failed("cublasLtMatmulPreferenceCreate"))?;
        // SAFETY: a result is plain numbers, of which 0 is one.
        let mut found: [sys::cublasLtMatmulHeuristicResult_t; ALGORITHMS] = unsafe { std::mem::zeroed() };
        let mut count = 0;
        // SAFETY: the preference was just made; the value is a size_t and outlives the call.
        let limited = unsafe {
            lt::set_matmul_pref_attribute(
                preference,
                sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                (&raw const WORKSPACE_BYTES).cast::<c_void>(),
                size_of::<usize>(),
            )
        };
        // SAFETY: handle and descriptors live, `found` has room for as many as are asked for.
        let asked = limited.and_then(|()| unsafe {
            sys::cublasLtMatmulAlgoGetHeuristic(
                library.handle,
                probe.description,
                probe.layouts[0],
                probe.layouts[1],
                probe.layouts[2],
                probe.layouts[2],
                preference,
                ALGORITHMS as i32,
                found.as_mut_ptr(),
                &raw mut count,
            )
            .result()
        });
        // SAFETY: made above and not used again.
        let _ = unsafe { lt::destroy_matmul_pref(preference) };
        asked.map_err(failed("cublasLtMatmulAlgoGetHeuristic"))?;
        let good = |result: &&sys::cublasLtMatmulHeuristicResult_t| {
            result.state == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS && result.workspaceSize <= WORKSPACE
        };
        let found = found.iter().take(usize::try_from(count).unwrap_or(0));
        Ok(found.filter(good).map(|result| result.algo).collect())
    }

    /// The product with this algorithm.
    ///
    /// # Errors
    /// [`BenchError::Call`].
    pub(crate) fn new(
        library: &'a CublasLt,
        problem: &LtProblem,
        algorithm: sys::cublasLtMatmulAlgo_t,
    ) -> Result<Self, BenchError> {
        let description =
            lt::create_matmul_desc(sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, sys::cudaDataType_t::CUDA_R_32F)
                .map_err(failed("cublasLtMatmulDescCreate"))?;
        let mut matmul = Self { library, problem: *problem, description, layouts: [null_mut(); 3], algorithm };
        let (a, b) = (&problem.a, &problem.b);
        let shapes = [
            (operand_type(b.ty), problem.k, b.rows, problem.k),
            (operand_type(a.ty), problem.k, a.rows, problem.k),
            (output_type(problem.ty), b.rows, a.rows, problem.stride_d),
        ];
        for (layout, (ty, rows, columns, stride)) in matmul.layouts.iter_mut().zip(shapes) {
            *layout = lt::create_matrix_layout(ty, rows as u64, columns as u64, stride as i64)
                .map_err(failed("cublasLtMatrixLayoutCreate"))?;
        }
        matmul.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, TRANSPOSED)?;
        matmul.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSB, AS_IT_IS)?;
        matmul.set(Attribute::CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, b.scales)?;
        matmul.set(Attribute::CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, a.scales)?;
        if problem.fast {
            matmul.set(Attribute::CUBLASLT_MATMUL_DESC_FAST_ACCUM, 1_i8)?;
        }
        // Older libraries know per-tensor scales only, without a mode.
        if (a.layout, b.layout) != (ScaleLayout::Tensor, ScaleLayout::Tensor) {
            matmul.set(Attribute::CUBLASLT_MATMUL_DESC_A_SCALE_MODE, mode(b.layout))?;
            matmul.set(Attribute::CUBLASLT_MATMUL_DESC_B_SCALE_MODE, mode(a.layout))?;
        }
        Ok(matmul)
    }

    /// Puts the product on the stream.
    ///
    /// # Safety
    /// The problem's addresses are those of live buffers of its shapes, nothing else writes them,
    /// and no other launch uses the library's workspace at the same time (one stream).
    pub(crate) unsafe fn launch(&self, stream: &CudaStream) -> Result<(), BenchError> {
        let (p, workspace) = (&self.problem, &self.library.workspace);
        let pointer = |address: u64| address as *mut c_void;
        // SAFETY: the descriptors describe the buffers; the caller promises the rest. alpha and beta
        // are on the host, as the default pointer mode says, and read before the call returns.
        unsafe {
            lt::matmul(
                self.library.handle,
                self.description,
                (&raw const p.alpha).cast::<c_void>(),
                (&raw const p.beta).cast::<c_void>(),
                pointer(p.b.codes),
                self.layouts[0],
                pointer(p.a.codes),
                self.layouts[1],
                pointer(p.d),
                self.layouts[2],
                pointer(p.d),
                self.layouts[2],
                &raw const self.algorithm,
                pointer(workspace.pointer()),
                workspace.len(),
                stream.cu_stream().cast(),
            )
        }
        .map_err(failed("cublasLtMatmul"))
    }

    fn set<T>(&mut self, attribute: Attribute, value: T) -> Result<(), BenchError> {
        // SAFETY: the description lives; every caller passes a value of the attribute's type.
        unsafe {
            lt::set_matmul_desc_attribute(
                self.description,
                attribute,
                (&raw const value).cast::<c_void>(),
                size_of::<T>(),
            )
        }
        .map_err(failed("cublasLtMatmulDescSetAttribute"))
    }
}

impl Drop for Matmul<'_> {
    fn drop(&mut self) {
        // SAFETY: created in `new` and not used again; cuBLASLt reads descriptors during calls only.
        // There is nobody to tell of a failure.
        unsafe {
            for layout in self.layouts.into_iter().filter(|layout| !layout.is_null()) {
                let _ = lt::destroy_matrix_layout(layout);
            }
            let _ = lt::destroy_matmul_desc(self.description);
        }
    }
}

static WORKSPACE_BYTES: usize = WORKSPACE;

fn failed(call: &'static str) -> impl FnOnce(CublasError) -> BenchError {
    move |error| BenchError::Call { call, status: format!("{:?}", error.0) }
}

fn mode(layout: ScaleLayout) -> Mode {
    match layout {
        ScaleLayout::Block1x128 => Mode::CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F,
        ScaleLayout::Block128x128 => Mode::CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F,
        _ => Mode::CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F,
    }
}

fn operand_type(ty: OperandType) -> sys::cudaDataType_t {
    match ty {
        OperandType::E4m3 => sys::cudaDataType_t::CUDA_R_8F_E4M3,
        OperandType::E5m2 => sys::cudaDataType_t::CUDA_R_8F_E5M2,
    }
}

fn output_type(ty: OutputType) -> sys::cudaDataType_t {
    match ty {
        OutputType::Bf16 => sys::cudaDataType_t::CUDA_R_16BF,
        OutputType::F16 => sys::cudaDataType_t::CUDA_R_16F,
        OutputType::F32 => sys::cudaDataType_t::CUDA_R_32F,
    }
}
