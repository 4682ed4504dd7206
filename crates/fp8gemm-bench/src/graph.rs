//! A CUDA graph that runs one kernel after the other with different weights, as serving does.

use std::sync::Arc;

use cudarc::driver::{CudaStream, sys};

use crate::BenchError;
use crate::cold::{elapsed, event, record, wait};
use crate::stats::Times;
use crate::subject::Subject;

/// Launches in the graph, each with its own weights.
const CHAIN: usize = 20;

/// Microseconds of a kernel in the chain: with ordinary launches, and with launches that overlap
/// the kernel before them where the subject can do that.
pub(crate) fn run(
    stream: &Arc<CudaStream>,
    subject: &Subject<'_>,
    repeat: usize,
) -> Result<(Option<Times>, Option<Times>), BenchError> {
    let mut sets = vec![subject.buffers().clone()];
    for _ in 1..CHAIN {
        sets.push(subject.buffers().other_weights(stream)?);
    }
    let subject = subject.with_sets(sets)?;
    wait(stream)?;
    let plain = chain(stream, &subject, repeat, false)?;
    let overlapped = if subject.can_overlap() { chain(stream, &subject, repeat, true)? } else { None };
    Ok((plain, overlapped))
}

fn chain(
    stream: &Arc<CudaStream>,
    subject: &Subject<'_>,
    repeat: usize,
    overlap: bool,
) -> Result<Option<Times>, BenchError> {
    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    stream.begin_capture(mode).map_err(BenchError::cuda("cuStreamBeginCapture"))?;
    let launched = (0..CHAIN).try_for_each(|set| subject.launch_with(set, stream, overlap));
    // Ended even after an error: a stream left capturing takes no other work.
    let graph = stream.end_capture(sys::CUgraphInstantiate_flags(0));
    launched?;
    let Some(graph) = graph.map_err(BenchError::cuda("cuStreamEndCapture"))? else { return Ok(None) };
    graph.upload().map_err(BenchError::cuda("cuGraphUpload"))?;
    let mut times = Vec::with_capacity(repeat);
    for run in 0..=repeat {
        let (start, end) = (event(stream)?, event(stream)?);
        record(&start, stream)?;
        graph.launch().map_err(BenchError::cuda("cuGraphLaunch"))?;
        record(&end, stream)?;
        let us = elapsed(&start, &end)? / CHAIN as f64;
        // The first replay warms up.
        if run > 0 {
            times.push(us);
        }
    }
    Ok(Times::of(&times))
}
