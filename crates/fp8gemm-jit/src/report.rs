//! What ptxas says about the kernels it assembled: registers, stack, spills, serialised `wgmma`.
//!
//! With `--ptxas-options=-v` (in [`BASE_OPTIONS`](crate::BASE_OPTIONS)) the log of a compilation
//! holds, for each kernel, lines such as
//!
//! ```text
//! ptxas info    : Compiling entry function 'fp8gemm' for 'sm_90a'
//! ptxas info    : Function properties for fp8gemm
//! ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
//! ptxas info    : Used 168 registers, used 3 barriers
//! ptxas info    : Compile time = 181.045 ms
//! ```
//!
//! and, before them, remarks with a code, such as C7511 where ptxas serialises `wgmma`. The form is
//! the same in NVRTC 12.9, 13.0 and 13.5 (recorded in the tests). A log that does not tell a figure
//! is an error: a change of form must not pass for "no spills".

use std::fmt;
use std::time::Duration;

use crate::JitError;

/// The log of one compilation, read.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Report {
    /// The kernels, in the order of the log.
    pub kernels: Vec<KernelReport>,
    /// Functions that ptxas did not inline into a kernel.
    pub functions: Vec<FunctionReport>,
    /// Remarks of ptxas that have a code, e.g. C7511.
    pub remarks: Vec<Remark>,
    /// Warnings of the front end and of ptxas, as written.
    pub warnings: Vec<String>,
}

/// What ptxas says about one kernel.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct KernelReport {
    /// Symbol of the kernel.
    pub name: String,
    /// Architecture it was assembled for, e.g. `sm_90a`.
    pub architecture: String,
    /// Registers of a thread at launch. `setmaxnreg` changes them while the kernel runs.
    pub registers: u32,
    /// Named barriers in use.
    pub barriers: u32,
    /// Static shared memory in bytes; what is passed at launch comes on top.
    pub shared_bytes: u32,
    /// Local memory.
    pub memory: LocalMemory,
    /// Time that ptxas took.
    pub compile_time: Option<Duration>,
}

/// A function with its own frame.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FunctionReport {
    /// Symbol of the function.
    pub name: String,
    /// Local memory.
    pub memory: LocalMemory,
}

/// Bytes of thread-local memory, which lies in device memory and is slow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LocalMemory {
    /// Stack frame of one thread.
    pub stack: u32,
    /// Bytes of spill stores in the code.
    pub spill_stores: u32,
    /// Bytes of spill loads in the code.
    pub spill_loads: u32,
}

/// A remark of ptxas that has a code.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Remark {
    /// The number after the C: 7511 for C7511.
    pub code: u32,
    /// The remark.
    pub text: String,
    /// The kernel it names.
    pub kernel: Option<String>,
}

/// Why a kernel must not be used although it compiles.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Defect {
    /// Registers do not suffice.
    Spills {
        /// Bytes of spill stores.
        stores: u32,
        /// Bytes of spill loads.
        loads: u32,
    },
    /// An array is not in registers, usually because its index is not known when compiling.
    Stack {
        /// Bytes of one thread's frame.
        bytes: u32,
    },
    /// A remark C75xx: ptxas waits where the source does not, which can halve the speed.
    Serialised(Remark),
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spills { stores, loads } => write!(f, "spills {stores} bytes of stores and {loads} bytes of loads"),
            Self::Stack { bytes } => write!(f, "a stack frame of {bytes} bytes"),
            Self::Serialised(Remark { code, text, .. }) => write!(f, "C{code} {text}"),
        }
    }
}

impl Report {
    /// Reads a log.
    ///
    /// # Errors
    ///
    /// [`JitError::Report`] if the log names no kernel, or a kernel without registers or stack.
    ///
    /// # Examples
    ///
    /// ```
    /// let log = "\
    /// ptxas info    : Compiling entry function 'k' for 'sm_90a'
    /// ptxas info    : Function properties for k
    /// ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
    /// ptxas info    : Used 168 registers, used 3 barriers
    /// ";
    /// let report = fp8gemm_jit::Report::parse(log)?;
    /// assert_eq!(report.kernels[0].registers, 168);
    /// report.check()?;
    /// # Ok::<(), fp8gemm_jit::JitError>(())
    /// ```
    pub fn parse(log: &str) -> Result<Self, JitError> {
        let missing = |missing: String| JitError::Report { missing, log: log.to_owned() };
        let mut kernels: Vec<Draft> = Vec::new();
        let mut functions: Vec<FunctionReport> = Vec::new();
        let mut remarks = Vec::new();
        let mut warnings = Vec::new();
        let mut subject = None;
        for line in log.lines() {
            if line.starts_with("ptxas warning") || line.contains(": warning ") {
                warnings.push(line.to_owned());
            } else if let Some(remark) = remark(line) {
                remarks.push(remark);
            } else if let Some((name, architecture)) = entry(line) {
                kernels.push(Draft { name, architecture, ..Draft::default() });
            } else if let Some((_, name)) = line.split_once("Function properties for ") {
                subject = Some(name.trim().to_owned());
            } else if let Some(memory) = local_memory(line) {
                let name = subject.take().ok_or_else(|| missing("whose stack frame it is".to_owned()))?;
                match kernels.iter_mut().find(|kernel| kernel.name == name) {
                    Some(kernel) => kernel.memory = Some(memory),
                    None => functions.push(FunctionReport { name, memory }),
                }
            } else if let (Some(used), Some(kernel)) = (used(line), kernels.last_mut()) {
                kernel.used = Some(used);
            } else if let (Some(time), Some(kernel)) = (compile_time(line), kernels.last_mut()) {
                kernel.compile_time = Some(time);
            }
        }
        if kernels.is_empty() {
            return Err(missing("of any kernel".to_owned()));
        }
        let kernels = kernels
            .into_iter()
            .map(|draft| {
                let used = draft.used.ok_or_else(|| missing(format!("the registers of kernel {}", draft.name)))?;
                let memory = draft.memory.ok_or_else(|| missing(format!("the stack of kernel {}", draft.name)))?;
                Ok(KernelReport {
                    name: draft.name,
                    architecture: draft.architecture,
                    registers: used.registers,
                    barriers: used.barriers,
                    shared_bytes: used.shared_bytes,
                    memory,
                    compile_time: draft.compile_time,
                })
            })
            .collect::<Result<_, JitError>>()?;
        Ok(Self { kernels, functions, remarks, warnings })
    }

