//! From source to a checked CUBIN, through the cache.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::sass::Interleave;
use crate::{Cache, Compiled, Cubin, JitError, Key, Metadata, Nvrtc, Report};

/// One translation unit with one kernel.
#[derive(Clone, Copy, Debug)]
pub struct Unit<'a> {
    /// The whole source; nothing is included.
    pub source: &'a str,
    /// Symbol of the kernel (`extern "C"`).
    pub kernel: &'a str,
    /// The configuration in one line, for people.
    pub configuration: &'a str,
    /// All options, [`BASE_OPTIONS`](crate::BASE_OPTIONS) among them.
    pub options: &'a [&'a str],
}

/// A kernel that was compiled and found fit to run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Checked {
    /// Machine code, log, time.
    pub compiled: Compiled,
    /// The log, read: no spill, no stack, no C75xx.
    pub report: Report,
    /// The machine code, read: `sm_90a`, and it holds the kernel.
    pub cubin: Cubin,
}

/// A kernel's machine code, and how it came to be.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Made {
    /// The CUBIN.
    pub cubin: Arc<[u8]>,
    /// What ptxas said and the time that it took; nothing where the cache had the kernel.
    pub compiled: Option<(Report, Duration)>,
}

/// Compiles a unit and checks what came out.
///
/// # Errors
///
/// Those of [`Nvrtc::compile`], [`Report::parse`], [`Report::check`], [`Cubin::parse`] and
/// [`Cubin::check_hopper`]; [`JitError::NotACubin`] if the kernel is not in it.
pub fn compile_checked(nvrtc: &Nvrtc, unit: &Unit<'_>) -> Result<Checked, JitError> {
    let compiled = nvrtc.compile(unit.source, unit.kernel, unit.options)?;
    let report = Report::parse(&compiled.log)?;
    report.check()?;
    let cubin = check_cubin(&compiled.cubin, unit.kernel)?;
    Ok(Checked { compiled, report, cubin })
}

/// Whatever is run has passed this, as compiled or changed after that.
fn check_cubin(bytes: &[u8], kernel: &str) -> Result<Cubin, JitError> {
    let cubin = Cubin::parse(bytes)?;
    cubin.check_hopper()?;
    if !cubin.kernels.iter().any(|one| one.name == kernel) {
        return Err(JitError::NotACubin { reason: format!("it does not hold kernel {kernel}") });
    }
    Ok(cubin)
}

/// A pattern in a compiled kernel, checked as what comes from the compiler is.
fn interleave_checked(cubin: &[u8], kernel: &str, pattern: Interleave) -> Result<Vec<u8>, JitError> {
    let changed = pattern.apply(cubin, kernel)?;
    if check_cubin(&changed, kernel)? != Cubin::parse(cubin)? {
        return Err(JitError::NotACubin {
            reason: format!("pattern {pattern} changed more than kernel {kernel}'s code"),
        });
    }
    Ok(changed)
}

/// A cache with the compiler behind it. NVRTC is looked for at the first call.
///
/// # Examples
///
/// ```
/// use fp8gemm_jit::{BASE_OPTIONS, Cache, Compiler, JitError, Unit};
///
/// let compiler = Compiler::new(Cache::in_memory(), None);
/// let unit = Unit {
///     source: "extern \"C\" __global__ void one(float* p) { *p = 1.0f; }",
///     kernel: "one",
///     configuration: "an example",
///     options: &BASE_OPTIONS,
/// };
/// match compiler.cubin(&unit) {
///     Ok(cubin) => assert!(cubin.starts_with(b"\x7fELF")),
///     Err(JitError::NvrtcNotFound { attempts }) => println!("no NVRTC here:\n{attempts}"),
///     Err(other) => return Err(other),
/// }
/// # Ok::<(), JitError>(())
/// ```
#[derive(Debug)]
pub struct Compiler {
    cache: Cache,
    nvrtc: OnceLock<Nvrtc>,
    explicit: Option<PathBuf>,
}

impl Compiler {
    /// Compiles into this cache with the NVRTC that [`Nvrtc::find`] finds from this path.
    pub fn new(cache: Cache, nvrtc: Option<PathBuf>) -> Self {
        Self { cache, nvrtc: OnceLock::new(), explicit: nvrtc }
    }

