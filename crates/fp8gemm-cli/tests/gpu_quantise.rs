//! Files of f32, f16 and bf16 quantised and multiplied by a GPU, against the twin, byte for byte. Needs
//! a Hopper GPU, its driver and NVRTC:
//! `cargo test --release -p fp8gemm-cli --test gpu_quantise -- --ignored`. On a machine that did not
//! build it, `FP8GEMM_BIN` names the command.

#![allow(clippy::unwrap_used)] // a test may

mod common;

use std::fs;
use std::path::Path;
use std::thread;

use common::{Tensor, codes, f32s, fp8gemm, read, save, tensor, uniform};
use npyz::WriterBuilder;
use safetensors::Dtype;
use serde_json::Value;

/// Numbers of one of the types, with some that quantisers can get wrong.
fn numbers(name: &str, dtype: Dtype, shape: [usize; 2], seed: u32) -> Tensor {
    let special = [0.0, -0.0, 1e-41, 5e-5, -6e4, f32::INFINITY];
    let values = uniform(shape[0] * shape[1], seed).into_iter().enumerate();
    let values = values.map(|(i, x)| if i % 997 == 13 { special[i / 997 % special.len()] } else { x * 3.0 });
    let bytes = match dtype {
        Dtype::BF16 => values.flat_map(|x| half::bf16::from_f32(x).to_le_bytes()).collect(),
        Dtype::F16 => values.flat_map(|x| half::f16::from_f32(x).to_le_bytes()).collect(),
        _ => values.flat_map(f32::to_le_bytes).collect(),
    };
    tensor(name, dtype, &shape, bytes)
}

fn steps(json: &Value) -> Vec<&str> {
    json["gpu"]["steps"].as_array().unwrap().iter().map(|step| step.as_str().unwrap()).collect()
}

/// Runs `gemm` on `in.safetensors` with both engines, asserts that every tensor of the output is the
/// same bytes, and gives the GPU's report.
fn both(folder: &Path, flags: &[&str]) -> Value {
    let run = |engine: &str| {
        let out = format!("{engine}.safetensors");
        let gemm = ["gemm", "--a", "in.safetensors", "--b", "in.safetensors", "--with-inputs", "--json", "-o", &out];
        fp8gemm(folder, &[&gemm[..], &["--engine", engine], flags].concat()).json(0)
    };
    let (twin, gpu) = (run("twin"), run("hopper"));
    assert_eq!(gpu["engine"], "hopper");
    for key in ["problem", "errors", "quantized_a", "quantized_b"] {
        assert_eq!(gpu[key], twin[key], "{flags:?}");
    }
    for name in ["d", "a", "b", "scale_a", "scale_b"] {
        let [found, expected] = ["hopper", "twin"].map(|x| read(&folder.join(x).with_extension("safetensors"), name));
        assert!(found == expected, "{} {flags:?}: {name} differs", gpu["problem"]);
    }
    gpu
}

/// Breaks if a byte of D, of codes or of scales depends on whether the GPU or the CPU quantised: every
/// input type, both scale layouts on either side, both recipes, odd shapes. Or if the report does not
/// say where that was and what it cost.
#[test]
#[ignore = "needs Hopper"]
fn floats_give_the_twins_bytes() {
    use Dtype::{BF16, F16, F32};
    let cases = [
        ((1, 1, 1), [BF16, BF16], "deepgemm", ["1x128", "128x128"], "e4m3"),
        ((70, 200, 500), [F32, BF16], "deepgemm", ["1x128", "128x128"], "e4m3"),
        ((257, 129, 1000), [F16, F32], "deepgemm", ["1x128", "1x128"], "e5m2"),
        ((333, 77, 384), [BF16, F16], "deepgemm", ["128x128", "128x128"], "e4m3"),
        ((64, 96, 260), [F16, F16], "deepgemm", ["128x128", "1x128"], "e4m3"),
        ((130, 130, 130), [F32, F32], "deepgemm-ue8m0", ["1x128", "128x128"], "e4m3"),
    ];
    thread::scope(|scope| {
        for ((m, n, k), types, recipe, [a, b], dtype) in cases {
            scope.spawn(move || {
                let folder = common::folder();
                let tensors = [numbers("a", types[0], [m, k], 1), numbers("b", types[1], [n, k], 2)];
                save(&folder.path().join("in.safetensors"), &tensors, &[]);
                let layouts = ["--scale-layout-a", a, "--scale-layout-b", b, "--dtype", dtype];
                let json = both(folder.path(), &[&["--recipe", recipe], &layouts[..]].concat());
                assert_eq!((&json["quantized_a_on"], &json["quantized_b_on"]), (&"gpu".into(), &"gpu".into()));
                assert_eq!(json["errors"].as_array().unwrap().len(), 2);
                let steps = steps(&json);
                for (side, quantizer) in
                    [("A", format!("{recipe}:{a}:{dtype}")), ("B", format!("{recipe}:{b}:{dtype}"))]
                {
                    let says = |words: &[&str]| steps.iter().any(|step| words.iter().all(|word| step.contains(word)));
                    assert!(says(&[&format!("{side} on the GPU"), &quantizer, "MB read"]), "{steps:?}");
                    assert!(says(&[&format!("codes and scales of {side} copied back"), "MB"]), "{steps:?}");
                }
                // Scales come from the quantiser as the GEMM reads them, but for 128x128 ones of A.
                let spread = steps.iter().any(|step| step.contains("128x128 scales of A repeated to [K/128][M]"));
                assert_eq!(spread, a == "128x128", "{steps:?}");
            });
        }
    });
}

