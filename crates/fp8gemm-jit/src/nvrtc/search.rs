//! Where NVRTC may be, in which order it is looked for, and the record of the search.
//!
//! The order: the path given by the caller; `FP8GEMM_NVRTC`; the loader's search path; CUDA's
//! usual folders; the wheels of Python environments. The first two are wishes: when one of them is
//! given, nothing else is tried, so that a typo does not silently pick another compiler.

use std::fmt;
use std::path::{Path, PathBuf};

/// The environment variable that names a library or a folder that contains one.
pub const NVRTC_VARIABLE: &str = "FP8GEMM_NVRTC";

/// Which step of the search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// The path that the caller passed.
    Argument,
    /// The path in `FP8GEMM_NVRTC`.
    Variable,
    /// A bare name, resolved by the dynamic loader (`LD_LIBRARY_PATH`, `ldconfig`, `PATH` on Windows).
    Loader,
    /// A CUDA toolkit: `CUDA_HOME`, `CUDA_PATH`, `/usr/local/cuda*`, `/opt/cuda`.
    Cuda,
    /// A Python environment with NVIDIA's wheel `nvidia-cuda-nvrtc` (or `-cu12`).
    Python,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Argument => "path given",
            Self::Variable => NVRTC_VARIABLE,
            Self::Loader => "loader's search path",
            Self::Cuda => "CUDA folder",
            Self::Python => "Python environment",
        })
    }
}

/// One thing that was tried and why it did not give a compiler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The step of the search.
    pub place: Place,
    /// The file, folder or name.
    pub tried: PathBuf,
    /// Why not.
    pub reason: String,
}

/// Everything that was tried before NVRTC was found, or given up. Prints one line for each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attempts(pub Vec<Attempt>);

impl fmt::Display for Attempts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Attempt { place, tried, reason }) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}  {place}: {}: {reason}", tried.display())?;
        }
        Ok(())
    }
}

/// A library to try, or a place where there is none to try.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Try(Place, PathBuf),
    Absent(Attempt),
}

/// What the search depends on, so that it can be tested on made-up folders.
#[derive(Debug, Default)]
pub(super) struct Surroundings {
    pub(super) wish: Option<(Place, PathBuf)>,
    pub(super) loader_names: Vec<&'static str>,
    pub(super) cuda_roots: Vec<PathBuf>,
    pub(super) python_roots: Vec<PathBuf>,
}

impl Surroundings {
    /// Those of this process.
    pub(super) fn of_process(explicit: Option<&Path>) -> Self {
        let wish = explicit
            .map(|path| (Place::Argument, path.to_owned()))
            .or_else(|| variable(NVRTC_VARIABLE).map(|path| (Place::Variable, path)));
        if wish.is_some() {
            return Self { wish, ..Self::default() };
        }
        let loader_names = if cfg!(windows) {
            vec!["nvrtc64_130_0.dll", "nvrtc64_120_0.dll"]
        } else if cfg!(target_os = "macos") {
            Vec::new()
        } else {
            vec!["libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12"]
        };

        let mut cuda_roots: Vec<_> = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(variable).collect();
        cuda_roots.push("/usr/local/cuda".into());
        let mut versioned = matching(Path::new("/usr/local"), "cuda-");
        versioned.sort_by_key(|root| std::cmp::Reverse(numbers(&root.to_string_lossy())));
        cuda_roots.extend(versioned);
        cuda_roots.push("/opt/cuda".into());

        let mut python_roots: Vec<_> = ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(variable).collect();
        if let Some(directories) = directories::BaseDirs::new() {
            python_roots.push(directories.home_dir().join(".local"));
        }
        python_roots.extend(["/usr/local".into(), "/usr".into()]);
        let mut seen = Vec::new();
        cuda_roots.retain(|root| {
            let new = !seen.contains(root);
            seen.push(root.clone());
            new
        });
        Self { wish, loader_names, cuda_roots, python_roots }
    }

    /// The steps of the search, best first.
    pub(super) fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        if let Some((place, path)) = &self.wish {
            if path.is_file() {
                steps.push(Step::Try(*place, path.clone()));
            } else {
                let folders = with_toolkit_folders(path).into_iter().chain(wheel_folders(path)).collect();
                steps.extend(libraries(*place, path, folders));
            }
            return steps;
        }
        steps.extend(self.loader_names.iter().map(|name| Step::Try(Place::Loader, name.into())));
        for root in &self.cuda_roots {
            steps.extend(libraries(Place::Cuda, root, with_toolkit_folders(root)));
        }
        for root in &self.python_roots {
            steps.extend(libraries(Place::Python, root, python_folders(root)));
        }
        steps
    }
}

