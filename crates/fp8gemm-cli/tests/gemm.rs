//! `gemm`, `quantize` and `verify` together: files in and out, by every way they can be given.

#![allow(clippy::unwrap_used)] // a test may

mod common;

use std::fs;
use std::path::Path;

use common::{Tensor, codes, f32s, fp8gemm, names, read, save, tensor, uniform, with_threads};
use npyz::WriterBuilder;
use safetensors::Dtype;

/// Writes an `.npy` file by another implementation.
fn save_npy<T: npyz::AutoSerialize>(path: &Path, shape: &[u64], order: npyz::Order, values: Vec<T>) {
    let file = fs::File::create(path).unwrap();
    let mut writer =
        npyz::WriteOptions::new().default_dtype().shape(shape).order(order).writer(file).begin_nd().unwrap();
    writer.extend(values).unwrap();
    writer.finish().unwrap();
}

fn ok(folder: &Path, arguments: &[&str]) -> common::Run {
    let run = fp8gemm(folder, arguments);
    assert_eq!(run.code, 0, "{arguments:?}\n{}", run.stderr);
    run
}

fn inputs(folder: &Path) {
    save(&folder.join("a.safetensors"), &[f32s("a", &[70, 500], &uniform(35_000, 1))], &[]);
    let weights = uniform(200 * 500, 2);
    let b = weights.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect();
    save(&folder.join("b.safetensors"), &[tensor("b", Dtype::BF16, &[200, 500], b)], &[]);
}

/// Breaks if quantize, gemm and verify disagree about names, layouts or arithmetic: verify must
/// name the policy that gemm used, for block, row and tensor scales and each output type.
#[test]
fn quantize_gemm_verify() {
    let folder = common::folder();
    let folder = folder.path();
    inputs(folder);
    for (recipe, policy, output, layouts) in [
        ("deepgemm", "promote128", "bf16", ("1x128", "128x128")),
        ("deepgemm-ue8m0", "promote64", "f32", ("1x128", "128x128")),
        ("te-block-f32", "cutlass128", "f32", ("1x128", "128x128")),
        ("vllm-token", "chain", "f32", ("row", "row")),
        ("te-current", "promote256", "f16", ("tensor", "tensor")),
        ("torchao-mx-rceil", "promote32", "f32", ("1x32", "1x32")),
        ("sglang-group", "split3", "f32", ("1x128", "1x128")),
    ] {
        ok(folder, &["quantize", "a.safetensors", "-o", "a8.safetensors", "--recipe", recipe]);
        ok(folder, &["quantize", "b.safetensors", "-o", "b8.safetensors", "--recipe", recipe]);
        let gemm = ["gemm", "--engine", "twin", "--policy", policy, "--output-type", output, "--json", "--with-inputs"];
        let quantized = ["--a", "a8.safetensors", "--b", "b8.safetensors", "-o", "d.safetensors"];
        let json = ok(folder, &[&gemm[..], &quantized].concat()).json(0);
        let problem = format!("70x200x500 a=e4m3:{} b=e4m3:{} d={output} policy={policy}", layouts.0, layouts.1);
        assert_eq!(json["problem"], problem.as_str());
        assert_eq!(json["errors"].as_array().unwrap().len(), 1);
        assert!(json["errors"][0]["snr_db"].as_f64().unwrap() > 40.0, "{json:#}");
        // In one step, the same bits; and the error of quantisation shows.
        let floats = ["--a", "a.safetensors", "--b", "b.safetensors", "-o", "d1.safetensors", "--recipe", recipe];
        let json = ok(folder, &[&gemm[..], &floats].concat()).json(0);
        assert_eq!(json["quantized_a"], format!("{recipe}:{}:e4m3", layouts.0));
        assert_eq!((&json["quantized_a_on"], &json["quantized_b_on"]), (&"cpu".into(), &"cpu".into()));
        let snr = json["errors"][1]["snr_db"].as_f64().unwrap();
        assert!((20.0..35.0).contains(&snr), "{json:#}");
        for name in ["a", "b", "scale_a", "scale_b", "d"] {
            let (one, two) = (read(&folder.join("d.safetensors"), name), read(&folder.join("d1.safetensors"), name));
            assert!(one == two, "{recipe}: {name} differs");
        }
        let json = ok(folder, &["verify", "d.safetensors", "--json"]).json(0);
        let reproducing = json["reproduced_by"].as_array().unwrap();
        assert!(reproducing.contains(&policy.into()), "{recipe} {policy}: {reproducing:?}");
        assert_eq!(json["problem"].as_str().unwrap().split(" policy").next(), problem.split(" policy").next());
        assert_eq!(json["metadata"]["policy"], policy);
    }
}

