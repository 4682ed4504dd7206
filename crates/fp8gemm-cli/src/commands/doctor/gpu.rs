//! The GPU side: driver, GPUs, NVRTC, the cache of kernels, and a small GEMM that needs them all.

use std::path::Path;

use fp8gemm::hopper::{DeviceInfo, driver_version, probe};
use fp8gemm::jit::{Attempt, Cache, JitError, Nvrtc};
use fp8gemm::problem::{Epilogue, OutputType, Policy};
use serde::Serialize;

use super::cpu::operands;
use crate::commands::{bad, good};
use crate::engine::{GpuRun, Hopper, Task, one_line};
use crate::text::{count, grouped};

#[derive(Serialize)]
pub(super) struct Gpu {
    /// Version of the driver's kernel module, where the system tells.
    driver: Option<String>,
    /// Newest CUDA version that the driver supports.
    cuda: Option<String>,
    /// The Hopper GPUs, by ordinal.
    pub(super) devices: Vec<Device>,
    /// Why there is none.
    pub(super) reason: Option<String>,
    /// A small GEMM on the first of them.
    pub(super) self_test: Option<SelfTest>,
}

#[derive(Serialize)]
pub(super) struct Device {
    pub(super) ordinal: usize,
    pub(super) name: String,
    compute_capability: String,
    multiprocessors: u32,
    memory_bytes: u64,
}

#[derive(Serialize)]
pub(super) struct SelfTest {
    /// Whether it gave the twin's bits.
    pub(super) passed: bool,
    /// The kernel that ran.
    gpu: Option<GpuRun>,
    /// Why none ran.
    pub(super) error: Option<String>,
}

impl Gpu {
    pub(super) fn new() -> Self {
        let driver = driver_version();
        match probe() {
            Ok(devices) => Self {
                driver,
                cuda: devices.first().map(|device| format!("{}.{}", device.driver / 1000, device.driver % 1000 / 10)),
                devices: devices.into_iter().map(Device::new).collect(),
                reason: None,
                self_test: Some(SelfTest::new()),
            },
            Err(error) => {
                Self { driver, cuda: None, devices: Vec::new(), reason: Some(one_line(&error)), self_test: None }
            }
        }
    }

    /// Lines of the report.
    pub(super) fn rows(&self) -> Vec<Vec<String>> {
        let row = |name: &str, what: String| vec![name.to_owned(), what];
        let mut rows = Vec::new();
        if self.driver.is_some() || self.cuda.is_some() {
            let cuda = self.cuda.as_ref().map_or_else(String::new, |cuda| format!(", CUDA {cuda}"));
            rows.push(row("driver", format!("{}{cuda}", self.driver.as_deref().unwrap_or("version unknown"))));
        }
        for device in &self.devices {
            let Device { name, compute_capability, multiprocessors, memory_bytes, .. } = device;
            let memory = *memory_bytes as f64 / f64::from(1 << 30);
            let what = format!(
                "{name}, compute capability {compute_capability} (Hopper), {multiprocessors} SMs, {memory:.1} GiB"
            );
            rows.push(row(&format!("GPU {}", device.ordinal), what));
        }
        if let Some(reason) = &self.reason {
            rows.push(row("none", reason.clone()));
        }
        if let Some(test) = &self.self_test {
            let verdict = match (test.passed, &test.error) {
                (true, _) => format!("{}: the twin's bits", good("passed")),
                (false, None) => format!("{}: other bits than the twin's", bad("FAILED")),
                (false, Some(error)) => format!("{}: {error}", bad("not run")),
            };
            rows.push(row("self-test", verdict));
            rows.extend(test.gpu.iter().map(|gpu| row("kernel", gpu.kernel_text())));
        }
        rows
    }
}

impl Device {
    fn new(info: DeviceInfo) -> Self {
        let (major, minor) = info.compute_capability;
        Self {
            ordinal: info.ordinal,
            name: info.name,
            compute_capability: format!("{major}.{minor}"),
            multiprocessors: info.sms,
            memory_bytes: info.memory,
        }
    }
}

impl SelfTest {
    fn new() -> Self {
        let [a, b] = operands();
        let task = Task {
            a: a.view(),
            b: b.view(),
            c: None,
            output: OutputType::F32,
            policy: Policy::default(),
            epilogue: Epilogue::default(),
        };
        let twin = task.gemm().run();
        match (Hopper::open(None).and_then(|hopper| hopper.run(&task)), twin) {
            (Ok(computed), Ok(twin)) => {
                Self { passed: computed.d.view().bits_equal(&twin.view()), gpu: computed.gpu, error: None }
            }
            (Err(error), _) => Self { passed: false, gpu: None, error: Some(one_line(&error)) },
            (_, Err(error)) => Self { passed: false, gpu: None, error: Some(error.to_string()) },
        }
    }
}

/// The search for NVRTC.
#[derive(Serialize)]
pub(super) struct NvrtcReport {
    pub(super) found: Option<Found>,
    /// What was tried before it, and why it was not taken.
    tried: Vec<Tried>,
}

#[derive(Serialize)]
pub(super) struct Found {
    version: String,
    library: String,
    /// The step of the search that found it.
    place: String,
}

#[derive(Serialize)]
struct Tried {
    place: String,
    tried: String,
    reason: String,
}

