//! Wrong input: exit code 2, one line that names file, tensor, value and rule, and no output file.

#![allow(clippy::unwrap_used)] // a test may

mod common;

use std::fs;
use std::path::Path;

use common::{Tensor, codes, f32s, fp8gemm, names, save, tensor, uniform, vector};
use safetensors::Dtype;

/// A file that verifies, and one tensor changed.
struct Case {
    name: &'static str,
    tensors: Vec<Tensor>,
    words: &'static [&'static str],
}

fn good() -> Vec<Tensor> {
    vec![
        codes("a", 40, 300, 1),
        f32s("scale_a", &[40, 3], &[0.5; 120]),
        codes("b", 130, 300, 2),
        f32s("scale_b", &[2, 3], &[0.25; 6]),
        f32s("d", &[40, 130], &uniform(40 * 130, 3)),
    ]
}

/// The good file with these tensors instead of those of the same name.
fn with(changes: Vec<Tensor>) -> Vec<Tensor> {
    let mut tensors = good();
    for change in changes {
        match tensors.iter_mut().find(|tensor| tensor.name == change.name) {
            Some(tensor) => *tensor = change,
            None => tensors.push(change),
        }
    }
    tensors
}

fn without(name: &str) -> Vec<Tensor> {
    good().into_iter().filter(|tensor| tensor.name != name).collect()
}

/// Breaks if a wrong tensor is computed with, or refused without saying which and why.
#[test]
fn wrong_tensors_are_named() {
    let scales = |at: usize, value: f32| {
        let mut scales = [0.5; 120];
        scales[at] = value;
        f32s("scale_a", &[40, 3], &scales)
    };
    let cases = [
        Case { name: "no a", tensors: without("a"), words: &["no tensor `a`", "`b` F8_E4M3 [130, 300]"] },
        Case { name: "no d", tensors: without("d"), words: &["no tensor `d`"] },
        Case {
            name: "a is f32",
            tensors: with(vec![f32s("a", &[40, 300], &uniform(12_000, 1))]),
            words: &["`a`", "F32", "F8_E4M3 or F8_E5M2", "--recipe"],
        },
        Case {
            name: "a is i8",
            tensors: with(vec![tensor("a", Dtype::I8, &[40, 300], vec![0; 12_000])]),
            words: &["`a`", "I8", "F8_E4M3"],
        },
        Case {
            name: "a is bytes",
            tensors: with(vec![tensor("a", Dtype::U8, &[40, 300], vec![0; 12_000])]),
            words: &["`a`", "U8", "--dtype"],
        },
        Case {
            name: "a has one dimension",
            tensors: with(vec![tensor("a", Dtype::F8_E4M3, &[12_000], vec![0; 12_000])]),
            words: &["`a`", "[12000]", "2 dimensions"],
        },
        Case {
            name: "a is empty",
            tensors: with(vec![tensor("a", Dtype::F8_E4M3, &[0, 300], vec![])]),
            words: &["`a`", "empty", "[0, 300]"],
        },
        Case {
            name: "K is empty",
            tensors: with(vec![tensor("b", Dtype::F8_E4M3, &[130, 0], vec![])]),
            words: &["`b`", "empty", "[130, 0]"],
        },
        Case {
            name: "K differs",
            tensors: with(vec![codes("b", 130, 301, 2)]),
            words: &["bad.safetensors", "`b`", "[40, 300]", "[130, 301]", "same K"],
        },
        Case {
            name: "b is transposed",
            tensors: with(vec![codes("b", 300, 130, 2), f32s("scale_b", &[3, 2], &[0.25; 6])]),
            words: &["`b`", "[300, 130]", "transposed"],
        },
        Case {
            name: "K is not covered",
            tensors: with(vec![f32s("scale_a", &[40, 2], &[0.5; 80])]),
            words: &["`scale_a`", "[40, 2]", "K = 300 has 3 blocks of 128, the scales cover 2"],
        },
        Case {
            name: "scales are transposed",
            tensors: with(vec![f32s("scale_a", &[3, 40], &[0.5; 120])]),
            words: &["`scale_a`", "[3, 40]", "transposed"],
        },
        Case {
            name: "scales of a vector",
            tensors: with(vec![f32s("scale_b", &[131], &[0.5; 131])]),
            words: &["`scale_b`", "[131]", "[130] or [130, 1] (row)"],
        },
        Case {
            name: "scales of three dimensions",
            tensors: with(vec![f32s("scale_b", &[2, 3, 1], &[0.5; 6])]),
            words: &["`scale_b`", "[2, 3, 1]"],
        },
        Case {
            name: "scales are integers",
            tensors: with(vec![tensor("scale_b", Dtype::I32, &[2, 3], vec![0; 24])]),
            words: &["`scale_b`", "I32", "F32"],
        },
        Case {
            name: "a scale is NaN",
            tensors: with(vec![scales(7, f32::NAN)]),
            words: &["`scale_a`", "NaN", "row 2 column 1", "--allow-nonfinite-scales"],
        },
        Case {
            name: "a scale is infinite",
            tensors: with(vec![scales(119, f32::NEG_INFINITY)]),
            words: &["`scale_a`", "-inf", "row 39 column 2"],
        },
        Case {
            name: "d has another shape",
            tensors: with(vec![f32s("d", &[40, 129], &uniform(40 * 129, 3))]),
            words: &["`d`", "[40, 129]", "[40, 130]"],
        },
        Case {
            name: "d is transposed",
            tensors: with(vec![f32s("d", &[130, 40], &uniform(40 * 130, 3))]),
            words: &["`d`", "[130, 40]", "transposed"],
        },
        Case {
            name: "d is f64",
            tensors: with(vec![tensor("d", Dtype::F64, &[40, 130], vec![0; 40 * 130 * 8])]),
            words: &["`d`", "F64", "F32, F16 or BF16"],
        },
        Case {
            name: "c has another shape",
            tensors: with(vec![f32s("c", &[130, 40], &uniform(40 * 130, 3))]),
            words: &["`c`", "[130, 40]", "[40, 130]"],
        },
        Case {
            name: "a name with a line feed",
            tensors: vec![f32s("a\nerror: \u{1b}[31m", &[1], &[0.0])],
            words: &["no tensor `d`", "\\n"],
        },
    ];
    let folder = common::folder();
    save(&folder.path().join("good.safetensors"), &good(), &[]);
    let good = fp8gemm(folder.path(), &["verify", "good.safetensors"]);
    assert_eq!(good.code, 1, "random numbers are no product: {}", good.stderr);
    for Case { name, tensors, words } in cases {
        save(&folder.path().join("bad.safetensors"), &tensors, &[]);
        let run = fp8gemm(folder.path(), &["verify", "bad.safetensors"]);
        eprintln!("{name}: {}", run.stderr);
        run.refused(2, words);
    }
}

