//! `fp8gemm doctor`: what this machine has, what is missing, and what that means.

use std::thread;
use std::time::{Duration, Instant};

use fp8gemm::formats::ScaledMatrix;
use fp8gemm::problem::{OperandType, OutputType};
use fp8gemm::sim::{Gemm, Matrix, Path};
use ndarray::Array2;
use serde::Serialize;

use super::{SUCCESS, bad, good, print};
use crate::error::CliError;
use crate::probe::{self, Driver, Nvrtc};
use crate::text::{gmacs, list, path_name, table};

#[derive(Serialize)]
struct Report {
    command: &'static str,
    version: &'static str,
    platform: Platform,
    cpu: Cpu,
    gpu: Gpu,
    nvrtc: Compiler,
    conclusions: Vec<String>,
}

#[derive(Serialize)]
struct Platform {
    os: &'static str,
    arch: &'static str,
}

#[derive(Serialize)]
struct Cpu {
    /// Implementation of the twin that is used.
    path: &'static str,
    paths: Vec<PathReport>,
    /// Of those that matter to speed, the instruction sets that were found.
    features: Vec<&'static str>,
    /// Threads that the twin uses, and that the system offers.
    threads: usize,
    available_threads: Option<usize>,
    /// Whether every path gave the same bits on a small GEMM.
    self_test: bool,
}

#[derive(Serialize)]
struct PathReport {
    path: &'static str,
    gmac_per_s: f64,
    agrees: bool,
}

#[derive(Serialize)]
struct Gpu {
    driver: Option<Driver>,
    /// Why there is no driver.
    reason: Option<String>,
    /// Whether a GPU has the instructions that are modelled here.
    hopper: bool,
}

#[derive(Serialize)]
struct Compiler {
    found: Option<Nvrtc>,
    /// What was tried, and why it was not taken.
    tried: Vec<Tried>,
}

#[derive(Serialize)]
struct Tried {
    library: String,
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
        let gpu = match probe::driver() {
            Ok(driver) => {
                let hopper = driver.devices.iter().any(probe::Device::is_hopper);
                Gpu { driver: Some(driver), reason: None, hopper }
            }
            Err(why) => Gpu { driver: None, reason: Some(why.to_string()), hopper: false },
        };
        let search = probe::nvrtc();
        let tried = search.tried.into_iter().map(|(library, reason)| Tried { library, reason }).collect();
        let nvrtc = Compiler { found: search.found, tried };
        let mut conclusions = vec![if cpu.self_test {
            "verify, gemm and quantize work here, on the CPU.".to_owned()
        } else {
            "The implementations of the twin disagree on this CPU: please report this, with this output.".to_owned()
        }];
        conclusions.push(match (gpu.hopper, &gpu.driver) {
            (true, _) => "There is a Hopper GPU; this version has no kernels for it yet, and uses the CPU.".to_owned(),
            (false, Some(_)) => "No GPU here is a Hopper (compute capability 9.0); nothing needs one yet.".to_owned(),
            (false, None) => "There is no usable GPU; nothing needs one yet.".to_owned(),
        });
        let platform = Platform { os: std::env::consts::OS, arch: std::env::consts::ARCH };
        Self { command: "doctor", version: env!("CARGO_PKG_VERSION"), platform, cpu, gpu, nvrtc, conclusions }
    }

    fn text(&self) -> String {
        let cpu = &self.cpu;
        let mut text = format!("fp8gemm {} on {} {}\n\n", self.version, self.platform.os, self.platform.arch);
        let features = if cpu.features.is_empty() { "none known".to_owned() } else { cpu.features.join(" ") };
        let threads = match cpu.available_threads {
            Some(available) if available != cpu.threads => format!("{} of {available}", cpu.threads),
            _ => cpu.threads.to_string(),
        };
        text += "CPU\n";
        let mut rows = vec![
            vec!["threads".to_owned(), format!("{threads} (RAYON_NUM_THREADS changes it)")],
            vec!["features".to_owned(), features],
        ];
        for path in &cpu.paths {
            let used = if path.path == cpu.path { ", in use" } else { "" };
            let agrees = if path.agrees { String::new() } else { format!(", {}", bad("OTHER BITS")) };
            rows.push(vec![
                "twin".to_owned(),
                format!("{:<9} {:6.2} GMAC/s on one thread{used}{agrees}", path.path, path.gmac_per_s),
            ]);
        }
        let self_test = if cpu.self_test { good("passed") } else { bad("FAILED") };
        let names: Vec<_> = cpu.paths.iter().map(|path| path.path).collect();
        rows.push(vec!["self-test".to_owned(), format!("{self_test}: {} give the same bits", list(&names))]);
        text += &table(2, &rows);

        text += "\nGPU\n";
        match &self.gpu.driver {
            Some(driver) => {
                let version = driver.version.as_deref().unwrap_or("version unknown");
                let mut rows =
                    vec![vec!["driver".to_owned(), format!("{version}, CUDA {} ({})", driver.cuda, driver.library)]];
                for (ordinal, device) in driver.devices.iter().enumerate() {
                    let (major, minor) = device.compute_capability;
                    let hopper = if device.is_hopper() { ", Hopper" } else { "" };
                    let what = format!("{}, {major}.{minor}{hopper}, {} SMs", device.name, device.multiprocessors);
                    rows.push(vec![format!("GPU {ordinal}"), what]);
                }
                text += &table(2, &rows);
            }
            None => text += &format!("  {}\n", self.gpu.reason.as_deref().unwrap_or("not found")),
        }

        text += "\nNVRTC\n";
        match &self.nvrtc.found {
            Some(nvrtc) => text += &format!("  {} ({})\n", nvrtc.version, nvrtc.library),
            None => {
                text += "  not found; it would be taken from the loader's path, CUDA_HOME or a Python environment\n";
            }
        }
        let tried = self.nvrtc.tried.iter().map(|tried| vec![tried.library.clone(), tried.reason.clone()]);
        text += &table(2, &tried.collect::<Vec<_>>());

        text += "\n";
        for conclusion in &self.conclusions {
            text += conclusion;
            text += "\n";
        }
        text
    }
}

