//! The processor: what the twin uses of it, how fast it is, and whether its paths agree.

use std::thread;
use std::time::{Duration, Instant};

use fp8gemm::formats::ScaledMatrix;
use fp8gemm::problem::{OperandType, OutputType};
use fp8gemm::sim::{Gemm, Matrix, Path};
use ndarray::Array2;
use serde::Serialize;

use crate::commands::{bad, good};
use crate::text::{gmacs, list, path_name};

#[derive(Serialize)]
pub(super) struct Cpu {
    /// Implementation of the twin that is used.
    path: &'static str,
    paths: Vec<PathReport>,
    /// Of those that matter to speed, the instruction sets that were found.
    features: Vec<&'static str>,
    /// Threads that the twin uses, and that the system offers.
    threads: usize,
    available_threads: Option<usize>,
    /// Whether every path gave the same bits on a small GEMM.
    pub(super) self_test: bool,
}

#[derive(Serialize)]
struct PathReport {
    path: &'static str,
    gmac_per_s: f64,
    agrees: bool,
}

impl Cpu {
    pub(super) fn new() -> Self {
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

    /// Lines of the report.
    pub(super) fn rows(&self) -> Vec<Vec<String>> {
        let row = |name: &str, what: String| vec![name.to_owned(), what];
        let features = if self.features.is_empty() { "none known".to_owned() } else { self.features.join(" ") };
        let threads = match self.available_threads {
            Some(available) if available != self.threads => format!("{} of {available}", self.threads),
            _ => self.threads.to_string(),
        };
        let mut rows =
            vec![row("threads", format!("{threads} (RAYON_NUM_THREADS changes it)")), row("features", features)];
        for path in &self.paths {
            let used = if path.path == self.path { ", in use" } else { "" };
            let agrees = if path.agrees { String::new() } else { format!(", {}", bad("OTHER BITS")) };
            let speed = format!("{:<9} {:6.2} GMAC/s on one thread{used}{agrees}", path.path, path.gmac_per_s);
            rows.push(row("twin", speed));
        }
        let self_test = if self.self_test { good("passed") } else { bad("FAILED") };
        let names: Vec<_> = self.paths.iter().map(|path| path.path).collect();
        rows.push(row("self-test", format!("{self_test}: {} give the same bits", list(&names))));
        rows
    }
}

const M: usize = 64;
const K: usize = 512;

/// Operands of a small GEMM, on every kind of finite code: the same at every run.
pub(super) fn operands() -> [ScaledMatrix; 2] {
    [1u32, 2].map(|seed| {
        // A linear congruential generator; E4M3's NaN is avoided.
        let mut state = seed;
        let codes = Array2::from_shape_simple_fn((M, K), || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let code = (state >> 24) as u8;
            if code & 0x7F == 0x7F { code - 1 } else { code }
        });
        ScaledMatrix::unscaled(OperandType::E4m3, codes)
    })
}

/// The small GEMM, in one tile and so on one thread: D, and its speed.
fn sample(path: Path) -> (Option<Matrix>, f64) {
    let [a, b] = operands();
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
