//! A compiled kernel for one problem, and launches of it on device memory.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaStream, sys};
use fp8gemm_jit::sass::Interleave;
use fp8gemm_jit::tuning::{Selection, Source, Untuned};
use fp8gemm_jit::{Compiler, JitError, KernelConfig, KernelScales, Schedule, Store, choose, streams, tma_can_store};
use fp8gemm_problem::{Problem, Side};

use crate::kernel::Kernel;
use crate::operands::Operands;
use crate::scales::ScaleForm;
use crate::{Gpu, HopperError, Prepared};

/// A problem with the kernel that computes it, loaded on one GPU. Cheap to clone; `Send` and `Sync`.
///
/// Making a plan may compile (a fraction of a second, once for each configuration and cache). While
/// a plan lives, others of its configuration in the same CUDA context share its loaded kernel and
/// take microseconds to make. [`prepare`](Self::prepare) and [`Prepared::launch`] neither compile
/// nor allocate device memory nor take a lock.
#[derive(Clone, Debug)]
pub struct Plan {
    problem: Problem,
    config: KernelConfig,
    interleave: Interleave,
    forms: [ScaleForm; 2],
    sms: u32,
    kernel: Arc<Kernel>,
}

/// What a plan may count on, or must do without.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct PlanOptions {
    /// The launch will have a workspace ([`Plan::workspace_bytes`], [`Plan::prepare_with_workspace`]),
    /// so that stream-K may be chosen. Default: no.
    pub workspace: bool,
    /// C and D may have any alignment and stride of whole elements; costs some speed where K is
    /// short. Default: no, rows of C and D start at multiples of 16 bytes (unless N says otherwise).
    pub direct_store: bool,
    /// The configuration is the cost model's, whatever a tuning table says. Default: no.
    pub model_only: bool,
}

impl PlanOptions {
    /// Sets [`workspace`](Self::workspace).
    #[must_use]
    pub fn workspace(self, workspace: bool) -> Self {
        Self { workspace, ..self }
    }

    /// Sets [`direct_store`](Self::direct_store).
    #[must_use]
    pub fn direct_store(self, direct_store: bool) -> Self {
        Self { direct_store, ..self }
    }

    /// Sets [`model_only`](Self::model_only).
    #[must_use]
    pub fn model_only(self, model_only: bool) -> Self {
        Self { model_only, ..self }
    }

    /// The candidate as it is, changed, or not at all.
    fn admit(self, config: KernelConfig) -> Option<KernelConfig> {
        let config = if self.direct_store { KernelConfig { store: Store::Direct, ..config } } else { config };
        let enough = self.workspace || !config.needs_workspace();
        Some(config).filter(|config| enough && config.check().is_ok())
    }
}

impl Plan {
    /// Chooses a configuration as [`Compiler::choose`] does (by a tuning table that fits, else by the cost
    /// model of [`fp8gemm_jit::choose`]), compiles and loads it, with the pattern that the table has found
    /// fastest with it, else the [usual](Interleave::usual) one. A candidate that the compiler at hand makes spill
    /// registers is passed over with a warning, and a kernel that takes no pattern is loaded as compiled with one: all
    /// give the same bits.
    ///
    /// # Errors
    /// [`HopperError::Jit`] where no kernel computes the problem (M, N or K of 0 among them) or the
    /// compiler is missing, [`HopperError::TooLarge`], [`HopperError::Cuda`].
    pub fn new(gpu: &Gpu, compiler: &Compiler, problem: &Problem) -> Result<Self, HopperError> {
        Self::with_options(gpu, compiler, problem, PlanOptions::default())
    }

