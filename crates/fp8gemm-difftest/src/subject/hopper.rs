//! The kernels of `fp8gemm-hopper`: every candidate configuration of a problem is one way to compute it.

use std::sync::Arc;

use fp8gemm_formats::ScaledView;
use fp8gemm_hopper::cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DriverError, sys};
use fp8gemm_hopper::{DeviceMatrix, Gpu, HopperError, LaunchOptions, Operands, Plan, Prepared, ScaleForm};
use fp8gemm_jit::mutants::KernelMutant;
use fp8gemm_jit::{Cache, Compiler, JitError, KernelConfig, choose, tma_can_store};
use fp8gemm_problem::{Problem, Side};

use super::Subject;
use crate::{Alignment, Buffer, Buffers, DifftestError};

/// Device memory starts at multiples of this.
const BASE: usize = 256;

/// Guards of the scales, which are brought into the form that a kernel wants.
const GUARD: usize = 1 << 12;

/// Fills them and the gaps between rows: NaN, as f32.
const FILLER: u8 = 0xFF;

/// How a launch is made: whatever way, the bits are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// On the stream.
    Plain,
    /// On the stream, allowed to start before what is there has ended.
    Dependent,
    /// Captured in a graph, which is replayed.
    Graph,
    /// While other threads launch the same on streams and outputs of their own.
    Crowd,
}

impl Manner {
    /// In turn: the two runs of a case are one pair or the other.
    const ALL: [Self; 4] = [Self::Plain, Self::Dependent, Self::Graph, Self::Crowd];
}

/// Threads beside the one whose result is looked at.
const CROWD: usize = 3;

/// A GPU with the compiler of its kernels.
pub struct HopperSubject {
    gpu: Gpu,
    compiler: Compiler,
    stream: Arc<CudaStream>,
    /// The last one, for the second run and for properties.
    plan: Option<(Problem, KernelConfig, Plan)>,
    /// Launches so far, which take turns in their manner.
    launches: usize,
    /// Kernels that are wrong in this.
    mutant: Option<KernelMutant>,
}

impl HopperSubject {
    /// Opens the GPU of this ordinal; kernels come from the usual cache or from NVRTC.
    ///
    /// # Errors
    /// [`DifftestError::NoGpu`].
    pub fn open(ordinal: usize) -> Result<Self, DifftestError> {
        let no_gpu = |reason: String| DifftestError::NoGpu { reason };
        let gpu = Gpu::open(ordinal).map_err(|error| no_gpu(error.to_string()))?;
        let stream = gpu.context().new_stream().map_err(|error| no_gpu(error.to_string()))?;
        let compiler = Compiler::new(Cache::from_environment(), None);
        Ok(Self { gpu, compiler, stream, plan: None, launches: 0, mutant: None })
    }

    /// The same GPU with kernels that are wrong in one thing, on purpose. They are compiled anew in each
    /// process: no cache keeps them.
    ///
    /// # Errors
    /// [`DifftestError::NoGpu`].
    pub fn mutant(&self, mutant: KernelMutant) -> Result<Self, DifftestError> {
        let stream = self.gpu.context().new_stream();
        let stream = stream.map_err(|error| DifftestError::NoGpu { reason: error.to_string() })?;
        let compiler = Compiler::new(Cache::in_memory(), None);
        Ok(Self { gpu: self.gpu.clone(), compiler, stream, plan: None, launches: 0, mutant: Some(mutant) })
    }

    /// The GPU, for tests of what is no problem.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// The compiler of its kernels.
    pub fn compiler(&self) -> &Compiler {
        &self.compiler
    }

    fn candidates(&self, problem: &Problem) -> Result<Vec<KernelConfig>, DifftestError> {
        match choose(problem, self.gpu.sms()) {
            Ok(choice) => {
                let mut configs: Vec<_> = choice.candidates.iter().map(|candidate| candidate.config).collect();
                if let Some(mutant) = self.mutant {
                    configs.retain(|config| mutant.applies(config));
                    if configs.is_empty() {
                        return Err(self.unsupported(problem, "its kernels have no such part".to_owned()));
                    }
                }
                Ok(configs)
            }
            Err(JitError::Unsupported { rule, .. }) => Err(self.unsupported(problem, rule)),
            Err(error) => Err(self.failed(problem, &error)),
        }
    }

