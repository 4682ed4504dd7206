//! The kernels compile, and to what they should. Needs NVRTC and a disassembler, but no GPU:
//!
//! `cargo test --release -p fp8gemm-jit --test kernels -- --ignored --nocapture`

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use fp8gemm_jit::sass::{Disassembler, Listing};
use fp8gemm_jit::{BASE_OPTIONS, KERNEL, KernelConfig, Nvrtc, Unit, catalog, compile_checked};

/// What a user waits for a kernel at most.
const SLOW: Duration = Duration::from_millis(500);

/// Processor time of this thread, where the system tells: other work on the machine does not count.
fn processor_time() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(Duration::from_nanos(text.split(' ').next()?.parse().ok()?))
}

/// What is wrong with one configuration's kernel; the time that it took otherwise.
fn judge(nvrtc: &Nvrtc, tool: &Disassembler, config: &KernelConfig) -> Result<Duration, String> {
    let (name, source) = (config.to_string(), config.source());
    let unit = Unit { source: &source, kernel: KERNEL, configuration: &name, options: &BASE_OPTIONS };
    let (begin, processor) = (Instant::now(), processor_time());
    let checked = compile_checked(nvrtc, &unit).map_err(|error| error.to_string())?;
    let time = processor_time().zip(processor).map_or(begin.elapsed(), |(after, before)| after - before);
    let text = tool.disassemble(&checked.compiled.cubin).map_err(|error| error.to_string())?;
    let summary = Listing::parse(&text).map_err(|error| error.to_string())?.summary();
    println!(
        "{:4.0} ms {:4.0} waited, {:2} KB, {} registers, QGMMA {:2}, FFMA {:3}, TMA {:2} in {:2} out, {:4} instructions  {name}",
        time.as_secs_f64() * 1e3,
        checked.compiled.elapsed.as_secs_f64() * 1e3,
        checked.compiled.cubin.len() / 1024,
        checked.report.kernels[0].registers,
        summary.qgmma,
        summary.main_loops.iter().map(|one| one.ffma).sum::<u32>(),
        summary.utmaldg,
        summary.utmastg,
        summary.instructions,
    );
    let faults: Vec<_> = summary.faults(config).iter().map(ToString::to_string).collect();
    if faults.is_empty() { Ok(time) } else { Err(faults.join("; ")) }
}

/// Breaks if a configuration of the cover does not compile, spills, has a stack frame or local
/// memory, is serialised by ptxas (C75xx), does not fit shared memory, or its machine code is not
/// what `fp8gemm_jit::sass` asks for: numbers of QGMMA and TMA instructions, no register-bank
/// conflict in the promotion, no memory barrier in the main loop; or if kernels take too long.
#[test]
#[ignore = "needs NVRTC and nvdisasm"]
fn the_cover_compiles_to_good_code() {
    let nvrtc = Nvrtc::find(None).unwrap();
    let tool = Disassembler::find(Some(nvrtc.path())).unwrap();
    println!("{nvrtc}; {}", tool.path().display());
    let cover = catalog::cover();
    let (mut times, mut faults) = (Vec::new(), Vec::new());
    for config in &cover {
        // The source asserts that the kernel's own sum is the same.
        assert!(config.check().is_ok() && config.shared_bytes() <= fp8gemm_jit::SHARED_LIMIT);
        match judge(&nvrtc, &tool, config) {
            Ok(time) => times.push((time, config)),
            Err(fault) => faults.push(format!("{config}: {fault}")),
        }
    }
    assert!(faults.is_empty(), "{} of {} configurations:\n{}", faults.len(), cover.len(), faults.join("\n"));
    times.sort_by_key(|(time, _)| *time);
    let (median, (longest, config)) = (times[times.len() / 2].0, times[times.len() - 1]);
    println!(
        "NVRTC {:?}, {} kernels: median {median:.0?}, at most {longest:.0?} ({config})",
        nvrtc.version(),
        times.len()
    );
    assert!(median < SLOW, "a kernel takes {median:?} (median)");
}