    /// The same with options.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_options(
        gpu: &Gpu,
        compiler: &Compiler,
        problem: &Problem,
        options: PlanOptions,
    ) -> Result<Self, HopperError> {
        let selection = if options.model_only {
            Selection::model(problem, gpu.sms(), Untuned::Off)?
        } else {
            compiler.choose(problem, &gpu.device())?
        };
        let mut candidates: Vec<_> = selection.choice.candidates.iter().map(|one| one.config).collect();
        if let Source::Tuned(_) = selection.source {
            // A table is data: what it names is held to the rules that a caller's configuration is.
            let chosen = choose(problem, gpu.sms())?.config();
            candidates.retain(|config| check_config(problem, config, &chosen, gpu.sms()).is_ok());
        }
        let candidates = candidates.into_iter().filter_map(|config| options.admit(config));
        first_of(problem, candidates, |config| {
            // A configuration that options have changed is another than the table's, and has the usual pattern.
            let pattern = selection.interleave(&config);
            or_as_compiled(problem, pattern, |pattern| Self::load(gpu, compiler, problem, config, pattern))
        })
    }

    /// The same with a given configuration and its [usual](Interleave::usual) pattern: any that computes the problem
    /// gives the same bits.
    ///
    /// # Errors
    /// As [`new`](Self::new), and [`HopperError::WrongConfiguration`].
    pub fn with_config(
        gpu: &Gpu,
        compiler: &Compiler,
        problem: &Problem,
        config: KernelConfig,
    ) -> Result<Self, HopperError> {
        check_config(problem, &config, &choose(problem, gpu.sms())?.config(), gpu.sms())?;
        let load = |pattern| Self::load(gpu, compiler, problem, config, pattern);
        or_as_compiled(problem, Interleave::usual(&config), load)
    }

    /// The same with another pattern of yield and reuse flags in the promotion's `FFMA` than the
    /// [usual](Interleave::usual) one: hints to the warp scheduler, which change no bit of the result. For
    /// measurements: [`new`](Self::new) takes what they have found.
    ///
    /// # Errors
    /// As [`with_config`](Self::with_config); [`HopperError::Jit`] also where the kernel has no such
    /// `FFMA` (row and tensor scales), or the compiler writes them in a way that is not known.
    pub fn with_interleave(
        gpu: &Gpu,
        compiler: &Compiler,
        problem: &Problem,
        config: KernelConfig,
        interleave: Interleave,
    ) -> Result<Self, HopperError> {
        // Whatever is chosen has the types, scales and accumulation that the problem needs.
        check_config(problem, &config, &choose(problem, gpu.sms())?.config(), gpu.sms())?;
        Self::load(gpu, compiler, problem, config, interleave)
    }

    /// The same with a kernel that is wrong on purpose: for scoring tests, nothing else. Some write beyond
    /// D's last row or column: launch them on memory that has room there.
    ///
    /// # Errors
    /// As [`with_config`](Self::with_config), and [`HopperError::Unsupported`] where the configuration has
    /// no such part.
    #[cfg(feature = "mutants")]
    pub fn mutant(
        gpu: &Gpu,
        compiler: &Compiler,
        problem: &Problem,
        config: KernelConfig,
        mutant: fp8gemm_jit::mutants::KernelMutant,
    ) -> Result<Self, HopperError> {
        check_config(problem, &config, &choose(problem, gpu.sms())?.config(), gpu.sms())?;
        let source = mutant.source(&config).filter(|_| mutant.applies(&config));
        let rule = "the mutant changes nothing in this configuration";
        let source = source.ok_or(HopperError::Unsupported { problem: *problem, rule })?;
        let name = format!("{mutant}, wrong on purpose, of {}", config.kernel_name());
        check_sizes(problem, &config)?;
        let kernel = Kernel::compile(gpu, compiler, &config, (&source, &name), Interleave::AsCompiled)?;
        Ok(Self::of(gpu, problem, config, Interleave::AsCompiled, Arc::new(kernel)))
    }

    fn load(
        gpu: &Gpu,
        compiler: &Compiler,
        problem: &Problem,
        config: KernelConfig,
        interleave: Interleave,
    ) -> Result<Self, HopperError> {
        check_sizes(problem, &config)?;
        Ok(Self::of(gpu, problem, config, interleave, Kernel::load(gpu, compiler, &config, interleave)?))
    }

    fn of(gpu: &Gpu, problem: &Problem, config: KernelConfig, interleave: Interleave, kernel: Arc<Kernel>) -> Self {
        tracing::debug!(%problem, %config, %interleave, device = gpu.info().ordinal, "plan");
        let forms = [(Side::A, problem.a), (Side::B, problem.b)]
            .map(|(side, operand)| ScaleForm::of(config.scales, side, operand.scales));
        Self { problem: *problem, config, interleave, forms, sms: gpu.sms(), kernel }
    }

    /// What it computes.
    pub fn problem(&self) -> &Problem {
        &self.problem
    }

    /// How it computes it.
    pub fn config(&self) -> KernelConfig {
        self.config
    }

    /// What was changed in the compiled kernel.
    pub fn interleave(&self) -> Interleave {
        self.interleave
    }

    /// The context that the kernel is loaded in.
    pub fn context(&self) -> &Arc<CudaContext> {
        self.kernel.context()
    }

    /// The loaded kernel, for profilers and other runtimes; valid while the plan lives.
    pub fn cu_function(&self) -> sys::CUfunction {
        self.kernel.handle()
    }

    /// How the scales of this operand must lie in device memory.
    pub fn scale_form(&self, side: Side) -> ScaleForm {
        self.forms[usize::from(side == Side::B)]
    }

    pub(crate) fn forms(&self) -> [ScaleForm; 2] {
        self.forms
    }

    pub(crate) fn sms(&self) -> u32 {
        self.sms
    }

    /// Checks pointers and strides, and encodes them for the kernel. Touches no device memory.
    ///
    /// # Errors
    /// [`HopperError::Pointer`], [`HopperError::Stride`], [`HopperError::PresenceOfC`], each naming
    /// the argument, its value and the rule; [`HopperError::Cuda`].
    pub fn prepare(&self, operands: &Operands) -> Result<Prepared, HopperError> {
        self.prepare_with_workspace(operands, 0)
    }

    /// Bytes of device memory that a launch needs besides its operands: 0 unless the plan was made
    /// with [`PlanOptions::workspace`] (or [`with_config`](Self::with_config)) and its schedule is
    /// stream-K.
    pub fn workspace_bytes(&self) -> usize {
        self.config.workspace_bytes(crate::arguments::grid(&self.problem, &self.config, self.sms))
    }

    /// [`prepare`](Self::prepare) with the address of a workspace: [`workspace_bytes`](Self::workspace_bytes)
    /// of device memory at a multiple of 128 bytes.
    ///
    /// One workspace for each plan: it is zeroed before the plan's first launch with it, and every
    /// completed launch leaves it ready for the plan's next. Another configuration, or another number
    /// of CTAs, lays it out differently; zero it again before it goes to such a plan. Launches that may
    /// run at the same time need one each; launches on one stream, dependent launches and nodes of a
    /// graph that follow each other do not.
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare), and [`HopperError::Pointer`] for the workspace.
    pub fn prepare_with_workspace(&self, operands: &Operands, workspace: u64) -> Result<Prepared, HopperError> {
        if self.workspace_bytes() > 0 && (workspace == 0 || !workspace.is_multiple_of(128)) {
            let rule = "is not a workspace: this plan needs one (Plan::workspace_bytes), at a multiple of 128 bytes";
            return Err(HopperError::Pointer { argument: "workspace", value: workspace, rule });
        }
        Prepared::new(self, operands, workspace)
    }

    /// Checks, encodes and launches: [`prepare`](Self::prepare) and [`Prepared::launch`].
    ///
    /// # Errors
    /// Those of both.
    ///
    /// # Safety
    /// As [`Prepared::launch`].
    pub unsafe fn launch(&self, stream: &CudaStream, operands: &Operands) -> Result<(), HopperError> {
        let prepared = self.prepare(operands)?;
        // SAFETY: the caller promises what `Prepared::launch` asks for.
        unsafe { prepared.launch(stream) }
    }
}