    fn plan(&mut self, problem: &Problem, config: KernelConfig) -> Result<Plan, DifftestError> {
        if let Some((of, with, plan)) = &self.plan
            && (*of, *with) == (*problem, config)
        {
            return Ok(plan.clone());
        }
        let plan = match self.mutant {
            None => Plan::with_config(&self.gpu, &self.compiler, problem, config),
            Some(mutant) => Plan::mutant(&self.gpu, &self.compiler, problem, config, mutant),
        };
        let plan = match plan {
            // As a plan does by itself: another candidate has the same bits.
            Err(HopperError::Jit(error @ JitError::Rejected { .. })) => {
                return Err(self.unsupported(problem, error.to_string()));
            }
            plan => plan.map_err(|error| self.failed(problem, &error))?,
        };
        self.plan = Some((*problem, config, plan.clone()));
        Ok(plan)
    }

    fn unsupported(&self, problem: &Problem, rule: String) -> DifftestError {
        DifftestError::Unsupported { subject: self.name(), problem: *problem, rule }
    }

    fn failed(&self, problem: &Problem, error: &dyn std::error::Error) -> DifftestError {
        DifftestError::Subject { subject: self.name(), problem: *problem, reason: error.to_string() }
    }

    fn launch(&mut self, plan: &Plan, problem: &Problem, buffers: &mut Buffers) -> Result<(), Trouble> {
        let stream = self.stream.clone();
        let [scales_a, scales_b] = buffers.scales().map_err(|error| Trouble(error.to_string()))?;
        let views = (buffers.operand_a(problem, &scales_a), buffers.operand_b(problem, &scales_b));
        let (view_a, view_b) = (views.0.map_err(Trouble::of)?, views.1.map_err(Trouble::of)?);
        let sa = Scales::new(&stream, plan.scale_form(Side::A), &view_a)?;
        let sb = Scales::new(&stream, plan.scale_form(Side::B), &view_b)?;
        let (a, b) = (OnDevice::new(&stream, &buffers.a)?, OnDevice::new(&stream, &buffers.b)?);
        let d = OnDevice::new(&stream, &buffers.d)?;
        let c = buffers.c.as_ref().filter(|_| problem.epilogue.reads_c());
        let c = c.map(|c| OnDevice::new(&stream, c)).transpose()?;
        let at_d = d.matrix(&stream, &buffers.d);
        let at_c = match (&c, &buffers.c) {
            (Some(c), Some(buffer)) => Some(c.matrix(&stream, buffer)),
            _ => buffers.c_in_place.then_some(at_d),
        };
        let operands = Operands {
            a: a.matrix(&stream, &buffers.a),
            b: b.matrix(&stream, &buffers.b),
            scale_a: sa.matrix(&stream),
            scale_b: sb.matrix(&stream),
            c: at_c,
            d: at_d,
        };
        let workspace: CudaSlice<u8> = stream.alloc_zeros(plan.workspace_bytes().max(1))?;
        let (pointer, _used) = workspace.device_ptr(&stream);
        let prepared = plan.prepare_with_workspace(&operands, pointer).map_err(Trouble::of)?;
        let manner = Manner::ALL[self.launches % Manner::ALL.len()];
        self.launches += 1;
        match manner {
            Manner::Plain => launch(&prepared, &stream, false)?,
            Manner::Dependent => launch(&prepared, &stream, true)?,
            Manner::Graph => replay(&prepared, &stream)?,
            Manner::Crowd => {
                let others = (0..CROWD).map(|_| Other::new(plan, &stream, &operands, &buffers.d));
                let others = others.collect::<Result<Vec<_>, Trouble>>()?;
                crowd(&prepared, &stream, &others)?;
                d.fetch(&stream, &mut buffers.d)?;
                let expected = &buffers.d.bytes()[d.shift..];
                for other in &others {
                    if stream.clone_dtoh(&other.d.device)? != expected {
                        return Err(Trouble("launches from several threads at once differ".to_owned()));
                    }
                }
            }
        }
        d.fetch(&stream, &mut buffers.d)?;
        // Inputs too: the runner looks for what was written there.
        a.fetch(&stream, &mut buffers.a)?;
        b.fetch(&stream, &mut buffers.b)?;
        if let (Some(c), Some(buffer)) = (&c, &mut buffers.c) {
            c.fetch(&stream, buffer)?;
        }
        for (side, scales) in [("A", &sa), ("B", &sb)] {
            if stream.clone_dtoh(&scales.device)? != scales.image {
                return Err(Trouble(format!("the scales of {side}, or memory beside them, were written")));
            }
        }
        Ok(())
    }
}

impl Subject for HopperSubject {
    fn name(&self) -> String {
        let mutant = self.mutant.map_or_else(String::new, |mutant| format!(", mutant {mutant}"));
        format!("GPU {}, {}{mutant}", self.gpu.info().ordinal, self.gpu.info().name)
    }

    /// What TMA asks for; C and D may lie anywhere where their rows do not allow TMA anyway.
    fn alignment(&self, problem: &Problem) -> Alignment {
        Alignment { operands: 16, outputs: if tma_can_store(problem) { 16 } else { 1 }, c_in_place: true }
    }