/// Breaks if the number of threads or the moment of the run changes a byte of an output.
#[test]
fn outputs_are_reproducible() {
    let folder = common::folder();
    let folder = folder.path();
    inputs(folder);
    let mut outputs = Vec::new();
    for (run, threads) in [None, Some(1), Some(2), Some(3), Some(8)].into_iter().enumerate() {
        let name = format!("d{run}.safetensors");
        let gemm = ["gemm", "--a", "a.safetensors", "--b", "b.safetensors", "--recipe", "deepgemm", "--with-inputs"];
        let json = with_threads(folder, &[&gemm[..], &["-o", &name, "--json"]].concat(), threads).json(0);
        let name8 = format!("b{run}.safetensors");
        let quantize = ["quantize", "b.safetensors", "-o", &name8, "--recipe", "deepgemm", "--json"];
        let quantized = with_threads(folder, &quantize, threads).json(0);
        let file = |name: &str| fs::read(folder.join(name)).unwrap();
        outputs.push((file(&name), file(&name8), json["errors"].clone(), quantized["tensors"].clone()));
    }
    for output in &outputs[1..] {
        assert!(*output == outputs[0]);
    }
}

/// Breaks if a checkpoint's `X.weight` is not found, is read without its scales, or is written
/// under other names.
#[test]
fn deepseek_checkpoint() {
    let folder = common::folder();
    let folder = folder.path();
    let x = "model.layers.3.mlp.up_proj";
    let name = |what: &str| format!("{x}.{what}");
    let checkpoint = [
        f32s(&name("weight"), &[200, 300], &uniform(60_000, 5)),
        f32s("model.norm.weight", &[300], &uniform(300, 6)),
        tensor("model.step", Dtype::I64, &[1], vec![0; 8]),
    ];
    save(&folder.join("model.safetensors"), &checkpoint, &[]);
    let json =
        ok(folder, &["quantize", "model.safetensors", "-o", "fp8.safetensors", "--recipe", "deepgemm", "--json"]);
    let json = json.json(0);
    let tensors = json["tensors"].as_array().unwrap();
    assert_eq!(tensors.len(), 1, "only the matrix: {json:#}");
    assert_eq!(tensors[0]["layout"], "128x128");
    let fp8 = folder.join("fp8.safetensors");
    let (dtype, shape, weight) = read(&fp8, &name("weight"));
    assert_eq!((dtype, shape), (Dtype::F8_E4M3, vec![200, 300]));
    let (dtype, shape, scales) = read(&fp8, &name("weight_scale_inv"));
    assert_eq!((dtype, shape), (Dtype::F32, vec![2, 3]));

    save(&folder.join("x.safetensors"), &[f32s("a", &[9, 300], &uniform(2700, 7))], &[]);
    let gemm = ["gemm", "--a", "x.safetensors", "--recipe", "deepgemm", "--engine", "twin", "--output-type", "f32"];
    let by_weight = ["--b", "fp8.safetensors", "--weight", x, "-o", "d.safetensors", "--json"];
    let json = ok(folder, &[&gemm[..], &by_weight].concat()).json(0);
    assert_eq!(json["problem"], "9x200x300 a=e4m3:1x128 b=e4m3:128x128 d=f32 policy=promote128");
    assert!(json["quantized_b"].is_null());
    // The same by hand.
    let b = [tensor("b", Dtype::F8_E4M3, &[200, 300], weight), tensor("scale_b", Dtype::F32, &[2, 3], scales)];
    save(&folder.join("b.safetensors"), &b, &[]);
    ok(folder, &[&gemm[..], &["--b", "b.safetensors", "-o", "e.safetensors"]].concat());
    assert!(read(&folder.join("d.safetensors"), "d") == read(&folder.join("e.safetensors"), "d"));
    let full_name = name("weight");
    ok(folder, &[&gemm[..], &["--b", "fp8.safetensors", "--b-tensor", &full_name, "-o", "f.safetensors"]].concat());
    assert!(read(&folder.join("d.safetensors"), "d") == read(&folder.join("f.safetensors"), "d"));
    let missing = [&gemm[..], &["--b", "fp8.safetensors", "--weight", "y", "-o", "g.safetensors"]].concat();
    fp8gemm(folder, &missing).refused(2, &["fp8.safetensors", "no tensor `y.weight`"]);
    // Scales may be in another shard, but not nowhere.
    let (_, _, weight) = read(&fp8, &name("weight"));
    let (_, _, scales) = read(&fp8, &name("weight_scale_inv"));
    save(&folder.join("w.safetensors"), &[tensor(&name("weight"), Dtype::F8_E4M3, &[200, 300], weight)], &[]);
    save(&folder.join("s.safetensors"), &[tensor(&name("weight_scale_inv"), Dtype::F32, &[2, 3], scales)], &[]);
    let shards = [&gemm[..], &["--b", "w.safetensors", "--weight", x, "-o", "h.safetensors"]].concat();
    fp8gemm(folder, &shards).refused(2, &["w.safetensors", "up_proj.weight_scale_inv`"]);
    ok(folder, &[&shards[..], &["--scale-b", "s.safetensors"]].concat());
    assert!(read(&folder.join("d.safetensors"), "d") == read(&folder.join("h.safetensors"), "d"));
}

