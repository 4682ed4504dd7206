//! A CUDA graph that runs one kernel after the other with different weights, as serving does.

use std::sync::Arc;

use cudarc::driver::{CudaStream, sys};

use crate::BenchError;
use crate::cold::{elapsed, event, record, wait};
use crate::stats::Times;
use crate::subject::{Overlap, Subject, l2_bytes};

/// Launches in the graph, each with its own weights: at least so many.
const LEAST: usize = 20;
/// At most so many: what smaller weights than about 1.5 MB leave in the L2 cache stays there.
const MOST: usize = 128;
/// The weights of all launches together are so many L2 caches, so that none finds its own there.
const CACHES: usize = 3;

/// Microseconds of a kernel in the chain.
pub(crate) struct Chain {
    /// Launches in the graph.
    pub(crate) launches: usize,
    /// With ordinary launches.
    pub(crate) plain: Option<Times>,
    /// With programmatic dependent launch, where the subject can do that.
    pub(crate) dependent: Option<Times>,
    /// With that, and with weights loaded before the kernel before has ended.
    pub(crate) constant_weights: Option<Times>,
}

/// Launches whose weights, of so many bytes each, together do not fit the L2 cache.
fn launches(weights: usize, l2: usize) -> usize {
    (CACHES * l2).div_ceil(weights.max(1)).clamp(LEAST, MOST)
}

/// Times the subject in a graph.
pub(crate) fn run(stream: &Arc<CudaStream>, subject: &Subject<'_>, repeat: usize) -> Result<Chain, BenchError> {
    let launches = launches(subject.buffers().b.len(), l2_bytes(stream.context()));
    let mut sets = vec![subject.buffers().clone()];
    for _ in 1..launches {
        sets.push(subject.buffers().other_weights(stream)?);
    }
    let subject = subject.with_sets(sets)?;
    wait(stream)?;
    let time = |overlap| chain(stream, &subject, repeat, overlap);
    let overlapping = |overlap| if subject.can_overlap() { time(overlap) } else { Ok(None) };
    Ok(Chain {
        launches,
        plain: time(Overlap::None)?,
        dependent: overlapping(Overlap::Start)?,
        constant_weights: overlapping(Overlap::Weights)?,
    })
}

fn chain(
    stream: &Arc<CudaStream>,
    subject: &Subject<'_>,
    repeat: usize,
    overlap: Overlap,
) -> Result<Option<Times>, BenchError> {
    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    stream.begin_capture(mode).map_err(BenchError::cuda("cuStreamBeginCapture"))?;
    let launched = (0..subject.sets()).try_for_each(|set| subject.launch_with(set, stream, overlap));
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
        let us = elapsed(&start, &end)? / subject.sets() as f64;
        // The first replay warms up.
        if run > 0 {
            times.push(us);
        }
    }
    Ok(Times::of(&times))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Breaks if the weights of decode shapes come from the L2 cache, or a chain grows without end.
    #[test]
    fn small_weights_get_longer_chains() {
        let l2 = 60 << 20;
        for (n, k, expected) in [(576, 7168, 46), (2112, 7168, 20), (7168, 16384, 20), (128, 128, MOST), (0, 0, MOST)] {
            let count = launches(n * k, l2);
            assert_eq!(count, expected, "{n}x{k}");
            assert!(count == MOST || count * n * k > 2 * l2);
        }
    }
}
