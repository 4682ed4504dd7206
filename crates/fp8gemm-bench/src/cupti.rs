//! Kernel times from CUPTI's activity records: when each kernel started and ended on the GPU, by
//! the GPU's clock, without launch cost.
//!
//! Only eight functions and the head of one record are needed, so they are declared here; cudarc's
//! bindings would bring the runtime library's along and fix the version at compile time. The head
//! of a concurrent-kernel record is the same in the headers of CUDA 11.4 (`CUpti_ActivityKernel6`)
//! to 13.4 (`CUpti_ActivityKernel13`), as far as it is declared here; other versions are refused.

use std::alloc::{Layout, alloc, dealloc};
use std::ffi::{CStr, c_char, c_void};
use std::path::PathBuf;
use std::ptr::null_mut;
use std::sync::{Mutex, PoisonError};

use libloading::Library;

use crate::BenchError;
use crate::library::{Wanted, mapped, open};

/// One kernel's run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KernelRecord {
    /// Nanoseconds on CUPTI's clock.
    pub(crate) start: u64,
    /// Likewise.
    pub(crate) end: u64,
    /// Mangled name.
    pub(crate) name: String,
}

/// The head of a record of kind [`CONCURRENT_KERNEL`].
#[repr(C)]
struct Head {
    kind: u32,
    cache_config: u8,
    shared_memory_config: u8,
    registers: u16,
    partitioned_cache: [u32; 2],
    start: u64,
    end: u64,
    completed: u64,
    device: u32,
    context: u32,
    stream: u32,
    grid: [i32; 3],
    block: [i32; 3],
    shared_memory: [i32; 2],
    local_memory: [u32; 2],
    correlation: u32,
    grid_id: i64,
    name: *const c_char,
}

// As the headers lay it out.
const _: () = assert!(std::mem::offset_of!(Head, start) == 16 && std::mem::offset_of!(Head, name) == 104);

const CONCURRENT_KERNEL: u32 = 10;
const SUCCESS: u32 = 0;
const MAX_LIMIT_REACHED: u32 = 12;
/// `cuptiActivityFlushAll`: also buffers that are not full.
const FLUSH_FORCED: u32 = 1;
const BUFFER: Layout = match Layout::from_size_align(4 << 20, 8) {
    Ok(layout) => layout,
    Err(_) => panic!("4 MiB is a size"),
};

type Requested = unsafe extern "C" fn(*mut *mut u8, *mut usize, *mut usize);
type Completed = unsafe extern "C" fn(*mut c_void, u32, *mut u8, usize, usize);
type NextRecord = unsafe extern "C" fn(*mut u8, usize, *mut *mut c_void) -> u32;

/// What the callbacks have read since it was last taken. CUPTI calls them from its own thread.
static RECORDS: Mutex<State> = Mutex::new(State { next: None, records: Vec::new(), failed: None });

struct State {
    next: Option<NextRecord>,
    records: Vec<KernelRecord>,
    failed: Option<u32>,
}

/// CUPTI, loaded and recording while [`Cupti::start`]ed.
pub(crate) struct Cupti {
    // Never unloaded: CUPTI has threads of its own and is called by the driver until the process ends.
    library: &'static Library,
    path: PathBuf,
    version: u32,
}

impl Cupti {
    /// Loads CUPTI and registers for its records; nothing is recorded yet.
    ///
    /// # Errors
    /// [`BenchError::Library`] if it is not there or of an unknown version, [`BenchError::Call`].
    pub(crate) fn load() -> Result<Self, BenchError> {
        let (library, path) = open(&Wanted {
            name: "CUPTI",
            files: &["libcupti.so.13", "libcupti.so.12", "libcupti.so"],
            variable: "FP8GEMM_CUPTI",
            symbols: &[
                "cuptiGetVersion",
                "cuptiActivityRegisterCallbacks",
                "cuptiActivityEnable",
                "cuptiActivityDisable",
                "cuptiActivityFlushAll",
                "cuptiActivityGetNextRecord",
                "cuptiGetResultString",
            ],
        })?;
        let path = mapped("libcupti.so").into_iter().next().unwrap_or(path);
        let mut cupti = Self { library: Box::leak(Box::new(library)), path, version: 0 };
        let mut version = 0;
        // SAFETY: this type is the header's; the call writes one u32.
        let code = unsafe { cupti.function::<unsafe extern "C" fn(*mut u32) -> u32>("cuptiGetVersion")?(&mut version) };
        cupti.result("cuptiGetVersion", code)?;
        // CUDA 11.4 to 12.9, and 13.0 to 13.4.
        if !matches!(version, 14..=28 | 130_000..=130_499) {
            let reason = format!("{}: the records of version {version} are not known", cupti.path.display());
            return Err(BenchError::Library { library: "CUPTI", reason });
        }
        cupti.version = version;
        let next = cupti.function::<NextRecord>("cuptiActivityGetNextRecord")?;
        lock().next = Some(next);
        type Register = unsafe extern "C" fn(Requested, Completed) -> u32;
        let register = cupti.function::<Register>("cuptiActivityRegisterCallbacks")?;
        // SAFETY: the type is the header's; both callbacks live as long as the process.
        let code = unsafe { register(requested, completed) };
        cupti.result("cuptiActivityRegisterCallbacks", code)?;
        // Refused here, and not at the first problem, where another profiler has the GPU.
        cupti.start()?;
        cupti.stop()?;
        Ok(cupti)
    }

