//! NVRTC, NVIDIA's run-time compiler: finding it, and CUDA C++ to machine code for `sm_90a`.
//!
//! No CUDA is needed to build this crate, and no GPU or driver to compile kernels: `libnvrtc` from
//! any CUDA 12 or 13 toolkit, or from the Python wheel `nvidia-cuda-nvrtc`, is enough.

mod library;
mod search;

use std::ffi::CString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::JitError;
use library::Library;
use search::{Step, Surroundings};

pub use search::{Attempt, Attempts, NVRTC_VARIABLE, Place};

/// The options every kernel is compiled with.
///
/// `sm_90a`, the real architecture: `compute_90a` gives PTX and an empty CUBIN, and `sm_90` knows
/// no `wgmma`. `-default-device`: functions without a qualifier run on the GPU.
/// `--ptxas-options=-v` puts registers, stack and spills into the log that
/// [`Report`](crate::Report) reads. ptxas options go one to a flag: NVRTC rejects a comma list.
pub const BASE_OPTIONS: [&str; 4] =
    ["--gpu-architecture=sm_90a", "--std=c++20", "-default-device", "--ptxas-options=-v"];

/// The oldest NVRTC whose ptxas knows `sm_90a`.
const OLDEST: (u32, u32) = (12, 0);

/// The first NVRTC with a cache of its own, which it uses where there is a driver. What comes from
/// there has no log of ptxas (seen with 13.0.88), and a kernel without its report is not run; this
/// crate has its own cache.
const CACHING: (u32, u32) = (12, 9);

/// A loaded NVRTC.
///
/// `Send` and `Sync`: NVRTC's functions may be called from several threads. They take turns
/// inside, so two threads that compile need as long as one after the other (measured on 12.9, 13.0
/// and 13.5); processes compile in parallel.
///
/// The library stays loaded until the process ends.
#[derive(Clone)]
pub struct Nvrtc {
    library: Library,
    place: Place,
    path: PathBuf,
    version: (u32, u32),
    attempts: Attempts,
}

/// What a compilation gave.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Compiled {
    /// The machine code, an ELF file: see [`Cubin`](crate::Cubin).
    pub cubin: Vec<u8>,
    /// What the front end and ptxas said: see [`Report`](crate::Report).
    pub log: String,
    /// Time that the compilation took.
    pub elapsed: Duration,
}

impl Nvrtc {
    /// Finds NVRTC and loads it.
    ///
    /// Tried in this order, and the first that loads and is at least version 12.0 is taken:
    /// 1. `explicit`, a library or a folder; if given, nothing else is tried;
    /// 2. the variable [`FP8GEMM_NVRTC`](NVRTC_VARIABLE), likewise;
    /// 3. the loader's search path, by the names `libnvrtc.so`, `.so.13`, `.so.12`
    ///    (Windows: `nvrtc64_130_0.dll`, `nvrtc64_120_0.dll`);
    /// 4. `CUDA_HOME`, `CUDA_PATH`, `/usr/local/cuda`, `/usr/local/cuda-*`, `/opt/cuda`;
    /// 5. wheels in the Python environments `VIRTUAL_ENV`, `CONDA_PREFIX`, `~/.local`, `/usr/local`, `/usr`.
    ///
    /// # Errors
    ///
    /// [`JitError::NvrtcNotFound`] with everything that was tried and why not.
    ///
    /// # Examples
    ///
    /// ```
    /// use fp8gemm_jit::{JitError, Nvrtc};
    ///
    /// match Nvrtc::find(None) {
    ///     Ok(nvrtc) => println!("{nvrtc}"),
    ///     Err(JitError::NvrtcNotFound { attempts }) => println!("tried:\n{attempts}"),
    ///     Err(other) => return Err(other),
    /// }
    /// # Ok::<(), JitError>(())
    /// ```
    pub fn find(explicit: Option<&Path>) -> Result<Self, JitError> {
        Self::search(&Surroundings::of_process(explicit))
    }

    fn search(surroundings: &Surroundings) -> Result<Self, JitError> {
        let mut attempts = Attempts::default();
        for step in surroundings.steps() {
            let (place, tried) = match step {
                Step::Try(place, tried) => (place, tried),
                Step::Absent(attempt) => {
                    attempts.0.push(attempt);
                    continue;
                }
            };
            match Self::open(place, &tried) {
                Ok(mut nvrtc) => {
                    nvrtc.attempts = attempts;
                    tracing::debug!(path = %nvrtc.path.display(), version = ?nvrtc.version, "NVRTC loaded");
                    return Ok(nvrtc);
                }
                Err(reason) => attempts.0.push(Attempt { place, tried, reason }),
            }
        }
        Err(JitError::NvrtcNotFound { attempts })
    }

