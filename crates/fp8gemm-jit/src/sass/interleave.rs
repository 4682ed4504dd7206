//! Yield and reuse flags of the promotion, set by pattern in compiled machine code.
//!
//! After each 128 of K a warp runs through dozens of `FFMA` with nothing to wait for. Whether it lets
//! other warps issue meanwhile, one of which may have the next `wgmma`, is decided by a flag in each
//! instruction. ptxas 12.8 lets no `FFMA` yield and marks every scale that the next one reads too for reuse;
//! ptxas 13 lets every other one in a run yield, which marks nothing; DeepGEMM patched its binaries in 2025.
//! This pass makes each of these comparable with either compiler, and [`Interleave::ReuseOneInFour`] is better than
//! either: a register that is kept is not read again, which is power, and power is clock. The flags are hints: what is
//! computed, and in which order, is the same.

use core::fmt;
use core::ops::Range;
use core::str::FromStr;

use serde::Serialize;

use super::word::Word;
use crate::cubin::code_range;
use crate::{Cubin, JitError, KernelConfig, KernelScales, Schedule};

/// Fewest consecutive `FFMA` that are a run.
const LEAST: usize = 8;

/// Bytes of an instruction.
const WORD: usize = 16;

/// Which `FFMA` of a run yield.
///
/// A run is at least 8 consecutive `FFMA` of the promotion. Only those that begin with `reuse` mark a register for
/// reuse that the compiler did not mark. None changes a stall count or anything outside runs. All are idempotent.
///
/// Prints and parses as `as-compiled`, `none`, `deepgemm-2025`, `one-in-four`, `reuse`, `reuse-deepgemm-2025`,
/// `reuse-one-in-four`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Interleave {
    /// As ptxas decided: the code is not looked at.
    #[default]
    AsCompiled,
    /// None yields. Reuse flags stay. (An `FFMA` with a stall of 12 or more, for which there is no such
    /// encoding, stays as it is.)
    None,
    /// What DeepGEMM did until July 2025, for compilers up to 12.8: in the first 9/16 of a run, an `FFMA`
    /// that marks its source B for reuse yields instead, if no `FFMA` before it in the run had the same B,
    /// or the one before it has the same B and still marks it. Others stay as they are.
    DeepGemm2025,
    /// Each fourth one yields and marks nothing for reuse; the others as [`None`](Self::None).
    OneInFour,
    /// As ptxas 12.8 would have it: none yields, and each marks its source B for reuse if the next in the run has
    /// the same B, and not else. (One that writes its own source B, or has none (RZ), marks nothing; one with a stall
    /// of 12 or more marks nothing and yields still, if it did.)
    Reuse,
    /// [`Reuse`](Self::Reuse), then [`DeepGemm2025`](Self::DeepGemm2025): what that makes of ptxas 12.8's code, on
    /// the code of any.
    ReuseDeepGemm2025,
    /// [`Reuse`](Self::Reuse), but in the first half of a run each fourth one, beginning with the first, yields and
    /// marks nothing. On an H200 with NVRTC 13.0.88 the fastest: large GEMMs 2 to 3 % faster than as compiled, at the
    /// same power (docs/performance.md).
    ReuseOneInFour,
}

impl Interleave {
    /// All patterns, [`AsCompiled`](Self::AsCompiled) first.
    pub const ALL: [Self; 7] = [
        Self::AsCompiled,
        Self::None,
        Self::DeepGemm2025,
        Self::OneInFour,
        Self::Reuse,
        Self::ReuseDeepGemm2025,
        Self::ReuseOneInFour,
    ];

