//! The C functions of NVRTC, and the only unsafe code of this crate.
//!
//! They are bound here with `libloading` rather than through cudarc: cudarc keeps one NVRTC per
//! process and panics when there is none, whereas this crate reports absence as a value and may
//! hold two versions at once (a kernel is checked with each). Nine functions are less code than
//! the detour, and no build script asks for an `nvcc`.
//!
//! Signatures: `nvrtc.h` of CUDA 12.0 to 13.5; they did not change in between.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::path::PathBuf;
use std::ptr;

use crate::JitError;

type RawProgram = *mut c_void;
const SUCCESS: c_int = 0;

/// One loaded NVRTC: its functions, valid until the process ends.
#[derive(Clone, Copy)]
pub(super) struct Library {
    version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int,
    error_string: unsafe extern "C" fn(c_int) -> *const c_char,
    create: unsafe extern "C" fn(
        *mut RawProgram,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> c_int,
    destroy: unsafe extern "C" fn(*mut RawProgram) -> c_int,
    compile: unsafe extern "C" fn(RawProgram, c_int, *const *const c_char) -> c_int,
    log_size: unsafe extern "C" fn(RawProgram, *mut usize) -> c_int,
    log: unsafe extern "C" fn(RawProgram, *mut c_char) -> c_int,
    cubin_size: unsafe extern "C" fn(RawProgram, *mut usize) -> c_int,
    cubin: unsafe extern "C" fn(RawProgram, *mut c_char) -> c_int,
}

impl Library {
    /// Loads a library by path, or by name through the loader's search, and looks up every function.
    ///
    /// # Errors
    ///
    /// The loader's words, or the name of a missing function.
    pub(super) fn open(name: &OsStr) -> Result<Self, String> {
        let library = load(name)?;
        macro_rules! function {
            ($symbol:literal) => {{
                // SAFETY: the type of the field this is assigned to is the signature that nvrtc.h
                // declares for this symbol. The pointer outlives `library`, which is never closed.
                match unsafe { library.get($symbol) } {
                    Ok(symbol) => *symbol,
                    Err(error) => return Err(format!("is not NVRTC: {}", sentence(&error))),
                }
            }};
        }
        let functions = Self {
            version: function!("nvrtcVersion"),
            error_string: function!("nvrtcGetErrorString"),
            create: function!("nvrtcCreateProgram"),
            destroy: function!("nvrtcDestroyProgram"),
            compile: function!("nvrtcCompileProgram"),
            log_size: function!("nvrtcGetProgramLogSize"),
            log: function!("nvrtcGetProgramLog"),
            cubin_size: function!("nvrtcGetCUBINSize"),
            cubin: function!("nvrtcGetCUBIN"),
        };
        // Never closed: the functions above stay valid for good, and NVRTC keeps thread-local state.
        std::mem::forget(library);
        Ok(functions)
    }

    /// `(major, minor)` of the library.
    pub(super) fn version(&self) -> Result<(u32, u32), JitError> {
        let (mut major, mut minor) = (0, 0);
        // SAFETY: both pointers are to live integers.
        let code = unsafe { (self.version)(&mut major, &mut minor) };
        self.check("nvrtcVersion", code)?;
        Ok((u32::try_from(major).unwrap_or(0), u32::try_from(minor).unwrap_or(0)))
    }

    /// The file that the functions came from, where the platform tells.
    pub(super) fn file(&self) -> Option<PathBuf> {
        mapped_file(self.version as usize)
    }

    /// Starts a program. Source and name are copied by NVRTC.
    pub(super) fn program(&self, source: &CStr, name: &CStr) -> Result<Program<'_>, JitError> {
        let mut raw = ptr::null_mut();
        // SAFETY: both strings end in NUL; no headers are passed, so those arrays may be null.
        let code = unsafe { (self.create)(&mut raw, source.as_ptr(), name.as_ptr(), 0, ptr::null(), ptr::null()) };
        self.check("nvrtcCreateProgram", code)?;
        Ok(Program { library: self, raw, not_shared: PhantomData })
    }

