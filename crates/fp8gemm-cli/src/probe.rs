//! What of NVIDIA's software this machine has: the driver, its GPUs, NVRTC. One of the two places
//! of this crate with unsafe code.
//!
//! Both libraries are opened at run time, so that their absence is a value and not a failure to
//! start. Nothing is created on a GPU: no context, no memory.
#![expect(unsafe_code, reason = "libraries that may be missing can only be opened and called by hand")]

use core::ffi::{c_char, c_int, c_uint};
use core::fmt;
use core::mem::ManuallyDrop;
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use libloading::{Library, Symbol};
use serde::Serialize;

/// The driver and its GPUs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Driver {
    /// Name of the library that was loaded.
    pub library: &'static str,
    /// Version of the kernel module, where the system tells.
    pub version: Option<String>,
    /// Newest CUDA version that the driver supports, as `major.minor`.
    pub cuda: String,
    /// The GPUs, by ordinal.
    pub devices: Vec<Device>,
}

/// A GPU.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Compute capability, major and minor; 9.0 is Hopper.
    pub compute_capability: (i32, i32),
    /// Streaming multiprocessors.
    pub multiprocessors: i32,
}

impl Device {
    /// Whether the FP8 `wgmma` instruction that this project models exists on it.
    pub fn is_hopper(&self) -> bool {
        self.compute_capability == (9, 0)
    }
}

/// Why there is no usable driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoDriver {
    /// The library could not be loaded.
    NotFound {
        /// Its name.
        library: &'static str,
    },
    /// The library is there but misses a function.
    Symbol {
        /// The function.
        name: &'static str,
    },
    /// A call failed.
    Call {
        /// The function.
        name: &'static str,
        /// The `CUresult`.
        code: i32,
    },
}

impl fmt::Display for NoDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound { library } => write!(
                f,
                "no NVIDIA driver: {library} cannot be loaded (not installed, or a container started without GPUs)"
            ),
            Self::Symbol { name } => write!(f, "the NVIDIA driver has no function {name}: it is too old"),
            Self::Call { name, code } => write!(f, "the NVIDIA driver's {name} fails: {}", meaning(*code)),
        }
    }
}

/// The results that `cuInit` and its like give on machines that are not set up, from `cuda.h`.
fn meaning(code: i32) -> String {
    let known = match code {
        34 => "the library is the stub for linking, not the driver",
        100 => "no GPU that CUDA can use",
        101 => "no such GPU",
        802 => "the system is not ready (is the fabric manager running?)",
        803 => "library and kernel module have different versions (restart after the driver's update)",
        804 => "the compatibility library does not support this GPU",
        999 => "unknown error (is the kernel module loaded?)",
        _ => return format!("CUDA error {code}"),
    };
    format!("{known} (CUDA error {code})")
}

const DRIVER: &str = if cfg!(windows) { "nvcuda.dll" } else { "libcuda.so.1" };

/// Attributes of `cuDeviceGetAttribute`, from `cuda.h`.
const MULTIPROCESSOR_COUNT: c_int = 16;
const CAPABILITY_MAJOR: c_int = 75;
const CAPABILITY_MINOR: c_int = 76;

/// The driver's functions that are used here, with the signatures of `cuda.h`, where `CUresult`,
/// `CUdevice` and `CUdevice_attribute` are `int`.
struct DriverApi<'lib> {
    init: Symbol<'lib, unsafe extern "C" fn(c_uint) -> c_int>,
    version: Symbol<'lib, unsafe extern "C" fn(*mut c_int) -> c_int>,
    count: Symbol<'lib, unsafe extern "C" fn(*mut c_int) -> c_int>,
    device: Symbol<'lib, unsafe extern "C" fn(*mut c_int, c_int) -> c_int>,
    name: Symbol<'lib, unsafe extern "C" fn(*mut c_char, c_int, c_int) -> c_int>,
    attribute: Symbol<'lib, unsafe extern "C" fn(*mut c_int, c_int, c_int) -> c_int>,
}

