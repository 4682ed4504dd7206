//! Back to back for seconds, with buffers that take turns so that the L2 cache holds little of the
//! next launch: what the power limit leaves.

use std::collections::VecDeque;
use std::sync::Arc;

use cudarc::driver::CudaStream;

use crate::BenchError;
use crate::cold::{Timer, elapsed, event, record, wait};
use crate::nvml::{Monitor, Readings};
use crate::report::Sustained;
use crate::subject::{Subject, l2_bytes};

/// Microseconds of launches between two events.
const BATCH: f64 = 20_000.0;
/// Seconds before the clock starts: the power limit has a say only once the card is at work.
const WARM_UP: f64 = 0.5;
/// Bytes of all sets at most.
const MOST: usize = 8 << 30;

/// Times one subject for `seconds`.
pub(crate) fn run(
    stream: &Arc<CudaStream>,
    subject: &Subject<'_>,
    seconds: f64,
    monitor: Option<&Monitor>,
) -> Result<Sustained, BenchError> {
    let bytes = subject.buffers().bytes().max(1);
    let wanted = 2 * l2_bytes(stream.context()) / bytes + 2;
    let count = wanted.min(MOST / bytes).max(1);
    let mut sets = vec![subject.buffers().clone()];
    for _ in 1..count {
        sets.push(subject.buffers().other(stream)?);
    }
    let subject = subject.with_sets(sets)?;
    let quick = Timer::quick(stream, &subject)?;
    let batch = (BATCH / quick.max(0.1)).ceil().max(1.0) as usize;

    let mut launched = 0;
    let mut put = |launches: usize| -> Result<(), BenchError> {
        for _ in 0..launches {
            subject.launch(launched, stream)?;
            launched += 1;
        }
        Ok(())
    };
    let warm_up = event(stream)?;
    record(&warm_up, stream)?;
    let mut readings = Readings::default();
    let mut start = None;
    let mut ends = VecDeque::new();
    let mut timed = 0;
    // One batch is always waiting while another runs: the GPU never waits for the host.
    loop {
        put(batch)?;
        let end = event(stream)?;
        record(&end, stream)?;
        ends.push_back(end);
        if ends.len() < 3 {
            continue;
        }
        let Some(done) = ends.pop_front() else { continue };
        match (monitor, &start) {
            (Some(monitor), Some(_)) => monitor.watch(&done, &mut readings),
            _ => done.synchronize().map_err(BenchError::cuda("cuEventSynchronize"))?,
        }
        match &start {
            None if elapsed(&warm_up, &done)? >= WARM_UP * 1e6 => start = Some(done),
            None => {}
            Some(begun) => {
                timed += batch;
                let us = elapsed(begun, &done)?;
                if us >= seconds * 1e6 {
                    wait(stream)?;
                    return Ok(Sustained {
                        us: us / timed as f64,
                        launches: timed,
                        seconds: us / 1e6,
                        sets: subject.sets(),
                        gpu: readings.state(),
                    });
                }
            }
        }
    }
}
