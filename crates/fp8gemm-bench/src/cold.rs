//! Kernels' own times. Cold, the regime of the recorded times: before every run a memset of 8 GB, which
//! leaves the L2 cache full of other (dirty) lines and the clocks cool, or another [`Flusher`]. Warm: the
//! same launch again and again.
//!
//! All launches are put on one stream at once, the rivals taking turns, so that the GPU never waits
//! for the host; CUPTI's records are told apart afterwards by their order.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cudarc::driver::{CudaEvent, CudaFunction, CudaStream, LaunchConfig, sys};
use cudarc::nvrtc::Ptx;
use fp8gemm_jit::{BASE_OPTIONS, Compiler, Unit};

use crate::BenchError;
use crate::cupti::{Cupti, KernelRecord};
use crate::memory::Buffer;
use crate::memory_kernels::Flusher;
use crate::nvml::{Monitor, Readings};
use crate::stats::Times;
use crate::subject::Subject;

/// Memsets and nothing else for so long before the first run: seen on an H200, the power limit lets go
/// of the clocks within a few tens of milliseconds.
const COOL_DOWN: Duration = Duration::from_millis(300);
/// Runs of the warm regime that are not counted.
const WARM_UP: usize = 5;

/// What measures kernels.
pub(crate) enum Timer {
    /// CUPTI's activity records.
    Cupti(Cupti),
    /// CUDA events around each launch: about a microsecond more.
    Events {
        /// Why not CUPTI.
        reason: String,
        /// Microseconds that an empty kernel takes between events.
        empty: f64,
    },
}

impl Timer {
    /// CUPTI, or events where it is not there.
    pub(crate) fn new(stream: &Arc<CudaStream>, compiler: &Compiler, events: bool) -> Result<Self, BenchError> {
        let reason = if events {
            "as asked".to_owned()
        } else {
            match Cupti::load() {
                Ok(cupti) => return Ok(Self::Cupti(cupti)),
                Err(error) => error.to_string(),
            }
        };
        tracing::warn!(reason, "times are taken by events");
        Ok(Self::Events { reason, empty: empty_kernel(stream, compiler)? })
    }