    fn configurations(&mut self, problem: &Problem) -> Result<Vec<String>, DifftestError> {
        Ok(self.candidates(problem)?.iter().map(ToString::to_string).collect())
    }

    fn run(&mut self, problem: &Problem, configuration: usize, buffers: &mut Buffers) -> Result<(), DifftestError> {
        let candidates = self.candidates(problem)?;
        let Some(config) = candidates.get(configuration).copied() else {
            let (subject, index, configurations) = (self.name(), configuration, candidates.len());
            return Err(DifftestError::Configuration { subject, index, configurations });
        };
        let plan = self.plan(problem, config)?;
        self.launch(&plan, problem, buffers).map_err(|Trouble(reason)| DifftestError::Subject {
            subject: self.name(),
            problem: *problem,
            reason: format!("{config}: {reason}"),
        })
    }
}

/// The only place that launches. Whoever calls it holds the memory that `prepared` was made for, with the
/// strides of its buffers, until the stream has been waited for.
fn launch(prepared: &Prepared, stream: &CudaStream, overlap: bool) -> Result<(), Trouble> {
    let options = LaunchOptions::default().overlapping_previous(overlap);
    #[expect(unsafe_code, reason = "a launch on raw pointers, so that matrices may lie between guards")]
    // SAFETY: all matrices lie inside allocations that live until `HopperSubject::launch` returns, which waits
    // for every stream before that; outputs of concurrent launches lie in allocations of their own.
    unsafe { prepared.launch_with(stream, options) }.map_err(Trouble::of)
}

/// One launch, captured and replayed once.
fn replay(prepared: &Prepared, stream: &Arc<CudaStream>) -> Result<(), Trouble> {
    stream.synchronize()?;
    stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
    let launched = launch(prepared, stream, false);
    // Ended whatever happened, so that the stream can be used again.
    let graph = stream.end_capture(sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH)?;
    launched?;
    let graph = graph.ok_or_else(|| Trouble("the captured graph is empty".to_owned()))?;
    graph.launch()?;
    // Before the graph goes.
    Ok(stream.synchronize()?)
}

/// Somebody else's launch of the same: stream, D and workspace are its own.
struct Other {
    stream: Arc<CudaStream>,
    d: OnDevice,
    prepared: Prepared,
    _workspace: CudaSlice<u8>,
}

impl Other {
    fn new(plan: &Plan, stream: &Arc<CudaStream>, operands: &Operands, image: &Buffer) -> Result<Self, Trouble> {
        let d = OnDevice::new(stream, image)?;
        let at = d.matrix(stream, image);
        let in_place = operands.c.is_some_and(|c| c.pointer == operands.d.pointer);
        let c = if in_place { Some(at) } else { operands.c };
        let workspace: CudaSlice<u8> = stream.alloc_zeros(plan.workspace_bytes().max(1))?;
        let pointer = workspace.device_ptr(stream).0;
        let prepared =
            plan.prepare_with_workspace(&Operands { c, d: at, ..*operands }, pointer).map_err(Trouble::of)?;
        Ok(Self { stream: stream.context().new_stream()?, d, prepared, _workspace: workspace })
    }
}

/// All at once, each from a thread of its own; waits for all.
fn crowd(prepared: &Prepared, stream: &Arc<CudaStream>, others: &[Other]) -> Result<(), Trouble> {
    // What they read has been uploaded on the one stream.
    stream.synchronize()?;
    let launched = std::thread::scope(|scope| {
        let threads: Vec<_> =
            others.iter().map(|other| scope.spawn(|| launch(&other.prepared, &other.stream, false))).collect();
        let mut result = launch(prepared, stream, false);
        for thread in threads {
            let other = thread.join().unwrap_or_else(|_| Err(Trouble("a launching thread panicked".to_owned())));
            result = result.and(other);
        }
        result
    });
    // Even if one of them failed: the memory of the others must outlive them.
    let streams = others.iter().map(|other| &other.stream).chain([stream]);
    let waited: Vec<_> = streams.map(|stream| stream.synchronize()).collect();
    launched?;
    Ok(waited.into_iter().collect::<Result<(), DriverError>>()?)
}

/// What went wrong on the way to a launch and back.
#[derive(Debug)]
struct Trouble(String);