/// Breaks if a recipe without a kernel is quantised by another one, or not said to be the CPU's; or if
/// an operand that is FP8 already is touched.
#[test]
#[ignore = "needs Hopper"]
fn other_recipes_stay_on_the_cpu() {
    let folder = common::folder();
    let file = folder.path().join("in.safetensors");
    // Ordinary numbers: some of these recipes refuse infinite ones.
    save(&file, &[f32s("a", &[70, 500], &uniform(35_000, 1)), f32s("b", &[200, 500], &uniform(100_000, 2))], &[]);
    for recipe in ["vllm-token", "te-block", "deepgemm-v1"] {
        let json = both(folder.path(), &["--recipe", recipe]);
        assert_eq!((&json["quantized_a_on"], &json["quantized_b_on"]), (&"cpu".into(), &"cpu".into()), "{recipe}");
        assert!(!steps(&json).iter().any(|step| step.contains("quantised")), "{json:#}");
    }
    let b = codes("b", 200, 500, 3);
    let scales = f32s("scale_b", &[2, 4], &uniform(8, 4));
    save(&file, &[numbers("a", Dtype::F16, [70, 500], 1), b, scales], &[]);
    let json = both(folder.path(), &["--recipe", "deepgemm"]);
    assert_eq!((&json["quantized_a_on"], &json["quantized_b_on"]), (&"gpu".into(), &Value::Null), "{json:#}");
    let text = fp8gemm(
        folder.path(),
        &["gemm", "--a", "in.safetensors", "--b", "in.safetensors", "--recipe", "deepgemm", "-o", "t.safetensors"],
    );
    assert_eq!((text.code, text.stderr.as_str()), (0, ""));
    assert!(text.stdout.contains("quantised by deepgemm on the GPU"), "{}", text.stdout);
    println!("{}", text.stdout);
}

/// Breaks if a column-major matrix of numbers is quantised as its transpose, or transposed on the host.
#[test]
#[ignore = "needs Hopper"]
fn column_major_numbers() {
    let folder = common::folder();
    let (rows, k) = (150, 301);
    let write = |name: &str, order, seed: u32| {
        let values = uniform(rows * k, seed);
        let column_major = matches!(order, npyz::Order::Fortran);
        let at = |i: usize| if column_major { values[i % rows * k + i / rows] } else { values[i] };
        let file = fs::File::create(folder.path().join(name)).unwrap();
        let shape = [rows as u64, k as u64];
        let mut writer =
            npyz::WriteOptions::new().default_dtype().shape(&shape).order(order).writer(file).begin_nd().unwrap();
        writer.extend((0..rows * k).map(at)).unwrap();
        writer.finish().unwrap();
    };
    write("a.npy", npyz::Order::Fortran, 1);
    write("a_rows.npy", npyz::Order::C, 1);
    write("b.npy", npyz::Order::C, 2);
    write("b_columns.npy", npyz::Order::Fortran, 2);
    let run = |engine: &str, a: &str, b: &str, name: &str| {
        let flags = ["gemm", "--a", a, "--b", b, "--recipe", "deepgemm", "--output-type", "f32", "--json"];
        fp8gemm(folder.path(), &[&flags[..], &["--engine", engine, "-o", name]].concat()).json(0)
    };
    run("twin", "a_rows.npy", "b.npy", "twin.npy");
    for (a, b) in [("a.npy", "b.npy"), ("a.npy", "b_columns.npy"), ("a_rows.npy", "b_columns.npy")] {
        let json = run("hopper", a, b, "gpu.npy");
        let file = |name: &str| fs::read(folder.path().join(name)).unwrap();
        assert!(file("gpu.npy") == file("twin.npy"), "{a} {b}");
        let steps = steps(&json);
        for (side, transposed) in [("A on", a == "a.npy"), ("B on", b == "b_columns.npy")] {
            let step = steps.iter().find(|step| step.starts_with(side)).unwrap();
            assert_eq!(step.contains("transposed"), transposed, "{steps:?}");
        }
        assert!(!steps.iter().any(|step| step.contains("contiguous rows")), "{steps:?}");
    }
}