    /// In one line.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Cupti(cupti) => cupti.describe(),
            Self::Events { reason, empty } => {
                format!("events: an empty kernel takes {empty:.2} us between them; no CUPTI: {reason}")
            }
        }
    }

    /// Microseconds of a launch, roughly: the least of a few, by events, L2 warm.
    pub(crate) fn quick(stream: &Arc<CudaStream>, subject: &Subject<'_>) -> Result<f64, BenchError> {
        let mut best = f64::INFINITY;
        for _ in 0..5 {
            let (start, end) = (event(stream)?, event(stream)?);
            record(&start, stream)?;
            for _ in 0..4 {
                subject.launch(0, stream)?;
            }
            record(&end, stream)?;
            best = best.min(elapsed(&start, &end)? / 4.0);
        }
        Ok(best)
    }

    /// Microseconds of a launch after `flush`, roughly, for choosing an algorithm: the least of a few,
    /// by events.
    pub(crate) fn rank(stream: &Arc<CudaStream>, subject: &Subject<'_>, flush: &Buffer) -> Result<f64, BenchError> {
        let mut pairs = Vec::new();
        for _ in 0..7 {
            let (start, end) = (event(stream)?, event(stream)?);
            flush.fill(stream, 0)?;
            record(&start, stream)?;
            subject.launch(0, stream)?;
            record(&end, stream)?;
            pairs.push((start, end));
        }
        let times = pairs.iter().map(|(start, end)| elapsed(start, end));
        Ok(times.collect::<Result<Vec<_>, _>>()?.into_iter().fold(f64::INFINITY, f64::min))
    }

    /// Microseconds that a launch keeps the host busy.
    pub(crate) fn host(stream: &Arc<CudaStream>, subject: &Subject<'_>) -> Result<Option<Times>, BenchError> {
        subject.launch(0, stream)?;
        wait(stream)?;
        // Far fewer than the driver queues before it makes the host wait.
        let mut times = Vec::new();
        for _ in 0..100 {
            let begun = Instant::now();
            subject.launch(0, stream)?;
            times.push(begun.elapsed().as_secs_f64() * 1e6);
        }
        wait(stream)?;
        Ok(Times::of(&times))
    }

    /// Times of each subject in microseconds, `repeat` of each, in the order of the rounds.
    ///
    /// # Errors
    /// Those of the launches; [`BenchError::Records`] if the records are not those of the launches.
    pub(crate) fn cold(
        &self,
        stream: &Arc<CudaStream>,
        subjects: &[&Subject<'_>],
        flush: &Flusher,
        repeat: usize,
        monitor: Option<&Monitor>,
        readings: &mut Readings,
    ) -> Result<Vec<Vec<f64>>, BenchError> {
        for subject in subjects {
            subject.launch(0, stream)?;
        }
        // What ran before (the search for algorithms) may have pulled the clocks down.
        let begun = Instant::now();
        while begun.elapsed() < COOL_DOWN {
            for _ in 0..8 {
                flush.flush(stream)?;
            }
            wait(stream)?;
        }
        // Each goes first, second, third equally often.
        let order: Vec<usize> =
            (0..repeat).flat_map(|run| (0..subjects.len()).map(move |i| (run + i) % subjects.len())).collect();
        self.timed(stream, subjects, &order, Some(flush), monitor, readings)
    }

    /// Times of each subject in microseconds, `repeat` of each, where the launch before was the same.
    ///
    /// # Errors
    /// As [`cold`](Self::cold).
    pub(crate) fn warm(
        &self,
        stream: &Arc<CudaStream>,
        subjects: &[&Subject<'_>],
        repeat: usize,
    ) -> Result<Vec<Vec<f64>>, BenchError> {
        let order: Vec<usize> =
            (0..subjects.len()).flat_map(|index| std::iter::repeat_n(index, WARM_UP + repeat)).collect();
        let mut times = self.timed(stream, subjects, &order, None, None, &mut Readings::default())?;
        times.iter_mut().for_each(|times| drop(times.drain(..WARM_UP)));
        Ok(times)
    }

    /// Launches subjects in this order, each after a flush if there is one.
    fn timed(
        &self,
        stream: &Arc<CudaStream>,
        subjects: &[&Subject<'_>],
        order: &[usize],
        flush: Option<&Flusher>,
        monitor: Option<&Monitor>,
        readings: &mut Readings,
    ) -> Result<Vec<Vec<f64>>, BenchError> {
        let flushed = || flush.map_or(Ok(()), |flush| flush.flush(stream));
        let mut times = vec![Vec::new(); subjects.len()];
        match self {
            Self::Cupti(cupti) => {
                cupti.start()?;
                // How many kernels a product is made of.
                let mut parts = Vec::new();
                for subject in subjects {
                    subject.launch(0, stream)?;
                    wait(stream)?;
                    parts.push(cupti.take()?.into_iter().map(|record| record.name).collect::<Vec<_>>());
                }
                for &index in order {
                    flushed()?;
                    subjects[index].launch(0, stream)?;
                }
                watch(stream, monitor, readings)?;
                let mut records = cupti.take()?;
                cupti.stop()?;
                let flush = flush.and_then(Flusher::kernel);
                records.retain(|record| Some(record.name.as_str()) != flush);
                attribute(&records, &parts, order, &mut times)?;
            }
            Self::Events { .. } => {
                let mut pairs = Vec::new();
                for &index in order {
                    let (start, end) = (event(stream)?, event(stream)?);
                    flushed()?;
                    record(&start, stream)?;
                    subjects[index].launch(0, stream)?;
                    record(&end, stream)?;
                    pairs.push((index, start, end));
                }
                watch(stream, monitor, readings)?;
                for (index, start, end) in pairs {
                    times[index].push(elapsed(&start, &end)?);
                }
            }
        }
        Ok(times)
    }
}

/// Sums the kernels of each product, and makes sure that each record is the kernel that was
/// launched there. A gap between two kernels of one product counts for nothing, as in the recorded
/// times.
fn attribute(
    records: &[KernelRecord],
    parts: &[Vec<String>],
    order: &[usize],
    times: &mut [Vec<f64>],
) -> Result<(), BenchError> {
    let expected = order.iter().map(|&index| parts[index].len()).sum();
    let failed = |detail: String| Err(BenchError::Records { expected, found: records.len(), detail });
    if parts.iter().any(Vec::is_empty) {
        return failed("; a product had none at all".to_owned());
    }
    if records.len() != expected {
        return failed(String::new());
    }
    let mut rest = records;
    for &index in order {
        let (own, others) = rest.split_at(parts[index].len());
        rest = others;
        if let Some((record, name)) = own.iter().zip(&parts[index]).find(|(record, name)| record.name != **name) {
            return failed(format!("; {} came where {name} was launched", record.name));
        }
        let nanoseconds: u64 = own.iter().map(|record| record.end.saturating_sub(record.start)).sum();
        times[index].push(nanoseconds as f64 / 1000.0);
    }
    Ok(())
}

/// Waits for the stream, reading clocks meanwhile.
pub(crate) fn watch(
    stream: &Arc<CudaStream>,
    monitor: Option<&Monitor>,
    readings: &mut Readings,
) -> Result<(), BenchError> {
    let end = event(stream)?;
    record(&end, stream)?;
    if let Some(monitor) = monitor {
        monitor.watch(&end, readings);
    }
    wait(stream)
}

pub(crate) fn wait(stream: &CudaStream) -> Result<(), BenchError> {
    stream.synchronize().map_err(BenchError::cuda("cuStreamSynchronize"))
}

pub(crate) fn event(stream: &CudaStream) -> Result<CudaEvent, BenchError> {
    let timed = sys::CUevent_flags::CU_EVENT_DEFAULT;
    stream.context().new_event(Some(timed)).map_err(BenchError::cuda("cuEventCreate"))
}

pub(crate) fn record(event: &CudaEvent, stream: &CudaStream) -> Result<(), BenchError> {
    event.record(stream).map_err(BenchError::cuda("cuEventRecord"))
}

/// Microseconds between events, which are waited for.
pub(crate) fn elapsed(start: &CudaEvent, end: &CudaEvent) -> Result<f64, BenchError> {
    let milliseconds = start.elapsed_ms(end).map_err(BenchError::cuda("cuEventElapsedTime"))?;
    Ok(f64::from(milliseconds) * 1000.0)
}

/// Median microseconds that events see of a kernel that does nothing.
fn empty_kernel(stream: &Arc<CudaStream>, compiler: &Compiler) -> Result<f64, BenchError> {
    let unit = Unit {
        source: "extern \"C\" __global__ void fp8gemm_nothing() {}",
        kernel: "fp8gemm_nothing",
        configuration: "does nothing: what events add",
        options: &BASE_OPTIONS,
    };
    let cubin = compiler.cubin(&unit).map_err(fp8gemm_hopper::HopperError::Jit)?;
    let module = stream.context().load_module(Ptx::from_binary(cubin.to_vec()));
    let module = module.map_err(BenchError::cuda("cuModuleLoadData"))?;
    let function: CudaFunction =
        module.load_function("fp8gemm_nothing").map_err(BenchError::cuda("cuModuleGetFunction"))?;
    let config = LaunchConfig { grid_dim: (132, 1, 1), block_dim: (384, 1, 1), shared_mem_bytes: 0 };
    // Something before it, so that the GPU does not wait for the host between the events.
    let before = Buffer::filled(stream, 256 << 20, 0)?;
    let mut times = Vec::new();
    for _ in 0..50 {
        let (start, end) = (event(stream)?, event(stream)?);
        before.fill(stream, 0)?;
        record(&start, stream)?;
        // SAFETY: the kernel has no parameters and touches nothing.
        unsafe { stream.launch_builder(&function).launch(config) }.map_err(BenchError::cuda("cuLaunchKernel"))?;
        record(&end, stream)?;
        times.push(elapsed(&start, &end)?);
    }
    Ok(Times::of(&times).map_or(0.0, |times| times.median))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(start: u64, end: u64, name: &str) -> KernelRecord {
        KernelRecord { start, end, name: name.to_owned() }
    }

    /// Breaks if a time goes to another product than the one that took it.
    #[test]
    fn records_go_to_their_products() {
        let parts = [vec!["x".to_owned()], vec!["y".to_owned(), "reduce".to_owned()]];
        let records = [
            ran(0, 2000, "x"),
            ran(5000, 6000, "y"),
            ran(6500, 6600, "reduce"),
            ran(7000, 8000, "y"),
            ran(8000, 8500, "reduce"),
            ran(9000, 12_000, "x"),
        ];
        let mut times = vec![Vec::new(); 2];
        attribute(&records, &parts, &[0, 1, 1, 0], &mut times).unwrap();
        assert_eq!(times, [vec![2.0, 3.0], vec![1.1, 1.5]]);
        let wrong = attribute(&records, &parts, &[1, 0, 1, 0], &mut times).unwrap_err();
        assert!(wrong.to_string().ends_with("x came where y was launched"), "{wrong}");
        let lost = attribute(&records[1..], &parts, &[0, 1, 1, 0], &mut times).unwrap_err();
        assert!(matches!(lost, BenchError::Records { expected: 6, found: 5, .. }));
    }
}
