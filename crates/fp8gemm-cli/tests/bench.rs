//! `fp8gemm bench`: wrong usage is refused before a GPU is looked for, and its absence is exit 3.
//! What it measures is tried on a Hopper machine (`cargo test -p fp8gemm-cli --test bench -- --ignored`).

#![allow(clippy::unwrap_used)] // a test may

mod common;

use std::fs;

use common::{fp8gemm, without_gpu};
use serde_json::Value;
use tempfile::tempdir;

/// Breaks if wrong arguments reach the GPU, or the message does not name the value and the rule.
#[test]
fn wrong_arguments_are_named_first() {
    let folder = tempdir().unwrap();
    fs::write(folder.path().join("bad.csv"), "m,n,k\n128,256,0\n").unwrap();
    fs::write(folder.path().join("short.csv"), "m,n\n128,256\n").unwrap();
    fs::write(folder.path().join("header.csv"), "# none yet\nm,n,k\n").unwrap();
    let cases: [(&[&str], &[&str]); 22] = [
        (&["4096", "7168"], &["7168", "threes"]),
        (&["4096x7168"], &["4096x7168", "MxNxK"]),
        (&["4096", "7168x2048x1"], &["7168x2048x1"]),
        (&["1x0x128"], &["1x0x128", "at least 1"]),
        (&["1x2x3 a=e4m3:1x128"], &["1x2x3 a=e4m3:1x128"]),
        (&["1x2x3 a=e4m3:1x128 b=e4m3:1x128 d=bf16 policy=chain"], &["chain"]),
        (&["--repeat", "0"], &["repeat", "0", "1 to"]),
        (&["--seconds", "0"], &["seconds", "0", "above 0"]),
        (&["--seconds", "-1"], &["seconds is -1", "above 0"]),
        (&["-1", "576", "7168"], &["`-1`", "M N K"]),
        (&["2147483648x576x7168"], &["M is 2147483648", "TMA"]),
        (&["--interleave", "none,some"], &["some", "deepgemm-2025"]),
        (&["--regime", "hot"], &["hot", "warm"]),
        (&["--flush", "read", "--flush-bytes", "1000"], &["flush-bytes", "1000", "256 MiB"]),
        (&["--list", "dense", "--m-at-most", "128"], &["no shape", "--m-at-most"]),
        (&["--list", "decode", "--m-at-least", "many"], &["many", "--m-at-least"]),
        (&["--shapes", "bad.csv"], &["bad.csv", "line 2", "k is `0`"]),
        (&["--shapes", "short.csv"], &["short.csv", "no column `k`"]),
        (&["--shapes", "header.csv"], &["header.csv: there is no problem in it"]),
        (&["--csv", ".", "1", "1", "128"], &["folder"]),
        (&["--csv", "bad.csv/x.csv", "1", "1", "128"], &["bad.csv/x.csv"]),
        (&["--csv", "no/such/folder/x.csv", "1", "1", "128"], &["no/such/folder/x.csv"]),
    ];
    for (arguments, words) in cases {
        let run = fp8gemm(folder.path(), &[&["bench"], arguments].concat());
        assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{arguments:?}: {}", run.stderr);
        assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
        for word in words {
            assert!(run.stderr.contains(word), "{arguments:?}: {word} is not in {}", run.stderr);
        }
    }
}

/// Breaks if a machine without a GPU gets another exit code, or no reason.
#[test]
fn no_gpu_is_exit_3() {
    let folder = tempdir().unwrap();
    for arguments in [&["bench"][..], &["bench", "--json", "512", "576", "7168"]] {
        let run = without_gpu(folder.path(), arguments);
        assert_eq!((run.code, run.stdout.as_str()), (3, ""), "{}", run.stderr);
        assert!(run.stderr.starts_with("error: ") && run.stderr.lines().count() == 1, "{}", run.stderr);
    }
}

