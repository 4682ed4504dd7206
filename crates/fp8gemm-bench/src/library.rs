//! Finds and opens NVIDIA's shared libraries (cuBLASLt, CUPTI) wherever a toolkit or a Python
//! environment keeps them. Their absence is an error value.

use std::env;
use std::error::Error;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use libloading::Library;

use crate::BenchError;

/// What is looked for.
pub(crate) struct Wanted {
    /// For messages.
    pub(crate) name: &'static str,
    /// File names, best first.
    pub(crate) files: &'static [&'static str],
    /// The environment variable that names a library or its folder; then nothing else is tried.
    pub(crate) variable: &'static str,
    /// Functions that it must have.
    pub(crate) symbols: &'static [&'static str],
}

/// Opens the first library that has all functions. Order: the variable; the loader's search path;
/// `CUDA_HOME`, `CUDA_PATH` and the usual folder of a toolkit; Python environments
/// (`VIRTUAL_ENV`, `CONDA_PREFIX`, those whose `python3` is on `PATH`).
///
/// # Errors
/// [`BenchError::Library`] saying what was tried.
pub(crate) fn open(wanted: &Wanted) -> Result<(Library, PathBuf), BenchError> {
    let mut said = Vec::new();
    for path in candidates(wanted) {
        // SAFETY: the initialisers of NVIDIA's library run, as in every program that links it.
        match unsafe { Library::new(&path) } {
            Ok(library) => {
                // SAFETY: the symbol is only looked up, never called through this type.
                let lacks = |symbol: &&&str| unsafe { library.get::<unsafe extern "C" fn()>(**symbol) }.is_err();
                match wanted.symbols.iter().find(lacks) {
                    None => return Ok((library, path)),
                    Some(symbol) => said.push(format!("{}: has no {symbol}", path.display())),
                }
            }
            // What the loader says, the path included, is the source.
            Err(error) => said.push(error.source().map_or_else(|| error.to_string(), ToString::to_string)),
        }
    }
    if said.is_empty() {
        said.push(format!("{} names no folder with {}", wanted.variable, wanted.files.join(" or ")));
    }
    Err(BenchError::Library { library: wanted.name, reason: said.join("; ") })
}

/// The files with this start of a name that the process has mapped, where the system tells.
pub(crate) fn mapped(start: &str) -> Vec<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let paths = maps.lines().filter_map(|line| line.find('/').map(|at| PathBuf::from(&line[at..])));
    let mut found: Vec<_> = paths.filter(|path| name_of(path).starts_with(start)).collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn candidates(wanted: &Wanted) -> Vec<PathBuf> {
    if let Some(wish) = variable(wanted.variable) {
        return if wish.is_file() { vec![wish] } else { in_folders(wanted, &[wish]) };
    }
    let mut found: Vec<PathBuf> = wanted.files.iter().map(PathBuf::from).collect();
    let mut toolkits: Vec<_> = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(variable).collect();
    toolkits.push("/usr/local/cuda".into());
    let folders = ["lib64", "extras/CUPTI/lib64", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib"];
    let folders: Vec<_> = toolkits.iter().flat_map(|root| folders.map(|folder| root.join(folder))).collect();
    found.extend(in_folders(wanted, &folders));
    let mut pythons: Vec<_> = ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(variable).collect();
    let paths = env::var_os("PATH").unwrap_or_default();
    pythons.extend(
        env::split_paths(&paths)
            .filter(|folder| folder.join("python3").exists())
            .filter_map(|folder| folder.parent().map(Path::to_owned)),
    );
    pythons.dedup();
    let wheels: Vec<_> = pythons.iter().flat_map(|root| wheel_folders(root)).collect();
    found.extend(in_folders(wanted, &wheels));
    found
}

fn in_folders(wanted: &Wanted, folders: &[PathBuf]) -> Vec<PathBuf> {
    let all = folders.iter().flat_map(|folder| wanted.files.iter().map(move |file| folder.join(file)));
    all.filter(|path| path.is_file()).collect()
}

/// `lib/python3.*/site-packages/nvidia/*/lib` of an environment.
fn wheel_folders(root: &Path) -> Vec<PathBuf> {
    let pythons = children(&root.join("lib"));
    let pythons = pythons.iter().filter(|path| name_of(path).starts_with("python3"));
    let packages = pythons.flat_map(|python| children(&python.join("site-packages/nvidia")));
    packages.map(|package| package.join("lib")).collect()
}

/// In descending order of names: the newest version first.
fn children(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    found.sort_unstable_by(|a, b| b.cmp(a));
    found
}

fn name_of(path: &Path) -> &str {
    path.file_name().and_then(OsStr::to_str).unwrap_or_default()
}

fn variable(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Breaks if a library that is nowhere is anything else than an error that says so.
    #[test]
    fn absence_is_an_error() {
        let wanted = Wanted {
            name: "libfp8gemm-nowhere",
            files: &["libfp8gemm-nowhere.so"],
            variable: "FP8GEMM_NO_SUCH_VARIABLE",
            symbols: &[],
        };
        let text = open(&wanted).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(text.starts_with("libfp8gemm-nowhere cannot be used: ") && text.contains(".so"), "{text}");
    }

    /// Breaks if the file that is really in use is not found: the C library always is.
    #[test]
    #[cfg(target_os = "linux")]
    fn mapped_files_are_found() {
        let found = mapped("libc.so");
        assert!(found.len() == 1 && found[0].is_absolute(), "{found:?}");
    }

    /// Breaks if a wheel's folder is not found in an environment.
    #[test]
    fn wheels_are_found() {
        let root = env::temp_dir().join(format!("fp8gemm-bench-{}", std::process::id()));
        let folder = root.join("lib/python3.11/site-packages/nvidia/cu13/lib");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("libx.so"), "").unwrap();
        let wanted = Wanted { name: "x", files: &["libx.so"], variable: "FP8GEMM_NO_SUCH_VARIABLE", symbols: &[] };
        let found = in_folders(&wanted, &wheel_folders(&root));
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(found, [folder.join("libx.so")]);
    }
}
