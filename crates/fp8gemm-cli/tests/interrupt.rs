//! Ctrl-C in the middle of a write.

#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

/// Breaks if an interrupted write leaves its temporary file behind or touches the destination. The
/// signal is sent as soon as the temporary file is seen; where the write is over before it
/// arrives, the attempt shows nothing and another is made.
#[test]
fn an_interrupted_write_leaves_nothing() {
    let folder = common::folder();
    let path = |name: &str| folder.path().join(name);
    common::save(&path("in.safetensors"), &[common::f32s("a", &[4096, 4096], &vec![1.5; 4096 * 4096])], &[]);
    fs::write(path("out.safetensors"), "as it was").unwrap();
    let mut whole = None;
    for _ in 0..5 {
        let mut child = Command::new(env!("CARGO_BIN_EXE_fp8gemm"))
            .args(["quantize", "in.safetensors", "--recipe", "deepgemm", "-o", "out.safetensors"])
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let writing = || {
            // The check before the work makes and removes an empty one.
            fs::read_dir(folder.path()).unwrap().flatten().any(|entry| {
                entry.file_name().to_string_lossy().starts_with(".fp8gemm-")
                    && entry.metadata().is_ok_and(|metadata| metadata.len() > 0)
            })
        };
        while !writing() && child.try_wait().unwrap().is_none() {
            sleep(Duration::from_micros(200));
        }
        // Fails where the process is gone already: then there is nothing to interrupt.
        let _ = Command::new("kill").args(["-INT", &child.id().to_string()]).stderr(Stdio::null()).status();
        let code = child.wait().unwrap().code();
        let left = common::names(folder.path());
        assert_eq!(left, ["in.safetensors", "out.safetensors"], "exit code {code:?}");
        assert!(matches!(code, Some(0 | 130)), "exit code {code:?}");
        // All or nothing: a signal after the renaming finds the new file, whole.
        let found = fs::read(path("out.safetensors")).unwrap();
        if code == Some(130) && found == b"as it was" {
            return;
        }
        assert!(*whole.get_or_insert_with(|| found.clone()) == found && found.len() > 4096 * 4096, "a torn file");
        fs::write(path("out.safetensors"), "as it was").unwrap();
    }
    println!("every write was over before the signal came");
}