/// Breaks if operands, scales or D in `.npy` files, in either order, give other bits than the same
/// in safetensors.
#[test]
fn npy_in_and_out() {
    let folder = common::folder();
    let folder = folder.path();
    let (m, n, k) = (33, 140, 260);
    let (a, b) = (codes("a", m, k, 1), codes("b", n, k, 2));
    let scales = uniform(m * 3, 3).iter().map(|x| x.abs() + 0.1).collect::<Vec<_>>();
    let c = uniform(m * n, 4);
    let tensors = [a.clone(), b.clone(), f32s("scale_a", &[m, 3], &scales), f32s("c", &[m, n], &c)];
    save(&folder.join("all.safetensors"), &tensors, &[]);
    let gemm = ["gemm", "--engine", "twin", "--output-type", "f32"];
    let all = ["--a", "all.safetensors", "--b", "all.safetensors", "-o", "d.safetensors"];
    ok(folder, &[&gemm[..], &all].concat());
    let (_, _, expected) = read(&folder.join("d.safetensors"), "d");

    let turned = |values: &[u8], rows: usize, columns: usize| -> Vec<u8> {
        (0..rows * columns).map(|i| values[i % rows * columns + i / rows]).collect()
    };
    let (rows, columns) = (m as u64, k as u64);
    save_npy(&folder.join("a.npy"), &[rows, columns], npyz::Order::C, a.bytes.clone());
    save_npy(&folder.join("af.npy"), &[rows, columns], npyz::Order::Fortran, turned(&a.bytes, m, k));
    save_npy(&folder.join("b.npy"), &[n as u64, columns], npyz::Order::C, b.bytes.clone());
    save_npy(&folder.join("s.npy"), &[rows, 3], npyz::Order::C, scales);
    save_npy(&folder.join("c.npy"), &[rows, n as u64], npyz::Order::C, c);
    for a in ["a.npy", "af.npy"] {
        let files = ["--a", a, "--b", "b.npy", "--scale-a", "s.npy", "--c", "c.npy", "--dtype", "e4m3"];
        ok(folder, &[&gemm[..], &files, &["-o", "d.npy"]].concat());
        let bytes = fs::read(folder.join("d.npy")).unwrap();
        let file = npyz::NpyFile::new(&bytes[..]).unwrap();
        assert_eq!(file.shape(), [rows, n as u64]);
        let values: Vec<f32> = file.into_vec().unwrap();
        let bits: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        assert!(bits == expected, "{a}");

        let files =
            ["--a", a, "--b", "b.npy", "--scale-a", "s.npy", "--c", "c.npy", "--dtype-a", "e4m3", "--dtype-b", "e4m3"];
        let json = ok(folder, &[&["verify", "d.npy", "--json"], &files[..]].concat()).json(0);
        assert_eq!(json["reproduced_by"][0], "promote128");
        // Read as the other format, it is another product.
        let files = ["--a", a, "--b", "b.npy", "--scale-a", "s.npy", "--c", "c.npy", "--dtype", "e5m2"];
        assert_eq!(fp8gemm(folder, &[&["verify", "d.npy"], &files[..]].concat()).code, 1);
    }
    fp8gemm(folder, &["verify", "d.npy"]).refused(2, &["d.npy", "--a and --b"]);
    let bytes = ["--a", "a.npy", "--b", "b.npy", "-o", "e.npy"];
    fp8gemm(folder, &[&gemm[..], &bytes].concat()).refused(2, &["a.npy", "U8", "--dtype"]);

    save_npy(&folder.join("x.npy"), &[4, 200], npyz::Order::C, uniform(800, 9));
    let json = ok(folder, &["quantize", "x.npy", "-o", "x8.safetensors", "--recipe", "deepgemm", "--json"]).json(0);
    assert_eq!((&json["tensors"][0]["name"], &json["tensors"][0]["scales"]), (&"a".into(), &"scale_a".into()));
    ok(folder, &["quantize", "x.npy", "-o", "x8.safetensors", "--recipe", "deepgemm", "--tensor", "q.weight"]);
    assert_eq!(read(&folder.join("x8.safetensors"), "q.weight_scale_inv").1, [1, 2]);
}

