//! Somebody else's kernel behind the C interface of `include/fp8gemm_external.h`.

use core::ffi::{CStr, c_char, c_void};
use std::path::{Path, PathBuf};

use fp8gemm_problem::{OperandType, OutputType, Policy, Problem, ScaleLayout};
use libloading::Library;

use super::Subject;
use crate::{Alignment, Buffer, Buffers, DifftestError};

/// `FP8GEMM_EXTERNAL_VERSION`.
const VERSION: u32 = 1;
/// `FP8GEMM_OK`.
const OK: i32 = 0;
/// `FP8GEMM_UNSUPPORTED`.
const UNSUPPORTED: i32 = 1;

/// Characters of a library's name that are kept.
const LONGEST_NAME: usize = 100;

/// `fp8gemm_matrix`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct RawMatrix {
    data: *mut c_void,
    rows: u64,
    columns: u64,
    stride: u64,
    ty: u32,
    reserved: u32,
}

/// `fp8gemm_gemm`.
#[repr(C)]
#[derive(Debug)]
struct RawGemm {
    version: u32,
    size: u32,
    m: u64,
    n: u64,
    k: u64,
    a: RawMatrix,
    b: RawMatrix,
    scale_a: RawMatrix,
    scale_b: RawMatrix,
    c: RawMatrix,
    d: RawMatrix,
    scales_a: u32,
    scales_b: u32,
    policy: u32,
    policy_parameter: u32,
    alpha: f32,
    beta: f32,
}

type VersionFn = unsafe extern "C" fn() -> u32;
type NameFn = unsafe extern "C" fn() -> *const c_char;
type GemmFn = unsafe extern "C" fn(*const RawGemm) -> i32;

/// A loaded library that exports `fp8gemm_external_version` and `fp8gemm_external_gemm`.
///
/// It runs in this process: what it crashes, it crashes here.
#[derive(Debug)]
pub struct External {
    path: PathBuf,
    name: String,
    gemm: GemmFn,
    /// Keeps the functions' code mapped.
    _library: Library,
}

impl External {
    /// Loads a library. Its initialisers run: load only what you would run.
    ///
    /// # Errors
    /// [`DifftestError::Library`], [`DifftestError::Symbol`], [`DifftestError::Version`].
    pub fn open(path: &Path) -> Result<Self, DifftestError> {
        let failed = |reason: String| DifftestError::Library { path: path.to_owned(), reason };
        // A bare name would be looked for in the system's folders.
        let file = std::fs::canonicalize(path).map_err(|error| failed(error.to_string()))?;
        let symbol = |symbol| move |_| DifftestError::Symbol { path: path.to_owned(), symbol };
        #[expect(unsafe_code, reason = "loading a library runs its initialisers")]
        // SAFETY: whoever names the library asks for its code to be run; nothing of ours is touched.
        let library = unsafe { Library::new(&file) }.map_err(|error| failed(error.to_string()))?;
        #[expect(unsafe_code, reason = "the header says what type the functions have")]
        // SAFETY: the header, whose version is compared below, declares these names with these types;
        // a library that exports something else under them breaks the interface.
        let (version, gemm, name) = unsafe {
            let version: VersionFn =
                *library.get::<VersionFn>(b"fp8gemm_external_version\0").map_err(symbol("fp8gemm_external_version"))?;
            let gemm: GemmFn =
                *library.get::<GemmFn>(b"fp8gemm_external_gemm\0").map_err(symbol("fp8gemm_external_gemm"))?;
            let name: Option<NameFn> = library.get::<NameFn>(b"fp8gemm_external_name\0").ok().map(|name| *name);
            (version, gemm, name)
        };
        #[expect(unsafe_code, reason = "a call of C")]
        // SAFETY: takes nothing, gives a number.
        let found = unsafe { version() };
        if found != VERSION {
            return Err(DifftestError::Version { path: path.to_owned(), found, expected: VERSION });
        }
        #[expect(unsafe_code, reason = "a call of C")]
        // SAFETY: takes nothing; by the header it gives a string that lives as long as the library,
        // which is read here and not kept.
        let name = name.and_then(|name| unsafe {
            let text = name();
            (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
        });
        // It goes into reports and file names.
        let name = name.map(|name| name.chars().filter(|c| !c.is_control()).take(LONGEST_NAME).collect::<String>());
        let name = name
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| path.file_name().unwrap_or_default().to_string_lossy().into_owned());
        Ok(Self { path: path.to_owned(), name, gemm, _library: library })
    }
}