impl<'lib> DriverApi<'lib> {
    fn new(library: &'lib Library) -> Result<Self, NoDriver> {
        // SAFETY: the types of the fields are the signatures that `cuda.h` gives these functions,
        // unchanged since CUDA 2.0.
        unsafe {
            Ok(Self {
                init: symbol(library, "cuInit")?,
                version: symbol(library, "cuDriverGetVersion")?,
                count: symbol(library, "cuDeviceGetCount")?,
                device: symbol(library, "cuDeviceGet")?,
                name: symbol(library, "cuDeviceGetName")?,
                attribute: symbol(library, "cuDeviceGetAttribute")?,
            })
        }
    }

    /// Initialises the driver; newest CUDA version that it supports, number of GPUs.
    fn start(&self) -> Result<(c_int, c_int), NoDriver> {
        let (mut version, mut count) = (0, 0);
        // SAFETY: `cuInit` takes 0 as its only flag; the others write one int through a pointer to
        // a local, and `cuDeviceGetCount` is called after `cuInit` has succeeded.
        unsafe {
            call("cuInit", (self.init)(0))?;
            call("cuDriverGetVersion", (self.version)(&mut version))?;
            call("cuDeviceGetCount", (self.count)(&mut count))?;
        }
        Ok((version, count))
    }

    /// What is known of one GPU; after [`start`](Self::start).
    fn describe(&self, ordinal: c_int) -> Result<Device, NoDriver> {
        let mut handle = 0;
        let mut name = [0u8; 256];
        // SAFETY: the driver is initialised; it writes one int to `handle`, then at most the given
        // number of bytes, a terminating zero included, to `name`, and reads the handle it gave.
        unsafe {
            call("cuDeviceGet", (self.device)(&mut handle, ordinal))?;
            call("cuDeviceGetName", (self.name)(name.as_mut_ptr().cast(), name.len() as c_int, handle))?;
        }
        let attribute = |which| {
            let mut value = 0;
            // SAFETY: the driver writes one int to a local; the handle is the one it gave above.
            call("cuDeviceGetAttribute", unsafe { (self.attribute)(&mut value, which, handle) }).map(|()| value)
        };
        let length = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
        Ok(Device {
            name: String::from_utf8_lossy(&name[..length]).into_owned(),
            compute_capability: (attribute(CAPABILITY_MAJOR)?, attribute(CAPABILITY_MINOR)?),
            multiprocessors: attribute(MULTIPROCESSOR_COUNT)?,
        })
    }
}

/// Loads the driver and asks it for its GPUs.
///
/// # Errors
/// [`NoDriver`], with the reason.
pub fn driver() -> Result<Driver, NoDriver> {
    // Never unloaded: a driver that was initialised may have threads and exit handlers.
    let library = ManuallyDrop::new(load(DRIVER).map_err(|_| NoDriver::NotFound { library: DRIVER })?);
    let api = DriverApi::new(&library)?;
    let (cuda, count) = api.start()?;
    let devices = (0..count).map(|ordinal| api.describe(ordinal)).collect::<Result<_, _>>()?;
    Ok(Driver { library: DRIVER, version: module_version(), cuda: cuda_version(cuda), devices })
}

fn call(name: &'static str, code: c_int) -> Result<(), NoDriver> {
    if code == 0 { Ok(()) } else { Err(NoDriver::Call { name, code }) }
}

/// `13000` as `13.0`.
fn cuda_version(version: c_int) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

/// Version of the kernel module, from the file it offers on Linux.
fn module_version() -> Option<String> {
    fs::read_to_string("/sys/module/nvidia/version").ok().map(|version| version.trim().to_owned())
}

/// NVRTC, the compiler of kernels.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Nvrtc {
    /// What was loaded: a name that the loader found, or a path.
    pub library: String,
    /// Its version, as `major.minor`.
    pub version: String,
}

/// What was looked for, in order, up to and including the one that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct NvrtcSearch {
    /// The library, if one was found.
    pub found: Option<Nvrtc>,
    /// What was tried before it, and why it was not taken.
    pub tried: Vec<(String, String)>,
}