    /// "CUPTI 130001 (path)".
    pub(crate) fn describe(&self) -> String {
        format!("CUPTI {} ({})", self.version, self.path.display())
    }

    /// Records kernels from now on, and forgets earlier ones.
    pub(crate) fn start(&self) -> Result<(), BenchError> {
        self.switch("cuptiActivityEnable")?;
        lock().records.clear();
        Ok(())
    }

    /// Records no longer: records cost the GPU a little time.
    pub(crate) fn stop(&self) -> Result<(), BenchError> {
        self.take()?;
        self.switch("cuptiActivityDisable")
    }

    /// The kernels that ended since the last call, by start. The caller has waited for them.
    pub(crate) fn take(&self) -> Result<Vec<KernelRecord>, BenchError> {
        let flush = self.function::<unsafe extern "C" fn(u32) -> u32>("cuptiActivityFlushAll")?;
        // SAFETY: the type is the header's.
        let code = unsafe { flush(FLUSH_FORCED) };
        self.result("cuptiActivityFlushAll", code)?;
        let mut state = lock();
        if let Some(code) = state.failed.take() {
            drop(state);
            self.result("cuptiActivityGetNextRecord", code)?;
            return Ok(Vec::new());
        }
        let mut records = std::mem::take(&mut state.records);
        records.sort_by_key(|record| record.start);
        Ok(records)
    }

    fn switch(&self, call: &'static str) -> Result<(), BenchError> {
        let switch = self.function::<unsafe extern "C" fn(u32) -> u32>(call)?;
        // SAFETY: the type is the header's.
        let code = unsafe { switch(CONCURRENT_KERNEL) };
        self.result(call, code)
    }

    /// A function by name. `T` must be its type; every caller says that it is.
    fn function<T: Copy>(&self, name: &'static str) -> Result<T, BenchError> {
        // SAFETY: the symbol is there (`open` looked); its type is the caller's promise, kept at the
        // place where it is called.
        unsafe { self.library.get::<T>(name) }
            .map(|symbol| *symbol)
            .map_err(|error| BenchError::Library { library: "CUPTI", reason: error.to_string() })
    }

    fn result(&self, call: &'static str, code: u32) -> Result<(), BenchError> {
        if code == SUCCESS {
            return Ok(());
        }
        let mut text: *const c_char = std::ptr::null();
        type Name = unsafe extern "C" fn(u32, *mut *const c_char) -> u32;
        if let Ok(name) = self.function::<Name>("cuptiGetResultString") {
            // SAFETY: the type is the header's; the call writes one pointer, to a static string.
            unsafe { name(code, &raw mut text) };
        }
        // SAFETY: null or a static string, see above.
        let name = (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned());
        Err(BenchError::Call { call, status: format!("code {code}, {}", name.unwrap_or_default()) })
    }
}

fn lock() -> std::sync::MutexGuard<'static, State> {
    // A list of records is whole even if a thread died holding it.
    RECORDS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// CUPTI wants an empty buffer.
unsafe extern "C" fn requested(buffer: *mut *mut u8, size: *mut usize, max_records: *mut usize) {
    // SAFETY: the layout is not empty; CUPTI gives three places to write to. A null buffer tells it
    // that there is no memory, and it drops records.
    unsafe {
        *buffer = alloc(BUFFER);
        *size = if (*buffer).is_null() { 0 } else { BUFFER.size() };
        *max_records = 0;
    }
}

/// CUPTI gives a buffer back, with `valid` bytes of records in it.
unsafe extern "C" fn completed(_context: *mut c_void, _stream: u32, buffer: *mut u8, _size: usize, valid: usize) {
    if buffer.is_null() {
        return;
    }
    let mut state = lock();
    let mut record: *mut c_void = null_mut();
    while let Some(next) = state.next.filter(|_| valid > 0) {
        // SAFETY: the type is the header's; the buffer is CUPTI's, and `record` null at first.
        match unsafe { next(buffer, valid, &raw mut record) } {
            SUCCESS => {}
            MAX_LIMIT_REACHED => break,
            code => {
                state.failed = Some(code);
                break;
            }
        }
        // SAFETY: every record begins with its kind.
        if unsafe { record.cast::<u32>().read_unaligned() } != CONCURRENT_KERNEL {
            continue;
        }
        // SAFETY: a record of this kind begins so in every version that `load` admits, and is
        // longer than this head.
        let head = unsafe { record.cast::<Head>().read_unaligned() };
        let name = if head.name.is_null() {
            String::new()
        } else {
            // SAFETY: a string that CUPTI keeps.
            unsafe { CStr::from_ptr(head.name) }.to_string_lossy().into_owned()
        };
        state.records.push(KernelRecord { start: head.start, end: head.end, name });
    }
    drop(state);
    // SAFETY: `requested` allocated it with this layout, and CUPTI has let go of it.
    unsafe { dealloc(buffer, BUFFER) };
}