/// Breaks if a file that cannot be read is refused without its name and the reason, or with a panic.
#[test]
fn wrong_files_are_named() {
    let folder = common::folder();
    let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
    let whole = vector("deepgemm_1d2d_n0");
    write("text", b"not a tensor file at all");
    write("nothing", b"");
    write("header", &whole[..100]);
    write("data", &whole[..whole.len() - 1]);
    write("longer", &[&whole[..], b"x"].concat());
    fs::create_dir(folder.path().join("folder")).unwrap();
    for (file, words) in [
        ("missing", &["no such file"][..]),
        ("folder", &["is a directory"]),
        ("text", &["neither safetensors nor .npy"]),
        ("nothing", &["empty"]),
        ("header", &["truncated header", "100"]),
        ("data", &["truncated", "362560", "362559"]),
        ("longer", &["trailing bytes", "362560", "362561"]),
    ] {
        let run = fp8gemm(folder.path(), &["verify", file]);
        run.refused(2, &[&[file], words].concat());
    }
    #[cfg(unix)]
    fp8gemm(folder.path(), &["verify", "/dev/null"]).refused(2, &["/dev/null", "not a regular file"]);
}

/// Breaks if non-finite scales are refused although the flag or the metadata allow them.
#[test]
fn nonfinite_scales_can_be_allowed() {
    let folder = common::folder();
    let tensors = with(vec![f32s("scale_b", &[2, 3], &[0.5, 0.5, f32::INFINITY, 0.5, f32::NAN, 0.5])]);
    save(&folder.path().join("in.safetensors"), &tensors, &[]);
    let gemm = ["gemm", "--a", "in.safetensors", "--b", "in.safetensors", "-o", "d.safetensors", "--engine", "twin"];
    fp8gemm(folder.path(), &gemm).refused(2, &["`scale_b`", "inf", "row 0 column 2"]);
    let allowed =
        fp8gemm(folder.path(), &[&gemm[..], &["--allow-nonfinite-scales", "--with-inputs", "--json"]].concat());
    let json = allowed.json(0);
    assert!(json["errors"][0]["non_finite"].as_u64().unwrap() > 0, "{json:#}");
    // The output's metadata says that they are meant.
    let json = fp8gemm(folder.path(), &["verify", "d.safetensors", "--json"]).json(0);
    assert_eq!(json["metadata"]["allow_nonfinite_scales"], "true");
    fp8gemm(folder.path(), &["verify", "in.safetensors"]).refused(2, &["`scale_b`"]);
}