/// Breaks if results of an earlier run are lost to one that measures nothing, or such a run leaves a file.
#[test]
fn earlier_results_outlive_a_run_without_a_gpu() {
    let folder = tempdir().unwrap();
    fs::write(folder.path().join("out.csv"), "old").unwrap();
    for file in ["out.csv", "new.csv"] {
        let run = without_gpu(folder.path(), &["bench", "512", "7168", "2048", "--csv", file]);
        assert_eq!(run.code, 3, "{}", run.stderr);
    }
    assert_eq!(fs::read_to_string(folder.path().join("out.csv")).unwrap(), "old");
    assert_eq!(common::names(folder.path()), ["out.csv"]);
}

/// Breaks if a regime gives no time, the rivals are not there, or a result is not compared with the
/// twin.
#[test]
#[ignore = "needs Hopper"]
fn every_regime_measures() {
    let folder = tempdir().unwrap();
    let problems = ["512", "576", "1024", "256x512x1024 a=e4m3:1x128 b=e4m3:1x128 d=f32 c=f32 beta=1"];
    let flags = ["bench", "--json", "--regime", "all", "--repeat", "5", "--seconds", "0.2", "--csv", "out.csv"];
    let patterns = ["--interleave", "one-in-four,none"];
    let run = fp8gemm(folder.path(), &[&flags[..], &patterns, &problems].concat());
    assert_eq!(run.code, 0, "{}", run.stderr);
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    let mut interleaved = 0;
    for row in rows {
        assert!(row["checked_rows"].as_u64().unwrap() > 1);
        let patterns = ["ours_yield-none", "ours_yield-one-in-four"];
        // Narrow tiles have nothing to interleave.
        let patterns = patterns.into_iter().filter(|name| row["refused"][name].is_null()).collect::<Vec<_>>();
        interleaved += patterns.len();
        for name in ["ours", "cublaslt_tensor", "cublaslt_block"].into_iter().chain(patterns) {
            let entry = row["entries"].as_array().unwrap().iter().find(|entry| entry["name"] == name).unwrap();
            for time in ["/cold/median", "/warm/median", "/sustained/us", "/graph/median"] {
                let us = entry.pointer(time).and_then(Value::as_f64).unwrap();
                assert!((0.5..10_000.0).contains(&us), "{name} {time}: {us}");
            }
        }
    }
    assert!(interleaved > 0, "no pattern was measured");
    let lines = fs::read_to_string(folder.path().join("out.csv")).unwrap();
    assert_eq!(lines.lines().count(), 3);
}

/// Breaks if the floor is not measured, is slower than a product that must also compute, faster than
/// memory (4.8 TB/s) can be, or a flush that reads gives no times.
#[test]
#[ignore = "needs Hopper"]
fn the_floor_is_below_every_kernel() {
    let folder = tempdir().unwrap();
    for flush in ["memset", "read"] {
        let flags = ["bench", "--json", "--list", "decode", "--m-at-most", "16", "--no-rivals", "--flush", flush];
        let run = fp8gemm(folder.path(), &flags);
        assert_eq!(run.code, 0, "{}", run.stderr);
        let report: Value = serde_json::from_str(&run.stdout).unwrap();
        let rows = report["rows"].as_array().unwrap();
        assert!(rows.len() > 10 && report["over_floor"][0].as_f64().unwrap() > 0.95);
        for row in rows {
            let entry = |name: &str| row["entries"].as_array().unwrap().iter().find(|e| e["name"] == name).unwrap();
            let us = |name: &str| entry(name)["cold"]["median"].as_f64().unwrap();
            let problem = row["problem"].as_str().unwrap();
            assert!(us("floor") < 1.05 * us("ours"), "{problem}, {flush}: floor {}, ours {}", us("floor"), us("ours"));
            assert!(us("floor") * 4.8e6 > row["bytes"].as_f64().unwrap() * 0.9, "{problem}: {}", us("floor"));
        }
    }
}