    /// The cache.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The compiler.
    ///
    /// # Errors
    ///
    /// [`JitError::NvrtcNotFound`]; the next call looks again.
    pub fn nvrtc(&self) -> Result<&Nvrtc, JitError> {
        if let Some(nvrtc) = self.nvrtc.get() {
            return Ok(nvrtc);
        }
        let found = Nvrtc::find(self.explicit.as_deref())?;
        Ok(self.nvrtc.get_or_init(|| found))
    }

    /// The checked CUBIN of a unit: from the cache, or compiled now.
    ///
    /// Without NVRTC, a CUBIN that any version of it left in the cache will do, the newest first;
    /// this is how a machine lives on an imported bundle.
    ///
    /// # Errors
    ///
    /// [`JitError::NvrtcNotFound`] if there is neither; else those of [`compile_checked`].
    pub fn cubin(&self, unit: &Unit<'_>) -> Result<Arc<[u8]>, JitError> {
        Ok(self.make(unit)?.cubin)
    }

    /// As [`cubin`](Self::cubin), with what the compiler said where it was called.
    ///
    /// # Errors
    ///
    /// As [`cubin`](Self::cubin).
    pub fn make(&self, unit: &Unit<'_>) -> Result<Made, JitError> {
        let nvrtc = match self.nvrtc() {
            Ok(nvrtc) => nvrtc,
            Err(absent) => {
                let cubin = self.cubin_of_any_version(unit).ok_or(absent)?;
                return Ok(Made { cubin, compiled: None });
            }
        };
        let key = Key::new(unit.source, unit.options, nvrtc.version());
        let mut compiled = None;
        let cubin = self.cache.get_or_compile(&key, || {
            let checked = compile_checked(nvrtc, unit)?;
            let metadata = Metadata {
                kernel: unit.kernel.to_owned(),
                configuration: unit.configuration.to_owned(),
                nvrtc: nvrtc.version(),
                compile_milliseconds: checked.compiled.elapsed.as_secs_f64() * 1e3,
            };
            compiled = Some((checked.report, checked.compiled.elapsed));
            Ok((checked.compiled.cubin, metadata))
        })?;
        Ok(Made { cubin, compiled })
    }

    /// As [`make`](Self::make), then a pattern of yield and reuse flags in the promotion's `FFMA`. The cache
    /// holds both kernels: the compiled one as ever, the changed one under a [key](Key::interleaved) and a
    /// [name](Interleave::suffix) of its own. Without NVRTC it is made anew from the cached one.
    ///
    /// # Errors
    ///
    /// Those of [`make`](Self::make) and of [`Interleave::apply`].
    pub fn make_interleaved(&self, unit: &Unit<'_>, pattern: Interleave) -> Result<Made, JitError> {
        // Not in the closure below: it must not ask the cache.
        let made = self.make(unit)?;
        if pattern == Interleave::AsCompiled {
            return Ok(made);
        }
        let Made { cubin, compiled } = made;
        let change = || interleave_checked(&cubin, unit.kernel, pattern);
        let cubin = match self.nvrtc() {
            Err(_) => change()?.into(),
            Ok(nvrtc) => {
                let key = Key::new(unit.source, unit.options, nvrtc.version()).interleaved(pattern);
                self.cache.get_or_compile(&key, || {
                    let begin = Instant::now();
                    let changed = change()?;
                    let metadata = Metadata {
                        kernel: unit.kernel.to_owned(),
                        configuration: format!("{}{}", unit.configuration, pattern.suffix()),
                        nvrtc: nvrtc.version(),
                        compile_milliseconds: begin.elapsed().as_secs_f64() * 1e3,
                    };
                    Ok((changed, metadata))
                })?
            }
        };
        Ok(Made { cubin, compiled })
    }

    fn cubin_of_any_version(&self, unit: &Unit<'_>) -> Option<Arc<[u8]>> {
        let versions = self.cache.nvrtc_versions().ok()?;
        versions.into_iter().find_map(|version| self.cache.get(&Key::new(unit.source, unit.options, version)))
    }
}