    /// Rejects kernels with spills, a stack frame or a remark C75xx.
    ///
    /// # Errors
    ///
    /// [`JitError::Rejected`] with every defect of the first kernel or function that has one.
    pub fn check(&self) -> Result<(), JitError> {
        let kernels = self.kernels.iter().map(|kernel| (&kernel.name, kernel.memory));
        let functions = self.functions.iter().map(|function| (&function.name, function.memory));
        for (index, (name, memory)) in kernels.chain(functions).enumerate() {
            let mut defects = Vec::new();
            if memory.spill_stores > 0 || memory.spill_loads > 0 {
                defects.push(Defect::Spills { stores: memory.spill_stores, loads: memory.spill_loads });
            }
            if memory.stack > 0 {
                defects.push(Defect::Stack { bytes: memory.stack });
            }
            // A remark that names none of the kernels is laid to the first.
            let concerns = |remark: &&Remark| match &remark.kernel {
                Some(named) if self.kernels.iter().any(|kernel| kernel.name == *named) => named == name,
                _ => index == 0,
            };
            let serialised = self.remarks.iter().filter(|remark| (7500..7600).contains(&remark.code));
            defects.extend(serialised.filter(concerns).cloned().map(Defect::Serialised));
            if !defects.is_empty() {
                return Err(JitError::Rejected { kernel: name.clone(), defects });
            }
        }
        Ok(())
    }
}

#[derive(Default)]
struct Draft {
    name: String,
    architecture: String,
    used: Option<Used>,
    memory: Option<LocalMemory>,
    compile_time: Option<Duration>,
}

struct Used {
    registers: u32,
    barriers: u32,
    shared_bytes: u32,
}

/// `... Compiling entry function 'NAME' for 'ARCHITECTURE'`
fn entry(line: &str) -> Option<(String, String)> {
    let (_, rest) = line.split_once("Compiling entry function '")?;
    let (name, rest) = rest.split_once("' for '")?;
    let (architecture, _) = rest.split_once('\'')?;
    Some((name.to_owned(), architecture.to_owned()))
}

/// `... (C7511) TEXT in [the] function 'NAME' ...`
fn remark(line: &str) -> Option<Remark> {
    let (_, rest) = line.strip_prefix("ptxas")?.split_once("(C")?;
    let (code, text) = rest.split_once(')')?;
    let code = code.parse().ok()?;
    let kernel =
        text.split_once("function '").and_then(|(_, rest)| rest.split_once('\'')).map(|(name, _)| name.to_owned());
    Some(Remark { code, text: text.trim().to_owned(), kernel })
}

/// `... N bytes stack frame, N bytes spill stores, N bytes spill loads`
fn local_memory(line: &str) -> Option<LocalMemory> {
    let number = |what| number_before(line, what);
    Some(LocalMemory {
        stack: number(" bytes stack frame")?,
        spill_stores: number(" bytes spill stores")?,
        spill_loads: number(" bytes spill loads")?,
    })
}

/// `... Used N registers[, used N barriers][, N bytes smem]...`
fn used(line: &str) -> Option<Used> {
    let registers = line.split_once(": Used ").and_then(|(_, rest)| number_before(rest, " registers"))?;
    let barriers = number_before(line, " barriers").unwrap_or(0);
    let shared_bytes = number_before(line, " bytes smem").unwrap_or(0);
    Some(Used { registers, barriers, shared_bytes })
}

/// `... Compile time = N ms`
fn compile_time(line: &str) -> Option<Duration> {
    let (_, rest) = line.split_once("Compile time = ")?;
    let milliseconds: f64 = rest.strip_suffix(" ms")?.parse().ok()?;
    Duration::try_from_secs_f64(milliseconds / 1e3).ok()
}

/// The decimal number that ends where `what` begins.
fn number_before(line: &str, what: &str) -> Option<u32> {
    let (before, _) = line.split_once(what)?;
    before.rsplit(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
