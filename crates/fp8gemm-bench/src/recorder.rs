//! cuBLASLt's own result for given operands, bit for bit as it comes: for whoever wants to know which
//! arithmetic it is.

use std::sync::Arc;

use cudarc::driver::CudaStream;
use fp8gemm_formats::ScaledView;
use fp8gemm_hopper::Gpu;
use fp8gemm_problem::{Epilogue, OutputType, ScaleLayout};
use fp8gemm_sim::{Matrix, MatrixView};

use crate::BenchError;
use crate::check::decode;
use crate::cublaslt::{CublasLt, LtOperand, LtProblem, Matmul};
use crate::memory::Buffer;

/// A GPU with cuBLASLt. Allocates and copies in each run: a tool, not a way to compute.
pub struct CublasLtRecorder {
    library: CublasLt,
    stream: Arc<CudaStream>,
    gpu: Gpu,
}

/// What to compute: `D = alpha * (A * sa) (B * sb)^T + beta * C`.
#[derive(Clone, Debug)]
pub struct LtInputs<'a> {
    /// A, `[M, K]` with K a multiple of 16 and tensor, 1x128 or 128x128 scales.
    pub a: ScaledView<'a>,
    /// B, `[N, K]`.
    pub b: ScaledView<'a>,
    /// C, `[M, N]` of D's type; read where beta is not 0.
    pub c: Option<MatrixView<'a>>,
    /// Type of D.
    pub output: OutputType,
    /// Alpha and beta.
    pub epilogue: Epilogue,
    /// cuBLASLt's fast accumulation.
    pub fast: bool,
}

impl CublasLtRecorder {
    /// Opens the GPU and loads the library.
    ///
    /// # Errors
    /// [`BenchError::Hopper`] where there is no such GPU, [`BenchError::Library`] without cuBLASLt.
    pub fn open(device: usize) -> Result<Self, BenchError> {
        let gpu = Gpu::open(device)?;
        let stream = gpu.context().new_stream().map_err(BenchError::cuda("cuStreamCreate"))?;
        let library = CublasLt::load(&stream)?;
        Ok(Self { library, stream, gpu })
    }

    /// The GPU and the library, for provenance.
    pub fn describe(&self) -> String {
        format!("{}, {}", self.gpu.info().name, self.library.describe())
    }

    /// D of each algorithm that cuBLASLt's heuristic names, its best first; at most `most` of them.
    ///
    /// # Errors
    /// [`BenchError::Option`] for K or rows of D that are no multiples of 16 elements and bytes, scales that
    /// it does not have, a C of another type; [`BenchError::Call`] where cuBLASLt refuses the product.
    pub fn run(&self, inputs: &LtInputs<'_>, most: usize) -> Result<Vec<Matrix>, BenchError> {
        let LtInputs { a, b, c, output, epilogue, fast } = inputs;
        let (m, n, k) = (a.rows(), b.rows(), a.columns());
        let refuse = |option, value: usize, rule: &'static str| {
            Err(BenchError::Option { option, value: value.to_string(), rule })
        };
        if !k.is_multiple_of(16) || b.columns() != k {
            return refuse("K", k, "cuBLASLt wants a multiple of 16, the same for A and B");
        }
        if !(n * output.size()).is_multiple_of(16) {
            return refuse("N", n, "cuBLASLt wants rows of D of a multiple of 16 bytes");
        }
        if c.as_ref().is_some_and(|c| c.ty() != *output || c.dim() != (m, n)) {
            return refuse("C", m, "it must have D's type and shape");
        }
        let stream = &self.stream;
        let upload = |x: &ScaledView<'_>| -> Result<(Buffer, Buffer), BenchError> {
            let codes: Vec<u8> = x.codes().iter().copied().collect();
            Ok((Buffer::upload(stream, &codes)?, Buffer::upload_f32(stream, &stored_scales(x)?)?))
        };
        let ((codes_a, scales_a), (codes_b, scales_b)) = (upload(a)?, upload(b)?);
        let operand = |x: &ScaledView<'_>, codes: &Buffer, scales: &Buffer| LtOperand {
            ty: x.ty(),
            rows: x.rows(),
            codes: codes.pointer(),
            scales: scales.pointer(),
            layout: x.layout(),
        };
        let elements: Vec<u8> = match c {
            Some(c) if epilogue.reads_c() => bytes_of(c),
            // Recognisable where D is not written.
            _ => vec![0xFF; m * n * output.size()],
        };
        let d = Buffer::upload(stream, &elements)?;
        let problem = LtProblem {
            a: operand(a, &codes_a, &scales_a),
            b: operand(b, &codes_b, &scales_b),
            k,
            ty: *output,
            d: d.pointer(),
            stride_d: n,
            alpha: epilogue.alpha,
            beta: epilogue.beta,
            fast: *fast,
        };
        let mut results = Vec::new();
        for algorithm in Matmul::algorithms(&self.library, &problem)?.into_iter().take(most) {
            let d = Buffer::upload(stream, &elements)?;
            let matmul = Matmul::new(&self.library, &LtProblem { d: d.pointer(), ..problem }, algorithm)?;
            // SAFETY: all buffers live until the download below, which waits for the stream; they have the
            // problem's shapes; one stream uses the workspace. An algorithm that the heuristic names may
            // still refuse, which is no result.
            if unsafe { matmul.launch(stream) }.is_ok() {
                results.push(decode(*output, &d.download(stream, 0, d.len())?, (m, n)));
            }
        }
        Ok(results)
    }
}

/// The scales as cuBLASLt reads them: 1x128 ones with rows of a K block next to each other, 128x128 ones in
/// rows of a multiple of 4.
pub(crate) fn stored_scales(x: &ScaledView<'_>) -> Result<Vec<f32>, BenchError> {
    let scales = x.scales();
    let (rows, blocks) = scales.dim();
    match x.layout() {
        ScaleLayout::Tensor => Ok(vec![scales[(0, 0)]]),
        ScaleLayout::Block1x128 => Ok(scales.t().iter().copied().collect()),
        ScaleLayout::Block128x128 => {
            let row =
                |i: usize| (0..blocks.next_multiple_of(4)).map(move |j| if j < blocks { scales[(i, j)] } else { 0.0 });
            Ok((0..rows).flat_map(row).collect())
        }
        layout => Err(BenchError::Option {
            option: "scales",
            value: layout.to_string(),
            rule: "cuBLASLt has tensor, 1x128 and 128x128 ones",
        }),
    }
}

fn bytes_of(c: &MatrixView<'_>) -> Vec<u8> {
    match c {
        MatrixView::Bf16(x) => x.iter().flat_map(|x| x.to_bits().to_ne_bytes()).collect(),
        MatrixView::F16(x) => x.iter().flat_map(|x| x.to_bits().to_ne_bytes()).collect(),
        MatrixView::F32(x) => x.iter().flat_map(|x| x.to_ne_bytes()).collect(),
    }
}
