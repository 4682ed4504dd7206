//! `fp8gemm cache`: the compiled kernels on disk.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use fp8gemm::jit::tuning::Tuning;
use fp8gemm::jit::{Cache, Compiler};
use serde::Serialize;

use super::{SUCCESS, bad, print};
use crate::error::CliError;
use crate::text::{count, grouped, table};

const AFTER: &str = "\
Examples:
  fp8gemm cache list
  fp8gemm cache export kernels.tar      # then, on a machine without NVRTC:
  fp8gemm cache import kernels.tar

The folder is FP8GEMM_CACHE_DIR, else fp8gemm in the user's cache folder. The tuning table is the file that \
FP8GEMM_TUNING names, else tuning.json in the folder; with FP8GEMM_TUNING=off none is listed or exported. \
Imported kernels are used whatever NVRTC is there. A bundle holds machine code that is run as it is: import \
bundles only from people whose binaries you would run.";

/// Flags of the command.
#[derive(Debug, Args)]
#[command(after_help = AFTER)]
pub(crate) struct CacheArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Print every kernel with what is known of it, damaged entries, and the number of tuned problems
    List,
    /// Remove every kernel; the tuning table stays
    Clear,
    /// Write all sound kernels and the tuning table into a bundle (tar)
    Export {
        /// Where it goes
        file: PathBuf,
    },
    /// Add the kernels and the tuning table of a bundle: all, or none if one is refused or cannot be written
    Import {
        /// The bundle
        file: PathBuf,
    },
}

#[derive(Serialize)]
struct Report {
    command: &'static str,
    action: &'static str,
    /// Absent where the user has no home and names no folder.
    folder: Option<String>,
    /// The file of the tuning table, which FP8GEMM_TUNING may have elsewhere.
    table: Option<String>,
    #[serde(flatten)]
    result: Outcome,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Outcome {
    Listed { entries: Vec<Entry>, bytes: u64, damaged: usize, tuned: usize },
    Cleared { entries: usize, bytes: u64 },
    Exported { entries: usize, tuned: usize, file: String },
    Imported { added: usize, present: usize, tuned: usize, file: String },
}

#[derive(Serialize)]
struct Entry {
    key: String,
    bytes: u64,
    /// What it is; absent where the entry is damaged.
    kernel: Option<String>,
    configuration: Option<String>,
    nvrtc: Option<String>,
    compile_milliseconds: Option<f64>,
    /// What is wrong with it. It is compiled anew when it is needed.
    damage: Option<String>,
}

/// Runs the command.
pub(crate) fn run(args: &CacheArgs, json: bool) -> Result<u8, CliError> {
    let compiler = Compiler::new(Cache::from_environment(), None);
    let cache = compiler.cache();
    let (action, result) = match &args.what {
        What::List => ("list", listed(&compiler)?),
        What::Clear => {
            let cleared = cache.clear()?;
            ("clear", Outcome::Cleared { entries: cleared.entries, bytes: cleared.bytes })
        }
        What::Export { file } => {
            let exported = cache.export(file)?;
            let (entries, tuned) = (exported.entries, exported.tuned);
            ("export", Outcome::Exported { entries, tuned, file: file.display().to_string() })
        }
        What::Import { file } => {
            let imported = cache.import(file)?;
            let file = file.display().to_string();
            let (added, present, tuned) = (imported.added, imported.present, imported.tuned);
            ("import", Outcome::Imported { added, present, tuned, file })
        }
    };
    let folder = cache.folder().map(|folder| folder.display().to_string());
    let table = cache.tuning_path().map(|table| table.display().to_string());
    let report = Report { command: "cache", action, folder, table, result };
    print(json, &report, || report.text())?;
    Ok(SUCCESS)
}

fn listed(compiler: &Compiler) -> Result<Outcome, CliError> {
    let entries: Vec<_> = compiler.cache().list()?.into_iter().map(Entry::from).collect();
    let bytes = entries.iter().map(|entry| entry.bytes).sum();
    let damaged = entries.iter().filter(|entry| entry.damage.is_some()).count();
    // A damaged table is a warning.
    let tuned = compiler.tuning().map_or(0, Tuning::len);
    Ok(Outcome::Listed { entries, bytes, damaged, tuned })
}

impl From<fp8gemm::jit::Listed> for Entry {
    fn from(listed: fp8gemm::jit::Listed) -> Self {
        let (key, bytes) = (listed.key.to_string(), listed.bytes);
        match listed.metadata {
            Ok(metadata) => Self {
                key,
                bytes,
                kernel: Some(metadata.kernel),
                configuration: Some(metadata.configuration),
                nvrtc: Some(format!("{}.{}", metadata.nvrtc.0, metadata.nvrtc.1)),
                compile_milliseconds: Some(metadata.compile_milliseconds),
                damage: None,
            },
            Err(damage) => Self {
                key,
                bytes,
                kernel: None,
                configuration: None,
                nvrtc: None,
                compile_milliseconds: None,
                damage: Some(damage),
            },
        }
    }
}

impl Entry {
    fn row(&self) -> Vec<String> {
        let what = match &self.damage {
            Some(damage) => format!("{}: {damage}", bad("damaged")),
            None => self.configuration.clone().unwrap_or_default(),
        };
        let milliseconds = self.compile_milliseconds.map_or_else(String::new, |time| format!("{time:.0} ms"));
        let nvrtc = self.nvrtc.as_ref().map_or_else(String::new, |version| format!("NVRTC {version}"));
        // The beginning of a key tells entries apart, as with commits.
        vec![self.key[..12].to_owned(), format!("{:>6} KB", self.bytes.div_ceil(1024)), nvrtc, milliseconds, what]
    }
}

impl Report {
    /// Where the tuning table is, if not in the folder.
    fn elsewhere(&self) -> String {
        let inside = |table: &&String| self.folder.as_ref().is_some_and(|folder| table.starts_with(folder));
        self.table.as_ref().filter(|table| !inside(table)).map_or_else(String::new, |table| format!(" ({table})"))
    }

