//! Launches: plainly, as a dependent launch, by a replayed graph, behind another and beside others.

use std::sync::Arc;

use fp8gemm_hopper::cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DriverError, sys};
use fp8gemm_hopper::{LaunchOptions, Operands, Plan, Prepared};

use super::Trouble;
use super::memory::OnDevice;
use crate::Buffer;

/// How a launch is made: whatever way, the bits are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// On the stream.
    Plain,
    /// On the stream, allowed to start before what is there has ended.
    Dependent,
    /// Captured in a graph, which is replayed.
    Graph,
    /// Behind the same with a D of its own, which may still run while the weights are loaded, if not more.
    EarlyWeights,
    /// While other threads launch the same on streams and outputs of their own.
    Crowd,
}

impl Manner {
    /// In turn, so that the two runs of a case differ in it.
    pub(super) const ALL: [Self; 5] = [Self::Plain, Self::Dependent, Self::Graph, Self::EarlyWeights, Self::Crowd];
}

/// Threads beside the one whose result is looked at.
pub(super) const CROWD: usize = 3;

/// The only place that launches. Whoever calls it holds the memory that `prepared` was made for, with the
/// strides of its buffers, until the stream has been waited for.
pub(super) fn launch(prepared: &Prepared, stream: &CudaStream, overlap: bool) -> Result<(), Trouble> {
    launch_with(prepared, stream, LaunchOptions::default().overlapping_previous(overlap))
}

fn launch_with(prepared: &Prepared, stream: &CudaStream, options: LaunchOptions) -> Result<(), Trouble> {
    #[expect(unsafe_code, reason = "a launch on raw pointers, so that matrices may lie between guards")]
    // SAFETY: all matrices lie inside allocations that live until `HopperSubject::launch` returns, which waits
    // for every stream before that; outputs of concurrent launches lie in allocations of their own; no kernel
    // writes B.
    unsafe { prepared.launch_with(stream, options) }.map_err(Trouble::of)
}

/// Right behind another launch on the stream, as soon as that allows it, its weights perhaps before.
pub(super) fn behind(prepared: &Prepared, stream: &CudaStream, other: &Other) -> Result<(), Trouble> {
    launch(&other.prepared, stream, false)?;
    launch_with(prepared, stream, LaunchOptions::default().overlapping_previous(true).constant_weights(true))
}

/// One launch, captured and replayed once.
pub(super) fn replay(prepared: &Prepared, stream: &Arc<CudaStream>) -> Result<(), Trouble> {
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
pub(super) struct Other {
    stream: Arc<CudaStream>,
    pub(super) d: OnDevice,
    prepared: Prepared,
    _workspace: CudaSlice<u8>,
}

impl Other {
    pub(super) fn new(
        plan: &Plan,
        stream: &Arc<CudaStream>,
        operands: &Operands,
        image: &Buffer,
    ) -> Result<Self, Trouble> {
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
pub(super) fn crowd(prepared: &Prepared, stream: &Arc<CudaStream>, others: &[Other]) -> Result<(), Trouble> {
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
