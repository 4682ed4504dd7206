//! `fp8gemm study`: numerical studies on the CPU, their files and a report of them.

mod tensor;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use fp8gemm_study::{Outcome, Settings, Study, report, results, studies};
use serde::Serialize;

use super::{SUCCESS, print};
use crate::engine::Progress;
use crate::error::CliError;
use crate::interrupt;
use crate::text::{count, duration, table};

const AFTER: &str = "\
Examples:
  fp8gemm study list
  fp8gemm study run accumulation promotion-interval
  fp8gemm study all --quick --out studies && fp8gemm study report --out studies
  fp8gemm study tensor model.safetensors --names 'model.layers.0.*'

Each study leaves a folder with its tables (CSV), plots (SVG) and everything together (study.json), \
whole or not at all; what is finished stays when a run is interrupted. `report` makes report.html and \
report.md of all results in the folder.";

/// Flags of the command.
#[derive(Debug, Args)]
#[command(after_help = AFTER)]
pub(crate) struct StudyArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Print every study with its question
    List,
    /// Run the named studies
    Run {
        /// Their names
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        #[command(flatten)]
        run: RunArgs,
    },
    /// Run every study
    All {
        #[command(flatten)]
        run: RunArgs,
    },
    /// Profile tensors of your own: magnitudes, and what each recipe and granularity of FP8 does to them
    Tensor(tensor::TensorArgs),
    /// Make one page, HTML and Markdown, of the results in the folder
    Report {
        #[command(flatten)]
        folder: FolderArgs,
    },
}

