//! Runs the command and makes the files it is run on.

#![allow(dead_code, unreachable_pub)] // each test binary uses its own part

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Output};

use assert_cmd::Command;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use tempfile::TempDir;

/// What a run left.
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// Runs `fp8gemm` in the folder.
pub fn fp8gemm(folder: &Path, arguments: &[&str]) -> Run {
    with_threads(folder, arguments, None)
}

/// The same with a number of threads.
pub fn with_threads(folder: &Path, arguments: &[&str], threads: Option<usize>) -> Run {
    let threads = threads.map(|threads| threads.to_string());
    let set: Vec<_> = threads.iter().map(|threads| ("RAYON_NUM_THREADS", threads.as_str())).collect();
    with_variables(folder, arguments, &set)
}

/// The same where the driver, if there is one, shows no GPU.
pub fn without_gpu(folder: &Path, arguments: &[&str]) -> Run {
    with_variables(folder, arguments, &[("CUDA_VISIBLE_DEVICES", "")])
}

/// The same with variables of the environment.
pub fn with_variables(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Run {
    let mut command = Command::new(binary());
    command.current_dir(folder).args(arguments).env_remove("RAYON_NUM_THREADS").env_remove("FP8GEMM_TUNING");
    command.envs(variables.iter().copied());
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    // A signal, as a panic that aborts would give, has no code.
    Run { code: status.code().expect("ended by a signal"), stdout: text(stdout), stderr: text(stderr) }
}

/// Ctrl-C for a command that runs.
pub fn interrupt(child: &Child) {
    assert!(process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
}

/// The command: `FP8GEMM_BIN`, so that tests can run on a machine that did not build them, or the
/// one that was built with them.
pub fn binary() -> PathBuf {
    std::env::var_os("FP8GEMM_BIN").map_or_else(
        || PathBuf::from(env!("CARGO_BIN_EXE_fp8gemm")),
        |path| fs::canonicalize(path).expect("FP8GEMM_BIN names the command"),
    )
}

impl Run {
    /// Asserts success and gives the JSON document.
    pub fn json(&self, code: i32) -> Value {
        assert_eq!(self.code, code, "{}\n{}", self.stdout, self.stderr);
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }

    /// Asserts success and that there was nothing to note.
    pub fn quiet(&self) {
        assert_eq!((self.code, self.stderr.as_str()), (0, ""), "{}", self.stdout);
    }

    /// Asserts that the run ended with this code, nothing on standard output, and one line on
    /// standard error that has all of these words.
    pub fn refused(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{}\n{}", self.stdout, self.stderr);
        assert_eq!(self.stdout, "");
        assert_eq!(self.stderr.lines().count(), 1, "{}", self.stderr);
        assert!(self.stderr.starts_with("error: "), "{}", self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is not in: {}", self.stderr);
        }
    }
}

/// The recordings of the repository; `FP8GEMM_VECTORS` says where they are on another machine.
pub fn vectors() -> PathBuf {
    std::env::var_os("FP8GEMM_VECTORS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../vectors"),
        |path| fs::canonicalize(path).expect("FP8GEMM_VECTORS names a folder"),
    )
}

pub fn vector(name: &str) -> Vec<u8> {
    fs::read(vectors().join(name).with_extension("safetensors")).unwrap()
}

pub fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// One tensor of a file to make.
#[derive(Clone)]
pub struct Tensor {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

pub fn tensor(name: &str, dtype: Dtype, shape: &[usize], bytes: Vec<u8>) -> Tensor {
    Tensor { name: name.to_owned(), dtype, shape: shape.to_vec(), bytes }
}

pub fn f32s(name: &str, shape: &[usize], values: &[f32]) -> Tensor {
    tensor(name, Dtype::F32, shape, values.iter().flat_map(|x| x.to_le_bytes()).collect())
}

/// Finite E4M3 codes that differ from seed to seed.
pub fn codes(name: &str, rows: usize, columns: usize, seed: u32) -> Tensor {
    let mut state = seed;
    let bytes = (0..rows * columns).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // Bit 2 is never set, so neither 7F nor FF occurs.
        (state >> 24) as u8 & 0xFB
    });
    tensor(name, Dtype::F8_E4M3, &[rows, columns], bytes.collect())
}

/// Numbers between -1 and 1.
pub fn uniform(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(count).collect()
}

/// Writes a safetensors file by the reference implementation.
pub fn save(path: &Path, tensors: &[Tensor], metadata: &[(&str, &str)]) {
    let views: Vec<(&str, TensorView<'_>)> = tensors
        .iter()
        .map(|t| (t.name.as_str(), TensorView::new(t.dtype, t.shape.clone(), &t.bytes).unwrap()))
        .collect();
    let metadata: HashMap<String, String> =
        metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    fs::write(path, safetensors::serialize(views, Some(metadata)).unwrap()).unwrap();
}

/// Reads a tensor by the reference implementation: type, shape, bytes.
pub fn read(path: &Path, name: &str) -> (Dtype, Vec<usize>, Vec<u8>) {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = file.tensor(name).unwrap();
    (tensor.dtype(), tensor.shape().to_vec(), tensor.data().to_vec())
}

/// Where the bytes of a tensor begin in a file.
pub fn offset(file: &[u8], name: &str) -> usize {
    let (header, metadata) = SafeTensors::read_metadata(file).unwrap();
    8 + header + metadata.info(name).unwrap().data_offsets.0
}

/// Names in a folder, sorted.
pub fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