/// Breaks if a run that fails leaves an output, a temporary file, or a changed old output.
#[test]
fn failures_write_nothing() {
    let folder = common::folder();
    save(&folder.path().join("in.safetensors"), &with(vec![f32s("scale_a", &[1, 1, 1], &[1.0])]), &[]);
    save(&folder.path().join("x.safetensors"), &[f32s("x", &[2, 2], &[f32::INFINITY, 1.0, 2.0, 3.0])], &[]);
    save(&folder.path().join("good.safetensors"), &good(), &[]);
    fs::write(folder.path().join("old.safetensors"), "precious").unwrap();
    fs::create_dir(folder.path().join("folder.safetensors")).unwrap();
    let before = names(folder.path());
    let bad = |arguments: &[&str], words: &[&str]| {
        fp8gemm(folder.path(), arguments).refused(2, words);
        assert_eq!(names(folder.path()), before, "{arguments:?}");
        assert_eq!(fs::read_to_string(folder.path().join("old.safetensors")).unwrap(), "precious", "{arguments:?}");
    };
    let gemm = |input: &'static str, output: &'static str| ["gemm", "--a", input, "--b", input, "-o", output];
    let good = "good.safetensors";
    for output in ["old.safetensors", "new.safetensors"] {
        bad(&gemm("in.safetensors", output), &["in.safetensors", "`scale_a`", "[1, 1, 1]"]);
        bad(&gemm("missing.safetensors", output), &["missing.safetensors", "no such file"]);
        bad(&[&gemm(good, output)[..], &["--policy", "chain"]].concat(), &["policy chain"]);
        bad(&[&gemm(good, output)[..], &["--beta", "2"]].concat(), &["beta is 2", "no C"]);
        bad(&[&gemm(good, output)[..], &["--recipe", "deepgemm"]].concat(), &["--recipe", "FP8 already"]);
        bad(&[&gemm(good, output)[..], &["--c", good]].concat(), &[good, "no tensor `c`"]);
        let quantize = ["quantize", "x.safetensors", "-o", output, "--recipe"];
        bad(&[&quantize[..], &["sglang-group-ue8m0"]].concat(), &["`x`", "(0, 0)", "inf", "finite"]);
        bad(&[&quantize[..], &["te-block", "--layout", "row"]].concat(), &["`x`", "te-block", "row"]);
        bad(&[&quantize[..], &["deepgemm", "--tensor", "y"]].concat(), &["x.safetensors", "no tensor `y`"]);
    }
    bad(&gemm(good, "d.txt"), &["d.txt", ".safetensors or .npy"]);
    bad(&gemm(good, "d"), &[".safetensors or .npy"]);
    bad(&gemm(good, "no/such/folder/d.npy"), &["no/such/folder/d.npy", "cannot be written"]);
    bad(&gemm(good, "folder.safetensors"), &["folder.safetensors", "is a folder"]);
    bad(&gemm(good, "d.npy"), &["bf16", "--output-type"]);
    bad(&[&gemm(good, "d.npy")[..], &["--output-type", "f32", "--with-inputs"]].concat(), &["--with-inputs"]);
    bad(&["quantize", "x.safetensors", "-o", "x8.npy", "--recipe", "deepgemm"], &["-o", ".safetensors"]);
    bad(&["quantize", good, "-o", "x8.safetensors", "--recipe", "deepgemm"], &[good, "no f32, f16 or bf16 matrix"]);
    let same =
        ["quantize", "x.safetensors", "-o", "y.safetensors", "--recipe", "deepgemm", "--tensor", "x", "--tensor", "x"];
    bad(&same, &["--tensor x", "twice"]);
}

/// Breaks if two tensors of one name, or one of the reserved name, are written, in whatever order
/// they are asked for.
#[test]
fn output_names_are_unique() {
    let folder = common::folder();
    let matrix = |name: &str| f32s(name, &[4, 4], &uniform(16, 1));
    let tensors = [matrix("a"), matrix("scale_a"), matrix("X.weight"), matrix("X.weight_scale_inv")];
    save(&folder.path().join("in.safetensors"), &tensors, &[]);
    let run = |x: &str, y: &str| {
        let quantize = ["quantize", "in.safetensors", "-o", "o.safetensors", "--recipe", "deepgemm"];
        fp8gemm(folder.path(), &[&quantize[..], &["--tensor", x, "--tensor", y]].concat())
    };
    for (x, y) in [("a", "scale_a"), ("X.weight", "X.weight_scale_inv")] {
        run(x, y).refused(2, &["o.safetensors", "two tensors named", y]);
        run(y, x).refused(2, &["o.safetensors", "two tensors named", y]);
    }
    let mut file = fs::File::create(folder.path().join("x.npy")).unwrap();
    let header = format!("{:<117}\n", "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1), }");
    std::io::Write::write_all(&mut file, &[b"\x93NUMPY\x01\x00\x76\x00", header.as_bytes(), &[0; 4]].concat()).unwrap();
    let reserved = ["quantize", "x.npy", "-o", "o.safetensors", "--recipe", "deepgemm", "--tensor", "__metadata__"];
    fp8gemm(folder.path(), &reserved).refused(2, &["__metadata__", "o.safetensors"]);
    assert_eq!(names(folder.path()), ["in.safetensors", "x.npy"]);
}

