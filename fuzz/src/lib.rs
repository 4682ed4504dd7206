//! What the fuzz targets share: [`input`] makes values out of the fuzzer's bytes, [`oracle`] says
//! what FP8 codes and whole GEMMs must be, without any code of the crates under test, [`files`]
//! checks a parsed tensor file, and [`memory`] counts what is allocated.

pub mod files;
pub mod input;
pub mod memory;
pub mod oracle;
