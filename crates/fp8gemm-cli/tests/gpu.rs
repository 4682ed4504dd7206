//! `--engine hopper` and `--engine auto` against the twin, bit for bit. Needs a Hopper GPU, its
//! driver and NVRTC: `cargo test --release -p fp8gemm-cli --test gpu -- --ignored`. On a machine that
//! did not build it, `FP8GEMM_BIN` names the command and `FP8GEMM_VECTORS` the recordings.

#![allow(clippy::unwrap_used)] // a test may

mod common;

use std::fs;
use std::path::Path;
use std::thread;

use common::{
    Tensor, codes, f32s, fp8gemm, names, offset, read, save, tensor, uniform, vector, vectors, with_variables,
};
use fp8gemm::problem::ScaleLayout;
use npyz::WriterBuilder;
use safetensors::Dtype;
use serde_json::Value;

/// Breaks if the GPU gives other bits for a recorded kernel, if a policy that has a kernel is left to
/// the twin or the other way round, or if the engines' verdicts differ.
#[test]
#[ignore = "needs Hopper"]
fn every_recording_verifies_on_the_gpu() {
    let recordings: Vec<_> = names(&vectors()).into_iter().filter(|name| name.ends_with(".safetensors")).collect();
    assert_eq!(recordings.len(), 9);
    thread::scope(|scope| {
        for name in &recordings {
            scope.spawn(move || {
                let twin = fp8gemm(&vectors(), &["verify", name, "--json", "--engine", "twin"]).json(0);
                for engine in ["hopper", "auto"] {
                    let run = fp8gemm(&vectors(), &["verify", name, "--json", "--engine", engine]);
                    let json = run.json(0);
                    assert_eq!(json["equal"], true, "{name} {engine}");
                    let Some(policies) = json["policies"].as_array() else {
                        assert!(name.starts_with("wgmma"), "{json:#}");
                        assert_eq!(run.stderr.contains("single instructions"), engine == "hopper", "{}", run.stderr);
                        continue;
                    };
                    assert_eq!(run.stderr, "", "{name} {engine}");
                    assert_eq!(json["engine"], "hopper", "{name} {engine}");
                    assert_eq!(json["reproduced_by"], twin["reproduced_by"], "{name} {engine}");
                    for policy in policies {
                        let has_kernel = ["promote128", "chain"].contains(&policy["policy"].as_str().unwrap());
                        assert_eq!(policy["engine"], if has_kernel { "hopper" } else { "twin" }, "{name}: {policy:#}");
                        assert_eq!(policy["gpu"].is_null(), !has_kernel, "{name}: {policy:#}");
                        if has_kernel {
                            assert_eq!(policy["rows"], json["m"], "{name}: {policy:#}");
                        }
                    }
                }
            });
        }
    });
}

