//! The one error type of this crate.

use std::io;
use std::path::PathBuf;

use crate::config::KernelConfig;
use crate::cubin::Architecture;
use crate::nvrtc::Attempts;
use crate::probe::ProbeKernel;
use crate::report::Defect;

/// Why a kernel could not be compiled, judged, stored or read back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JitError {
    /// There is no NVRTC, or none that can be used.
    #[error(
        "NVRTC, the CUDA run-time compiler, was not found (set FP8GEMM_NVRTC to libnvrtc or its folder, \
         or install the Python wheel nvidia-cuda-nvrtc); tried:\n{attempts}"
    )]
    NvrtcNotFound {
        /// What was tried and why not.
        attempts: Attempts,
    },
    /// An NVRTC function failed for a reason other than the program it compiles.
    #[error("{function} failed with code {code}: {message}")]
    NvrtcCall {
        /// The C function.
        function: &'static str,
        /// Its `nvrtcResult`.
        code: i32,
        /// NVRTC's name of the code.
        message: String,
    },
    /// Text that cannot be a C string.
    #[error("{argument} contains a NUL byte at byte {at}, where NVRTC would end it")]
    NulByte {
        /// Which text.
        argument: &'static str,
        /// Position of the first NUL.
        at: usize,
    },
    /// The source does not compile, or an option is wrong.
    #[error("kernel {name} does not compile ({code}):\n{log}")]
    Compile {
        /// What the caller called the source.
        name: String,
        /// NVRTC's name of the failure.
        code: String,
        /// The messages of the compiler.
        log: String,
    },
    /// The compilation ended well but gave no machine code.
    #[error("kernel {name} compiled to no machine code with options {options:?}: name a real architecture, sm_90a")]
    NoCubin {
        /// What the caller called the source.
        name: String,
        /// The options as given.
        options: String,
    },
    /// A compiler log without the figures that it must have.
    #[error("the compiler's log does not tell {missing} (option --ptxas-options=-v puts it there):\n{log}")]
    Report {
        /// What was looked for.
        missing: String,
        /// The log.
        log: String,
    },
    /// A kernel that compiles but must not be run: it would be slow.
    #[error("kernel {kernel} is rejected: {}", listed(defects))]
    Rejected {
        /// The kernel.
        kernel: String,
        /// What is wrong with it.
        defects: Vec<Defect>,
    },
    /// Bytes that are not a CUBIN.
    #[error("not a CUBIN: {reason}")]
    NotACubin {
        /// What does not fit.
        reason: String,
    },
    /// A CUBIN for another GPU.
    #[error("the CUBIN is for {found}, but Hopper's wgmma needs sm_90a")]
    WrongArchitecture {
        /// The architecture it was compiled for.
        found: Architecture,
    },
    /// A file or folder of the cache, or a bundle, could not be used.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was attempted, e.g. "read".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A name that stands for something else than a regular file, or can stand for none.
    #[error("cannot {action} {}: it is {found}, but {rule}", path.display())]
    NotRegular {
        /// What was attempted, e.g. "write".
        action: &'static str,
        /// The name as given.
        path: PathBuf,
        /// What it is: "a folder", "a pipe, socket or device", or "no name for a file".
        found: &'static str,
        /// Why it must be a regular file.
        rule: &'static str,
    },
    /// An entry of a bundle that is not a kernel as this project writes it. Nothing was imported.
    #[error("bundle entry {entry:?} is refused: {reason}; nothing was imported")]
    Bundle {
        /// The name in the bundle.
        entry: String,
        /// The rule it breaks.
        reason: String,
    },
    /// A tuning table that this version did not write, or that is damaged.
    #[error("not a tuning table: {reason}")]
    Tuning {
        /// What does not fit.
        reason: String,
    },
    /// A kernel configuration that cannot be.
    #[error("configuration {config}: {field} is {value}, but {rule}")]
    Config {
        /// The configuration.
        config: KernelConfig,
        /// The field.
        field: &'static str,
        /// Its value.
        value: u32,
        /// The rule it breaks.
        rule: &'static str,
    },
    /// A single instruction that the hardware does not have.
    #[error("instruction {kernel}: {field} is {value}, but {rule}")]
    Probe {
        /// The kernel.
        kernel: ProbeKernel,
        /// The field.
        field: &'static str,
        /// Its value.
        value: u32,
        /// The rule it breaks.
        rule: &'static str,
    },
    /// A problem that no kernel here computes.
    #[error("no kernel computes {problem}: {rule}")]
    Unsupported {
        /// The problem.
        problem: String,
        /// Why not, and what to do.
        rule: String,
    },
    /// The problem itself is not legal.
    #[error(transparent)]
    Problem(#[from] fp8gemm_problem::ProblemError),
    /// A listing of machine code that cannot be read.
    #[error("the disassembly cannot be read: {reason}")]
    Sass {
        /// What does not fit.
        reason: String,
    },
    /// There is no disassembler.
    #[error(
        "neither nvdisasm nor cuobjdump was found (they are in the CUDA toolkit and in the Python wheels \
         nvidia-cuda-nvdisasm and nvidia-cuda-cuobjdump); looked into {}",
        folders_listed(folders)
    )]
    NoDisassembler {
        /// The folders that were looked into.
        folders: Vec<PathBuf>,
    },
    /// The disassembler did not do its work.
    #[error("{} gives no disassembly: {reason}", program.display())]
    Disassemble {
        /// The program.
        program: PathBuf,
        /// What it or the system said.
        reason: String,
    },
    /// A kernel without a promotion by `FFMA`: there is nothing to interleave.
    #[error("kernel {kernel} has no run of at least {least} consecutive FFMA, the longest has {longest}")]
    NoFfmaRun {
        /// The kernel.
        kernel: String,
        /// `FFMA` in its longest run.
        longest: usize,
        /// How many a run must have.
        least: usize,
    },
    /// An `FFMA` in a run that no promotion has, so that the code is not touched.
    #[error("kernel {kernel}: the FFMA at {address:#x}, {word:#034x}, is not as expected in a run: {rule}")]
    UnknownFfma {
        /// The kernel.
        kernel: String,
        /// Byte offset in the kernel.
        address: u64,
        /// Its 128 bits.
        word: u128,
        /// The rule it breaks.
        rule: &'static str,
    },
    /// Text that is no pattern.
    #[error(
        "interleaving pattern {text:?}: expected as-compiled, none, deepgemm-2025, one-in-four, reuse, \
         reuse-deepgemm-2025 or reuse-one-in-four"
    )]
    Interleave {
        /// The text as given.
        text: String,
    },
    /// Text that is not the key of a cache entry.
    #[error("cache key {text:?}: expected 64 lower-case hexadecimal digits")]
    Key {
        /// The text as given.
        text: String,
    },
}

impl JitError {
    /// Whether another configuration of the problem may do, as a plan then tries: the compiler spoils this one, or it
    /// is not cached where there is no NVRTC. (A bundle has the next one where the compiler that made it spoilt the
    /// first.)
    pub fn is_of_one_kernel(&self) -> bool {
        matches!(self, Self::Rejected { .. } | Self::NvrtcNotFound { .. })
    }

    /// Whether it says that a kernel takes no [pattern](crate::sass::Interleave): it has no run of `FFMA`, or
    /// one that is not known. The kernel as compiled is as good as ever then.
    pub fn refuses_interleave(&self) -> bool {
        matches!(self, Self::NoFfmaRun { .. } | Self::UnknownFfma { .. })
    }
}

fn listed(defects: &[Defect]) -> String {
    defects.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn folders_listed(folders: &[PathBuf]) -> String {
    folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ")
}
