//! The folder protocol: `write` makes problem files, somebody's kernel adds `d`, `check` compares.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use fp8gemm::problem::{Policy, Problem, ScaleLayout};
use fp8gemm::sim::{compare, compare_with_c};
use fp8gemm_difftest::Menu;
use serde::Serialize;

use super::{CaseArgs, case_file};
use crate::args::OperandArgs;
use crate::commands::{DIFFERENT, SUCCESS, bad, good, print};
use crate::engine::{Progress, twin};
use crate::error::{CliError, InFile};
use crate::files::{FileError, TensorFile};
use crate::operands::{Files, Sources, expect_shape, load};
use crate::text::{count, grouped, percent, table};

/// Exit code where D is missing in some file.
const INCOMPLETE: u8 = 2;

#[derive(Debug, Args)]
pub(super) struct WriteArgs {
    /// The folder, which must be empty or not exist
    folder: PathBuf,
    #[command(flatten)]
    cases: CaseArgs,
    /// Policies of the problems: promote<n>, chain, cutlass128 or split<p>
    #[arg(long, value_name = "POLICY", value_delimiter = ',', default_values_t = [Policy::PROMOTE_128])]
    policy: Vec<Policy>,
    /// Scales of A and B: tensor, row, 1x128, 128x128 or 1x32
    #[arg(long, value_name = "LAYOUT", value_delimiter = ',',
          default_values_t = [ScaleLayout::Tensor, ScaleLayout::Row, ScaleLayout::Block1x128, ScaleLayout::Block128x128])]
    scales: Vec<ScaleLayout>,
}

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// A folder of problem files, each with `d` in it or in NAME.d.safetensors or NAME.d.npy beside it
    folder: PathBuf,
    /// Policy of files that do not say theirs (recordings that `difftest write` did not make)
    #[arg(long, value_name = "POLICY")]
    policy: Option<Policy>,
}

#[derive(Serialize)]
struct Written {
    command: &'static str,
    folder: String,
    seed: u64,
    files: u64,
}

/// Writes the problem files.
pub(super) fn write(args: &WriteArgs, json: bool) -> Result<u8, CliError> {
    let menu = Menu { policies: args.policy.clone(), layouts: args.scales.clone(), ..Menu::kernels() };
    let pairs = menu.pairs().len();
    let generator = args.cases.generator(menu)?;
    if entries(&args.folder).is_ok_and(|entries| !entries.is_empty()) {
        let what = format!("{}: is not empty; problem files go into a folder of their own", args.folder.display());
        return Err(CliError::Usage(what));
    }
    if pairs == 0 {
        return Err(CliError::Usage("--policy and --scales: no policy is legal with any of the scales".to_owned()));
    }
    // Regimes that files cannot hold are refused before there is a folder.
    generator.case(0)?;
    case_file::ready(&args.folder)?;
    let files = args.cases.cases;
    let progress = Progress::new("write", u128::from(files));
    for index in 0..files {
        let case = generator.case(index)?;
        let path = args.folder.join(format!("case-{index:06}.safetensors"));
        case_file::save(&path, &case, &[], &case_file::metadata(&case))?;
        progress.advance(1);
    }
    progress.finish();
    let folder = args.folder.display().to_string();
    let report = Written { command: "difftest write", folder, seed: args.cases.seed, files };
    print(json, &report, || {
        let folder = &report.folder;
        format!(
            "{folder}: {} of seed {}\nRun your kernel on each, add `d` (type: metadata `output_type`), then: fp8gemm difftest check {folder}\n",
            count(report.files, "problem file"),
            report.seed
        )
    })?;
    Ok(SUCCESS)
}

#[derive(Serialize)]
struct Report {
    command: &'static str,
    folder: String,
    equal: bool,
    files: Vec<FileReport>,
    /// Files without D.
    missing: Vec<String>,
}

#[derive(Serialize)]
struct FileReport {
    file: String,
    problem: String,
    elements: usize,
    differing: usize,
    /// What the difference looks like, with the first element.
    what: Option<String>,
}