    /// What a plan loads where no [table](crate::tuning) says otherwise: [`ReuseOneInFour`](Self::ReuseOneInFour) for
    /// tiles of at least 32 columns that promote one block of K at a time with 1x128 scales of A, else
    /// [`AsCompiled`](Self::AsCompiled). (Row and tensor scales have no `FFMA` to promote with; where several blocks
    /// are in flight it made no difference that could be measured.)
    ///
    /// ```
    /// use fp8gemm_jit::{choose, sass::Interleave};
    ///
    /// let config = choose(&"4096x7168x2048 a=e4m3:1x128 b=e4m3:128x128 d=bf16".parse()?, 132)?.config();
    /// assert_eq!(Interleave::usual(&config), Interleave::ReuseOneInFour);
    /// # Ok::<(), fp8gemm_jit::JitError>(())
    /// ```
    pub fn usual(config: &KernelConfig) -> Self {
        let one_by_one = config.in_flight == 1 && config.schedule != Schedule::Swapped;
        let promotes = config.scales != KernelScales::AtEnd;
        if one_by_one && promotes && config.block_n >= 32 { Self::ReuseOneInFour } else { Self::AsCompiled }
    }

    /// What it prints as.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AsCompiled => "as-compiled",
            Self::None => "none",
            Self::DeepGemm2025 => "deepgemm-2025",
            Self::OneInFour => "one-in-four",
            Self::Reuse => "reuse",
            Self::ReuseDeepGemm2025 => "reuse-deepgemm-2025",
            Self::ReuseOneInFour => "reuse-one-in-four",
        }
    }

    /// What a kernel's name gets at its end: nothing, or `_yield-none` and so on.
    ///
    /// ```
    /// use fp8gemm_jit::sass::Interleave;
    ///
    /// assert_eq!(Interleave::None.suffix(), "_yield-none");
    /// assert_eq!("as-compiled".parse::<Interleave>()?.suffix(), "");
    /// # Ok::<(), fp8gemm_jit::JitError>(())
    /// ```
    pub fn suffix(self) -> String {
        if self == Self::AsCompiled { String::new() } else { format!("_yield-{self}") }
    }

    /// The CUBIN with this pattern in the runs of one kernel. [`AsCompiled`](Self::AsCompiled) gives the
    /// bytes back.
    ///
    /// # Errors
    /// [`JitError::WrongArchitecture`] for anything but `sm_90a`; [`JitError::NotACubin`], also where the
    /// kernel is not in it; [`JitError::NoFfmaRun`] where it has no run; [`JitError::UnknownFfma`] for an
    /// `FFMA` in a run that is not one of a promotion. Nothing is changed then.
    pub fn apply(self, cubin: &[u8], kernel: &str) -> Result<Vec<u8>, JitError> {
        let mut bytes = cubin.to_vec();
        if self == Self::AsCompiled {
            return Ok(bytes);
        }
        let Code { at, mut words } = Code::of(cubin, kernel)?;
        let runs = runs(&words, kernel)?;
        if runs.is_empty() {
            let longest = consecutive(&words).map(|run| run.len()).max().unwrap_or(0);
            return Err(JitError::NoFfmaRun { kernel: kernel.to_owned(), longest, least: LEAST });
        }
        for run in runs {
            self.rewrite(&mut words[run]);
        }
        for (to, word) in bytes[at].chunks_exact_mut(WORD).zip(words) {
            to.copy_from_slice(&word.0.to_le_bytes());
        }
        Ok(bytes)
    }

    /// One run.
    fn rewrite(self, run: &mut [Word]) {
        match self {
            Self::AsCompiled => {}
            Self::None => run.iter_mut().for_each(|word| *word = word.staying()),
            Self::DeepGemm2025 => deepgemm(run),
            Self::OneInFour => {
                for (index, word) in run.iter_mut().enumerate() {
                    *word = if index % 4 == 3 { word.yielding() } else { word.staying() };
                }
            }
            Self::Reuse => keep_scales(run),
            Self::ReuseDeepGemm2025 => {
                keep_scales(run);
                deepgemm(run);
            }
            Self::ReuseOneInFour => {
                keep_scales(run);
                let half = run.len() / 2;
                run[..half].iter_mut().step_by(4).for_each(|word| *word = word.yielding());
            }
        }
    }
}

