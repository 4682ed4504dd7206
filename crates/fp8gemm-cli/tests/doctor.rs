//! `fp8gemm doctor`, and what all commands have in common.

#![allow(clippy::unwrap_used)] // a test may

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{binary, fp8gemm, vectors, with_variables, without_gpu};

/// Breaks if the doctor fails, panics, or does not say why there is no GPU and what that means: it
/// has to work on the barest machine.
#[test]
fn doctor_always_succeeds() {
    let run = without_gpu(Path::new("."), &["doctor"]);
    assert_eq!(run.code, 0);
    assert_eq!(run.stderr, "");
    for word in ["CPU", "GPU", "NVRTC", "Cache", "threads", "self-test", "passed", "--engine auto takes the CPU twin"] {
        assert!(run.stdout.contains(word), "{}", run.stdout);
    }
    let json = without_gpu(Path::new("."), &["doctor", "--json"]).json(0);
    assert_eq!(json["cpu"]["self_test"], true);
    assert!(json["cpu"]["threads"].as_u64().unwrap() > 0);
    assert_eq!(json["cpu"]["path"], json["cpu"]["paths"][0]["path"]);
    assert!(json["gpu"]["devices"].as_array().unwrap().is_empty() && json["gpu"]["self_test"].is_null(), "{json:#}");
    assert!(!json["gpu"]["reason"].as_str().unwrap().is_empty(), "{json:#}");
    assert_eq!((&json["auto"]["engine"], &json["auto"]["reason"]), (&"twin".into(), &json["gpu"]["reason"]));
}

/// Breaks if the doctor looks for NVRTC or the cache elsewhere than the compiler does, or does not say
/// why a candidate was not taken.
#[test]
fn doctor_says_where_it_looked() {
    let folder = common::folder();
    fs::write(folder.path().join("libnvrtc.so.13"), "no library").unwrap();
    let path = folder.path().to_str().unwrap();
    let variables = [("CUDA_VISIBLE_DEVICES", ""), ("FP8GEMM_NVRTC", path), ("FP8GEMM_CACHE_DIR", path)];
    let json = with_variables(Path::new("."), &["doctor", "--json"], &variables).json(0);
    assert!(json["nvrtc"]["found"].is_null(), "{json:#}");
    let tried = json["nvrtc"]["tried"].as_array().unwrap();
    assert_eq!(tried.len(), 1, "{json:#}");
    assert_eq!(tried[0]["place"], "FP8GEMM_NVRTC");
    assert!(tried[0]["tried"].as_str().unwrap().starts_with(path), "{json:#}");
    assert!(!tried[0]["reason"].as_str().unwrap().is_empty(), "{json:#}");
    let cache = &json["cache"];
    assert!(cache["folder"].as_str().unwrap().starts_with(path), "{json:#}");
    assert_eq!((&cache["entries"], &cache["writable"]), (&0.into(), &true.into()));
    assert_eq!(common::names(folder.path()), ["libnvrtc.so.13"], "the doctor leaves things behind");
}

/// Breaks if a reader that stops early, as `head` does, makes the command panic.
#[test]
fn a_closed_pipe_is_no_error() {
    let mut child = Command::new(binary())
        .args(["verify", "deepgemm_1d2d_n0.safetensors", "--engine", "twin"])
        .current_dir(vectors())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

/// Breaks if logs mix with the document, or `-v` logs nothing.
#[test]
fn logs_go_to_standard_error() {
    let run = fp8gemm(&vectors(), &["-vv", "verify", "cublaslt_fast_n0.safetensors", "--json"]);
    run.json(0);
    assert!(run.stderr.contains("policy=chain"), "{}", run.stderr);
    assert!(!run.stderr.contains('\u{1b}'), "{}", run.stderr);
}

/// Breaks if a command loses its help or the example in it.
#[test]
fn help_has_examples() {
    for command in ["verify", "gemm", "quantize"] {
        let run = fp8gemm(Path::new("."), &[command, "--help"]);
        assert_eq!(run.code, 0);
        assert!(run.stdout.contains(&format!("  fp8gemm {command} ")), "{}", run.stdout);
    }
}
