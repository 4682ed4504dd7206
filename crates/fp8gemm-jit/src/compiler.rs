//! From source to a checked CUBIN, through the cache.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use fp8gemm_problem::Problem;

use crate::sass::Interleave;
use crate::tuning::{Device, Loaded, Machine, Selection, Source, Tuning, Untuned};
use crate::{Cache, Compiled, Cubin, JitError, Key, Metadata, Nvrtc, Report};

/// Between listings of the cache where there is no NVRTC. An import is seen at once.
const AGAIN: Duration = Duration::from_secs(1);

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

/// What a [`Compiler`] was asked for so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statistics {
    /// Kernels that it had to compile.
    pub compiled: u64,
    /// Kernels that the cache had.
    pub cached: u64,
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
    versions: Mutex<Versions>,
    tuning: OnceLock<Loaded>,
    /// Versions of NVRTC whose kernels were imported, as of the first choice.
    imported: OnceLock<BTreeSet<(u32, u32)>>,
    stale: Once,
    compiled: AtomicU64,
    cached: AtomicU64,
}

/// Versions of NVRTC whose kernels the cache has, as last seen.
#[derive(Debug, Default)]
struct Versions {
    /// Newest first.
    found: Vec<(u32, u32)>,
    listed: Option<Instant>,
}

impl Compiler {
    /// Compiles into this cache with the NVRTC that [`Nvrtc::find`] finds from this path.
    pub fn new(cache: Cache, nvrtc: Option<PathBuf>) -> Self {
        Self {
            cache,
            nvrtc: OnceLock::new(),
            explicit: nvrtc,
            versions: Mutex::default(),
            tuning: OnceLock::new(),
            imported: OnceLock::new(),
            stale: Once::new(),
            compiled: AtomicU64::new(0),
            cached: AtomicU64::new(0),
        }
    }

    /// The same with these tuning tables instead of those beside the cache; `None` for the cost model alone.
    #[must_use]
    pub fn with_tuning(self, tuning: Option<Tuning>) -> Self {
        Self { tuning: OnceLock::from(tuning.map_or(Loaded::Off, Loaded::Tables)), ..self }
    }

    /// The tuning tables in use: those given, else those of the [cache](Cache::tuning_path), read at the first call;
    /// `None` if the environment switches them off for it.
    pub fn tuning(&self) -> Option<&Tuning> {
        match self.tuned() {
            Loaded::Off => None,
            Loaded::Tables(tuning) | Loaded::Ignored(_, tuning) => Some(tuning),
        }
    }

    /// Why a GPU has no tuning table, where none of those in [use](Self::tuning) is for it.
    pub fn no_table(&self) -> Untuned {
        match self.tuned() {
            Loaded::Off => Untuned::Off,
            Loaded::Tables(_) => Untuned::NoTable,
            Loaded::Ignored(why, _) => Untuned::Ignored(why.clone()),
        }
    }

    fn tuned(&self) -> &Loaded {
        self.tuning.get_or_init(|| self.cache.tables())
    }

    /// Where tuning tables are read from and written to: [`Cache::tuning_path`].
    pub fn tuning_path(&self) -> Option<PathBuf> {
        self.cache.tuning_path()
    }

    /// Chooses a configuration for a problem on a device: by [tuning table](Self::tuning) where one fits,
    /// else by the cost model. A table fits that is for the NVRTC here, or for one whose kernels were
    /// [imported](Cache::import). Tables that are all for other machines are a warning, once.
    ///
    /// # Errors
    /// Those of [`choose`](crate::choose).
    pub fn choose(&self, problem: &Problem, device: &Device) -> Result<Selection, JitError> {
        let Some(tuning) = self.tuning().filter(|tuning| !tuning.is_empty()) else {
            // Without a table nobody needs to look for NVRTC, or to hash the kernels' texts.
            return Selection::model(problem, device.sms, self.no_table());
        };
        let selection = tuning.choose_among(&Machine::new(device, None), &self.versions(), problem)?;
        if let Source::Model(Untuned::OtherMachine(difference)) = &selection.source {
            self.stale.call_once(|| {
                tracing::warn!(difference, "no tuning table fits this machine: the cost model chooses kernels");
            });
        }
        Ok(selection)
    }

    /// The versions of NVRTC whose tables [`choose`](Self::choose) takes, and whose kernels a plan: that of the NVRTC
    /// here, then those whose kernels were [imported](Cache::import) before the first call, newest first. `None` alone
    /// where there is no NVRTC: then any will do.
    pub fn versions(&self) -> Vec<Option<(u32, u32)>> {
        let Ok(nvrtc) = self.nvrtc() else { return vec![None] };
        let imported = self.imported.get_or_init(|| self.imported_versions());
        [nvrtc.version()].iter().chain(imported.iter().rev()).copied().map(Some).collect()
    }