/// Breaks if a wrong bit is reported otherwise when the GPU computes than when the twin does, or if
/// a candidate of the GPU hides the twin's nearer one.
#[test]
#[ignore = "needs Hopper"]
fn a_difference_is_reported_as_by_the_twin() {
    let folder = common::folder();
    for (name, columns, size, row, column, bit) in
        [("deepgemm_1d2d_n0", 256, 2, 17, 33, 3), ("deepgemm_1d1d_n1", 384, 4, 191, 383, 12)]
    {
        let mut file = vector(name);
        let at = offset(&file, "d") + (row * columns + column) * size + bit / 8;
        file[at] ^= 1 << (bit % 8);
        fs::write(folder.path().join("flipped.safetensors"), file).unwrap();
        let verify = |engine: &str, policy: &[&str]| {
            let flags = [&["verify", "flipped.safetensors", "--json", "--engine", engine], policy].concat();
            fp8gemm(folder.path(), &flags).json(1)
        };
        let difference = |json: &Value| {
            let best = json["nearest"].as_str().unwrap();
            let policy = json["policies"].as_array().unwrap().iter().find(|policy| policy["policy"] == best).unwrap();
            let keys = ["policy", "differing", "first_difference", "max_ulp", "nan_mismatches", "kind", "outcome"];
            keys.map(|key| policy[key].clone())
        };
        for policy in [&[][..], &["--policy", "promote128"]] {
            let (gpu, twin) = (verify("hopper", policy), verify("twin", policy));
            assert_eq!(gpu["engine"], "hopper");
            assert_eq!(difference(&gpu), difference(&twin), "{name} {policy:?}");
        }
    }
    // The file is cutlass128's, which has no kernel, but for one bit in its first row.
    let folder = common::folder();
    let tensors = [
        codes("a", 64, 1024, 1),
        codes("b", 96, 1024, 2),
        f32s("scale_a", &[64, 8], &uniform(512, 3)),
        f32s("scale_b", &[1, 8], &uniform(8, 4)),
    ];
    save(&folder.path().join("in.safetensors"), &tensors, &[]);
    let made = [&GEMM[..], &["--engine", "twin", "--policy", "cutlass128", "--output-type", "f32"]].concat();
    fp8gemm(folder.path(), &[&made[..], &["-o", "d.safetensors", "--with-inputs"]].concat()).quiet();
    let path = folder.path().join("d.safetensors");
    let mut file = fs::read(&path).unwrap();
    let at = offset(&file, "d");
    file[at] ^= 1;
    fs::write(&path, file).unwrap();
    let json = fp8gemm(folder.path(), &["verify", "d.safetensors", "--json", "--engine", "hopper"]).json(1);
    assert_eq!((&json["engine"], &json["nearest"]), (&"hopper".into(), &"cutlass128".into()), "{json:#}");
}

const GEMM: [&str; 5] = ["gemm", "--a", "in.safetensors", "--b", "in.safetensors"];

/// Operands, scales and C of one problem.
fn operands((m, n, k): (usize, usize, usize), layouts: [ScaleLayout; 2], types: [Dtype; 2], c: Dtype) -> Vec<Tensor> {
    let mut tensors = Vec::new();
    for (i, (name, rows)) in [("a", m), ("b", n)].into_iter().enumerate() {
        let seed = (m * 31 + n * 7 + k + i) as u32;
        // The same bytes are finite in both formats.
        tensors.push(Tensor { dtype: types[i], ..codes(name, rows, k, seed) });
        let (height, width) = layouts[i].scale_shape(rows, k);
        let scales: Vec<f32> = uniform(height * width, seed + 2).iter().map(|x| (x * 4.0).exp2()).collect();
        let shape = if layouts[i] == ScaleLayout::Tensor { vec![1] } else { vec![height, width] };
        tensors.push(f32s(&format!("scale_{name}"), &shape, &scales));
    }
    let values = uniform(m * n, 77).into_iter().map(|x| x * 3e4);
    let bytes = match c {
        Dtype::F32 => values.flat_map(f32::to_le_bytes).collect(),
        Dtype::F16 => values.flat_map(|x| half::f16::from_f32(x).to_le_bytes()).collect(),
        _ => values.flat_map(|x| half::bf16::from_f32(x).to_le_bytes()).collect(),
    };
    tensors.push(tensor("c", c, &[m, n], bytes));
    tensors
}

/// Runs `gemm` with both engines and asserts that D is the same bytes; the GPU's report.
fn both(folder: &Path, flags: &[&str]) -> Value {
    let run = |engine: &str, name: &str| {
        fp8gemm(folder, &[&GEMM[..], &["--json", "--engine", engine, "-o", name], flags].concat())
    };
    let twin = run("twin", "twin.safetensors").json(0);
    let gpu = run("hopper", "gpu.safetensors");
    let json = gpu.json(0);
    assert_eq!(json["problem"], twin["problem"]);
    assert_eq!(json["errors"], twin["errors"], "{flags:?}");
    let (found, expected) = (read(&folder.join("gpu.safetensors"), "d"), read(&folder.join("twin.safetensors"), "d"));
    assert!(found == expected, "{}: D differs", json["problem"]);
    json
}

