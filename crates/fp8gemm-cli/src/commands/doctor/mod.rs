//! `fp8gemm doctor`: what this machine has, what is missing, and what that means.

mod cpu;
mod gpu;

use serde::Serialize;

use super::{SUCCESS, print};
use crate::engine::{COMPUTES, Chosen};
use crate::error::CliError;
use crate::text::{count, table};
use cpu::Cpu;
use gpu::{CacheReport, Gpu, NvrtcReport};

#[derive(Serialize)]
struct Report {
    command: &'static str,
    version: &'static str,
    platform: Platform,
    cpu: Cpu,
    gpu: Gpu,
    nvrtc: NvrtcReport,
    cache: CacheReport,
    auto: Auto,
    conclusions: Vec<String>,
}

#[derive(Serialize)]
struct Platform {
    os: &'static str,
    arch: &'static str,
}

/// What `--engine auto` takes for a problem that the kernels compute.
#[derive(Serialize)]
struct Auto {
    engine: Chosen,
    reason: String,
}

/// Runs the command; always succeeds.
pub(crate) fn run(json: bool) -> Result<u8, CliError> {
    let report = Report::new();
    print(json, &report, || report.text())?;
    Ok(SUCCESS)
}

impl Report {
    fn new() -> Self {
        let cpu = Cpu::new();
        // Before the self-test may add to it.
        let cache = CacheReport::new();
        let nvrtc = NvrtcReport::new();
        let gpu = Gpu::new();
        let auto = Auto::new(&gpu, &nvrtc, &cache);
        let mut conclusions = vec![if cpu.self_test {
            "verify, gemm and quantize work here on the CPU.".to_owned()
        } else {
            "The implementations of the twin disagree on this CPU: please report this, with this output.".to_owned()
        }];
        if gpu.self_test.as_ref().is_some_and(|test| !test.passed && test.error.is_none()) {
            conclusions.push("GPU and twin disagree: please report this, with this output.".to_owned());
        }
        conclusions.push(match auto.engine {
            Chosen::Hopper => format!("--engine auto takes {}", auto.reason),
            Chosen::Twin => format!("--engine auto takes the CPU twin: {}.", auto.reason),
        });
        let platform = Platform { os: std::env::consts::OS, arch: std::env::consts::ARCH };
        let version = env!("CARGO_PKG_VERSION");
        Self { command: "doctor", version, platform, cpu, gpu, nvrtc, cache, auto, conclusions }
    }

    fn text(&self) -> String {
        let Platform { os, arch } = self.platform;
        let mut text = format!("fp8gemm {} on {os} {arch}\n", self.version);
        for (title, rows) in [
            ("CPU", self.cpu.rows()),
            ("GPU", self.gpu.rows()),
            ("NVRTC, which compiles the GPU's kernels", self.nvrtc.rows()),
            ("Cache of compiled kernels", self.cache.rows()),
        ] {
            text += &format!("\n{title}\n{}", table(2, &rows));
        }
        text += "\n";
        for conclusion in &self.conclusions {
            text += conclusion;
            text += "\n";
        }
        text
    }
}

impl Auto {
    fn new(gpu: &Gpu, nvrtc: &NvrtcReport, cache: &CacheReport) -> Self {
        let twin = |reason: &str| Self { engine: Chosen::Twin, reason: reason.to_owned() };
        let Some(device) = gpu.devices.first() else {
            return twin(gpu.reason.as_deref().unwrap_or("there is no GPU"));
        };
        let name = format!("GPU {}, {},", device.ordinal, device.name);
        let error = gpu.self_test.as_ref().and_then(|test| test.error.as_deref());
        let reason = match error {
            None => format!("{name} for the policies {COMPUTES}, and the CPU twin for everything else."),
            // What was compiled before still runs.
            Some(_) if nvrtc.found.is_none() && cache.entries > 0 => format!(
                "{name} for what the {} in the cache compute, and the CPU twin for everything else: \
                 there is no NVRTC to compile more.",
                count(cache.entries as u64, "kernel")
            ),
            Some(error) => return twin(error),
        };
        Self { engine: Chosen::Hopper, reason }
    }
}
