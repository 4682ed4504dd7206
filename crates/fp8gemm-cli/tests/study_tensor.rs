//! `fp8gemm study tensor`: checkpoints of all kinds, results on disk, bad input, bounded memory.

#![allow(clippy::unwrap_used)] // a test may

mod common;

use std::fs;
use std::path::Path;

use common::{Run, Tensor, f32s, folder, fp8gemm, names, save, tensor, uniform, with_threads};
use half::{bf16, f16};
use safetensors::Dtype;
use serde_json::Value;

fn bf16s(name: &str, shape: &[usize], values: &[f32]) -> Tensor {
    tensor(name, Dtype::BF16, shape, values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect())
}

fn f16s(name: &str, shape: &[usize], values: &[f32]) -> Tensor {
    tensor(name, Dtype::F16, shape, values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect())
}

fn study(folder: &Path, arguments: &[&str]) -> Run {
    fp8gemm(folder, &[&["study", "tensor"], arguments].concat())
}

/// Rows of a table of the outcome as maps from column to cell.
fn rows(document: &Value, table: &str) -> Vec<serde_json::Map<String, Value>> {
    let tables = document["outcome"]["tables"].as_array().unwrap();
    let Some(table) = tables.iter().find(|candidate| candidate["name"] == table) else { return vec![] };
    let names = table["columns"].as_array().unwrap().iter().map(|column| column["name"].as_str().unwrap());
    let row = |row: &Value| names.clone().map(str::to_owned).zip(row.as_array().unwrap().iter().cloned()).collect();
    table["rows"].as_array().unwrap().iter().map(row).collect()
}

fn column(rows: &[serde_json::Map<String, Value>], name: &str) -> Vec<String> {
    rows.iter().map(|row| row[name].as_str().map_or_else(|| row[name].to_string(), str::to_owned)).collect()
}