/// Breaks if a bit of D depends on the engine: odd and even shapes, every pair of scale layouts of
/// one kind, every output and C, alpha and beta, both policies, E4M3 and E5M2.
#[test]
#[ignore = "needs Hopper"]
fn gemm_gives_the_twins_bytes() {
    use Dtype::{BF16, F8_E4M3, F8_E5M2, F16, F32};
    use ScaleLayout::{Block1x128, Block128x128, Row, Tensor};
    let (e4, e5) = ([F8_E4M3; 2], [F8_E5M2, F8_E4M3]);
    let cases = [
        ((1, 1, 1), [Tensor, Tensor], e4, F32, "bf16", "0", "promote128"),
        ((3, 5, 7), [Row, Row], e5, BF16, "f32", "0.5", "promote128"),
        ((130, 200, 500), [Row, Tensor], e4, F16, "f16", "-1.7", "chain"),
        ((257, 576, 1000), [Block1x128, Block128x128], e4, BF16, "bf16", "0", "promote128"),
        ((64, 96, 256), [Block1x128, Block1x128], e5, F32, "f32", "1", "promote128"),
        ((333, 77, 384), [Block128x128, Block128x128], e4, F16, "f32", "0", "promote128"),
        ((512, 129, 640), [Row, Block128x128], e4, F32, "f16", "0.25", "promote128"),
        ((128, 256, 2048), [Tensor, Row], e4, BF16, "bf16", "0", "chain"),
    ];
    thread::scope(|scope| {
        for (shape, layouts, types, c, output, beta, policy) in cases {
            scope.spawn(move || {
                let folder = common::folder();
                save(&folder.path().join("in.safetensors"), &operands(shape, layouts, types, c), &[]);
                let [a, b] = layouts.map(|layout| layout.to_string());
                let layouts = ["--scale-layout-a", &a, "--scale-layout-b", &b, "--output-type", output];
                let json = both(
                    folder.path(),
                    &[&layouts[..], &["--beta", beta, "--alpha", "0.75", "--policy", policy]].concat(),
                );
                assert_eq!(json["engine"], "hopper");
                let gpu = &json["gpu"];
                assert!(gpu["name"].as_str().unwrap().contains("NVIDIA"), "{json:#}");
                assert!(gpu["configuration"].as_str().unwrap().contains(output), "{json:#}");
                // What TMA cannot take was copied, and the report says so.
                let steps = gpu["steps"].to_string();
                assert_eq!(steps.contains("A copied"), shape.2 % 16 != 0, "{json:#}");
                // The file is verified by the other engine, and says who made it.
                let path = folder.path().join("gpu.safetensors");
                let metadata = fs::read(path).unwrap();
                assert!(String::from_utf8_lossy(&metadata).contains("Hopper kernel"));
            });
        }
    });
}

/// Breaks if K = 0, which has a kernel too, gives anything but beta C, or zeros.
#[test]
#[ignore = "needs Hopper"]
fn without_k_d_is_beta_c() {
    use ScaleLayout::{Block1x128, Block128x128};
    let folder = common::folder();
    let tensors = operands((37, 50, 0), [Block1x128, Block128x128], [Dtype::F8_E4M3; 2], Dtype::F32);
    save(&folder.path().join("in.safetensors"), &tensors, &[]);
    let layouts = ["--scale-layout-a", "1x128", "--scale-layout-b", "128x128", "--output-type", "f32"];
    for beta in ["0", "-2"] {
        let json = both(folder.path(), &[&layouts[..], &["--beta", beta]].concat());
        assert_eq!(json["engine"], "hopper", "{json:#}");
        let (_, shape, bytes) = read(&folder.path().join("gpu.safetensors"), "d");
        assert_eq!((shape, bytes.iter().all(|byte| *byte == 0)), (vec![37, 50], beta == "0"));
    }
}