/// Looks for NVRTC where the loader looks, then in CUDA's usual folders, then in Python's.
pub fn nvrtc() -> NvrtcSearch {
    let mut tried = Vec::new();
    let names = NVRTC_NAMES.iter().map(|name| PathBuf::from(*name));
    let in_folders = folders().into_iter().flat_map(|folder| NVRTC_NAMES.iter().map(move |name| folder.join(name)));
    // A path that does not exist says nothing; a bare name is what the loader searches for.
    let candidates = names.chain(in_folders.filter(|path| path.exists()));
    for candidate in candidates {
        match nvrtc_version(&candidate) {
            Ok(version) => {
                let found = Some(Nvrtc { library: candidate.display().to_string(), version });
                return NvrtcSearch { found, tried };
            }
            Err(why) => tried.push((candidate.display().to_string(), why)),
        }
    }
    NvrtcSearch { found: None, tried }
}

#[cfg(windows)]
const NVRTC_NAMES: &[&str] = &["nvrtc64_130_0.dll", "nvrtc64_120_0.dll"];
#[cfg(not(windows))]
const NVRTC_NAMES: &[&str] = &["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"];

fn nvrtc_version(path: &Path) -> Result<String, String> {
    let library = load(path).map_err(|error| match path.is_absolute() {
        true => error.to_string().replace(['\n', '\r'], " "),
        false => "not found by the loader".to_owned(),
    })?;
    // SAFETY: this is the signature that `nvrtc.h` gives it (`nvrtcResult` is an `int`).
    let version: Symbol<'_, unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int> =
        unsafe { symbol(&library, "nvrtcVersion") }.map_err(|_| "has no function nvrtcVersion".to_owned())?;
    let (mut major, mut minor) = (0, 0);
    // SAFETY: it writes one int through each pointer, both to locals.
    match unsafe { version(&mut major, &mut minor) } {
        0 => Ok(format!("{major}.{minor}")),
        code => Err(format!("nvrtcVersion fails with {code}")),
    }
}

/// Folders that CUDA and its Python wheels are installed in.
fn folders() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for variable in ["CUDA_HOME", "CUDA_PATH"] {
        if let Some(root) = env::var_os(variable) {
            let root = PathBuf::from(root);
            folders.extend(["lib64", "lib", "bin"].map(|name| root.join(name)));
        }
    }
    if cfg!(unix) {
        folders.push(PathBuf::from("/usr/local/cuda/lib64"));
    }
    for variable in ["VIRTUAL_ENV", "CONDA_PREFIX"] {
        let Some(root) = env::var_os(variable) else { continue };
        let library = Path::new(&root).join("lib");
        folders.push(library.clone());
        let Ok(entries) = fs::read_dir(&library) else { continue };
        let pythons = entries.flatten().map(|entry| entry.path());
        for python in pythons.filter(|path| path.file_name().is_some_and(|name| starts_with(name, "python"))) {
            let packages = python.join("site-packages/nvidia");
            folders.extend(["cu13/lib", "cuda_nvrtc/lib"].map(|name| packages.join(name)));
        }
    }
    folders
}

fn starts_with(name: &OsStr, prefix: &str) -> bool {
    name.to_str().is_some_and(|name| name.starts_with(prefix))
}

fn load(name: impl AsRef<OsStr>) -> Result<Library, libloading::Error> {
    // SAFETY: loading runs the library's initialisers. The names are those of NVIDIA's driver and
    // of NVRTC, whose initialisers have no requirements on the process; that the files under these
    // names are NVIDIA's is the same trust that any CUDA program puts in the machine.
    unsafe { Library::new(name.as_ref()) }
}

/// A function of the library.
///
/// # Safety
/// `T` must be a function pointer with the signature that the function of that name has.
unsafe fn symbol<'lib, T>(library: &'lib Library, name: &'static str) -> Result<Symbol<'lib, T>, NoDriver> {
    // SAFETY: the caller vouches for the signature; the `Symbol` borrows the library, so it cannot
    // outlive it.
    unsafe { library.get::<T>(name.as_bytes()) }.map_err(|_| NoDriver::Symbol { name })
}
