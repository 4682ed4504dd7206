//! `--engine` and `--device` where there is no GPU. (Where there is one, the driver is told to show
//! none.)

#![allow(clippy::unwrap_used)] // a test may

mod common;

use common::{codes, f32s, fp8gemm, names, read, save, uniform, vectors, without_gpu};

/// Block-scaled operands in `in.safetensors` of a new folder.
fn inputs() -> tempfile::TempDir {
    let folder = common::folder();
    let tensors = [
        codes("a", 40, 300, 1),
        codes("b", 70, 300, 2),
        f32s("scale_a", &[40, 3], &uniform(120, 3)),
        f32s("scale_b", &[1, 3], &uniform(3, 4)),
    ];
    save(&folder.path().join("in.safetensors"), &tensors, &[]);
    folder
}

const GEMM: [&str; 7] = ["gemm", "--a", "in.safetensors", "--b", "in.safetensors", "-o", "d.safetensors"];

/// Breaks if the hopper engine pretends, if its absence is not told apart from wrong input, or if
/// something is written although nothing was computed.
#[test]
fn hopper_without_a_gpu_is_exit_code_3() {
    let folder = inputs();
    for device in [&[][..], &["--device", "0"], &["--device", "4000000000"]] {
        let gemm = [&GEMM[..], &["--engine", "hopper"], device].concat();
        without_gpu(folder.path(), &gemm).refused(3, &["engine hopper: ", "NVIDIA"]);
        for file in ["deepgemm_1d2d_n0.safetensors", "wgmma_m64n8k32.safetensors"] {
            let verify = [&["verify", file, "--engine", "hopper"][..], device].concat();
            without_gpu(&vectors(), &verify).refused(3, &["engine hopper: ", "NVIDIA"]);
        }
    }
    assert_eq!(names(folder.path()), ["in.safetensors"]);
}

/// Breaks if auto fails without a GPU, falls back silently or without the reason, computes something
/// else, or claims a GPU in the report or in the file.
#[test]
fn auto_without_a_gpu_is_the_twin_and_says_why() {
    let folder = inputs();
    fp8gemm(folder.path(), &[&GEMM[..6], &["twin.safetensors", "--engine", "twin"]].concat()).quiet();
    for flags in [&[][..], &["--engine", "auto"], &["--device", "7"]] {
        let run = without_gpu(folder.path(), &[&GEMM[..], &["--json"], flags].concat());
        let json = run.json(0);
        assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
        let start = "note: engine auto takes the CPU twin: ";
        assert!(run.stderr.starts_with(start) && run.stderr.contains("NVIDIA"), "{}", run.stderr);
        assert_eq!(json["engine"], "twin");
        assert!(json["gpu"].is_null(), "{json:#}");
        let file = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
        assert!(file("d.safetensors") == file("twin.safetensors"));
    }
    let verify = ["verify", "deepgemm_1d2d_n0.safetensors", "--json"];
    let run = without_gpu(&vectors(), &verify);
    assert!(run.stderr.starts_with("note: engine auto takes the CPU twin: "), "{}", run.stderr);
    let json = run.json(0);
    assert_eq!(json["engine"], "twin");
    assert!(json["policies"].as_array().unwrap().iter().all(|policy| policy["engine"] == "twin"), "{json:#}");
    // What is the twin's work anyway needs no note.
    let tiles = without_gpu(&vectors(), &["verify", "wgmma_m64n8k32.safetensors"]);
    assert_eq!((tiles.code, tiles.stderr.as_str()), (0, ""));
}

/// Breaks if a problem that no kernel computes is blamed on the machine, or the rule is not named; or
/// if flags that contradict each other are not refused.
#[test]
fn what_no_kernel_computes_is_wrong_usage() {
    let folder = inputs();
    let gemm = |flags: &[&str]| without_gpu(folder.path(), &[&GEMM[..], flags].concat());
    for policy in ["cutlass128", "promote64", "split3"] {
        let refused = gemm(&["--engine", "hopper", "--policy", policy]);
        refused.refused(2, &["engine hopper", policy, "promote128, chain"]);
        let verify = ["verify", "deepgemm_1d2d_n0.safetensors", "--engine", "hopper", "--policy", policy];
        without_gpu(&vectors(), &verify).refused(2, &["engine hopper", policy, "promote128, chain"]);
    }
    gemm(&["--engine", "twin", "--device", "0"]).refused(2, &["--device 0", "twin"]);
    gemm(&["--engine", "cuda"]).refused(2, &["cuda", "hopper"]);
    gemm(&["--device", "-1"]).refused(2, &["-1"]);
    assert_eq!(names(folder.path()), ["in.safetensors"]);
}

/// Breaks if the file does not say which engine made it.
#[test]
fn the_output_names_its_engine() {
    let folder = inputs();
    assert_eq!(without_gpu(folder.path(), &GEMM).code, 0);
    let json = fp8gemm(folder.path(), &["verify", "d.safetensors", "--a", "in.safetensors", "--b", "in.safetensors"]);
    assert!(json.stdout.contains("CPU twin, promote128"), "{}", json.stdout);
    assert_eq!(read(&folder.path().join("d.safetensors"), "d").1, [40, 70]);
}