/// Breaks if scales whose shape means two layouts are read otherwise than the flag says.
#[test]
fn ambiguous_scales_follow_the_other_operand_or_the_flag() {
    let folder = common::folder();
    let folder = folder.path();
    let file = [
        codes("a", 40, 100, 1),
        f32s("scale_a", &[40, 1], &[0.5; 40]),
        codes("b", 300, 100, 2),
        f32s("scale_b", &[3, 1], &[0.25; 3]),
    ];
    save(&folder.join("in.safetensors"), &file, &[]);
    let gemm = ["gemm", "--a", "in.safetensors", "--b", "in.safetensors", "-o", "d.safetensors", "--json"];
    let problem = |extra: &[&str]| ok(folder, &[&gemm[..], extra].concat()).json(0)["problem"].clone();
    assert_eq!(problem(&[]), "40x300x100 a=e4m3:1x128 b=e4m3:128x128 d=bf16 policy=promote128");
    let row = problem(&["--scale-layout-a", "row"]);
    assert_eq!(row, "40x300x100 a=e4m3:row b=e4m3:128x128 d=bf16 policy=promote128");
    let wrong = fp8gemm(folder, &[&gemm[..], &["--scale-layout-b", "row"]].concat());
    wrong.refused(2, &["`scale_b`", "[3, 1]", "row scales need [300, 1]"]);
    let none: Vec<Tensor> = file.iter().filter(|tensor| tensor.name != "scale_b").cloned().collect();
    save(&folder.join("in.safetensors"), &none, &[]);
    let none = fp8gemm(folder, &[&gemm[..], &["--scale-layout-b", "row"]].concat());
    none.refused(2, &["--scale-layout-b row", "`b` has no scales"]);
}