    /// How many kernels it has compiled, and how many the cache had.
    pub fn statistics(&self) -> Statistics {
        Statistics { compiled: self.compiled.load(Ordering::Relaxed), cached: self.cached.load(Ordering::Relaxed) }
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
    /// One that the NVRTC here compiled comes first, then one of the same source that was
    /// [imported](Cache::import): so a server with another NVRTC than its bundle was made by compiles nothing. Without
    /// NVRTC, a CUBIN that any version of it left in the cache will do, the newest first.
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
        Ok(self.make_counted(unit)?.0)
    }

    /// The key under which the cache has what [`make`](Self::make) gives; `None` if it would compile. Reads the
    /// kernel into memory.
    pub fn cached(&self, unit: &Unit<'_>) -> Option<Key> {
        Some(self.find(unit)?.key)
    }

    /// With the key and the version of NVRTC of what was made.
    fn make_counted(&self, unit: &Unit<'_>) -> Result<(Made, Key, (u32, u32)), JitError> {
        let made = self.make_uncounted(unit)?;
        let count = if made.0.compiled.is_some() { &self.compiled } else { &self.cached };
        count.fetch_add(1, Ordering::Relaxed);
        Ok(made)
    }

    fn make_uncounted(&self, unit: &Unit<'_>) -> Result<(Made, Key, (u32, u32)), JitError> {
        if let Some(Found { key, version, cubin }) = self.find(unit) {
            return Ok((Made { cubin, compiled: None }, key, version));
        }
        let nvrtc = self.nvrtc()?;
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
        Ok((Made { cubin, compiled }, key, nvrtc.version()))
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
        let (made, key, version) = self.make_counted(unit)?;
        if pattern == Interleave::AsCompiled {
            return Ok(made);
        }
        let Made { cubin, compiled } = made;
        let change = || interleave_checked(&cubin, unit.kernel, pattern);
        let cubin = match self.nvrtc() {
            Err(_) => change()?.into(),
            Ok(_) => self.cache.get_or_compile(&key.interleaved(pattern), || {
                let begin = Instant::now();
                let changed = change()?;
                let metadata = Metadata {
                    kernel: unit.kernel.to_owned(),
                    configuration: format!("{}{}", unit.configuration, pattern.suffix()),
                    nvrtc: version,
                    compile_milliseconds: begin.elapsed().as_secs_f64() * 1e3,
                };
                Ok((changed, metadata))
            })?,
        };
        Ok(Made { cubin, compiled })
    }

    /// The patterns that make another kernel of this unit: not those that leave it as it is, or as a pattern
    /// before. None where the pass [refuses](JitError::refuses_interleave) the kernel.
    ///
    /// # Errors
    ///
    /// As [`make_interleaved`](Self::make_interleaved) otherwise.
    pub fn patterns(&self, unit: &Unit<'_>) -> Result<Vec<Interleave>, JitError> {
        let compiled = self.cubin(unit)?;
        let mut kernels = vec![compiled.to_vec()];
        let mut patterns = Vec::new();
        for pattern in Interleave::ALL {
            match interleave_checked(&compiled, unit.kernel, pattern) {
                Ok(kernel) if kernels.contains(&kernel) => {}
                Ok(kernel) => {
                    kernels.push(kernel);
                    patterns.push(pattern);
                }
                Err(error) if error.refuses_interleave() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(patterns)
    }

    /// What the cache has of a unit.
    fn find(&self, unit: &Unit<'_>) -> Option<Found> {
        let key = |version| Key::new(unit.source, unit.options, version);
        let of = |version: &(u32, u32)| {
            let (key, version) = (key(*version), *version);
            Some(Found { key, version, cubin: self.cache.get(&key)? })
        };
        if let Ok(nvrtc) = self.nvrtc() {
            return of(&nvrtc.version()).or_else(|| {
                let imported = self.cache.imported();
                let versions: BTreeSet<_> = imported.values().copied().collect();
                versions.iter().rev().filter(|version| imported.contains_key(&key(**version))).find_map(of)
            });
        }
        let mut versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = versions.found.iter().find_map(of) {
            return Some(found);
        }
        // Listing reads the whole cache: not for each kernel of a server's start, nor for each candidate of a problem.
        if versions.listed.is_none_or(|listed| listed.elapsed() > AGAIN) {
            *versions = Versions { found: self.cache.nvrtc_versions().ok()?, listed: Some(Instant::now()) };
        }
        versions.found.iter().copied().chain(self.imported_versions()).find_map(|version| of(&version))
    }

    fn imported_versions(&self) -> BTreeSet<(u32, u32)> {
        self.cache.imported().into_values().collect()
    }
}

/// A unit that the cache has.
struct Found {
    key: Key,
    /// Of the NVRTC that compiled it.
    version: (u32, u32),
    cubin: Arc<[u8]>,
}