/// The first candidate that loads: not what the compiler spoils, nor, without NVRTC, what is not cached.
fn first_of<T>(
    problem: &Problem,
    candidates: impl Iterator<Item = KernelConfig>,
    load: impl Fn(KernelConfig) -> Result<T, HopperError>,
) -> Result<T, HopperError> {
    let mut passed_over = None;
    for config in candidates {
        match load(config) {
            Err(HopperError::Jit(error)) if error.is_of_one_kernel() => {
                if matches!(error, JitError::Rejected { .. }) {
                    tracing::warn!(%problem, %config, %error, "configuration passed over");
                }
                passed_over.get_or_insert(error);
            }
            loaded => {
                if let (Ok(_), Some(JitError::NvrtcNotFound { .. })) = (&loaded, &passed_over) {
                    tracing::warn!(%problem, %config, "without NVRTC: the first candidate that is cached, not the first");
                }
                return loaded;
            }
        }
    }
    // `choose` gives at least one candidate that no option excludes, so that all were passed over.
    Err(passed_over.map_or(HopperError::Unsupported { problem: *problem, rule: "no configuration" }, HopperError::Jit))
}

/// Loads a kernel with a pattern, or as compiled where it takes none: another compiler than those that the pattern
/// was measured with may write the promotion otherwise.
fn or_as_compiled<T>(
    problem: &Problem,
    pattern: Interleave,
    load: impl Fn(Interleave) -> Result<T, HopperError>,
) -> Result<T, HopperError> {
    match load(pattern) {
        Err(HopperError::Jit(error)) if error.refuses_interleave() => {
            tracing::warn!(%problem, %pattern, %error, "the pattern is left out");
            load(Interleave::AsCompiled)
        }
        loaded => loaded,
    }
}