    fn text(&self) -> String {
        let folder =
            self.folder.as_deref().unwrap_or("no folder: the user has no home, and FP8GEMM_CACHE_DIR is not set");
        match &self.result {
            Outcome::Listed { entries, bytes, damaged, tuned } => {
                let rows: Vec<_> = entries.iter().map(Entry::row).collect();
                let damaged = match damaged {
                    0 => String::new(),
                    some => format!(", {some} damaged (compiled anew when needed)"),
                };
                let tuned = match tuned {
                    0 => String::new(),
                    some => format!(", a table of {}{}", count(*some as u64, "tuned problem"), self.elsewhere()),
                };
                let total = count(entries.len() as u64, "kernel");
                let size = grouped(bytes.div_ceil(1024));
                format!("{}{total}, {size} KB{damaged}{tuned} in {folder}\n", table(0, &rows))
            }
            Outcome::Cleared { entries, bytes } => {
                let removed = count(*entries as u64, "kernel");
                format!("removed {removed}, {} KB from {folder}\n", grouped(bytes.div_ceil(1024)))
            }
            Outcome::Exported { entries, tuned, file } => {
                let tuned = match tuned {
                    0 => String::new(),
                    some => format!(" and a table of {}{}", count(*some as u64, "tuned problem"), self.elsewhere()),
                };
                format!("wrote {}{tuned} to {file}\n", count(*entries as u64, "kernel"))
            }
            Outcome::Imported { added, present, tuned, file } => {
                let added = count(*added as u64, "kernel");
                let tuned = match tuned {
                    0 => String::new(),
                    some => format!("and a table of {}{}, ", count(*some as u64, "tuned problem"), self.elsewhere()),
                };
                format!("added {added} {tuned}from {file}, {} there already, in {folder}\n", grouped(*present as u64))
            }
        }
    }
}
