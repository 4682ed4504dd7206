//! Which GPUs there are, and one of them opened.
//!
//! cudarc panics where libcuda is missing, even when it formats an error. So the library, and the
//! two newest functions that are called, are looked for here first.

use std::sync::{Arc, OnceLock};

use cudarc::driver::{CudaContext, result, sys};
use fp8gemm_jit::tuning::Device;
use libloading::Library;
use sys::CUdevice_attribute as Attribute;

use crate::{HopperError, context};

/// The oldest driver interface with tensor maps: CUDA 12.0.
const NEEDED: i32 = 12_000;

/// What the driver says of one Hopper GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceInfo {
    /// Its number, as the driver counts.
    pub ordinal: usize,
    /// Its name, e.g. "NVIDIA H200".
    pub name: String,
    /// Compute capability, major and minor.
    pub compute_capability: (i32, i32),
    /// Streaming multiprocessors.
    pub sms: u32,
    /// Newest CUDA version that the driver supports: `1000 * major + 10 * minor`.
    pub driver: i32,
    /// The driver's own version, e.g. `580.159.04`, where the system tells (Linux does).
    pub driver_version: Option<String>,
    /// Device memory in bytes.
    pub memory: u64,
}

impl DeviceInfo {
    /// What a tuning table is looked up by.
    pub fn device(&self) -> Device {
        Device {
            name: self.name.clone(),
            sms: self.sms,
            driver: self.driver,
            driver_version: self.driver_version.clone(),
        }
    }
}

/// The Hopper GPUs of this machine. GPUs of other generations are passed over if there is at least
/// one Hopper. Opens no context; never panics.
///
/// ```
/// use fp8gemm_hopper::{HopperError, probe};
///
/// match probe() {
///     Ok(devices) => devices.iter().for_each(|d| println!("{}: {}, {} SMs", d.ordinal, d.name, d.sms)),
///     Err(HopperError::NoDriver { reason }) => println!("no driver: {reason}"),
///     Err(error) => println!("{error}"),
/// }
/// ```
///
/// # Errors
/// [`HopperError::NoDriver`], [`HopperError::DriverTooOld`], [`HopperError::NoDevice`],
/// [`HopperError::NotHopper`] naming the first GPU if none is a Hopper, [`HopperError::Cuda`].
pub fn probe() -> Result<Vec<DeviceInfo>, HopperError> {
    let (driver, count) = driver()?;
    let all = (0..count).map(|ordinal| describe(ordinal, driver)).collect::<Result<Vec<_>, _>>()?;
    let first = all.first().cloned().ok_or(HopperError::NoDevice)?;
    let hoppers: Vec<_> = all.into_iter().filter(|device| device.compute_capability == (9, 0)).collect();
    if hoppers.is_empty() {
        return Err(HopperError::NotHopper { name: first.name, cc: first.compute_capability });
    }
    Ok(hoppers)
}

/// An opened Hopper GPU: its primary context, shared with every other user in the process.
///
/// All `Gpu`s of one ordinal have one `CudaContext`, which stays until the process ends, with an idle
/// stream: cudarc orders the uses of slices only while their `CudaContext` has a stream of its own, and slices
/// may outlive every `Gpu`.
#[derive(Clone, Debug)]
pub struct Gpu {
    info: DeviceInfo,
    context: Arc<CudaContext>,
}

impl Gpu {
    /// Opens the GPU with this ordinal.
    ///
    /// # Errors
    /// As [`probe`], and [`HopperError::NoSuchDevice`].
    pub fn open(ordinal: usize) -> Result<Self, HopperError> {
        let (driver, count) = driver()?;
        if count == 0 {
            return Err(HopperError::NoDevice);
        }
        if ordinal >= count {
            return Err(HopperError::NoSuchDevice { ordinal, count });
        }
        let info = describe(ordinal, driver)?;
        if info.compute_capability != (9, 0) {
            return Err(HopperError::NotHopper { name: info.name, cc: info.compute_capability });
        }
        Ok(Self { info, context: context::open(ordinal)? })
    }

    /// What the driver says of it.
    pub fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// Its primary context; streams and memory come from here. Launches on slices take no other
    /// `CudaContext`, not even one of the same GPU.
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    /// What a tuning table is looked up by.
    pub fn device(&self) -> Device {
        self.info.device()
    }