/// Breaks if something that the user gave is ignored without a word.
#[test]
fn nothing_given_is_silently_ignored() {
    let folder = common::folder();
    let floats = f32s("a", &[40, 300], &uniform(12_000, 1));
    let c = f32s("c", &[40, 130], &uniform(40 * 130, 4));
    let vector = f32s("bias", &[3], &[1.0; 3]);
    save(&folder.path().join("a.safetensors"), &[floats.clone(), f32s("scale_a", &[40, 3], &[0.5; 120]), vector], &[]);
    save(&folder.path().join("b.safetensors"), &[codes("b", 130, 300, 2), c.clone()], &[]);
    save(&folder.path().join("ac.safetensors"), &[floats, c], &[]);
    let gemm = |a: &str, extra: &[&str]| {
        let gemm = ["gemm", "--a", a, "--b", "b.safetensors", "-o", "d.safetensors", "--engine", "twin", "--json"];
        fp8gemm(folder.path(), &[&gemm[..], &["--recipe", "deepgemm"], extra].concat())
    };
    gemm("a.safetensors", &["--scale-a", "a.safetensors"]).refused(2, &["--scale-a", "`a`", "F32"]);
    gemm("ac.safetensors", &[]).refused(2, &["ac.safetensors", "b.safetensors", "`c`", "--c"]);
    let run = gemm("a.safetensors", &[]);
    assert!(run.json(0)["problem"].as_str().unwrap().contains("c=f32"), "{}", run.stdout);
    assert!(run.stderr.contains("`scale_a` is not used"), "{}", run.stderr);
    let quantize = ["quantize", "a.safetensors", "-o", "o.safetensors", "--recipe", "deepgemm"];
    let text = fp8gemm(folder.path(), &quantize);
    assert!(text.stdout.contains("2 tensors not quantised and not written: "), "{}", text.stdout);
    let json = fp8gemm(folder.path(), &[&quantize[..], &["--json"]].concat()).json(0);
    assert_eq!(json["not_written"].as_array().unwrap().len(), 2);
    save(&folder.path().join("zz.safetensors"), &good(), &[("scale_layout.a", "zz")]);
    fp8gemm(folder.path(), &["verify", "zz.safetensors"]).refused(2, &["zz.safetensors", "scale_layout.a", "1x128"]);
}

/// Breaks if MX scales need --policy although one policy alone is legal for them.
#[test]
fn mx_scales_have_a_default_policy() {
    let folder = common::folder();
    save(
        &folder.path().join("in.safetensors"),
        &[f32s("a", &[8, 64], &uniform(512, 1)), f32s("b", &[8, 64], &uniform(512, 2))],
        &[],
    );
    let gemm = ["gemm", "--a", "in.safetensors", "--b", "in.safetensors", "-o", "d.safetensors", "--engine", "twin"];
    let run = fp8gemm(folder.path(), &[&gemm[..], &["--recipe", "torchao-mx-rceil"]].concat());
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stderr.contains("using --policy promote32"), "{}", run.stderr);
}

/// Breaks if two small files that ask for a D of terabytes end the process instead of the run.
#[test]
fn a_result_beyond_memory_is_refused() {
    let folder = common::folder();
    let long = |name: &str| tensor(name, Dtype::F8_E4M3, &[20_000_000, 1], vec![0; 20_000_000]);
    save(&folder.path().join("in.safetensors"), &[long("a"), long("b")], &[]);
    let gemm = ["gemm", "--a", "in.safetensors", "--b", "in.safetensors", "-o", "d.safetensors"];
    fp8gemm(folder.path(), &gemm).refused(2, &["[20000000, 20000000]", "memory"]);
    assert_eq!(names(folder.path()), ["in.safetensors"]);
}

/// Breaks if an unknown recipe or policy is refused without the known ones.
#[test]
fn unknown_names_list_the_known() {
    let run = |arguments: &[&str]| fp8gemm(Path::new("."), arguments);
    let recipe = run(&["quantize", "x.npy", "-o", "y.safetensors", "--recipe", "deepgem"]);
    assert_eq!(recipe.code, 2);
    assert!(recipe.stderr.contains("deepgemm-v1") && recipe.stderr.contains("te-block"), "{}", recipe.stderr);
    let policy = run(&["verify", "x", "--policy", "promote"]);
    assert_eq!(policy.code, 2);
    assert!(policy.stderr.contains("cutlass128"), "{}", policy.stderr);
    assert_eq!(run(&["verify"]).code, 2);
    assert_eq!(run(&["frobnicate"]).code, 2);
}