impl Cpu {
    fn new() -> Self {
        let mut paths = Vec::new();
        let mut reference: Option<Matrix> = None;
        for &path in Path::available() {
            let (d, gmac_per_s) = sample(path);
            let agrees = match (&reference, &d) {
                (Some(reference), Some(d)) => reference.view().bits_equal(&d.view()),
                (None, Some(_)) => true,
                (_, None) => false,
            };
            paths.push(PathReport { path: path_name(path), gmac_per_s, agrees });
            reference = reference.or(d);
        }
        Self {
            path: path_name(Path::best()),
            self_test: paths.iter().all(|path| path.agrees),
            paths,
            features: features(),
            threads: rayon::current_num_threads(),
            available_threads: thread::available_parallelism().ok().map(usize::from),
        }
    }
}

/// A small GEMM on every kind of finite code, in one tile and so on one thread: D, and its speed.
fn sample(path: Path) -> (Option<Matrix>, f64) {
    const M: usize = 64;
    const K: usize = 512;
    // A linear congruential generator, so that all runs compute the same; E4M3's NaN is avoided.
    let codes = |seed: u32| {
        let mut state = seed;
        Array2::from_shape_simple_fn((M, K), || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let code = (state >> 24) as u8;
            if code & 0x7F == 0x7F { code - 1 } else { code }
        })
    };
    let (a, b) = (codes(1), codes(2));
    let (a, b) = (ScaledMatrix::unscaled(OperandType::E4m3, a), ScaledMatrix::unscaled(OperandType::E4m3, b));
    let gemm = Gemm::new(a.view(), b.view()).output(OutputType::F32).path(path);
    // The first run warms up; short runs are repeated until the clock can measure them.
    let d = gemm.run().ok();
    let (mut runs, start) = (0, Instant::now());
    while runs == 0 || start.elapsed() < Duration::from_millis(10) {
        runs += 1;
        if gemm.run().is_err() {
            break;
        }
    }
    (d, gmacs((M * M * K) as u128 * runs, start.elapsed()))
}

/// Instruction sets that the twin or the codecs use.
fn features() -> Vec<&'static str> {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    {
        macro_rules! found {
            ($($name:tt),*) => { [$(($name, std::arch::is_x86_feature_detected!($name))),*] };
        }
        found!("sse4.1", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd")
            .into_iter()
            .filter_map(|(name, found)| found.then_some(name))
            .collect()
    }
    #[cfg(target_arch = "aarch64")]
    {
        // Part of the base instruction set.
        vec!["neon"]
    }
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
    {
        Vec::new()
    }
}