/// A configuration computes a problem if it agrees with one that was chosen for it in all that
/// matters to the bits.
fn check_config(problem: &Problem, config: &KernelConfig, chosen: &KernelConfig, sms: u32) -> Result<(), HopperError> {
    config.check()?;
    // Of a CTA.
    let blocks = problem.k.div_ceil(128).div_ceil(config.accumulation.parts() as usize);
    let fields = [
        ("type of A", config.a == chosen.a),
        ("type of B", config.b == chosen.b),
        ("way of applying scales", config.scales == chosen.scales),
        ("accumulation", config.accumulation == chosen.accumulation),
        ("type of D", config.output == chosen.output),
        ("type of C", config.c == chosen.c),
        ("number of CTAs in a cluster", sms >= config.cluster()),
        ("way of storing D", config.store == Store::Direct || tma_can_store(problem)),
        // Each row of tiles would read the weights once more, and nobody has tried more than one.
        ("number of rows", config.schedule != Schedule::Swapped || problem.m <= config.block_m as usize),
        ("number of tiles for stream-K", config.schedule != Schedule::StreamK || streams(problem, config, sms)),
        ("number of K blocks", config.scales != KernelScales::Block1d2d || blocks <= config.max_k_blocks as usize),
    ];
    for (field, agrees) in fields {
        if !agrees {
            return Err(HopperError::WrongConfiguration {
                configuration: config.to_string(),
                problem: *problem,
                field,
            });
        }
    }
    Ok(())
}

