//! `fp8gemm difftest replay`: kept cases once more, on everything that an engine has for them.

use std::path::{Path, PathBuf};

use clap::Args;
use fp8gemm_difftest::{DifftestError, Replayed, replay};
use serde::Serialize;

use super::folder::entries;
use super::{EngineArgs, Setup, case_file, engine};
use crate::commands::{DIFFERENT, SUCCESS, bad, good, print};
use crate::engine::Progress;
use crate::error::{CliError, InFile};
use crate::files::FileError;
use crate::text::{count, grouped, table};

#[derive(Debug, Args)]
pub(super) struct ReplayArgs {
    /// Files that `difftest` kept or `difftest write` made, or folders of them
    #[arg(required = true, value_name = "FILE|DIR")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    engine: EngineArgs,
}

#[derive(Serialize)]
struct Report {
    command: &'static str,
    /// What computed: `hopper` or `twin`.
    engine: &'static str,
    subjects: Vec<String>,
    equal: bool,
    files: Vec<FileReport>,
}

#[derive(Serialize)]
struct FileReport {
    file: String,
    problem: String,
    /// Configurations that computed it, each twice.
    runs: usize,
    /// Why a subject does not compute it.
    passed_over: Option<String>,
    /// Who is wrong, and how.
    fault: Option<String>,
}

/// Runs the command: [`SUCCESS`] only if every configuration gives the twin's bits, and the twin those of
/// the file.
pub(super) fn run(args: &ReplayArgs, json: bool) -> Result<u8, CliError> {
    let paths = files(&args.paths)?;
    let Setup { engine, mut subjects, oracle, .. } = engine(&args.engine)?;
    let progress = Progress::new("replay", paths.len() as u128);
    let mut files = Vec::new();
    for path in &paths {
        let (case, kept) = case_file::read(path)?;
        let expected = case.twin(oracle)?;
        let mut report = FileReport {
            file: path.display().to_string(),
            problem: case.problem.to_string(),
            runs: 0,
            passed_over: None,
            fault: None,
        };
        if kept.is_some_and(|kept| !kept.view().bits_equal(&expected.view())) {
            report.fault = Some("the twin gives another D than `expected` of the file".to_owned());
        }
        for subject in &mut subjects {
            match replay(subject.as_mut(), &case, &expected) {
                Ok(Replayed { configurations, fault, .. }) => {
                    report.runs += configurations;
                    if let Some((name, fault)) = fault {
                        let what = format!("{}, {name}: {}: {fault}", subject.name(), fault.kind());
                        report.fault.get_or_insert(what);
                    }
                }
                Err(DifftestError::Unsupported { rule, .. }) => report.passed_over = Some(rule),
                Err(error) => return Err(error.into()),
            }
        }
        files.push(report);
        progress.advance(1);
    }
    progress.finish();
    if let Some(rule) = files.iter().all(|file| file.runs == 0).then(|| files[0].passed_over.clone()).flatten() {
        let files = count(files.len() as u64, "file");
        return Err(CliError::Usage(format!("{engine} computes none of {files}: {rule}")));
    }
    let subjects = subjects.iter().map(|subject| subject.name()).collect();
    let equal = files.iter().all(|file| file.fault.is_none());
    let report = Report { command: "difftest replay", engine, subjects, equal, files };
    print(json, &report, || report.text())?;
    Ok(if equal { SUCCESS } else { DIFFERENT })
}

/// The files, and those of folders in order of name.
fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, CliError> {
    let mut files = Vec::new();
    for path in paths {
        if !path.exists() {
            return Err(CliError::file(path, FileError::NotFound));
        }
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let is_case = |path: &PathBuf| path.extension().is_some_and(|end| end == "safetensors");
        let cases: Vec<PathBuf> = entries(path).in_file(path)?.into_iter().filter(is_case).collect();
        if cases.is_empty() {
            return Err(no_case(path));
        }
        files.extend(cases);
    }
    Ok(files)
}

fn no_case(folder: &Path) -> CliError {
    CliError::Usage(format!("{}: holds no case (NAME.safetensors)", folder.display()))
}

impl Report {
    fn text(&self) -> String {
        let mut rows = vec![["file", "problem", "runs", "result"].map(str::to_owned).to_vec()];
        for file in &self.files {
            let result = match (&file.fault, &file.passed_over) {
                (Some(_), _) => "differs".to_owned(),
                (None, Some(rule)) if file.runs == 0 => format!("passed over: {rule}"),
                _ => "equal".to_owned(),
            };
            rows.push(vec![file.file.clone(), file.problem.clone(), grouped(file.runs as u64), result]);
        }
        let mut text = format!("{}\n{}\n", self.subjects.join(", "), table(0, &rows));
        for file in &self.files {
            if let Some(fault) = &file.fault {
                text += &format!("{}: {fault}\n", file.file);
            }
        }
        let runs: usize = self.files.iter().map(|file| file.runs).sum();
        let wrong = self.files.iter().filter(|file| file.fault.is_some()).count();
        let (files, runs) = (count(self.files.len() as u64, "case"), count(runs as u64, "configuration"));
        text + &if wrong == 0 {
            format!("{}: {files} in {runs}, each twice, bit for bit\n", good("EQUAL"))
        } else {
            format!("{}: {wrong} of {files}\n", bad("DIFFERENT"))
        }
    }
}