impl Subject for External {
    fn name(&self) -> String {
        self.name.clone()
    }

    /// The header promises that C is not D.
    fn alignment(&self, _: &Problem) -> Alignment {
        Alignment { c_in_place: false, ..Alignment::NONE }
    }

    fn run(&mut self, problem: &Problem, _: usize, buffers: &mut Buffers) -> Result<(), DifftestError> {
        let rule = |rule: &str| DifftestError::Unsupported {
            subject: self.name.clone(),
            problem: *problem,
            rule: rule.to_owned(),
        };
        let (policy, policy_parameter) = match problem.policy {
            Policy::Promote { every } => (0, every),
            Policy::Chain => (1, 0),
            Policy::Cutlass128 => (2, 0),
            Policy::Split { parts } => (3, parts),
        };
        let layout = |layout| {
            Ok(match layout {
                ScaleLayout::Tensor => 0,
                ScaleLayout::Row => 1,
                ScaleLayout::Block1x128 => 2,
                ScaleLayout::Block128x128 => 3,
                ScaleLayout::Block1x32 => 4,
                ScaleLayout::Block128x1 => return Err(rule("the interface has no 128x1 scales")),
            })
        };
        let code = |ty| if ty == OperandType::E4m3 { 0 } else { 1 };
        let output = |ty| match ty {
            OutputType::Bf16 => 2,
            OutputType::F16 => 3,
            OutputType::F32 => 4,
        };
        let none = RawMatrix { data: core::ptr::null_mut(), rows: 0, columns: 0, stride: 0, ty: 0, reserved: 0 };
        let gemm = RawGemm {
            version: VERSION,
            size: size_of::<RawGemm>() as u32,
            m: problem.m as u64,
            n: problem.n as u64,
            k: problem.k as u64,
            a: raw(&mut buffers.a, code(problem.a.ty)),
            b: raw(&mut buffers.b, code(problem.b.ty)),
            scale_a: raw(&mut buffers.scale_a, output(OutputType::F32)),
            scale_b: raw(&mut buffers.scale_b, output(OutputType::F32)),
            c: match (&mut buffers.c, problem.c) {
                (Some(c), Some(ty)) => raw(c, output(ty)),
                _ => none,
            },
            d: raw(&mut buffers.d, output(problem.d)),
            scales_a: layout(problem.a.scales)?,
            scales_b: layout(problem.b.scales)?,
            policy,
            policy_parameter,
            alpha: problem.epilogue.alpha,
            beta: problem.epilogue.beta,
        };
        #[expect(unsafe_code, reason = "a call of C")]
        // SAFETY: every pointer is to memory that lives until this function returns and that the struct
        // describes with its extent; the function has the type that the header declares. What a wrong
        // kernel does beyond the extents is the caller's risk, which guard bands catch where it is near.
        let status = unsafe { (self.gemm)(&raw const gemm) };
        match status {
            OK => Ok(()),
            UNSUPPORTED => Err(rule("the library says so")),
            other => Err(DifftestError::Subject {
                subject: format!("{} ({})", self.name, self.path.display()),
                problem: *problem,
                reason: format!("fp8gemm_external_gemm returned {other}"),
            }),
        }
    }
}

fn raw(buffer: &mut Buffer, ty: u32) -> RawMatrix {
    let (rows, columns) = buffer.dim();
    let (stride, start) = (buffer.stride() as u64, buffer.start());
    // From the whole memory, so that the pointer may reach the guards without leaving what it came from.
    let data = buffer.bytes_mut().as_mut_ptr().wrapping_add(start).cast();
    RawMatrix { data, rows: rows as u64, columns: columns as u64, stride, ty, reserved: 0 }
}