/// Whether a kernel of this configuration can count the problem: elements, tiles and tiles of a group in
/// 32 bits, and TMA has signed coordinates. Every plan is held to it; needs no GPU.
///
/// ```
/// use fp8gemm_hopper::{HopperError, check_sizes};
/// use fp8gemm_jit::choose;
/// use fp8gemm_problem::Problem;
///
/// let problem: Problem = "64x4294967296x128 a=e4m3:tensor b=e4m3:tensor d=bf16".parse()?;
/// let config = choose(&problem, 132)?.config();
/// assert!(matches!(check_sizes(&problem, &config), Err(HopperError::TooLarge { what: "N", .. })));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`HopperError::TooLarge`] naming M, N, K or the number that is too large.
pub fn check_sizes(problem: &Problem, config: &KernelConfig) -> Result<(), HopperError> {
    let too_large = |what, value, rule| Err(HopperError::TooLarge { what, value, rule });
    for (what, value) in [("M", problem.m), ("N", problem.n), ("K", problem.k)] {
        if value > (1 << 31) - 512 {
            return too_large(what, value as u128, "TMA's coordinates end at 2^31, tiles included");
        }
    }
    let rows = problem.m.div_ceil(config.block_m as usize) as u128;
    let columns = problem.n.div_ceil(config.block_n as usize) as u128 + 1;
    for (what, rows) in [("number of output tiles", rows), ("number of tiles in a group", u128::from(config.group))] {
        // One CTA for each tile, of which a launch has fewer than 2^31.
        let most = if config.schedule == Schedule::Swapped { 1 << 31 } else { (1 << 32) - (1 << 16) };
        let counted = rows * columns * u128::from(config.accumulation.parts());
        if counted >= most {
            return too_large(what, counted, "the kernel counts tiles in 32 bits, one CTA each in 31");
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Breaks if a kernel that takes no pattern leaves a server without a plan, or another error is hidden by a
    /// second try.
    #[test]
    fn a_refused_pattern_is_left_out() {
        let problem = "64x2112x7168 a=e4m3:1x128 b=e4m3:128x128 d=bf16".parse().unwrap();
        let load = |refusal: fn() -> JitError| {
            or_as_compiled(&problem, Interleave::OneInFour, |pattern| match pattern {
                Interleave::AsCompiled => Ok(pattern),
                _ => Err(HopperError::Jit(refusal())),
            })
        };
        let no_run = || JitError::NoFfmaRun { kernel: "one".into(), longest: 7, least: 8 };
        let unknown = || JitError::UnknownFfma { kernel: "one".into(), address: 16, word: 1, rule: "a rule" };
        assert_eq!(load(no_run).unwrap(), Interleave::AsCompiled);
        assert_eq!(load(unknown).unwrap(), Interleave::AsCompiled);
        let rejected = || JitError::Rejected { kernel: "one".into(), defects: Vec::new() };
        assert!(matches!(load(rejected), Err(HopperError::Jit(JitError::Rejected { .. }))));
        let taken = or_as_compiled(&problem, Interleave::OneInFour, Ok::<_, HopperError>).unwrap();
        assert_eq!(taken, Interleave::OneInFour);
    }

    /// Breaks if a kernel that the compiler spoils, or that a bundle lacks because its compiler spoilt it, leaves a server
    /// without a plan; if another error is passed over; or if the error is not that of the first choice.
    #[test]
    fn the_first_candidate_that_loads_is_taken() {
        let problem = "64x2112x7168 a=e4m3:1x128 b=e4m3:128x128 d=bf16".parse().unwrap();
        let candidates: Vec<_> = choose(&problem, 132).unwrap().candidates.iter().map(|one| one.config).collect();
        let rejected = || JitError::Rejected { kernel: "one".into(), defects: Vec::new() };
        let absent = || JitError::NvrtcNotFound { attempts: fp8gemm_jit::Attempts::default() };
        let first = |error: &dyn Fn(usize) -> Option<JitError>| {
            let load = |config| {
                let place = candidates.iter().position(|candidate| *candidate == config).unwrap();
                error(place).map_or(Ok(place), |error| Err(HopperError::Jit(error)))
            };
            first_of(&problem, candidates.iter().copied(), load)
        };
        assert_eq!(first(&|_| None).unwrap(), 0);
        assert_eq!(first(&|place| (place < 2).then(rejected)).unwrap(), 2);
        assert_eq!(first(&|place| (place < 3).then(absent)).unwrap(), 3);
        let all = first(&|place| Some(if place == 0 { absent() } else { rejected() }));
        assert!(matches!(all, Err(HopperError::Jit(JitError::NvrtcNotFound { .. }))), "{all:?}");
        let broken = || JitError::NotACubin { reason: "made up".into() };
        let other = first(&|place| Some(if place == 0 { rejected() } else { broken() }));
        assert!(matches!(other, Err(HopperError::Jit(JitError::NotACubin { .. }))), "{other:?}");
    }

    /// Breaks if a size is planned that the kernel's 32-bit numbers or TMA's coordinates cannot hold, or one that
    /// they can is refused.
    #[test]
    fn sizes_end_where_the_kernel_counts() {
        let most = (1usize << 31) - 512;
        let what = |m: usize, n: usize, k: usize, shape: &str| {
            let problem = format!("{m}x{n}x{k} a=e4m3:tensor b=e4m3:tensor d=bf16").parse().unwrap();
            // Of a smaller problem, since what is chosen for this one does not matter.
            let shape = format!("{shape} a=e4m3:tensor b=e4m3:tensor d=bf16").parse().unwrap();
            match check_sizes(&problem, &choose(&shape, 132).unwrap().config()) {
                Ok(()) => "",
                Err(HopperError::TooLarge { what, .. }) => what,
                Err(other) => panic!("{problem}: {other}"),
            }
        };
        let large = "4096x4096x4096";
        assert_eq!([what(most, 1, 1, large), what(1, most, 1, large), what(1, 1, most, large)], [""; 3]);
        assert_eq!(what(most + 1, 1, 1, large), "M");
        assert_eq!(what(1, most + 1, 1, large), "N");
        assert_eq!(what(1, 1, most + 1, large), "K");
        assert_eq!(what(most, most, 1, large), "number of output tiles");
        assert_eq!(what(1, most, 1, "1x4096x4096"), "");
    }

    /// Breaks if a configuration is launched on a problem that it does not compute, or refused on one that it does.
    #[test]
    fn configurations_of_other_problems_are_refused() {
        let problem = |text: &str| text.parse::<Problem>().unwrap();
        let few = problem("5x576x7168 a=e4m3:1x128 b=e4m3:128x128 d=bf16");
        let swapped = choose(&few, 132).unwrap().config();
        assert_eq!(swapped.schedule, Schedule::Swapped);
        for (text, field) in [
            ("8x600x7168 a=e4m3:1x128 b=e4m3:128x128 d=bf16", ""),
            ("9x576x7168 a=e4m3:1x128 b=e4m3:128x128 d=bf16", "number of rows"),
            ("5x576x7168 a=e5m2:1x128 b=e4m3:128x128 d=bf16", "type of A"),
            ("5x576x7168 a=e4m3:1x128 b=e5m2:128x128 d=bf16", "type of B"),
            ("5x576x7168 a=e4m3:1x128 b=e4m3:128x128 d=f16", "type of D"),
            ("5x576x7168 a=e4m3:1x128 b=e4m3:128x128 d=bf16 c=bf16 beta=1", "type of C"),
            ("5x576x7168 a=e4m3:1x128 b=e4m3:1x128 d=bf16", "way of applying scales"),
            ("5x576x7168 a=e4m3:1x128 b=e4m3:128x128 d=bf16 policy=split2", "accumulation"),
            ("5x576x16384 a=e4m3:1x128 b=e4m3:128x128 d=bf16", "number of K blocks"),
        ] {
            let problem = problem(text);
            let found = match check_config(&problem, &swapped, &choose(&problem, 132).unwrap().config(), 132) {
                Ok(()) => "",
                Err(HopperError::WrongConfiguration { field, .. }) => field,
                Err(other) => panic!("{text}: {other}"),
            };
            assert_eq!(found, field, "{text}");
        }
    }
}