/// Breaks if the report names another kernel than the one that ran (`gemm` gives kernels a workspace, so that
/// stream-K may come first), or says of a cached one that it was compiled.
#[test]
#[ignore = "needs Hopper"]
fn the_report_names_the_kernel_that_ran() {
    let folder = common::folder();
    let tensors = operands(
        (4096, 2112, 7168),
        [ScaleLayout::Block1x128, ScaleLayout::Block128x128],
        [Dtype::F8_E4M3; 2],
        Dtype::BF16,
    );
    save(&folder.path().join("in.safetensors"), &tensors, &[]);
    let cache = folder.path().join("cache");
    let variables = [("FP8GEMM_CACHE_DIR", cache.to_str().unwrap())];
    let arguments = |name| [&GEMM[..], &["--engine", "hopper", "--json", "-o", name]].concat();
    for (origin, name) in [("compiled", "first.safetensors"), ("cached", "second.safetensors")] {
        let json = with_variables(folder.path(), &arguments(name), &variables).json(0);
        let gpu = &json["gpu"];
        assert!(gpu["configuration"].as_str().unwrap().contains("_sk"), "{gpu:#}");
        assert_eq!(gpu["kernel"], origin, "{gpu:#}");
        // One kernel is made, not one to be named and one to run; and it again with the usual pattern.
        let kernels = names(&cache.join("cubin")).into_iter().filter(|name| name.ends_with(".cubin"));
        assert_eq!(kernels.count(), 2);
    }
}

/// Breaks if an operand whose rows are not contiguous is read as if they were, or its transposition
/// is hidden.
#[test]
#[ignore = "needs Hopper"]
fn column_major_operands() {
    let folder = common::folder();
    let (rows, k) = (150, 304);
    let [a, b] = [("a", 3), ("b", 4)].map(|(name, seed)| codes(name, rows, k, seed).bytes);
    let write = |name: &str, order, values: Vec<u8>| {
        let file = fs::File::create(folder.path().join(name)).unwrap();
        let shape = [rows as u64, k as u64];
        let mut writer =
            npyz::WriteOptions::new().default_dtype().shape(&shape).order(order).writer(file).begin_nd().unwrap();
        writer.extend(values).unwrap();
        writer.finish().unwrap();
    };
    write("a.npy", npyz::Order::Fortran, (0..rows * k).map(|i| a[i % rows * k + i / rows]).collect());
    write("b.npy", npyz::Order::C, b);
    let run = |engine: &str, name: &str| {
        let flags = ["gemm", "--a", "a.npy", "--b", "b.npy", "--dtype", "e4m3", "--output-type", "f32", "--json"];
        fp8gemm(folder.path(), &[&flags[..], &["--engine", engine, "-o", name]].concat()).json(0)
    };
    let (gpu, _) = (run("hopper", "gpu.npy"), run("twin", "twin.npy"));
    let file = |name: &str| fs::read(folder.path().join(name)).unwrap();
    assert!(file("gpu.npy") == file("twin.npy"));
    let steps = gpu["gpu"]["steps"].as_array().unwrap();
    assert!(steps.iter().any(|step| step.as_str().unwrap().starts_with('A')), "{gpu:#}");
    assert!(!steps.iter().any(|step| step.as_str().unwrap().starts_with('B')), "{gpu:#}");
}

