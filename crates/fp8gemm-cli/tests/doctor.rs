//! `fp8gemm doctor`, and what all commands have in common.

#![allow(clippy::unwrap_used)] // a test may

mod common;

use std::path::Path;
use std::process::{Command, Stdio};

use common::{fp8gemm, vectors};

/// Breaks if the doctor fails, panics, or does not say why there is no GPU: it has to work on the
/// barest machine.
#[test]
fn doctor_always_succeeds() {
    let run = fp8gemm(Path::new("."), &["doctor"]);
    assert_eq!(run.code, 0);
    assert_eq!(run.stderr, "");
    for word in ["CPU", "GPU", "NVRTC", "threads", "self-test", "passed"] {
        assert!(run.stdout.contains(word), "{}", run.stdout);
    }
    let json = fp8gemm(Path::new("."), &["doctor", "--json"]).json(0);
    assert_eq!(json["cpu"]["self_test"], true);
    assert!(json["cpu"]["threads"].as_u64().unwrap() > 0);
    assert_eq!(json["cpu"]["path"], json["cpu"]["paths"][0]["path"]);
    // Either there is a driver or a reason, never both or neither.
    assert_ne!(json["gpu"]["driver"].is_null(), json["gpu"]["reason"].is_null(), "{json:#}");
}

/// Breaks if a reader that stops early, as `head` does, makes the command panic.
#[test]
fn a_closed_pipe_is_no_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_fp8gemm"))
        .args(["verify", "deepgemm_1d2d_n0.safetensors"])
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
