//! `fp8gemm study`: what it leaves on disk, and what it refuses.

#![allow(clippy::unwrap_used)] // a test may

mod common;

use std::fs;

use common::fp8gemm;
use tempfile::tempdir;

/// Breaks if a study leaves no files, if they are overwritten unasked, or if the report is not made
/// of them.
#[test]
fn runs_keeps_and_reports() {
    let folder = tempdir().unwrap();
    let run = fp8gemm(folder.path(), &["study", "run", "promotion-interval", "--quick"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    for word in ["Promotion interval that a GEMM should have", "N_C = 128", "DeepSeek-V3", "ours"] {
        assert!(run.stdout.contains(word), "{word}: {}", run.stdout);
    }
    let results = folder.path().join("fp8gemm-studies/promotion-interval");
    for file in ["study.json", "intervals.csv", "bias.svg"] {
        assert!(results.join(file).is_file(), "{file}");
    }

    let before = fs::read(results.join("study.json")).unwrap();
    let again = fp8gemm(folder.path(), &["study", "run", "promotion-interval", "--quick", "--seed", "2"]);
    assert_eq!(again.code, 2);
    assert_eq!(again.stderr.lines().count(), 1, "{}", again.stderr);
    assert!(again.stderr.contains("--force") && again.stderr.contains("--missing"), "{}", again.stderr);
    assert_eq!(fs::read(results.join("study.json")).unwrap(), before);
    let forced = fp8gemm(folder.path(), &["study", "run", "promotion-interval", "--quick", "--seed", "2", "--force"]);
    assert_eq!(forced.code, 0, "{}", forced.stderr);
    assert_ne!(fs::read(results.join("study.json")).unwrap(), before);
    let kept = fp8gemm(folder.path(), &["study", "run", "promotion-interval", "--quick", "--missing"]);
    assert!(kept.code == 0 && kept.stdout.contains("left alone"), "{}", kept.stdout);

    assert_eq!(fp8gemm(folder.path(), &["study", "report"]).code, 0);
    let page = fs::read_to_string(folder.path().join("fp8gemm-studies/report.html")).unwrap();
    assert!(page.contains("<svg") && page.contains("--seed 2 --quick"));
    // One page that loads nothing.
    assert!(!page.contains("src=") && !page.contains("<link"));
    let text = fs::read_to_string(folder.path().join("fp8gemm-studies/report.md")).unwrap();
    assert!(text.contains("](promotion-interval/bias.svg)"));
    assert_eq!(fp8gemm(folder.path(), &["study", "report"]).code, 2);
    assert_eq!(fp8gemm(folder.path(), &["study", "report", "--force"]).code, 0);
}

/// Breaks if `--json` is no longer one document with the outcome in it.
#[test]
fn json_is_one_document() {
    let folder = tempdir().unwrap();
    let run = fp8gemm(folder.path(), &["study", "run", "formats", "--quick", "--out", "x", "--json"]);
    let document: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(document["studies"][0]["outcome"]["study"], "formats");
    assert_eq!(document["command"], "study run");
    let all = fp8gemm(folder.path(), &["study", "all", "--quick", "--out", "y", "--json"]);
    let document: serde_json::Value = serde_json::from_str(&all.stdout).unwrap();
    assert_eq!(document["command"], "study all");
    assert!(document["studies"].as_array().unwrap().len() >= 19);
    let list = fp8gemm(folder.path(), &["study", "list", "--json"]);
    let document: serde_json::Value = serde_json::from_str(&list.stdout).unwrap();
    assert!(document["studies"].as_array().unwrap().len() >= 5);
}

/// Breaks if a folder that nothing can be written into is found after the work, or with a temporary name
/// in the message. Whoever may write everywhere (root) sees nothing here.
#[cfg(unix)]
#[test]
fn a_folder_that_cannot_be_written_is_found_first() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempdir().unwrap();
    let closed = folder.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o555)).unwrap();
    if fs::write(closed.join("file"), "").is_ok() {
        return;
    }
    let run = fp8gemm(folder.path(), &["study", "all", "--quick", "--out", "closed"]);
    assert_eq!((run.code, run.stderr.as_str()), (2, "error: closed: permission denied\n"));
    let below = fp8gemm(folder.path(), &["study", "all", "--quick", "--out", "closed/below"]);
    assert!(below.code == 2 && below.stderr.to_lowercase().contains("permission denied"), "{}", below.stderr);
}

/// Breaks if Ctrl-C in a run loses finished studies, leaves a hidden folder, or does not say how to go on.
/// It comes while the first study is being written or just after: that one is finished, and is counted.
#[cfg(unix)]
#[test]
fn an_interrupted_run_keeps_what_is_finished() {
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};
    let folder = tempdir().unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_fp8gemm"))
        .args(["study", "all", "--out", "x"])
        .current_dir(folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let finished = folder.path().join("x/accumulation/study.json");
    let start = Instant::now();
    while !finished.is_file() && start.elapsed() < Duration::from_secs(300) {
        std::thread::sleep(Duration::from_micros(50));
    }
    common::interrupt(&child);
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains(" studies are in x; --missing computes"), "{stderr}");
    let names = common::names(&folder.path().join("x"));
    assert!(names.iter().all(|name| !name.starts_with('.')), "{names:?}");
    assert_eq!(fp8gemm(folder.path(), &["study", "report", "--out", "x"]).code, 0);
}

/// Breaks if bad input is not one clear line with exit code 2, or leaves something behind.
#[test]
fn bad_input_is_refused() {
    let folder = tempdir().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    fs::create_dir_all(folder.path().join("broken/formats")).unwrap();
    fs::write(folder.path().join("broken/formats/study.json"), "{").unwrap();
    for (arguments, expected) in [
        (&["study", "run", "nonsense"][..], "promotion-interval"),
        (&["study", "run"], "required"),
        (&["study", "report"], "no results"),
        (&["study", "report", "--out", "broken"], "study.json"),
        (&["study", "run", "formats", "--out", "file"], "not a folder"),
        (&["study", "run", "formats", "--out", "broken"], "--force"),
        (&["study", "all", "--seed", "x"], "--seed"),
    ] {
        let run = fp8gemm(folder.path(), arguments);
        assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{arguments:?}: {}", run.stderr);
        assert_eq!(run.stderr.lines().count(), 1, "{arguments:?}: {}", run.stderr);
        assert!(run.stderr.contains(expected), "{arguments:?}: {}", run.stderr);
    }
    assert!(!folder.path().join("fp8gemm-studies").exists());
}