    /// NVRTC's name of a result code.
    pub(super) fn describe(&self, code: i32) -> String {
        // SAFETY: any integer is allowed; the result is a static string or null.
        let text = unsafe { (self.error_string)(code) };
        if text.is_null() {
            return format!("NVRTC error {code}");
        }
        // SAFETY: not null, hence NVRTC's own static, NUL-terminated string.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    }

    fn check(&self, function: &'static str, code: c_int) -> Result<(), JitError> {
        if code == SUCCESS {
            return Ok(());
        }
        Err(JitError::NvrtcCall { function, code, message: self.describe(code) })
    }
}

/// One `nvrtcProgram`, destroyed on drop. Stays on the thread that made it.
pub(super) struct Program<'a> {
    library: &'a Library,
    raw: RawProgram,
    not_shared: PhantomData<*const ()>,
}

impl Program<'_> {
    /// Compiles. An error is NVRTC's result code; the reason is in the log.
    pub(super) fn compile(&self, options: &[CString]) -> Result<(), i32> {
        let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let Ok(count) = c_int::try_from(pointers.len()) else {
            return Err(INVALID_OPTION);
        };
        // SAFETY: `raw` is a live program, `pointers` holds `count` NUL-terminated strings that
        // outlive the call.
        match unsafe { (self.library.compile)(self.raw, count, pointers.as_ptr()) } {
            SUCCESS => Ok(()),
            code => Err(code),
        }
    }

    /// What the front end and ptxas said.
    pub(super) fn log(&self) -> Result<String, JitError> {
        let mut bytes = self.fetch("nvrtcGetProgramLog", self.library.log_size, self.library.log)?;
        if let Some(end) = bytes.iter().position(|&byte| byte == 0) {
            bytes.truncate(end);
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The machine code; empty where the options named no real architecture.
    pub(super) fn cubin(&self) -> Result<Vec<u8>, JitError> {
        self.fetch("nvrtcGetCUBIN", self.library.cubin_size, self.library.cubin)
    }

    fn fetch(
        &self,
        function: &'static str,
        size: unsafe extern "C" fn(RawProgram, *mut usize) -> c_int,
        get: unsafe extern "C" fn(RawProgram, *mut c_char) -> c_int,
    ) -> Result<Vec<u8>, JitError> {
        let mut length = 0;
        // SAFETY: `raw` is a live program, `length` a live integer.
        self.library.check(function, unsafe { size(self.raw, &mut length) })?;
        let mut bytes = vec![0_u8; length];
        if length > 0 {
            // SAFETY: NVRTC writes exactly the length it just named for the same program.
            self.library.check(function, unsafe { get(self.raw, bytes.as_mut_ptr().cast()) })?;
        }
        Ok(bytes)
    }
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        // SAFETY: `raw` came from nvrtcCreateProgram and is destroyed once. A failure leaks memory only.
        unsafe { (self.library.destroy)(&mut self.raw) };
    }
}

/// `NVRTC_ERROR_INVALID_OPTION`.
const INVALID_OPTION: i32 = 5;

/// Loads a library that nobody calls directly and keeps it for the life of the process.
pub(super) fn keep_loaded(path: &OsStr) -> Result<(), String> {
    load(path).map(std::mem::forget)
}

fn load(name: &OsStr) -> Result<libloading::Library, String> {
    // SAFETY: loading runs the library's initialisers. The file is one that the user named or that
    // a system, CUDA or Python installation provides under NVRTC's name; it is trusted as every
    // shared library of the process is.
    unsafe { libloading::Library::new(name) }.map_err(|error| sentence(&error))
}

/// The loader's own words, which libloading keeps as the source of its error.
fn sentence(error: &libloading::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => source.to_string(),
        None => error.to_string(),
    }
}

/// The file mapped at an address, from `/proc/self/maps` where there is one.
fn mapped_file(address: usize) -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    maps.lines().find_map(|line| {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let start = usize::from_str_radix(start, 16).ok()?;
        let end = usize::from_str_radix(end, 16).ok()?;
        let path = rest.find('/').map(|at| &rest[at..])?;
        (start..end).contains(&address).then(|| PathBuf::from(path))
    })
}