/// A checkpoint with everything in it: `w.weight` FP8 by `quantize`, the rest as it is.
fn checkpoint(folder: &Path) {
    save(&folder.join("x.safetensors"), &[f32s("w.weight", &[200, 300], &uniform(60_000, 1))], &[]);
    let run = fp8gemm(folder, &["quantize", "x.safetensors", "-o", "q.safetensors", "--recipe", "deepgemm"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let [codes, scales] = ["w.weight", "w.weight_scale_inv"].map(|name| {
        let (dtype, shape, bytes) = common::read(&folder.join("q.safetensors"), name);
        tensor(name, dtype, &shape, bytes)
    });
    let others = [
        bf16s("b.weight", &[130, 2100], &uniform(273_000, 2)),
        f16s("h.weight", &[64, 96], &uniform(6144, 3)),
        f32s("norm.weight", &[96], &uniform(96, 4)),
        tensor("ids", Dtype::I64, &[2, 4], vec![0; 64]),
        f32s("none.weight", &[0, 8], &[]),
        f32s("cube", &[2, 3, 4], &uniform(24, 5)),
    ];
    save(&folder.join("all.safetensors"), &[&[codes, scales], &others[..]].concat(), &[]);
}

/// Breaks if a tensor of the checkpoint is lost, mixed up with its scales, or read as another type.
#[test]
fn every_tensor_is_profiled_or_left_out_with_a_reason() {
    let folder = folder();
    checkpoint(folder.path());
    let run = study(folder.path(), &["all.safetensors", "--json"]);
    let document = run.json(0);
    let tensors = rows(&document, "tensors");
    let mut found: Vec<_> = column(&tensors, "tensor").into_iter().zip(column(&tensors, "type")).collect();
    found.sort();
    let expected = [("b.weight", "BF16"), ("h.weight", "F16"), ("w.weight", "F8_E4M3")];
    assert_eq!(found, expected.map(|(name, ty)| (name.to_owned(), ty.to_owned())));
    let skipped = rows(&document, "skipped");
    let mut reasons: Vec<_> = column(&skipped, "tensor").into_iter().zip(column(&skipped, "reason")).collect();
    reasons.sort();
    let expected = [
        ("cube", "3 dimensions: no matrix"),
        ("ids", "I64 is not f32, f16, bf16 or FP8"),
        ("none.weight", "empty"),
        ("norm.weight", "1 dimension: no matrix"),
        ("w.weight_scale_inv", "scales of w.weight"),
    ];
    assert_eq!(reasons, expected.map(|(name, reason)| (name.to_owned(), reason.to_owned())));
    // Twenty quantisers each, and the text has all names.
    assert_eq!(rows(&document, "quantisation").len(), 60);
    let text = study(folder.path(), &["all.safetensors"]);
    for word in ["b.weight", "h.weight", "w.weight", "128x128", "left out", "best of all"] {
        assert!(text.stdout.contains(word), "{word}: {}", text.stdout);
    }
    let few = study(folder.path(), &["all.safetensors", "--names", "?.weight", "--json"]).json(0);
    assert_eq!(rows(&few, "tensors").len(), 3);
    let one = study(folder.path(), &["all.safetensors", "--names", "b.weight", "h*", "--json"]).json(0);
    assert_eq!(rows(&one, "tensors").len(), 2);
}

/// Breaks if the figures of a tensor are not those that `quantize` gives for the same recipe, read
/// whole: amax, counts, SNR; f32, f16 and bf16.
#[test]
fn figures_are_those_of_quantize() {
    let folder = folder();
    // Of many sizes, so that some become zero or subnormal.
    let values: Vec<f32> = uniform(130 * 2100, 6).iter().map(|x| x.powi(9)).collect();
    let shape = [130, 2100];
    let tensors = [f32s("f", &shape, &values), f16s("h", &shape, &values), bf16s("b", &shape, &values)];
    save(&folder.path().join("x.safetensors"), &tensors, &[]);
    for (recipe, layout) in [
        ("te-current", "tensor"),
        ("deepgemm", "1x128"),
        ("deepgemm", "128x128"),
        ("vllm-token", "row"),
        ("torchao-mx-floor", "1x32"),
    ] {
        let arguments =
            ["quantize", "x.safetensors", "-o", "q.safetensors", "--recipe", recipe, "--layout", layout, "--json"];
        let expected = fp8gemm(folder.path(), &arguments).json(0);
        let found =
            study(folder.path(), &["x.safetensors", "--recipe", &format!("{recipe}:{layout}"), "--json"]).json(0);
        for tensor in expected["tensors"].as_array().unwrap() {
            let cell = |table: &str, name: &str| {
                let rows = rows(&found, table);
                let row = rows.iter().find(|row| row["tensor"] == tensor["name"]).unwrap();
                row[name].clone()
            };
            assert_eq!(cell("quantisation", "flushed"), tensor["flushed"], "{recipe} {tensor}");
            assert_eq!(cell("quantisation", "subnormal"), tensor["subnormal"], "{recipe} {tensor}");
            assert_eq!(cell("quantisation", "saturated"), tensor["saturated"], "{recipe} {tensor}");
            assert_eq!(cell("tensors", "amax value"), tensor["amax"], "{recipe} {tensor}");
            let (snr, expected) = (cell("quantisation", "SNR").as_f64().unwrap(), tensor["snr_db"].as_f64().unwrap());
            assert!((snr - expected).abs() < 1e-5, "{recipe} {snr} {expected}");
        }
    }
}

/// Breaks if an FP8 tensor is not dequantised with its scales, its codes are miscounted, or scales in
/// another shard are not found.
#[test]
fn fp8_checkpoints_are_dequantised() {
    let folder = folder();
    let mut codes = vec![0x38; 128 * 256];
    codes[..4].copy_from_slice(&[0x7E, 0xFE, 0x00, 0x01]);
    let weight = tensor("w.weight", Dtype::F8_E4M3, &[128, 256], codes);
    let scales = f32s("w.weight_scale_inv", &[1, 2], &[2.0, 0.5]);
    let other = bf16s("other.weight", &[2, 2], &[1.0; 4]);
    save(&folder.path().join("m-1.safetensors"), &[weight], &[]);
    save(&folder.path().join("m-2.safetensors"), &[scales, other], &[]);
    let map = r#"{"metadata":{},"weight_map":{"w.weight":"m-1.safetensors","w.weight_scale_inv":"m-2.safetensors","other.weight":"m-2.safetensors"}}"#;
    fs::write(folder.path().join("m.safetensors.index.json"), map).unwrap();
    for files in [&["m.safetensors.index.json"][..], &["m-1.safetensors", "m-2.safetensors"]] {
        let document = study(folder.path(), &[files, &["--json"]].concat()).json(0);
        let tensors = rows(&document, "tensors");
        assert_eq!(column(&tensors, "tensor"), ["w.weight", "other.weight"]);
        assert_eq!(column(&tensors, "amax value"), ["896.0", "1.0"]);
        // 2^-9 times 2.
        assert_eq!(tensors[0]["smallest"].as_f64(), Some(2f64.powi(-8)));
        let codes = rows(&document, "codes");
        assert_eq!(column(&codes, "saturated"), ["2"]);
        assert_eq!(column(&codes, "zero"), ["1"]);
        assert_eq!(column(&codes, "subnormal"), ["1"]);
        assert_eq!(column(&codes, "scales"), ["128x128"]);
        assert_eq!(column(&codes, "largest scale"), ["2.0"]);
        assert_eq!(column(&codes, "powers of two"), ["all"]);
    }
    // Quantised as they were quantised, nothing is lost.
    let exact = study(
        folder.path(),
        &["m.safetensors.index.json", "--names", "w*", "--recipe", "deepgemm-ue8m0:128x128", "--json"],
    );
    assert_eq!(column(&rows(&exact.json(0), "quantisation"), "SNR"), ["inf"]);
    fs::write(folder.path().join("bad.index.json"), map.replace("other.weight", "missing.weight")).unwrap();
    study(folder.path(), &["bad.index.json"]).refused(2, &["m-2.safetensors", "missing.weight", "w.weight_scale_inv"]);
    fs::write(folder.path().join("bad.index.json"), "{}").unwrap();
    study(folder.path(), &["bad.index.json"]).refused(2, &["bad.index.json", "weight_map"]);
    fs::write(folder.path().join("bad.index.json"), r#"{"weight_map":{"x":"gone.safetensors"}}"#).unwrap();
    study(folder.path(), &["bad.index.json"]).refused(2, &["gone.safetensors", "no such file"]);
}

/// Breaks if a product's errors are not attributed, or operands of other shapes or types are taken.
#[test]
fn products_are_attributed() {
    let folder = folder();
    checkpoint(folder.path());
    save(&folder.path().join("a.safetensors"), &[bf16s("a", &[70, 300], &uniform(21_000, 7))], &[]);
    let product = ["--a", "a.safetensors", "--b", "all.safetensors", "--b-tensor", "w.weight"];
    let document = study(folder.path(), &[&product[..], &["--json"]].concat()).json(0);
    let attribution = rows(&document, "attribution");
    assert_eq!(attribution.len(), 8);
    let snr = |row: &serde_json::Map<String, Value>, name: &str| row[name].as_f64().unwrap();
    // Quantisation is what costs, the cast comes next, and all of it together costs no less.
    for row in &attribution {
        assert!(snr(row, "SNR") < snr(row, "quantisation SNR") + 0.1, "{row:?}");
        assert!(snr(row, "quantisation SNR") < snr(row, "output cast SNR"), "{row:?}");
    }
    let named = study(folder.path(), &[&product[..], &["--recipe", "deepgemm:1x128", "--json"]].concat()).json(0);
    let named = rows(&named, "attribution");
    assert_eq!(
        (named[0]["A"].as_str(), named[0]["B"].as_str()),
        (Some("deepgemm:1x128:e4m3"), Some("deepgemm:128x128:e4m3"))
    );
    assert_eq!(attribution.iter().find(|row| row["A"] == named[0]["A"]), Some(&named[0]));
    let wrong = ["--a", "a.safetensors", "--b", "all.safetensors", "--b-tensor", "h.weight"];
    study(folder.path(), &wrong).refused(2, &["300", "96", "K"]);
    let wrong = ["--a", "a.safetensors", "--b", "all.safetensors", "--b-tensor", "ids"];
    study(folder.path(), &wrong).refused(2, &["ids", "I64"]);
}

/// Breaks if results are not kept, overwritten unasked, or not taken into the report.
#[test]
fn results_are_kept_and_reported() {
    let folder = folder();
    checkpoint(folder.path());
    let arguments = ["all.safetensors", "--names", "b.weight", "--out", "s"];
    let run = study(folder.path(), &arguments);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let results = folder.path().join("s/tensor");
    for file in ["study.json", "tensors.csv", "quantisation.csv", "granularity.csv", "amax.csv", "snr.svg", "range.svg"]
    {
        assert!(results.join(file).is_file(), "{file}");
    }
    let before = fs::read(results.join("study.json")).unwrap();
    study(folder.path(), &arguments).refused(2, &["s/tensor", "--force"]);
    let forced = study(folder.path(), &[&arguments[..2], &["h.weight", "--out", "s", "--force"]].concat());
    assert_eq!(forced.code, 0, "{}", forced.stderr);
    assert_ne!(fs::read(results.join("study.json")).unwrap(), before);
    assert_eq!(names(&folder.path().join("s")), ["tensor"]);
    assert_eq!(fp8gemm(folder.path(), &["study", "report", "--out", "s"]).code, 0);
    let page = fs::read_to_string(folder.path().join("s/report.html")).unwrap();
    assert!(page.contains("fp8gemm study tensor all.safetensors --names h.weight"), "no command");
    assert!(page.contains("<svg") && page.contains("own data"));
}

/// Breaks if an array in Fortran order is read as if it were in C order, or a file of either kind is not.
#[test]
fn arrays_of_either_order_are_the_same() {
    let folder = folder();
    let (rows, columns) = (140, 2060);
    let values = uniform(rows * columns, 8);
    let write = |name: &str, fortran: &str, values: &mut dyn Iterator<Item = f32>| {
        let header = format!("{{'descr': '<f4', 'fortran_order': {fortran}, 'shape': ({rows}, {columns}), }}");
        let header = format!("{header:<117}\n");
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.bytes());
        bytes.extend(values.flat_map(f32::to_le_bytes));
        fs::write(folder.path().join(name), bytes).unwrap();
    };
    write("c.npy", "False", &mut values.iter().copied());
    let place = |i: usize| i % rows * columns + i / rows;
    write("f.npy", "True", &mut (0..rows * columns).map(|i| values[place(i)]));
    let tables = |name: &str| study(folder.path(), &[name, "--json"]).json(0)["outcome"]["tables"].clone();
    assert_eq!(tables("c.npy"), tables("f.npy"));
}

/// Breaks if the number of threads changes a figure.
#[test]
fn threads_do_not_matter() {
    let folder = folder();
    checkpoint(folder.path());
    let arguments = ["study", "tensor", "all.safetensors", "--json"];
    let tables = |threads| with_threads(folder.path(), &arguments, Some(threads)).json(0)["outcome"]["tables"].clone();
    assert_eq!(tables(1), tables(3));
}

/// Breaks if bad input is not one clear line with exit code 2, or leaves something behind.
#[test]
fn bad_input_is_refused() {
    let folder = folder();
    let path = folder.path();
    checkpoint(path);
    let mut values = uniform(200 * 300, 1);
    values[150 * 300 + 7] = f32::NAN;
    save(&path.join("nan.safetensors"), &[f32s("good", &[2, 2], &[1.0; 4]), f32s("bad", &[200, 300], &values)], &[]);
    let nan_code = tensor("w", Dtype::F8_E4M3, &[1, 3], vec![0, 0x7F, 0]);
    save(&path.join("code.safetensors"), &[nan_code], &[]);
    save(&path.join("vector.safetensors"), &[f32s("v", &[4], &[1.0; 4])], &[]);
    fs::write(path.join("empty.safetensors"), "").unwrap();
    fs::write(path.join("file"), "").unwrap();
    for (arguments, words) in [
        (&["nan.safetensors", "--out", "s"][..], &["nan.safetensors", "`bad`", "NaN", "row 150", "column 7"][..]),
        (&["code.safetensors"], &["`w`", "NaN", "row 0", "column 1"]),
        (&["all.safetensors", "--names", "nobody"], &["nobody", "w.weight", "2 more"]),
        (&["all.safetensors", "--names", "nobody*"], &["nobody*", "w.weight"]),
        (&["all.safetensors", "--names", "[x"], &["--names [x"]),
        (&["all.safetensors", "--names", "ids"], &["`ids`", "I64"]),
        (&["all.safetensors", "--names", "norm.weight"], &["norm.weight", "2 dimensions"]),
        (&["all.safetensors", "--names", "none.weight"], &["none.weight", "is empty"]),
        (&["all.safetensors", "--names", "w.weight_scale_inv"], &["scales of `w.weight`"]),
        (&["vector.safetensors"], &["vector.safetensors", "no f32", "`v`"]),
        (&["empty.safetensors"], &["empty.safetensors", "is empty"]),
        (&["gone.safetensors"], &["gone.safetensors", "no such file"]),
        (&["gone.safetensors.index.json"], &["gone.safetensors.index.json", "no such file"]),
        (&["all.safetensors", "--recipe", "nonsense"], &["nonsense"]),
        (&["all.safetensors", "--recipe", "deepgemm:128x1"], &["128x1", "along rows"]),
        (&["all.safetensors", "--out", "file"], &["not a folder"]),
        // Found before the tensor is read, so that the work is not lost.
        (&["nan.safetensors", "--out", "file/s"], &["file", "not a directory"]),
        (&["--a", "all.safetensors"], &["--b"]),
        (&[], &["FILE"]),
    ] {
        study(path, arguments).refused(2, words);
    }
    assert!(!path.join("s").exists());
}

/// Breaks if memory grows with the tensor: 2 GiB, of a file without blocks on disk, in 96 MiB of data
/// and stacks.
#[cfg(target_os = "linux")]
#[test]
fn memory_is_bounded() {
    use std::io::Write;
    use std::process::Command;

    let folder = folder();
    let (rows, columns) = (1usize << 13, 1usize << 17);
    let bytes = rows * columns * 2;
    let header = format!(r#"{{"w":{{"dtype":"BF16","shape":[{rows},{columns}],"data_offsets":[0,{bytes}]}}}}"#);
    let path = folder.path().join("large.safetensors");
    let mut file = fs::File::create(&path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len((8 + header.len() + bytes) as u64).unwrap();
    let command = r#"ulimit -d 98304 && exec "$0" study tensor large.safetensors --recipe te-current,deepgemm --json"#;
    let output = Command::new("sh")
        .args(["-c", command])
        .arg(common::binary())
        .current_dir(folder.path())
        .env("RAYON_NUM_THREADS", "2")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(column(&self::rows(&document, "tensors"), "zeros"), [(rows * columns).to_string()]);
}