/// Breaks if the figures of a quantisation are wrong: these can be worked out by hand.
#[test]
fn quantisation_figures() {
    let folder = common::folder();
    let folder = folder.path();
    // Scale 1/448 * 448 = 1: 2^-11 is below half the smallest subnormal, 2^-8 is subnormal.
    let x = [448.0, 2f32.powi(-11), 2f32.powi(-8), -0.0, f32::NAN, 16.0, 17.0, 1.0];
    save(&folder.join("x.safetensors"), &[f32s("x", &[1, 8], &x)], &[]);
    let json = ok(folder, &["quantize", "x.safetensors", "-o", "y.safetensors", "--recipe", "vllm-tensor", "--json"]);
    let json = json.json(0)["tensors"][0].clone();
    assert_eq!(json["amax"], 448.0);
    assert_eq!(json["elements"], 8);
    assert_eq!(json["non_finite"], 1);
    assert_eq!(json["flushed"], 1);
    assert_eq!(json["subnormal"], 1);
    assert_eq!(json["saturated"], 0);
    // Errors: 2^-11, and 17 to 16.
    let signal = 448f64.powi(2) + 2f64.powi(-22) + 2f64.powi(-16) + 256.0 + 289.0 + 1.0;
    let snr = 10.0 * (signal / (1.0 + 2f64.powi(-22))).log10();
    assert!((json["snr_db"].as_f64().unwrap() - snr).abs() < 1e-9, "{json:#} {snr}");
    // The floor rule of MX clips: 1.9 scaled by 2^8 is 486, beyond 464.
    save(&folder.join("x.safetensors"), &[f32s("x", &[1, 2], &[1.9, 1.0])], &[]);
    let json =
        ok(folder, &["quantize", "x.safetensors", "-o", "y.safetensors", "--recipe", "torchao-mx-floor", "--json"]);
    assert_eq!(json.json(0)["tensors"][0]["saturated"], 1);
    assert_eq!(names(folder), ["x.safetensors", "y.safetensors"]);
}

/// Breaks if a replaced output loses its old permissions for others, or a link is replaced by a file.
#[cfg(unix)]
#[test]
fn outputs_are_ordinary_files() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let folder = common::folder();
    let folder = folder.path();
    inputs(folder);
    fs::write(folder.join("target.safetensors"), "old").unwrap();
    symlink("target.safetensors", folder.join("link.safetensors")).unwrap();
    ok(folder, &["quantize", "a.safetensors", "-o", "link.safetensors", "--recipe", "deepgemm"]);
    assert!(folder.join("link.safetensors").is_symlink());
    assert_eq!(read(&folder.join("target.safetensors"), "a").1, [70, 500]);
    fs::File::create(folder.join("plain")).unwrap();
    let mode = |name: &str| fs::metadata(folder.join(name)).unwrap().permissions().mode();
    assert_eq!(mode("target.safetensors"), mode("plain"));
}

