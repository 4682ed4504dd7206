//! What a table was measured on and with.

use std::sync::OnceLock;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{BASE_OPTIONS, choose};

/// A GPU as its driver describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name, e.g. `NVIDIA H200`.
    pub name: String,
    /// Streaming multiprocessors.
    pub sms: u32,
    /// CUDA version of the driver: `1000 * major + 10 * minor`.
    pub driver: i32,
    /// The driver's own version, e.g. `580.159.04`, where the system tells.
    pub driver_version: Option<String>,
}

/// All that decides which kernel is the fastest. Tables are for equal machines only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// The GPU's name.
    pub gpu: String,
    /// Its streaming multiprocessors.
    pub sms: u32,
    /// CUDA version of the driver, e.g. `13.0`.
    pub driver: String,
    /// The driver's own version, e.g. `580.159.04`; `None` where the system did not tell, and in tables from before
    /// it was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver_version: Option<String>,
    /// [`kernel_version`] of the kernels that were timed.
    pub kernels: String,
    /// Version of NVRTC that compiled them, e.g. `13.0`; empty where they came from a cache and nobody
    /// knows.
    pub nvrtc: String,
}

impl Machine {
    /// This device with the kernels of this build, compiled by this version of NVRTC.
    pub fn new(device: &Device, nvrtc: Option<(u32, u32)>) -> Self {
        Self {
            gpu: device.name.clone(),
            sms: device.sms,
            driver: format!("{}.{}", device.driver / 1000, device.driver % 1000 / 10),
            driver_version: device.driver_version.clone(),
            kernels: kernel_version().to_owned(),
            nvrtc: text(nvrtc),
        }
    }

    /// The same with another version of NVRTC.
    #[must_use]
    pub fn with_nvrtc(&self, nvrtc: Option<(u32, u32)>) -> Self {
        Self { nvrtc: text(nvrtc), ..self.clone() }
    }

    /// In what a table of `self` does not fit a machine: `None` if it fits. A machine that does not know
    /// its NVRTC (it has none, and lives on imported kernels) is not refused for that, nor for the driver's own
    /// version where the table or the machine does not know it.
    ///
    /// ```
    /// use fp8gemm_jit::tuning::{Device, Machine};
    ///
    /// let device = Device { name: "NVIDIA H200".into(), sms: 132, driver: 13_000, driver_version: None };
    /// let table = Machine::new(&device, Some((13, 0)));
    /// assert_eq!(table.differs_from(&Machine::new(&device, None)), None);
    /// let other = Machine::new(&Device { sms: 114, ..device }, Some((13, 0)));
    /// assert_eq!(table.differs_from(&other).unwrap(), "it is for 132 SMs, here are 114");
    /// ```
    pub fn differs_from(&self, here: &Self) -> Option<String> {
        if self.gpu != here.gpu {
            return Some(format!("it is for {:?}, here is {:?}", self.gpu, here.gpu));
        }
        if self.sms != here.sms {
            return Some(format!("it is for {} SMs, here are {}", self.sms, here.sms));
        }
        if self.driver != here.driver {
            return Some(format!("it is for a driver of CUDA {}, here is {}", self.driver, here.driver));
        }
        if let (Some(table), Some(here)) = (&self.driver_version, &here.driver_version)
            && table != here
        {
            return Some(format!("it is for driver {table:?}, here is {here:?}"));
        }
        if self.kernels != here.kernels {
            return Some("it is for other kernels than this version of fp8gemm has".to_owned());
        }
        if !here.nvrtc.is_empty() && self.nvrtc != here.nvrtc {
            return Some(format!("it is for kernels of NVRTC {}, here is {}", self.nvrtc, here.nvrtc));
        }
        None
    }
}

fn text(version: Option<(u32, u32)>) -> String {
    version.map_or_else(String::new, |(major, minor)| format!("{major}.{minor}"))
}

/// One problem for each way of applying scales. With few rows and with many, so that kernels for both
/// are among the candidates.
const PROBLEMS: [&str; 4] = [
    "16x4096x7168 a=e4m3:1x128 b=e4m3:128x128 d=bf16",
    "4096x4096x7168 a=e4m3:1x128 b=e4m3:128x128 d=bf16",
    "4096x4096x7168 a=e4m3:1x128 b=e4m3:1x128 d=f32 c=f32 beta=1",
    "4096x4096x4096 a=e4m3:row b=e4m3:row d=bf16 policy=chain",
];

/// SHA-256 of what the kernels are made of: the compiler options and the sources of all candidates for a
/// few problems, in order of their text. It changes when a text of the kernels does, and when candidates
/// come or go; not when the cost model only ranks them in another order.
pub fn kernel_version() -> &'static str {
    static VERSION: OnceLock<String> = OnceLock::new();
    VERSION.get_or_init(|| {
        let problems = PROBLEMS.iter().filter_map(|text| text.parse().ok());
        let choices = problems.filter_map(|problem| choose(&problem, 132).ok());
        let configs = choices.flat_map(|choice| choice.candidates).map(|estimate| estimate.config);
        let mut sources: Vec<String> = configs.map(|config| config.source()).collect();
        sources.sort();
        sources.dedup();
        let mut hash = Sha256::new();
        for text in BASE_OPTIONS.iter().copied().chain(sources.iter().map(String::as_str)) {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Breaks if a problem of the list has no kernel any more: its kernels would no longer count.
    #[test]
    fn every_problem_of_the_version_has_kernels() {
        for text in PROBLEMS {
            assert!(!choose(&text.parse().unwrap(), 132).unwrap().candidates.is_empty(), "{text}");
        }
        assert_eq!(kernel_version().len(), 64);
        assert_eq!(kernel_version(), kernel_version());
    }

    /// Breaks if a table is used where something that decides speed is different.
    #[test]
    fn every_part_of_a_machine_counts() {
        let own = |version: &str| Some(version.to_owned());
        let device = Device { name: "NVIDIA H200".into(), sms: 132, driver: 13_000, driver_version: own("580.159.04") };
        let table = Machine::new(&device, Some((13, 0)));
        assert_eq!(table.driver, "13.0");
        let others = [
            Machine::new(&Device { driver_version: own("580.95.05"), ..device.clone() }, Some((13, 0))),
            Machine::new(&Device { name: "NVIDIA H100".into(), ..device.clone() }, Some((13, 0))),
            Machine::new(&Device { sms: 114, ..device.clone() }, Some((13, 0))),
            Machine::new(&Device { driver: 12_080, ..device.clone() }, Some((13, 0))),
            Machine { kernels: "0".into(), ..table.clone() },
            Machine::new(&device, Some((13, 1))),
        ];
        for other in others {
            assert!(table.differs_from(&other).is_some(), "{other:?}");
        }
        // Who does not know the driver's version says nothing about it.
        let unknown = Machine { driver_version: None, ..table.clone() };
        assert_eq!((table.differs_from(&unknown), unknown.differs_from(&table)), (None, None));
    }
}