/// Compares every file's D with the twin's.
pub(super) fn check(args: &CheckArgs, json: bool) -> Result<u8, CliError> {
    let pairs = pairs(&args.folder)?;
    let progress = Progress::new("check", pairs.len() as u128);
    let (mut files, mut missing) = (Vec::new(), Vec::new());
    for (path, d) in pairs {
        match check_one(&path, d.as_deref(), args.policy)? {
            Some(report) => files.push(report),
            None => missing.push(path.display().to_string()),
        }
        progress.advance(1);
    }
    progress.finish();
    if files.is_empty() {
        let folder = args.folder.display();
        return Err(CliError::Usage(format!("{folder}: none of its {} has a D", count(missing.len() as u64, "file"))));
    }
    let differing = files.iter().any(|file| file.differing > 0);
    let report = Report {
        command: "difftest check",
        folder: args.folder.display().to_string(),
        equal: !differing && missing.is_empty(),
        files,
        missing,
    };
    print(json, &report, || report.text())?;
    Ok(match (differing, report.missing.is_empty()) {
        (true, _) => DIFFERENT,
        (false, false) => INCOMPLETE,
        (false, true) => SUCCESS,
    })
}

/// Names in a folder, sorted.
pub(super) fn entries(folder: &Path) -> Result<Vec<PathBuf>, FileError> {
    let io = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => FileError::NotFound,
        _ => FileError::Io(error),
    };
    let entries = fs::read_dir(folder).map_err(io)?;
    let mut paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>().map_err(io)?;
    paths.sort();
    Ok(paths)
}

/// Problem files with the file of their D, where that is another one.
fn pairs(folder: &Path) -> Result<Vec<(PathBuf, Option<PathBuf>)>, CliError> {
    let mut pairs: Vec<(PathBuf, Option<PathBuf>)> = Vec::new();
    let (mut problems, mut results) = (Vec::new(), Vec::new());
    for path in entries(folder).in_file(folder)? {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let stem = [".d.safetensors", ".d.npy"].into_iter().find_map(|end| name.strip_suffix(end).map(str::to_owned));
        match stem {
            Some(stem) => results.push((stem, path)),
            None if name.ends_with(".safetensors") => problems.push(path),
            None => {
                let what =
                    "is no problem file (NAME.safetensors) and no result of one (NAME.d.safetensors, NAME.d.npy)";
                return Err(CliError::Usage(format!("{}: {what}", path.display())));
            }
        }
    }
    if problems.is_empty() {
        return Err(CliError::Usage(format!("{}: holds no problem file (NAME.safetensors)", folder.display())));
    }
    for path in problems {
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let mut own = results.extract_if(.., |(of, _)| *of == stem).map(|(_, d)| d);
        let d = own.next();
        if let (Some(d), Some(other)) = (&d, own.next()) {
            let what = format!("{} and {}: a problem has one D", d.display(), other.display());
            return Err(CliError::Usage(what));
        }
        drop(own);
        pairs.push((path, d));
    }
    if let Some((stem, path)) = results.first() {
        return Err(CliError::Usage(format!("{}: there is no {stem}.safetensors that it is the D of", path.display())));
    }
    Ok(pairs)
}