/// Breaks if sizes of 0 are refused or computed otherwise than BLAS does: without rows or columns D is empty, without K it
/// is beta C, or zeros; if an engine is said to have computed an empty D; or a file is written for `verify` that it refuses.
#[test]
fn empty_operands() {
    let folder = common::folder();
    let folder = folder.path();
    let gemm = ["gemm", "--a", "a.npy", "--b", "b.npy", "--engine", "twin", "--output-type", "f32", "--json"];
    let names = ["-o", "d.safetensors"];
    for [m, n, k] in [[0u64, 5, 128], [3, 0, 128], [3, 5, 0], [0, 0, 0]] {
        let (a, b) = (uniform((m * k) as usize, 1), uniform((n * k) as usize, 2));
        save_npy(&folder.join("a.npy"), &[m, k], npyz::Order::C, a);
        save_npy(&folder.join("b.npy"), &[n, k], npyz::Order::C, b);
        let recipe = ["--recipe", "deepgemm"];
        let run = ok(folder, &[&gemm[..], &recipe, &names].concat()).json(0);
        assert_eq!((&run["m"], &run["n"], &run["k"]), (&m.into(), &n.into(), &k.into()));
        let (_, shape, bytes) = read(&folder.join("d.safetensors"), "d");
        assert_eq!((shape, bytes), (vec![m as usize, n as usize], vec![0; (m * n) as usize * 4]));
        let engine = if m * n > 0 { "twin".into() } else { serde_json::Value::Null };
        assert_eq!((&run["engine"], run["threads"].is_u64()), (&engine, true));
        // FP8 codes without scales.
        save_npy(&folder.join("a.npy"), &[m, k], npyz::Order::C, vec![0x38u8; (m * k) as usize]);
        save_npy(&folder.join("b.npy"), &[n, k], npyz::Order::C, vec![0x38u8; (n * k) as usize]);
        ok(folder, &[&gemm[..], &["--dtype", "e4m3"], &names].concat()).json(0);
        let run = fp8gemm(folder, &[&gemm[..], &["--dtype", "e4m3", "--with-inputs", "-o", "in.safetensors"]].concat());
        run.refused(2, &["--with-inputs: ", " is 0", "at least 1", "verify"]);
        assert!(!folder.join("in.safetensors").exists());
        let text = [&gemm[..gemm.len() - 1], &["--dtype", "e4m3"], &names].concat();
        let text = ok(folder, &text).stdout;
        let said = ["inf dB", "CPU twin", "there is nothing to compare", "none: D is empty"];
        assert_eq!(said.map(|words| text.contains(words)), [m * n > 0, m * n > 0, m * n == 0, m * n == 0], "{text}");
    }
    // A few bytes that name more rows than any memory has.
    for (m, n, k) in [(1 << 40, 0, 0), (0, 1 << 40, 0), (0, 0, 1 << 60)] {
        save_npy(&folder.join("a.npy"), &[m, k], npyz::Order::C, Vec::<u8>::new());
        save_npy(&folder.join("b.npy"), &[n, k], npyz::Order::C, Vec::<u8>::new());
        ok(folder, &[&gemm[..], &["--dtype", "e4m3"], &names].concat());
    }
    save_npy(&folder.join("a.npy"), &[3, 0], npyz::Order::C, Vec::<u8>::new());
    save_npy(&folder.join("b.npy"), &[5, 0], npyz::Order::C, Vec::<u8>::new());
    save(&folder.join("c.safetensors"), &[f32s("c", &[3, 5], &[1.5; 15])], &[]);
    let with_c = ["--dtype", "e4m3", "--c", "c.safetensors", "--beta", "-2"];
    ok(folder, &[&gemm[..], &with_c, &names].concat());
    let (_, _, bytes) = read(&folder.join("d.safetensors"), "d");
    assert_eq!(bytes, [-3f32; 15].map(f32::to_le_bytes).concat());
}

/// Breaks if errors are reported of a result that has nothing to compare.
#[test]
fn what_is_not_finite_has_no_error() {
    let folder = common::folder();
    let folder = folder.path();
    save(&folder.join("x.safetensors"), &[codes("a", 5, 128, 1), codes("b", 7, 128, 2)], &[]);
    let gemm = ["gemm", "--a", "x.safetensors", "--b", "x.safetensors", "-o", "d.safetensors", "--engine", "twin"];
    let text = ok(folder, &[&gemm[..], &["--alpha", "nan"]].concat()).stdout;
    assert!(text.contains("35 of 35 elements are not finite, left out") && !text.contains("dB"), "{text}");
    let text = ok(folder, &gemm).stdout;
    assert!(text.contains("dB") && !text.contains("left out"), "{text}");
}
