//! The things that are timed: our kernel, cuBLASLt's two products, and the floor that only moves
//! memory, each bound to one or more sets of buffers.

use std::sync::Arc;

use cudarc::cublaslt::sys::cublasLtMatmulAlgo_t;
use cudarc::driver::{CudaContext, CudaStream};
use fp8gemm_hopper::{DeviceMatrix, LaunchOptions, Operands, Plan, Prepared};
use fp8gemm_problem::{Problem, ScaleLayout, Side};

use crate::BenchError;
use crate::cold::Timer;
use crate::cublaslt::{CublasLt, LtOperand, LtProblem, Matmul};
use crate::inputs::{Operand, Pattern, arrange};
use crate::memory::Buffer;
use crate::memory_kernels::{Loaded, StreamArguments};
use crate::recorder::stored_scales;

/// One set of buffers. Shared where sets have parts in common.
#[derive(Clone)]
pub(crate) struct Buffers {
    pub(crate) a: Arc<Buffer>,
    pub(crate) b: Arc<Buffer>,
    pub(crate) scale_a: Arc<Buffer>,
    pub(crate) scale_b: Arc<Buffer>,
    pub(crate) d: Arc<Buffer>,
}

impl Buffers {
    /// Bytes that a launch reads and writes, D read too if it is accumulated into.
    pub(crate) fn bytes(&self) -> usize {
        [&self.a, &self.b, &self.scale_a, &self.scale_b, &self.d].iter().map(|buffer| buffer.len()).sum()
    }

    /// Other weights at other addresses, the same A and D.
    pub(crate) fn other_weights(&self, stream: &Arc<CudaStream>) -> Result<Self, BenchError> {
        let b = Arc::new(self.b.duplicate(stream)?);
        Ok(Self { b, scale_b: Arc::new(self.scale_b.duplicate(stream)?), ..self.clone() })
    }

    /// Everything at other addresses.
    pub(crate) fn other(&self, stream: &Arc<CudaStream>) -> Result<Self, BenchError> {
        let copy = |buffer: &Buffer| Ok::<_, BenchError>(Arc::new(buffer.duplicate(stream)?));
        Ok(Self {
            a: copy(&self.a)?,
            b: copy(&self.b)?,
            scale_a: copy(&self.scale_a)?,
            scale_b: copy(&self.scale_b)?,
            d: copy(&self.d)?,
        })
    }
}