    fn open(place: Place, tried: &Path) -> Result<Self, String> {
        // Links are resolved: the library looks for its builtins beside the path it was loaded by.
        let real = if place == Place::Loader {
            tried.to_owned()
        } else {
            tried.canonicalize().map_err(|error| error.to_string())?
        };
        let library = Library::open(real.as_os_str())?;
        let version = library.version().map_err(|error| error.to_string())?;
        if version < OLDEST {
            return Err(format!(
                "version {}.{} does not know sm_90a: at least {}.{} is needed",
                version.0, version.1, OLDEST.0, OLDEST.1
            ));
        }
        let path = if place == Place::Loader { library.file().unwrap_or(real) } else { real };
        load_builtins(&path, version);
        Ok(Self { library, place, path, version, attempts: Attempts::default() })
    }

    /// `(major, minor)`, e.g. `(13, 0)`. NVRTC tells no more; the CUBIN does
    /// ([`Cubin::compiler`](crate::Cubin::compiler)).
    pub fn version(&self) -> (u32, u32) {
        self.version
    }

    /// The library's file; a bare name where the loader found it and the platform does not say where.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The step of the search that found it.
    pub fn place(&self) -> Place {
        self.place
    }

    /// What was tried before it was found.
    pub fn attempts(&self) -> &Attempts {
        &self.attempts
    }

    /// Compiles one translation unit to a CUBIN.
    ///
    /// `name` is what messages call the source, as `name(12): error`; `options` are passed as they
    /// are, so start from [`BASE_OPTIONS`]. Equal source, name and options give equal bytes with
    /// the same NVRTC.
    ///
    /// # Errors
    ///
    /// [`JitError::Compile`] with the compiler's log; [`JitError::NoCubin`] if the options ask for
    /// no real architecture; [`JitError::NulByte`]; [`JitError::NvrtcCall`] if NVRTC itself fails.
    pub fn compile<O: AsRef<str>>(&self, source: &str, name: &str, options: &[O]) -> Result<Compiled, JitError> {
        let source = c_string("source", source)?;
        let c_name = c_string("name", name)?;
        let no_cache = (self.version >= CACHING).then_some("--no-cache");
        let options_and_own = options.iter().map(AsRef::as_ref).chain(no_cache);
        let c_options: Vec<_> = options_and_own.map(|option| c_string("option", option)).collect::<Result<_, _>>()?;
        let begin = Instant::now();
        let program = self.library.program(&source, &c_name)?;
        let result = program.compile(&c_options);
        let log = program.log()?;
        if let Err(code) = result {
            return Err(JitError::Compile { name: name.to_owned(), code: self.library.describe(code), log });
        }
        let cubin = program.cubin()?;
        if cubin.is_empty() {
            let options = options.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(" ");
            return Err(JitError::NoCubin { name: name.to_owned(), options });
        }
        let elapsed = begin.elapsed();
        tracing::info!(
            kernel = name,
            bytes = cubin.len(),
            milliseconds = elapsed.as_secs_f64() * 1e3,
            "kernel compiled by NVRTC"
        );
        Ok(Compiled { cubin, log, elapsed })
    }
}

/// `NVRTC 13.0, /path/libnvrtc.so.13 (CUDA folder)`.
impl fmt::Display for Nvrtc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = self.version;
        write!(f, "NVRTC {major}.{minor}, {} ({})", self.path.display(), self.place)
    }
}

impl fmt::Debug for Nvrtc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nvrtc")
            .field("path", &self.path)
            .field("place", &self.place)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// Loads the builtins that lie beside NVRTC, so that it finds them by name at its first compile.
///
/// The wheels of 12.9 and 13.5 have an RPATH of `$ORIGIN` and would find them; that of 13.0.88 has
/// none and fails with "failed to open libnvrtc-builtins.so.13.0" unless `LD_LIBRARY_PATH` is set.
/// Where none lie beside it NVRTC searches on its own and its log tells if it fails.
fn load_builtins(nvrtc: &Path, version: (u32, u32)) {
    let builtins = nvrtc.with_file_name(search::builtins_name(version));
    if !builtins.is_file() {
        return;
    }
    if let Err(reason) = library::keep_loaded(builtins.as_os_str()) {
        tracing::debug!(path = %builtins.display(), reason, "NVRTC's builtins did not load");
    }
}

fn c_string(argument: &'static str, text: &str) -> Result<CString, JitError> {
    CString::new(text).map_err(|error| JitError::NulByte { argument, at: error.nul_position() })
}