#[derive(Debug, Args)]
struct FolderArgs {
    /// The folder of results
    #[arg(long, value_name = "DIR", default_value = "fp8gemm-studies")]
    out: PathBuf,
    /// Replace what is there
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
struct RunArgs {
    #[command(flatten)]
    folder: FolderArgs,
    /// Leave studies alone that have results, as after an interrupted run
    #[arg(long, conflicts_with = "force")]
    missing: bool,
    /// Smaller sizes: a few seconds a study at most
    #[arg(long)]
    quick: bool,
    /// Seed of the samples
    #[arg(long, default_value_t = Settings::SEED)]
    seed: u64,
}

/// Runs the command.
pub(crate) fn run(args: &StudyArgs, json: bool) -> Result<u8, CliError> {
    match &args.what {
        What::List => list(json)?,
        What::Run { names, run } => {
            let mut chosen: Vec<&Study> = Vec::new();
            for name in names {
                let study = studies::find(name)?;
                if !chosen.iter().any(|other| other.name == study.name) {
                    chosen.push(study);
                }
            }
            compute("study run", chosen, run, json)?;
        }
        What::All { run } => compute("study all", studies::ALL.iter().collect(), run, json)?,
        What::Tensor(args) => tensor::run(args, json)?,
        What::Report { folder } => write_report(folder, json)?,
    }
    Ok(SUCCESS)
}

#[derive(Serialize)]
struct Listed {
    name: &'static str,
    title: &'static str,
    question: &'static str,
    takes: &'static str,
}

#[derive(Serialize)]
struct ListReport {
    command: &'static str,
    studies: Vec<Listed>,
}

fn list(json: bool) -> Result<(), CliError> {
    let listed =
        |study: &Study| Listed { name: study.name, title: study.title, question: study.question, takes: study.takes };
    let report = ListReport { command: "study list", studies: studies::ALL.iter().map(listed).collect() };
    print(json, &report, || {
        let entries = report
            .studies
            .iter()
            .map(|study| format!("{}: {}\n  {}\n  takes {}\n", study.name, study.title, study.question, study.takes));
        entries.collect::<Vec<_>>().join("\n")
    })
}

#[derive(Serialize)]
struct Computed {
    seconds: f64,
    folder: String,
    files: Vec<String>,
    outcome: Outcome,
}

#[derive(Serialize)]
struct RunReport {
    command: &'static str,
    studies: Vec<Computed>,
    /// Those left alone by --missing.
    present: Vec<&'static str>,
}

/// Of a progress bar: studies say their share.
const STEPS: u128 = 1000;

fn compute(command: &'static str, mut chosen: Vec<&Study>, args: &RunArgs, json: bool) -> Result<(), CliError> {
    let directory = &args.folder.out;
    check_directory(directory)?;
    let mut present = Vec::new();
    if args.missing {
        chosen.retain(|study| {
            let absent = results::check_absent(directory, study.name).is_ok();
            if !absent {
                present.push(study.name);
            }
            absent
        });
    } else if !args.folder.force {
        refuse_existing(&chosen, directory)?;
    }
    // The last of what is looked at before anything is computed: it writes a temporary folder.
    results::check_writable(directory)?;
    let mut studies = Vec::new();
    let now_finished = |finished: usize| {
        let there = match finished {
            0 => "interrupted: no study is finished".to_owned(),
            _ => format!("interrupted: {finished} of {} studies are in {}", chosen.len(), directory.display()),
        };
        interrupt::last_words(format!("{there}; --missing computes those without results"));
    };
    now_finished(0);
    for (place, study) in chosen.iter().enumerate() {
        let start = Instant::now();
        let what = format!("{} ({} of {})", study.name, place + 1, chosen.len());
        let progress = Arc::new(Progress::new(&what, STEPS));
        let bar = Arc::clone(&progress);
        let mut settings = Settings::full().on_progress(move |share| bar.set((share * STEPS as f64) as u64));
        settings.seed = args.seed;
        settings.quick = args.quick;
        let outcome = (study.run)(&settings);
        progress.finish();
        let outcome = outcome?;
        // An interruption waits for the write, and then finds it counted.
        let files = interrupt::finish(|| {
            let files = results::write(directory, &outcome, args.folder.force)?;
            now_finished(place + 1);
            Ok::<_, CliError>(files)
        })?;
        studies.push(Computed {
            seconds: start.elapsed().as_secs_f64(),
            folder: results::folder(directory, study.name).display().to_string(),
            files: files.iter().map(|file| file.display().to_string()).collect(),
            outcome,
        });
    }
    interrupt::last_words(String::new());
    let report = RunReport { command, studies, present };
    print(json, &report, || report.text(directory))
}

impl RunReport {
    fn text(&self, directory: &Path) -> String {
        let mut text = String::new();
        for study in &self.studies {
            let outcome = &study.outcome;
            text.push_str(&format!("{}: {}\n", outcome.study, outcome.title));
            for finding in &outcome.findings {
                text.push_str(&format!("  {finding}\n"));
            }
            for published in &outcome.published {
                let rows = [
                    ("quantity", published.quantity.clone()),
                    ("published", format!("{} ({})", published.published, published.source)),
                    ("ours", published.ours.clone()),
                    ("note", published.note.clone()),
                ];
                let rows = rows.into_iter().filter(|(_, value)| !value.is_empty());
                let rows: Vec<_> = rows.map(|(name, value)| vec![name.to_owned(), value]).collect();
                text.push_str(&table(2, &rows));
            }
            let time = duration(Duration::from_secs_f64(study.seconds));
            text.push_str(&format!("  {} in {}, {time}\n\n", count(study.files.len() as u64, "file"), study.folder));
        }
        if !self.present.is_empty() {
            text.push_str(&format!("left alone, results are there: {}\n", self.present.join(", ")));
        }
        let seconds = self.studies.iter().map(|study| study.seconds).sum();
        let time = duration(Duration::from_secs_f64(seconds));
        let studies = match self.studies.len() {
            1 => "1 study".to_owned(),
            many => format!("{many} studies"),
        };
        text.push_str(&format!("{studies} in {}, {time}; `study report` makes a page of them\n", directory.display()));
        text
    }
}

/// Results are replaced or left alone only when asked.
fn refuse_existing(chosen: &[&Study], directory: &Path) -> Result<(), CliError> {
    let present: Vec<_> = chosen.iter().filter(|study| results::check_absent(directory, study.name).is_err()).collect();
    let Some(first) = present.first() else { return Ok(()) };
    let folder = results::folder(directory, first.name);
    let others = match present.len() - 1 {
        0 => "exists".to_owned(),
        1 => "and one other study's results exist".to_owned(),
        others => format!("and results of {others} other studies exist"),
    };
    Err(CliError::Usage(format!(
        "{} {others}: --force replaces results, --missing leaves them alone",
        folder.display()
    )))
}

/// A file where the folder should be is found before the work, not after it.
fn check_directory(directory: &Path) -> Result<(), CliError> {
    match fs::metadata(directory) {
        Ok(metadata) if !metadata.is_dir() => Err(CliError::Usage(format!("{} is not a folder", directory.display()))),
        _ => Ok(()),
    }
}

#[derive(Serialize)]
struct PageReport {
    command: &'static str,
    studies: Vec<String>,
    files: Vec<String>,
}

fn write_report(args: &FolderArgs, json: bool) -> Result<(), CliError> {
    check_directory(&args.out)?;
    let outcomes = results::read(&args.out)?;
    let pages = [("report.html", report::html(&outcomes)?), ("report.md", report::markdown(&outcomes))];
    // Before one of the two is written.
    for (name, _) in &pages {
        if !args.force {
            results::check_absent(&args.out, name)?;
        }
    }
    let write = |(name, text): &(&str, String)| results::write_page(&args.out, name, text, args.force);
    let paths = pages.iter().map(write).collect::<Result<Vec<_>, _>>()?;
    let report = PageReport {
        command: "study report",
        studies: outcomes.iter().map(|outcome| outcome.study.clone()).collect(),
        files: paths.iter().map(|path| path.display().to_string()).collect(),
    };
    print(json, &report, || {
        let studies = report.studies.join(", ");
        format!("wrote {} of {studies}\n", report.files.join(" and "))
    })
}
