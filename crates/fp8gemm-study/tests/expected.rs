//! The quick results, held against `expected/quick/`.
//!
//! To make them anew after a change that is meant (docs/studies.md):
//!
//! ```text
//! fp8gemm study all --quick --force --out target/quick
//! for d in target/quick/*/; do mkdir -p crates/fp8gemm-study/expected/quick/$(basename $d); cp $d*.csv crates/fp8gemm-study/expected/quick/$(basename $d)/; done
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use fp8gemm_study::{Column, ColumnKind, Figure, Outcome, Settings, Study, Table, results, studies};

/// Every study at its quick size, once for all tests, with the time it took.
static OUTCOMES: LazyLock<Vec<(&Study, Outcome, Duration)>> = LazyLock::new(|| {
    let run = |study: &'static Study| {
        let start = Instant::now();
        let outcome = (study.run)(&Settings::quick()).unwrap_or_else(|error| panic!("{}: {error}", study.name));
        (study, outcome, start.elapsed())
    };
    studies::ALL.iter().map(run).collect()
});

fn expected() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/expected/quick"))
}

fn same_figure(found: &str, expected: &str) -> bool {
    match (found.parse::<f64>(), expected.parse::<f64>()) {
        // Six significant digits.
        (Ok(x), Ok(y)) if x.is_finite() && y.is_finite() => (x - y).abs() <= 1e-6 * y.abs(),
        _ => found == expected,
    }
}

fn compare(study: &str, table: &Table) {
    let file = expected().join(study).join(format!("{}.csv", table.name()));
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let headings: Vec<String> = table.columns().iter().map(Column::heading).collect();
    assert_eq!(reader.headers().expect("a heading").iter().collect::<Vec<_>>(), headings, "{}", file.display());
    let records: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    assert_eq!(records.len(), table.rows().len(), "rows of {}", file.display());
    for (line, (record, row)) in records.iter().zip(table.rows()).enumerate() {
        for ((cell, expected), column) in row.iter().zip(record).zip(table.columns()) {
            let found = cell.to_string();
            let same = match column.kind {
                ColumnKind::Float => same_figure(&found, expected),
                _ => found == expected,
            };
            let (file, name) = (file.display(), &column.name);
            assert!(same, "{file} row {} column `{name}`: {found}, expected {expected}", line + 1);
        }
    }
}

/// Breaks if a study gives other results than before, or an expected file has no study any more.
#[test]
fn quick_results_are_the_committed_ones() {
    let mut files = BTreeSet::new();
    for (study, outcome, time) in &*OUTCOMES {
        println!("{:20} {:6.2} s", study.name, time.as_secs_f64());
        for table in &outcome.tables {
            compare(study.name, table);
            files.insert(Path::new(study.name).join(format!("{}.csv", table.name())));
        }
    }
    let mut committed = BTreeSet::new();
    for folder in fs::read_dir(expected()).unwrap().map(Result::unwrap) {
        for file in fs::read_dir(folder.path()).unwrap().map(Result::unwrap) {
            committed.insert(Path::new(&folder.file_name()).join(file.file_name()));
        }
    }
    assert_eq!(committed, files);
}

/// Breaks if `study all --quick` is no longer quick. Optimised builds alone are held to it, and
/// generously: machines that run tests do other things too.
#[test]
fn quick_is_quick() {
    if cfg!(debug_assertions) {
        return;
    }
    for (study, _, time) in &*OUTCOMES {
        assert!(*time < Duration::from_secs(20), "{}: {time:?}", study.name);
    }
    let all: Duration = OUTCOMES.iter().map(|(_, _, time)| *time).sum();
    assert!(all < Duration::from_secs(60), "{all:?}");
}

/// Breaks if the registry has two studies of one name, a name that is no file name, an entry without
/// text, or an outcome whose tables, figures or parts are nameless or out of place.
#[test]
fn studies_are_complete() {
    let file_name =
        |name: &str| !name.is_empty() && name.chars().all(|x| x.is_ascii_lowercase() || x.is_ascii_digit() || x == '-');
    let mut names = BTreeSet::new();
    for (study, outcome, _) in &*OUTCOMES {
        assert!(file_name(study.name) && names.insert(study.name), "{}", study.name);
        assert!(!study.title.is_empty() && study.question.ends_with('?') && !study.takes.is_empty(), "{}", study.name);
        assert_eq!(outcome.study, study.name);
        assert!(!outcome.findings.is_empty() && !outcome.parameters.is_empty(), "{}", study.name);
        assert!(!outcome.tables.is_empty() && !outcome.figures.is_empty(), "{}", study.name);
        let names: Vec<&str> = outcome.tables.iter().map(Table::name).collect();
        let figures: Vec<&str> = outcome.figures.iter().map(Figure::name).collect();
        for names in [&names, &figures] {
            assert!(names.iter().all(|name| file_name(name)), "{}: {names:?}", study.name);
            assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "{}: {names:?}", study.name);
        }
        for published in &outcome.published {
            assert!(!published.source.is_empty() && !published.ours.is_empty(), "{}", study.name);
        }
    }
}

/// Breaks if results are overwritten unasked, read back otherwise than written, or left half.
#[test]
fn results_are_written_whole_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings::quick();
    let first = studies::formats(&settings).unwrap();
    results::write(folder.path(), &first, false).unwrap();
    assert!(results::write(folder.path(), &first, false).is_err());
    let read: Vec<Outcome> = results::read(folder.path()).unwrap();
    assert_eq!(read, [first]);

    let mut settings = Settings::quick();
    settings.seed = 2;
    let second = studies::formats(&settings).unwrap();
    assert_ne!(second.tables, read[0].tables);
    results::write(folder.path(), &second, true).unwrap();
    assert_eq!(results::read(folder.path()).unwrap(), [second]);
    // Nothing temporary stays.
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}