impl NvrtcReport {
    pub(super) fn new() -> Self {
        let tried = |attempts: &[Attempt]| {
            let tried = |attempt: &Attempt| Tried {
                place: attempt.place.to_string(),
                tried: attempt.tried.display().to_string(),
                // The loader's messages may have several lines.
                reason: attempt.reason.split_whitespace().collect::<Vec<_>>().join(" "),
            };
            attempts.iter().map(tried).collect()
        };
        match Nvrtc::find(None) {
            Ok(nvrtc) => {
                let (major, minor) = nvrtc.version();
                let found = Found {
                    version: format!("{major}.{minor}"),
                    library: nvrtc.path().display().to_string(),
                    place: nvrtc.place().to_string(),
                };
                Self { found: Some(found), tried: tried(&nvrtc.attempts().0) }
            }
            Err(JitError::NvrtcNotFound { attempts }) => Self { found: None, tried: tried(&attempts.0) },
            // The search has no other error.
            Err(_) => Self { found: None, tried: Vec::new() },
        }
    }

    /// Lines of the report.
    pub(super) fn rows(&self) -> Vec<Vec<String>> {
        let mut rows = vec![match &self.found {
            Some(Found { version, library, place }) => {
                vec!["taken".to_owned(), format!("{version}, {library} ({place})")]
            }
            None => {
                let how = "set FP8GEMM_NVRTC to libnvrtc or its folder, or install the Python wheel nvidia-cuda-nvrtc";
                vec!["none".to_owned(), format!("to compile kernels, {how}")]
            }
        }];
        rows.extend(self.tried.iter().map(|Tried { place, tried, reason }| {
            vec!["not taken".to_owned(), format!("{tried} ({place}): {reason}")]
        }));
        rows
    }
}

/// The cache of compiled kernels.
#[derive(Serialize)]
pub(super) struct CacheReport {
    folder: Option<String>,
    pub(super) entries: usize,
    bytes: u64,
    /// Entries that would be compiled again.
    damaged: usize,
    writable: bool,
    /// Why it cannot be written or read.
    reason: Option<String>,
}

impl CacheReport {
    pub(super) fn new() -> Self {
        Self::of(&Cache::from_environment())
    }

    fn of(cache: &Cache) -> Self {
        let mut report = Self { folder: None, entries: 0, bytes: 0, damaged: 0, writable: false, reason: None };
        let Some(folder) = cache.folder() else {
            report.reason = Some("there is no home to keep it in: set FP8GEMM_CACHE_DIR".to_owned());
            return report;
        };
        report.folder = Some(folder.display().to_string());
        match cache.list() {
            Ok(listed) => {
                report.damaged = listed.iter().filter(|entry| entry.metadata.is_err()).count();
                report.entries = listed.len() - report.damaged;
                report.bytes = listed.iter().map(|entry| entry.bytes).sum();
            }
            Err(error) => report.reason = Some(error.to_string()),
        }
        match writable(folder) {
            Ok(()) => report.writable = true,
            Err(error) => report.reason = report.reason.or_else(|| Some(error.to_string())),
        }
        report
    }

    /// Lines of the report.
    pub(super) fn rows(&self) -> Vec<Vec<String>> {
        let row = |name: &str, what: String| vec![name.to_owned(), what];
        let mut rows = Vec::new();
        if let Some(folder) = &self.folder {
            let writable = if self.writable { "writable" } else { "not writable: kernels are kept in memory only" };
            rows.push(row("folder", format!("{folder} ({writable})")));
            let damaged = if self.damaged > 0 { format!(", {} damaged", self.damaged) } else { String::new() };
            let entries = count(self.entries as u64, "kernel");
            rows.push(row("holds", format!("{entries}{damaged}, {} bytes", grouped(self.bytes))));
        }
        rows.extend(self.reason.iter().map(|reason| row("trouble", reason.clone())));
        rows
    }
}

/// Whether a file can be made in the folder, or in the one that it would be made in. Leaves nothing
/// behind.
fn writable(folder: &Path) -> std::io::Result<()> {
    let existing = folder.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."));
    tempfile::tempfile_in(existing).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Breaks if the doctor takes a cache that cannot be written for one that can, counts damaged
    /// entries as kernels, or makes the folder it only looks at.
    #[test]
    fn the_cache_is_judged_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let absent = folder.path().join("not/yet");
        let report = CacheReport::of(&Cache::at(&absent));
        assert!(report.writable && report.entries == 0 && report.reason.is_none());
        assert!(!absent.exists() && std::fs::read_dir(folder.path()).unwrap().next().is_none());

        std::fs::write(folder.path().join("file"), "").unwrap();
        let report = CacheReport::of(&Cache::at(folder.path().join("file/cubin")));
        assert!(!report.writable && report.reason.is_some());

        let cache = Cache::at(folder.path().join("cubin"));
        let metadata = || fp8gemm::jit::Metadata {
            kernel: "k".into(),
            configuration: "c".into(),
            nvrtc: (13, 0),
            compile_milliseconds: 1.0,
        };
        for source in ["one", "two"] {
            let key = fp8gemm::jit::Key::new(source, &fp8gemm::jit::BASE_OPTIONS, (13, 0));
            cache.get_or_compile(&key, || Ok((b"code".to_vec(), metadata()))).unwrap();
        }
        let path = cache.list().unwrap()[0].path.clone();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[3] ^= 1;
        std::fs::write(path, bytes).unwrap();
        let report = CacheReport::of(&cache);
        assert_eq!((report.entries, report.damaged, report.writable), (1, 1, true));
        assert!(report.bytes > 0);
    }
}
