//! NVIDIA's disassemblers: finding one, and running it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::JitError;

/// `nvdisasm` or `cuobjdump`, of a CUDA toolkit or of the Python wheels `nvidia-cuda-nvdisasm` and
/// `nvidia-cuda-cuobjdump`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disassembler {
    path: PathBuf,
    options: &'static [&'static str],
}

/// In order of preference: `nvdisasm` names the places that branches go to. It looks for those of the branch stack, which
/// Hopper has not, by data flow; left out (`-ndf`) the text is the same, in 0.38 instead of 0.54 s.
const TOOLS: [(&str, &[&str]); 2] = [("nvdisasm", &["-c", "-ndf"]), ("cuobjdump", &["-sass"])];

impl Disassembler {
    /// Looks in the folders of `PATH`, in `bin` of `CUDA_HOME`, `CUDA_PATH` and `/usr/local/cuda`,
    /// then beside NVRTC (`lib`, `lib64` or `targets/*/lib` next to `bin`: in a toolkit and in a
    /// Python environment alike).
    ///
    /// # Errors
    /// [`JitError::NoDisassembler`] with the folders that were looked into.
    pub fn find(nvrtc: Option<&Path>) -> Result<Self, JitError> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let mut folders: Vec<PathBuf> =
            variable("PATH").iter().flat_map(|path| std::env::split_paths(path).collect::<Vec<_>>()).collect();
        folders.extend(
            ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(variable).map(|root| Path::new(&root).join("bin")),
        );
        folders.push("/usr/local/cuda/bin".into());
        let beside = nvrtc.into_iter().flat_map(|library| library.ancestors().skip(2).take(3));
        folders.extend(beside.map(|root| root.join("bin")));
        Self::find_in(folders)
    }

    fn find_in(folders: Vec<PathBuf>) -> Result<Self, JitError> {
        let suffix = std::env::consts::EXE_SUFFIX;
        for (name, options) in TOOLS {
            for folder in &folders {
                let path = folder.join(format!("{name}{suffix}"));
                if path.is_file() {
                    return Ok(Self { path, options });
                }
            }
        }
        Err(JitError::NoDisassembler { folders })
    }

    /// The program.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The listing of a CUBIN, as the program prints it.
    ///
    /// # Errors
    /// [`JitError::Disassemble`] if the program cannot be run or refuses the CUBIN (it may be older
    /// than the compiler).
    pub fn disassemble(&self, cubin: &[u8]) -> Result<String, JitError> {
        let failed = |reason: String| JitError::Disassemble { program: self.path.clone(), reason };
        let mut file = tempfile::Builder::new()
            .prefix("fp8gemm-")
            .suffix(".cubin")
            .tempfile()
            .map_err(|error| failed(error.to_string()))?;
        file.write_all(cubin).map_err(|error| failed(error.to_string()))?;
        let output = Command::new(&self.path)
            .args(self.options)
            .arg(file.path())
            .output()
            .map_err(|error| failed(error.to_string()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(failed(format!("{}: {}", output.status, said.trim())));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Breaks if the better tool in a later folder loses to the other one, a folder of that name is
    /// taken for a program, or the error does not name what was looked into.
    #[test]
    fn nvdisasm_before_cuobjdump() {
        let root = tempfile::tempdir().unwrap();
        let folders = ["one", "two"].map(|name| root.path().join(name));
        folders.iter().for_each(|folder| std::fs::create_dir(folder).unwrap());
        let program = |index: usize, name: &str| folders[index].join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
        std::fs::create_dir(program(0, "nvdisasm")).unwrap();
        match Disassembler::find_in(folders.to_vec()) {
            Err(error @ JitError::NoDisassembler { .. }) => assert!(error.to_string().contains("two"), "{error}"),
            other => panic!("{other:?}"),
        }
        std::fs::write(program(0, "cuobjdump"), "").unwrap();
        let found = |folders: &[PathBuf]| Disassembler::find_in(folders.to_vec()).unwrap();
        assert_eq!((found(&folders).path, found(&folders).options), (program(0, "cuobjdump"), &["-sass"][..]));
        std::fs::write(program(1, "nvdisasm"), "").unwrap();
        assert_eq!((found(&folders).path, found(&folders).options), (program(1, "nvdisasm"), &["-c", "-ndf"][..]));
    }

    /// Breaks if a program that fails, or cannot run, gives an empty listing instead of its reason.
    #[test]
    #[cfg(unix)]
    fn refusals_carry_the_reason() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("nvdisasm");
        std::fs::write(&path, "#!/bin/sh\necho 'cannot read it' >&2\nexit 7\n").unwrap();
        let tool = Disassembler::find_in(vec![root.path().to_owned()]).unwrap();
        let error = tool.disassemble(b"x").unwrap_err().to_string();
        assert!(error.contains("nvdisasm") && error.contains("ermission"), "{error}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let error = tool.disassemble(b"x").unwrap_err().to_string();
        assert!(error.contains("cannot read it") && error.contains('7'), "{error}");
    }
}