/// Breaks if an engine takes what it cannot compute, keeps the reason to itself, or calls a usage
/// error a lack of the machine.
#[test]
#[ignore = "needs Hopper"]
fn what_has_no_kernel() {
    let folder = common::folder();
    let folder = folder.path();
    let blocks = [
        codes("a", 40, 256, 1),
        codes("b", 70, 256, 2),
        f32s("scale_a", &[40, 8], &uniform(320, 3)),
        f32s("scale_b", &[70, 8], &uniform(560, 4)),
    ];
    save(&folder.join("in.safetensors"), &blocks, &[("scale_layout.a", "1x32"), ("scale_layout.b", "1x32")]);
    let gemm = |flags: &[&str]| fp8gemm(folder, &[&GEMM[..], &["-o", "d.safetensors"], flags].concat());
    // The policy that is legal for these scales is taken, with a note before the error.
    let refused = gemm(&["--engine", "hopper"]);
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.contains("row, tensor, 1x128 or 128x128"), "{}", refused.stderr);
    let twin = gemm(&["--engine", "auto", "--policy", "promote32", "--json"]);
    assert_eq!(twin.json(0)["engine"], "twin");
    assert!(twin.stderr.starts_with("note: engine auto takes the CPU twin: no kernel computes"), "{}", twin.stderr);
    let verify = ["verify", "d.safetensors", "--a", "in.safetensors", "--b", "in.safetensors", "--engine"];
    fp8gemm(folder, &[&verify[..], &["hopper"]].concat()).refused(2, &["engine hopper", "128x128"]);
    let twin = fp8gemm(folder, &[&verify[..], &["auto"]].concat());
    assert_eq!(twin.code, 0, "{}", twin.stderr);
    assert!(twin.stderr.contains("engine auto takes the CPU twin"), "{}", twin.stderr);

    for device in ["8", "4000000000"] {
        let refused = fp8gemm(&vectors(), &["verify", "cublaslt_fast_n0.safetensors", "--device", device]);
        assert_eq!(refused.code, 0, "auto falls back: {}", refused.stderr);
        assert!(refused.stderr.contains(&format!("device {device} does not exist")), "{}", refused.stderr);
        let flags = ["verify", "cublaslt_fast_n0.safetensors", "--engine", "hopper", "--device", device];
        fp8gemm(&vectors(), &flags).refused(3, &["engine hopper", &format!("device {device} does not exist")]);
    }
}

/// Breaks if a machine without NVRTC is not told so in one line, cannot live on its cache, or if a
/// kernel is said to come from where it does not.
#[test]
#[ignore = "needs Hopper"]
fn a_cache_stands_in_for_nvrtc() {
    let folder = common::folder();
    let cache = folder.path().to_str().unwrap();
    let verify = ["verify", "cublaslt_fast_n0.safetensors", "--policy", "chain", "--json", "--engine"];
    let run = |engine: &str, nvrtc: &[(&str, &str)]| {
        with_variables(
            &vectors(),
            &[&verify[..], &[engine]].concat(),
            &[&[("FP8GEMM_CACHE_DIR", cache)], nvrtc].concat(),
        )
    };
    let absent = [("FP8GEMM_NVRTC", "there/is/none")];
    run("hopper", &absent).refused(3, &["engine hopper", "NVRTC", "FP8GEMM_NVRTC", "doctor"]);
    let twin = run("auto", &absent);
    assert_eq!(twin.json(0)["engine"], "twin");
    assert!(twin.stderr.starts_with("note: engine auto takes the CPU twin: "), "{}", twin.stderr);
    assert_eq!(twin.stderr.lines().count(), 1, "{}", twin.stderr);
    let entries = folder.path().join("cubin");
    for (variables, origin) in [(&[][..], "compiled"), (&[], "cached"), (&absent, "cached"), (&[], "compiled")] {
        // NVRTC has a cache of its own, which must not get in the way.
        if origin == "compiled" && entries.exists() {
            fs::remove_dir_all(&entries).unwrap();
        }
        let json = run("hopper", variables).json(0);
        assert_eq!(json["engine"], "hopper");
        assert_eq!(json["policies"][0]["gpu"]["kernel"], origin, "{json:#}");
        assert!(json["policies"][0]["gpu"]["prepare_seconds"].as_f64().unwrap() > 0.0);
    }
}

/// Breaks if the doctor does not find the GPU that the other commands use, or hides that its bits are
/// wrong.
#[test]
#[ignore = "needs Hopper"]
fn doctor_tries_the_gpu() {
    let json = fp8gemm(Path::new("."), &["doctor", "--json"]).json(0);
    let device = &json["gpu"]["devices"][0];
    assert_eq!(device["compute_capability"], "9.0", "{json:#}");
    assert!(device["multiprocessors"].as_u64().unwrap() >= 60 && device["memory_bytes"].as_u64().unwrap() > 1 << 34);
    assert_eq!(json["gpu"]["self_test"]["passed"], true, "{json:#}");
    assert!(json["gpu"]["self_test"]["error"].is_null(), "{json:#}");
    assert_eq!(json["auto"]["engine"], "hopper", "{json:#}");
    assert!(!json["nvrtc"]["found"].is_null(), "{json:#}");
}