impl Trouble {
    fn of(error: impl std::error::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<DriverError> for Trouble {
    fn from(error: DriverError) -> Self {
        Self::of(error)
    }
}

/// A buffer's memory, guards included, on the GPU.
struct OnDevice {
    device: CudaSlice<u8>,
    /// Bytes at the buffer's begin that stay behind, so that addresses have the same remainder by
    /// [`BASE`] there as here.
    shift: usize,
}

impl OnDevice {
    fn new(stream: &Arc<CudaStream>, buffer: &Buffer) -> Result<Self, Trouble> {
        let address = buffer.bytes().as_ptr() as usize;
        let shift = address.next_multiple_of(BASE) - address;
        Ok(Self { device: stream.clone_htod(&buffer.bytes()[shift..])?, shift })
    }

    fn matrix(&self, stream: &CudaStream, buffer: &Buffer) -> DeviceMatrix {
        let start = (buffer.start() - self.shift) as u64;
        DeviceMatrix { pointer: self.device.device_ptr(stream).0 + start, stride: buffer.stride() }
    }

    fn fetch(&self, stream: &Arc<CudaStream>, buffer: &mut Buffer) -> Result<(), Trouble> {
        stream.memcpy_dtoh(&self.device, &mut buffer.bytes_mut()[self.shift..])?;
        Ok(stream.synchronize()?)
    }
}

/// Scales in the form that a kernel reads, between guards.
struct Scales {
    image: Vec<u8>,
    device: CudaSlice<u8>,
    stride: usize,
}

impl Scales {
    fn new(stream: &Arc<CudaStream>, form: ScaleForm, x: &ScaledView<'_>) -> Result<Self, Trouble> {
        let (image, stride) = scale_image(form, x);
        let device = stream.clone_htod(&image)?;
        Ok(Self { image, device, stride })
    }

    fn matrix(&self, stream: &CudaStream) -> DeviceMatrix {
        DeviceMatrix { pointer: self.device.device_ptr(stream).0 + GUARD as u64, stride: self.stride }
    }
}

/// The scales as the kernel reads them, between guards, and the numbers from one row of them to the next.
fn scale_image(form: ScaleForm, x: &ScaledView<'_>) -> (Vec<u8>, usize) {
    let (height, width) = form.shape(x.rows(), x.columns());
    // 1x128 scales come through TMA: rows of multiples of 16 bytes.
    let stride = if form == ScaleForm::BlocksByRows { width.next_multiple_of(4) + 4 } else { width };
    let mut image = vec![FILLER; GUARD + height * stride * 4 + GUARD];
    for i in 0..height {
        for j in 0..width {
            let (row, column) = match form {
                ScaleForm::One => (0, 0),
                ScaleForm::Rows => (j, 0),
                ScaleForm::BlocksByRows => (j, i * 128),
                ScaleForm::Squares => (i * 128, j * 128),
            };
            let at = GUARD + (i * stride + j) * 4;
            image[at..at + 4].copy_from_slice(&x.scale_at(row, column).to_ne_bytes());
        }
    }
    (image, stride)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fp8gemm_formats::ScaledMatrix;
    use fp8gemm_problem::{OperandType, ScaleLayout};
    use ndarray::Array2;

    /// Breaks if a scale lies where a kernel would take it for another row's or block's. Needs no GPU.
    #[test]
    fn scales_lie_where_kernels_read_them() {
        let number = |image: &[u8], at: usize| f32::from_ne_bytes(image[at..at + 4].try_into().unwrap());
        let (rows, k) = (130, 300);
        for (layout, form, expected) in [
            (ScaleLayout::Tensor, ScaleForm::One, vec![((0, 0), 0.0)]),
            (ScaleLayout::Row, ScaleForm::Rows, vec![((0, 129), 129.0)]),
            (ScaleLayout::Tensor, ScaleForm::Rows, vec![((0, 129), 0.0)]),
            // Row 5 in block 2 is number 5 * 3 + 2 of the matrix.
            (ScaleLayout::Block1x128, ScaleForm::BlocksByRows, vec![((2, 5), 17.0), ((0, 129), 387.0)]),
            (ScaleLayout::Block128x128, ScaleForm::Squares, vec![((1, 2), 5.0)]),
            (ScaleLayout::Block128x128, ScaleForm::BlocksByRows, vec![((2, 127), 2.0), ((2, 128), 5.0)]),
        ] {
            let shape = layout.scale_shape(rows, k);
            let scales = Array2::from_shape_fn(shape, |(row, column)| (row * shape.1 + column) as f32);
            let x = ScaledMatrix::new(OperandType::E4m3, layout, Array2::zeros((rows, k)), scales).unwrap();
            let (image, stride) = scale_image(form, &x.view());
            for ((row, column), value) in expected {
                assert_eq!(number(&image, GUARD + (row * stride + column) * 4), value, "{layout} {form:?}");
            }
            assert!(image[..GUARD].iter().chain(&image[image.len() - GUARD..]).all(|byte| *byte == FILLER));
            assert!(form != ScaleForm::BlocksByRows || stride.is_multiple_of(4));
        }
    }
}
