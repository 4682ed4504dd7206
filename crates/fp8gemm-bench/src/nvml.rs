//! Clocks, power, temperature and what limits the clocks, read through NVML while the GPU works.
//! Only read: nothing on the card is ever set.

use std::ffi::{CStr, OsStr};
use std::thread;
use std::time::Duration;

use cudarc::driver::{CudaContext, CudaEvent, sys};
use nvml_wrapper::Nvml;
use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor};
use serde::Serialize;

use crate::BenchError;

/// Between readings. NVML itself refreshes some values every 100 ms only.
const PAUSE: Duration = Duration::from_millis(5);

/// The card while something ran on it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct GpuState {
    /// Readings taken.
    pub samples: usize,
    /// Mean SM clock.
    pub sm_mhz: f64,
    /// Lowest SM clock.
    pub sm_mhz_min: u32,
    /// Mean power.
    pub watts: f64,
    /// Highest power.
    pub watts_max: f64,
    /// Highest temperature.
    pub celsius: u32,
    /// What limited the clocks at any reading, in NVML's words.
    pub throttled_by: Vec<String>,
}

/// NVML with the card that is measured.
pub(crate) struct Monitor {
    nvml: Nvml,
    bus: String,
}

/// Readings so far.
#[derive(Default)]
pub(crate) struct Readings {
    clocks: Vec<u32>,
    watts: Vec<f64>,
    celsius: u32,
    reasons: Option<ThrottleReasons>,
}

impl Monitor {
    /// Opens NVML for the card of `context`.
    ///
    /// # Errors
    /// [`BenchError::Library`] if NVML is not there or does not know the card.
    pub(crate) fn open(context: &CudaContext) -> Result<Self, BenchError> {
        let missing =
            |error: nvml_wrapper::error::NvmlError| BenchError::Library { library: "NVML", reason: error.to_string() };
        let name = if cfg!(windows) { "nvml.dll" } else { "libnvidia-ml.so.1" };
        let nvml = Nvml::builder().lib_path(OsStr::new(name)).init().map_err(missing)?;
        let mut text = [0; 64];
        // SAFETY: the call writes at most as many bytes as it is told, a terminated string.
        let bus = unsafe {
            sys::cuDeviceGetPCIBusId(text.as_mut_ptr(), text.len() as i32, context.cu_device())
                .result()
                .map_err(BenchError::cuda("cuDeviceGetPCIBusId"))?;
            CStr::from_ptr(text.as_ptr())
        };
        let bus = bus.to_string_lossy().into_owned();
        nvml.device_by_pci_bus_id(bus.as_str()).map_err(missing)?;
        Ok(Self { nvml, bus })
    }

    /// Reads until the event has happened.
    pub(crate) fn watch(&self, event: &CudaEvent, readings: &mut Readings) {
        let Ok(device) = self.nvml.device_by_pci_bus_id(self.bus.as_str()) else { return };
        while !event.is_complete() {
            // A value that the card does not give is left out.
            readings.clocks.extend(device.clock_info(Clock::SM));
            readings.watts.extend(device.power_usage().map(|milliwatts| f64::from(milliwatts) / 1000.0));
            if let Ok(celsius) = device.temperature(TemperatureSensor::Gpu) {
                readings.celsius = readings.celsius.max(celsius);
            }
            if let Ok(reasons) = device.current_throttle_reasons() {
                *readings.reasons.get_or_insert(ThrottleReasons::empty()) |= reasons;
            }
            thread::sleep(PAUSE);
        }
    }
}

impl Readings {
    /// `None` if nothing was read.
    pub(crate) fn state(&self) -> Option<GpuState> {
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
        let clocks: Vec<f64> = self.clocks.iter().copied().map(f64::from).collect();
        let reasons = self.reasons.unwrap_or(ThrottleReasons::empty());
        let idle = ["GPU_IDLE", "NONE", "USER_DEFINED_CLOCKS"];
        let names = reasons.iter_names().map(|(name, _)| name).filter(|name| !idle.contains(name));
        (!self.clocks.is_empty()).then(|| GpuState {
            samples: self.clocks.len(),
            sm_mhz: mean(&clocks),
            sm_mhz_min: self.clocks.iter().copied().min().unwrap_or(0),
            watts: mean(&self.watts),
            watts_max: self.watts.iter().copied().fold(0.0, f64::max),
            celsius: self.celsius,
            throttled_by: names.map(str::to_lowercase).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Breaks if means are taken over the wrong number of readings, or idle counts as throttling.
    #[test]
    fn readings_are_summed_up() {
        assert_eq!(Readings::default().state(), None);
        let readings = Readings {
            clocks: vec![1980, 1500],
            watts: vec![300.0, 500.0, 700.0],
            celsius: 61,
            reasons: Some(ThrottleReasons::GPU_IDLE | ThrottleReasons::SW_POWER_CAP),
        };
        let expected = GpuState {
            samples: 2,
            sm_mhz: 1740.0,
            sm_mhz_min: 1500,
            watts: 500.0,
            watts_max: 700.0,
            celsius: 61,
            throttled_by: vec!["sw_power_cap".to_owned()],
        };
        assert_eq!(readings.state(), Some(expected));
    }
}