/// What is next to the last one is no `FFMA`, so that nothing is kept for it.
fn keep_scales(run: &mut [Word]) {
    for index in 0..run.len() {
        run[index] = run[index].keeping_for(run.get(index + 1).copied());
    }
}

fn deepgemm(run: &mut [Word]) {
    let mut seen = [false; 256];
    // Source B of the one before, if that still marks it.
    let mut kept = None;
    let covered = run.len() * 9 / 16;
    for word in &mut run[..covered] {
        let register = word.source_b();
        if word.reuses() && (!seen[register as usize] || kept == Some(register)) {
            *word = word.yielding();
        }
        seen[register as usize] = true;
        kept = word.reuses().then_some(register);
    }
}

impl fmt::Display for Interleave {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Interleave {
    type Err = JitError;

    fn from_str(text: &str) -> Result<Self, JitError> {
        let found = Self::ALL.into_iter().find(|pattern| pattern.name() == text);
        found.ok_or_else(|| JitError::Interleave { text: text.to_owned() })
    }
}

/// What the `FFMA` of one kernel look like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct FfmaRuns {
    /// Runs of at least 8.
    pub runs: u32,
    /// `FFMA` in them.
    pub ffma: u32,
    /// Of those, how many yield.
    pub yielding: u32,
    /// Of those, how many mark source B for reuse.
    pub reusing: u32,
    /// `FFMA` that are in no run.
    pub outside: u32,
}

impl FfmaRuns {
    /// Counts; a kernel without runs is no error.
    ///
    /// # Errors
    /// As [`Interleave::apply`] otherwise.
    pub fn of(cubin: &[u8], kernel: &str) -> Result<Self, JitError> {
        let Code { words, .. } = Code::of(cubin, kernel)?;
        let runs = runs(&words, kernel)?;
        let all = words.iter().filter(|word| word.is_ffma()).count() as u32;
        let count = |test: fn(Word) -> bool| {
            runs.iter().flat_map(|run| &words[run.clone()]).filter(|word| test(**word)).count() as u32
        };
        let ffma = count(Word::is_ffma);
        Ok(Self {
            runs: runs.len() as u32,
            ffma,
            yielding: count(Word::yields),
            reusing: count(Word::reuses),
            outside: all - ffma,
        })
    }
}

/// The instructions of one kernel, and where they are in the file.
struct Code {
    at: Range<usize>,
    words: Vec<Word>,
}

impl Code {
    fn of(cubin: &[u8], kernel: &str) -> Result<Self, JitError> {
        Cubin::parse(cubin)?.check_hopper()?;
        let at = code_range(cubin, kernel)?;
        let (words, rest) = cubin[at.clone()].as_chunks::<WORD>();
        if !rest.is_empty() {
            let reason = format!("kernel {kernel} has {} bytes of code, no multiple of {WORD}", at.len());
            return Err(JitError::NotACubin { reason });
        }
        let words = words.iter().map(|bytes| Word(u128::from_le_bytes(*bytes))).collect();
        Ok(Self { at, words })
    }
}

/// Places of consecutive `FFMA`, however few.
fn consecutive(words: &[Word]) -> impl Iterator<Item = Range<usize>> {
    let mut from = 0;
    words.chunk_by(|one, next| one.is_ffma() == next.is_ffma()).filter_map(move |chunk| {
        let range = from..from + chunk.len();
        from = range.end;
        chunk[0].is_ffma().then_some(range)
    })
}

/// The runs, each of known instructions only.
fn runs(words: &[Word], kernel: &str) -> Result<Vec<Range<usize>>, JitError> {
    let runs: Vec<_> = consecutive(words).filter(|run| run.len() >= LEAST).collect();
    for index in runs.iter().cloned().flatten() {
        if let Some(rule) = words[index].unknown() {
            let (address, word) = ((index * WORD) as u64, words[index].0);
            return Err(JitError::UnknownFfma { kernel: kernel.to_owned(), address, word, rule });
        }
    }
    Ok(runs)
}

#[cfg(test)]
#[path = "interleave_tests.rs"]
mod tests;