    /// Streaming multiprocessors.
    pub fn sms(&self) -> u32 {
        self.info.sms
    }
}

/// Makes sure that the driver can be called, then its version and number of GPUs.
fn driver() -> Result<(i32, usize), HopperError> {
    load()?;
    match result::init() {
        Ok(()) => {}
        Err(error) if error.0 == sys::CUresult::CUDA_ERROR_NO_DEVICE => return Err(HopperError::NoDevice),
        Err(error) if error.0 == sys::CUresult::CUDA_ERROR_STUB_LIBRARY => {
            return Err(HopperError::NoDriver { reason: "libcuda is the toolkit's stub, not a driver".to_owned() });
        }
        Err(error) => return Err(HopperError::cuda("cuInit")(error)),
    }
    let mut found = 0;
    // SAFETY: `found` outlives the call, which writes one int to it.
    unsafe { sys::cuDriverGetVersion(&raw mut found) }.result().map_err(HopperError::cuda("cuDriverGetVersion"))?;
    if found < NEEDED {
        return Err(HopperError::DriverTooOld { found, needed: NEEDED });
    }
    let count = result::device::get_count().map_err(HopperError::cuda("cuDeviceGetCount"))?;
    Ok((found, usize::try_from(count).unwrap_or(0)))
}

/// Loads libcuda for the rest of the process. A failure is not remembered: the next call looks again.
fn load() -> Result<(), HopperError> {
    static DRIVER: OnceLock<Library> = OnceLock::new();
    if DRIVER.get().is_some() {
        return Ok(());
    }
    let name = if cfg!(windows) { "nvcuda.dll" } else { "libcuda.so.1" };
    // The loader's own words, which name the library, are the source of libloading's error.
    let words = |error: libloading::Error| std::error::Error::source(&error).unwrap_or(&error).to_string();
    let no_driver = |error: libloading::Error| HopperError::NoDriver { reason: words(error) };
    // SAFETY: the driver's initialisers run, as they do for every CUDA program; cudarc would load
    // the same library at its first call.
    let library = unsafe { Library::new(name) }.map_err(no_driver)?;
    for symbol in ["cuTensorMapEncodeTiled", "cuLaunchKernelEx"] {
        // SAFETY: the symbol is only looked up, never called through this type.
        if unsafe { library.get::<unsafe extern "C" fn()>(symbol) }.is_err() {
            return Err(HopperError::DriverTooOld { found: version_of(&library), needed: NEEDED });
        }
    }
    DRIVER.get_or_init(|| library);
    Ok(())
}

/// The version that a too old library states; 0 if it cannot say.
fn version_of(library: &Library) -> i32 {
    let mut version = 0;
    // SAFETY: the type is that of `cuDriverGetVersion` since CUDA 2; it needs no initialisation and
    // writes one int.
    unsafe {
        if let Ok(get) = library.get::<unsafe extern "C" fn(*mut i32) -> i32>("cuDriverGetVersion") {
            get(&raw mut version);
        }
    }
    version
}

fn describe(ordinal: usize, driver: i32) -> Result<DeviceInfo, HopperError> {
    let number = i32::try_from(ordinal).map_err(|_| HopperError::NoSuchDevice { ordinal, count: 0 })?;
    let device = result::device::get(number).map_err(HopperError::cuda("cuDeviceGet"))?;
    let attribute = |which| {
        // SAFETY: `device` came from `get`.
        unsafe { result::device::get_attribute(device, which) }.map_err(HopperError::cuda("cuDeviceGetAttribute"))
    };
    let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    let sms = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
    // SAFETY: `device` came from `get`.
    let memory = unsafe { result::device::total_mem(device) }.map_err(HopperError::cuda("cuDeviceTotalMem"))?;
    Ok(DeviceInfo {
        ordinal,
        name: result::device::get_name(device).map_err(HopperError::cuda("cuDeviceGetName"))?,
        compute_capability: (major, minor),
        sms: u32::try_from(sms).unwrap_or(0),
        driver,
        driver_version: driver_version(),
        memory: memory as u64,
    })
}

/// Version of the driver's kernel module (`580.159.04`), from the file that it offers on Linux; there may be one where
/// [`probe`] fails.
pub fn driver_version() -> Option<String> {
    let version = std::fs::read_to_string("/sys/module/nvidia/version").ok()?;
    Some(version.trim().to_owned())
}