/// The folder itself and those in which a toolkit keeps its libraries.
fn with_toolkit_folders(root: &Path) -> Vec<PathBuf> {
    let mut folders = vec![root.to_owned()];
    folders.extend(["lib64", "lib", "bin"].map(|name| root.join(name)));
    folders.extend(matching(&root.join("targets"), "").into_iter().map(|target| target.join("lib")));
    folders.push(root.join("bin").join("x64"));
    folders
}

/// Where NVIDIA's wheels put libraries below `site-packages`: `nvidia/cu13/lib`, before CUDA 13
/// `nvidia/cuda_nvrtc/lib`; on Windows `bin`.
fn wheel_folders(packages: &Path) -> Vec<PathBuf> {
    let nvidia = packages.join("nvidia");
    let mut roots = matching(&nvidia, "cu");
    roots.retain(|root| root.file_name().is_some_and(|name| name.to_string_lossy()[2..].parse::<u32>().is_ok()));
    roots.sort_by_key(|root| std::cmp::Reverse(numbers(&root.to_string_lossy())));
    roots.push(nvidia.join("cuda_nvrtc"));
    let deeper = roots.iter().map(|root| root.join("bin").join("x86_64"));
    roots.iter().flat_map(|root| [root.join("lib"), root.join("bin")]).chain(deeper).collect()
}

/// The library folders of a Python prefix, its newest interpreter first.
fn python_folders(root: &Path) -> Vec<PathBuf> {
    let mut packages = Vec::new();
    for library in ["lib", "lib64"] {
        let mut interpreters = matching(&root.join(library), "python3");
        interpreters.sort_by_key(|path| std::cmp::Reverse(numbers(&path.to_string_lossy())));
        for interpreter in interpreters {
            packages.extend([interpreter.join("site-packages"), interpreter.join("dist-packages")]);
        }
    }
    packages.push(root.join("Lib").join("site-packages"));
    let mut folders: Vec<_> = packages.iter().flat_map(|packages| wheel_folders(packages)).collect();
    // Conda packages put the library beside those of every other package.
    folders.push(root.join("lib"));
    folders
}

/// Every NVRTC of the first folder that has one; else one entry that says there is none.
fn libraries(place: Place, root: &Path, folders: Vec<PathBuf>) -> Vec<Step> {
    for folder in folders {
        let mut found: Vec<_> = matching(&folder, "")
            .into_iter()
            .filter_map(|path| Some((library_version(&path.file_name()?.to_string_lossy())?, path)))
            .collect();
        if found.is_empty() {
            continue;
        }
        found.sort_by(|one, other| other.0.cmp(&one.0).then_with(|| one.1.cmp(&other.1)));
        // The unversioned name is a link to one of the others.
        let mut seen = Vec::new();
        found.retain(|(_, path)| {
            let real = path.canonicalize().unwrap_or_else(|_| path.clone());
            let new = !seen.contains(&real);
            seen.push(real);
            new
        });
        return found.into_iter().map(|(_, path)| Step::Try(place, path)).collect();
    }
    let reason = if root.exists() { "has no NVRTC library" } else { "does not exist" };
    vec![Step::Absent(Attempt { place, tried: root.to_owned(), reason: reason.to_owned() })]
}

/// The version in the name of an NVRTC library (empty for `libnvrtc.so`); `None` for other files,
/// such as the builtins and the `alt` build beside it.
fn library_version(name: &str) -> Option<Vec<u32>> {
    let version = if cfg!(windows) {
        name.strip_prefix("nvrtc64_")?.strip_suffix(".dll")?.replace('_', ".")
    } else {
        name.strip_prefix("libnvrtc.so")?.trim_start_matches('.').to_owned()
    };
    if version.is_empty() {
        return Some(Vec::new());
    }
    version.split('.').map(|part| part.parse().ok()).collect()
}

/// The file beside NVRTC that holds its built-in headers, for one version of it.
pub(super) fn builtins_name((major, minor): (u32, u32)) -> String {
    if cfg!(windows) {
        format!("nvrtc-builtins64_{major}{minor}.dll")
    } else {
        format!("libnvrtc-builtins.so.{major}.{minor}")
    }
}

/// Entries of a folder whose name starts with a prefix, in order of name; none if it cannot be read.
fn matching(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<_> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    paths
}

/// The numbers in a text, for ordering `cuda-12.10` after `cuda-12.9`.
fn numbers(text: &str) -> Vec<u32> {
    text.split(|letter: char| !letter.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

/// An environment variable that is set and not empty.
fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

#[cfg(test)]
#[path = "search_tests.rs"]
mod tests;