/// How a set of buffers becomes something to launch.
#[derive(Clone)]
enum Maker<'a> {
    Ours { plan: Plan, workspace: Arc<Buffer>, stride_scale_a: usize, stride_scale_b: usize },
    Lt { library: &'a CublasLt, problem: LtProblem, algorithm: cublasLtMatmulAlgo_t },
    Floor { kernel: &'a Loaded, policy: u64 },
}

enum Bound<'a> {
    Ours(Box<Prepared>),
    Lt(Box<Matmul<'a>>),
    Floor(&'a Loaded, StreamArguments),
}

/// One of the rivals.
pub(crate) struct Subject<'a> {
    pub(crate) name: &'static str,
    /// Configuration or algorithm.
    pub(crate) detail: String,
    maker: Maker<'a>,
    sets: Vec<(Buffers, Bound<'a>)>,
}

/// Elements between rows of D: a multiple of 16 bytes.
pub(crate) fn stride_of_d(problem: &Problem) -> usize {
    problem.n.next_multiple_of(16 / problem.d.size())
}

/// The configuration of our kernel, and what was changed in it.
fn detail(plan: &Plan) -> String {
    format!("{}{}", plan.config(), plan.interleave().suffix())
}

impl<'a> Subject<'a> {
    /// Our kernel on these operands.
    pub(crate) fn ours(
        stream: &Arc<CudaStream>,
        plan: Plan,
        [a, b]: [&Operand; 2],
        d: Arc<Buffer>,
    ) -> Result<Self, BenchError> {
        let detail = detail(&plan);
        let (scales_a, stride_scale_a) = arrange(plan.scale_form(Side::A), &a.scaled.view());
        let (scales_b, stride_scale_b) = arrange(plan.scale_form(Side::B), &b.scaled.view());
        let buffers = Buffers {
            a: Arc::new(upload_codes(stream, a)?),
            b: Arc::new(upload_codes(stream, b)?),
            scale_a: Arc::new(Buffer::upload_f32(stream, &scales_a)?),
            scale_b: Arc::new(Buffer::upload_f32(stream, &scales_b)?),
            d,
        };
        // Zeroed once; the launches of one stream share it.
        let workspace = Arc::new(Buffer::filled(stream, plan.workspace_bytes(), 0)?);
        let maker = Maker::Ours { plan, workspace, stride_scale_a, stride_scale_b };
        Self { name: "ours", detail, maker, sets: Vec::new() }.with_sets(vec![buffers])
    }

    /// Our kernel in another form of the same configuration, on the same operands and its own D.
    pub(crate) fn variant(&self, name: &'static str, plan: Plan, d: Arc<Buffer>) -> Result<Self, BenchError> {
        let detail = detail(&plan);
        let mut maker = self.maker.clone();
        if let Maker::Ours { plan: own, .. } = &mut maker {
            *own = plan;
        }
        let buffers = Buffers { d, ..self.buffers().clone() };
        Self { name, detail, maker, sets: Vec::new() }.with_sets(vec![buffers])
    }

    /// Another plan of the same problem on the same buffers; `None` where it wants scales laid out otherwise.
    pub(crate) fn with_plan(&self, stream: &Arc<CudaStream>, plan: &Plan) -> Result<Option<Self>, BenchError> {
        let Maker::Ours { plan: own, stride_scale_a, stride_scale_b, .. } = &self.maker else { return Ok(None) };
        if [Side::A, Side::B].iter().any(|side| own.scale_form(*side) != plan.scale_form(*side)) {
            return Ok(None);
        }
        let maker = Maker::Ours {
            plan: plan.clone(),
            workspace: Arc::new(Buffer::filled(stream, plan.workspace_bytes(), 0)?),
            stride_scale_a: *stride_scale_a,
            stride_scale_b: *stride_scale_b,
        };
        let like = Self { name: self.name, detail: detail(plan), maker, sets: Vec::new() };
        like.with_sets(vec![self.buffers().clone()]).map(Some)
    }

    /// The kernel that reads the weights and A of these buffers, with this L2 policy, and writes as much as D has.
    pub(crate) fn floor(
        name: &'static str,
        stream: &Arc<CudaStream>,
        (kernel, policy): (&'a Loaded, u64),
        problem: &Problem,
        ours: &Buffers,
    ) -> Result<Self, BenchError> {
        let buffers = Buffers { d: Arc::new(empty_d(stream, problem)?), ..ours.clone() };
        let (detail, maker) = (kernel.describe(), Maker::Floor { kernel, policy });
        Self { name, detail, maker, sets: Vec::new() }.with_sets(vec![buffers])
    }

    /// cuBLASLt with the fastest of its algorithms, named `name`, and with the first that its heuristic
    /// names, where that is another, named `name_first`. `flush` is set before each trial run.
    pub(crate) fn cublaslt(
        [name, name_first]: [&'static str; 2],
        (stream, library, flush): (&Arc<CudaStream>, &'a CublasLt, &Buffer),
        problem: &Problem,
        buffers: &Buffers,
        layouts: [ScaleLayout; 2],
    ) -> Result<Vec<Self>, BenchError> {
        let operand = |ty, rows, codes: &Buffer, scales: &Buffer, layout| LtOperand {
            ty,
            rows,
            codes: codes.pointer(),
            scales: scales.pointer(),
            layout,
        };
        let lt = LtProblem {
            a: operand(problem.a.ty, problem.m, &buffers.a, &buffers.scale_a, layouts[0]),
            b: operand(problem.b.ty, problem.n, &buffers.b, &buffers.scale_b, layouts[1]),
            k: problem.k,
            ty: problem.d,
            d: buffers.d.pointer(),
            stride_d: stride_of_d(problem),
            alpha: problem.epilogue.alpha,
            beta: problem.epilogue.beta,
            fast: false,
        };
        let mut found: Vec<(f64, Self)> = Vec::new();
        for (index, algorithm) in Matmul::algorithms(library, &lt)?.into_iter().enumerate() {
            let maker = Maker::Lt { library, problem: lt, algorithm };
            let detail = format!("algorithm {index} of its heuristic");
            let subject = Self { name, detail, maker, sets: Vec::new() }.with_sets(vec![buffers.clone()])?;
            // An algorithm that the heuristic names may still refuse.
            if subject.launch(0, stream).is_ok() {
                found.push((Timer::rank(stream, &subject, flush)?, subject));
            }
        }
        let refused =
            || BenchError::Call { call: "cublasLtMatmul", status: "no algorithm for this product".to_owned() };
        let best = found.iter().enumerate().min_by(|(_, x), (_, y)| x.0.total_cmp(&y.0));
        let best = best.map(|(index, _)| index).ok_or_else(refused)?;
        let mut found: Vec<_> = found.into_iter().map(|(_, subject)| subject).collect();
        let fastest = found.swap_remove(best);
        // `swap_remove` leaves the first where it was unless it was taken.
        let first = (best != 0).then(|| Self { name: name_first, ..found.swap_remove(0) });
        Ok(std::iter::once(fastest).chain(first).collect())
    }

    /// The same with other buffers.
    pub(crate) fn with_sets(&self, sets: Vec<Buffers>) -> Result<Self, BenchError> {
        let bound = sets.into_iter().map(|buffers| Ok((buffers.clone(), self.bind(&buffers)?)));
        let sets = bound.collect::<Result<Vec<_>, BenchError>>()?;
        Ok(Self { name: self.name, detail: self.detail.clone(), maker: self.maker.clone(), sets })
    }

    /// The first set.
    pub(crate) fn buffers(&self) -> &Buffers {
        &self.sets[0].0
    }

    /// Sets of buffers.
    pub(crate) fn sets(&self) -> usize {
        self.sets.len()
    }

    /// Whether launches can overlap the kernel before them.
    pub(crate) fn can_overlap(&self) -> bool {
        matches!(self.maker, Maker::Ours { .. })
    }

    fn bind(&self, buffers: &Buffers) -> Result<Bound<'a>, BenchError> {
        match &self.maker {
            Maker::Ours { plan, workspace, stride_scale_a, stride_scale_b } => {
                let problem = plan.problem();
                let at = |buffer: &Buffer, stride| DeviceMatrix { pointer: buffer.pointer(), stride };
                let stride_k = problem.k.next_multiple_of(16);
                let d = at(&buffers.d, stride_of_d(problem));
                let operands = Operands {
                    a: at(&buffers.a, stride_k),
                    b: at(&buffers.b, stride_k),
                    scale_a: at(&buffers.scale_a, *stride_scale_a),
                    scale_b: at(&buffers.scale_b, *stride_scale_b),
                    c: problem.epilogue.reads_c().then_some(d),
                    d,
                };
                Ok(Bound::Ours(Box::new(plan.prepare_with_workspace(&operands, workspace.pointer())?)))
            }
            Maker::Lt { library, problem, algorithm } => {
                let operand = |x: LtOperand, codes: &Buffer, scales: &Buffer| LtOperand {
                    codes: codes.pointer(),
                    scales: scales.pointer(),
                    ..x
                };
                let problem = LtProblem {
                    a: operand(problem.a, &buffers.a, &buffers.scale_a),
                    b: operand(problem.b, &buffers.b, &buffers.scale_b),
                    d: buffers.d.pointer(),
                    ..*problem
                };
                Ok(Bound::Lt(Box::new(Matmul::new(library, &problem, *algorithm)?)))
            }
            Maker::Floor { kernel, policy } => Ok(Bound::Floor(kernel, StreamArguments::of(buffers, *policy))),
        }
    }

    /// Puts one product on the stream, on set number `set`, counted around.
    pub(crate) fn launch(&self, set: usize, stream: &CudaStream) -> Result<(), BenchError> {
        self.launch_with(set, stream, Overlap::None)
    }

    /// The same, with as much overlap as ours can have.
    pub(crate) fn launch_with(&self, set: usize, stream: &CudaStream, overlap: Overlap) -> Result<(), BenchError> {
        match &self.sets[set % self.sets.len()].1 {
            // SAFETY: the buffers of the set live as long as `self`, have the problem's shapes, are
            // initialised, and are used on the bench's one stream only, which is waited for before
            // they are freed. C is D itself or absent. With `overlap`, the kernel before is one of
            // ours too, and writes no more than D, which a kernel writes after waiting for it: weights
            // are constant.
            Bound::Ours(prepared) => unsafe {
                prepared.launch_with(
                    stream,
                    LaunchOptions::default()
                        .overlapping_previous(overlap != Overlap::None)
                        .constant_weights(overlap == Overlap::Weights),
                )?;
                Ok(())
            },
            // SAFETY: likewise; the workspace belongs to the one stream.
            Bound::Lt(matmul) => unsafe { matmul.launch(stream) },
            // SAFETY: likewise; it is the streaming kernel, and D is its own.
            Bound::Floor(kernel, arguments) => unsafe { kernel.stream(stream, arguments) },
        }
    }
}

/// How much of a launch may run while the kernel before it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overlap {
    /// Nothing.
    None,
    /// Programmatic dependent launch: what touches no memory that a kernel before may write.
    Start,
    /// Loads of weights too.
    Weights,
}

/// The per-tensor rival's buffers for the same numbers.
pub(crate) fn tensor_buffers(
    stream: &Arc<CudaStream>,
    problem: &Problem,
    [a, b]: [&Operand; 2],
) -> Result<Buffers, BenchError> {
    let codes = |operand: &Operand| Buffer::upload(stream, operand.tensor_codes.as_slice().unwrap_or_default());
    Ok(Buffers {
        a: Arc::new(codes(a)?),
        b: Arc::new(codes(b)?),
        scale_a: Arc::new(Buffer::upload_f32(stream, &[a.tensor_scale])?),
        scale_b: Arc::new(Buffer::upload_f32(stream, &[b.tensor_scale])?),
        d: Arc::new(empty_d(stream, problem)?),
    })
}

/// The block-scaled rival's buffers: our codes, the scales as it wants them.
pub(crate) fn block_buffers(
    stream: &Arc<CudaStream>,
    problem: &Problem,
    ours: &Buffers,
    [a, b]: [&Operand; 2],
) -> Result<Buffers, BenchError> {
    let scales = |operand: &Operand| Buffer::upload_f32(stream, &stored_scales(&operand.scaled.view())?);
    Ok(Buffers {
        a: Arc::clone(&ours.a),
        b: Arc::clone(&ours.b),
        scale_a: Arc::new(scales(a)?),
        scale_b: Arc::new(scales(b)?),
        d: Arc::new(empty_d(stream, problem)?),
    })
}

/// D of zeros.
pub(crate) fn empty_d(stream: &Arc<CudaStream>, problem: &Problem) -> Result<Buffer, BenchError> {
    Buffer::filled(stream, problem.m * stride_of_d(problem) * problem.d.size(), 0)
}

/// D as it is before the launch that is checked: C where it is read, else all ones (NaN).
pub(crate) fn initial_d(stream: &Arc<CudaStream>, problem: &Problem, pattern: &Pattern) -> Result<Buffer, BenchError> {
    let d = Buffer::filled(stream, problem.m * stride_of_d(problem) * problem.d.size(), 0xFF)?;
    if problem.epilogue.reads_c() {
        d.tile(stream, &Buffer::upload(stream, &crate::check::encode(problem.d, &pattern.0))?)?;
    }
    Ok(d)
}

/// Codes in rows of a multiple of 16 bytes.
fn upload_codes(stream: &Arc<CudaStream>, operand: &Operand) -> Result<Buffer, BenchError> {
    let codes = operand.scaled.codes();
    let k = codes.ncols();
    if let Some(codes) = codes.to_slice().filter(|_| k.is_multiple_of(16)) {
        return Buffer::upload(stream, codes);
    }
    let stride = k.next_multiple_of(16);
    let mut packed = vec![0u8; codes.nrows() * stride];
    for (line, row) in packed.chunks_exact_mut(stride).zip(codes.rows()) {
        line.iter_mut().zip(row).for_each(|(to, from)| *to = *from);
    }
    Buffer::upload(stream, &packed)
}

/// L2 of the GPU in bytes; 50 MB where it does not say.
pub(crate) fn l2_bytes(context: &CudaContext) -> usize {
    use cudarc::driver::sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE;
    let bytes = context.attribute(CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE).unwrap_or(50 << 20);
    usize::try_from(bytes).unwrap_or(50 << 20)
}