/// Compares one file's D; nothing where there is none.
fn check_one(path: &Path, d: Option<&Path>, policy: Option<Policy>) -> Result<Option<FileReport>, CliError> {
    let owned: Vec<PathBuf> = [Some(path), d].into_iter().flatten().map(Path::to_owned).collect();
    let files = Files::open(&owned)?;
    // Both were opened.
    let Some(file) = files.get(path) else { return Ok(None) };
    let own = file.metadata().contains_key(case_file::MARK);
    for name in ["a", "b"] {
        file.require(name).in_file(path)?;
    }
    let said = |key: &str| file.metadata().get(key).map(String::as_str);
    let usage = |what: String| CliError::Usage(format!("{}: {what}", path.display()));
    let number = |key: &str| -> Result<Option<f32>, CliError> {
        let parse = |text: &str| text.parse().map_err(|_| usage(format!("metadata `{key}` is no number")));
        said(key).map(parse).transpose()
    };
    let policy = match said("policy") {
        Some(text) => text.parse().map_err(|error| usage(format!("metadata `policy`: {error}")))?,
        None => policy.ok_or_else(|| {
            usage("does not say its policy: `difftest write` did not make it, or its metadata was lost (keep it, put D into NAME.d.safetensors, or give --policy)".to_owned())
        })?,
    };
    let (scale_a, scale_b, c) = (None, None, None);
    let sources = Sources { a: file, b: file, scale_a, scale_b, c, beside: [file, file], may_be_empty: false };
    let inputs = load(&sources, &OperandArgs::plain(), (number("alpha")?, number("beta")?), None)?;
    if let (Some(d), true) = (d, file.get("d").is_some()) {
        return Err(usage(format!("holds a `d`, and {} is another: a problem has one D", d.display())));
    }
    let place = d.and_then(|d| files.get(d)).unwrap_or(file);
    let Some(stored) = place.get("d") else { return Ok(None) };
    let (m, n) = (inputs.a.dim().0, inputs.b.dim().0);
    expect_shape(&stored, (m, n), "D is [M, N]").in_file(place.path())?;
    let recorded = stored.matrix().in_file(place.path())?;
    let Some(&layouts) = inputs.readings.first() else { return Ok(None) };
    let problem = inputs.problem(layouts, recorded.ty(), policy);
    if own {
        unchanged(file, &problem)?;
    }
    let computed = twin(&inputs.task(layouts, recorded.ty(), policy)?, "check")?;
    let comparison = match &inputs.c {
        Some(c) => compare_with_c(&computed.d.view(), &recorded.view(), &c.view(), inputs.epilogue.beta)?,
        None => compare(&computed.d.view(), &recorded.view())?,
    };
    Ok(Some(FileReport {
        file: path.display().to_string(),
        problem: problem.to_string(),
        elements: comparison.elements,
        differing: comparison.differing,
        what: (!comparison.bits_equal()).then(|| comparison.to_string()),
    }))
}

/// Whether a file still holds the problem that was written, and D has its type.
fn unchanged(file: &TensorFile, problem: &Problem) -> Result<(), CliError> {
    let Some(text) = file.metadata().get("problem") else { return Ok(()) };
    let usage = |what: String| CliError::Usage(format!("{}: {what}", file.path().display()));
    let written: Problem = text.parse().map_err(|error| usage(format!("metadata `problem`: {error}")))?;
    if written.d != problem.d {
        return Err(usage(format!("d is {}, the problem wants {}", problem.d, written.d)));
    }
    // A C that beta leaves unread is not loaded.
    if (Problem { c: problem.c, ..written }) != *problem {
        return Err(usage(format!("holds {problem}, but was written as {written}")));
    }
    Ok(())
}

impl Report {
    fn text(&self) -> String {
        let mut rows = vec![["file", "problem", "differing"].map(str::to_owned).to_vec()];
        const SHOWN: usize = 40;
        let wrong: Vec<&FileReport> = self.files.iter().filter(|file| file.differing > 0).collect();
        // All where they are few; those that differ where they are many.
        let shown: Vec<&FileReport> =
            if self.files.len() <= SHOWN { self.files.iter().collect() } else { wrong.clone() };
        for file in shown.iter().take(SHOWN) {
            let differing = match file.differing {
                0 => "0".to_owned(),
                number => format!("{} ({})", grouped(number as u64), percent(number as u64, file.elements as u64)),
            };
            rows.push(vec![file.file.clone(), file.problem.clone(), differing]);
        }
        let mut text = String::new();
        if rows.len() > 1 {
            text += &format!("{}\n", table(0, &rows));
        }
        for file in wrong.iter().take(SHOWN) {
            text += &format!("{}: {}\n", file.file, file.what.clone().unwrap_or_default());
        }
        if !self.missing.is_empty() {
            let files = count(self.missing.len() as u64, "file");
            let some: Vec<&str> = self.missing.iter().take(5).map(String::as_str).collect();
            text += &format!(
                "{files} without d: {}{}\n",
                some.join(", "),
                if self.missing.len() > 5 { ", ..." } else { "" }
            );
        }
        let elements: usize = self.files.iter().map(|file| file.elements).sum();
        let (files, elements) = (count(self.files.len() as u64, "file"), count(elements as u64, "element"));
        if wrong.is_empty() {
            let verdict = if self.missing.is_empty() { good("EQUAL") } else { bad("INCOMPLETE") };
            text + &format!("{verdict}: {elements} of {files}, bit for bit\n")
        } else {
            text + &format!("{}: {} of {files} differ\n", bad("DIFFERENT"), wrong.len())
        }
    }
}
