//! `fp8gemm verify` on the recordings, on recordings with a flipped bit, and on made-up kernels.

#![allow(clippy::unwrap_used)] // a test may

mod common;

use std::fs;

use common::{codes, f32s, fp8gemm, names, offset, save, uniform, vector, vectors};
use serde_json::Value;

/// Breaks if a recorded kernel or instruction of the H200 is not reproduced, if another policy than
/// that of its library is named, or if a new recording is left untested.
#[test]
fn every_recording_verifies() {
    let mut seen = 0;
    for name in names(&vectors()).into_iter().filter(|name| name.ends_with(".safetensors")) {
        let json = fp8gemm(&vectors(), &["verify", &name, "--json"]).json(0);
        assert_eq!(json["equal"], true, "{name}");
        assert_eq!(json["command"], "verify");
        let policy = match name.as_str() {
            _ if name.starts_with("deepgemm_") || name.starts_with("cublaslt_precise") => "promote128",
            _ if name.starts_with("cublaslt_fast") => "chain",
            _ => {
                assert_eq!(json["elements"], 163_840, "{name}");
                assert_eq!(json["variants"].as_array().unwrap().len(), 8);
                seen += 1;
                continue;
            }
        };
        let reproducing = json["reproduced_by"].as_array().unwrap();
        assert!(reproducing.contains(&policy.into()), "{name}: {reproducing:?}");
        let text = fp8gemm(&vectors(), &["verify", &name, "--policy", policy, "--engine", "twin"]);
        assert_eq!(text.code, 0);
        assert!(text.stdout.contains("EQUAL: "), "{}", text.stdout);
        assert!(!text.stdout.contains('\u{1b}'), "colours where nobody sees them: {}", text.stdout);
        assert_eq!(text.stderr, "");
        seen += 1;
    }
    assert_eq!(seen, 9);
}

/// Breaks if a single wrong bit of D is missed or misplaced: in rows that are sampled and in rows
/// that are not, in every field of the number, one that makes a NaN, and in f32.
#[test]
fn one_flipped_bit_is_found() {
    let folder = common::folder();
    for (name, columns, size, flips) in [
        ("deepgemm_1d2d_n0", 256, 2, [(0, 0, 0), (63, 255, 15), (17, 33, 3), (31, 128, 7), (5, 1, 13), (40, 200, 14)]),
        ("deepgemm_1d1d_n1", 384, 4, [(0, 0, 31), (191, 383, 0), (100, 7, 12), (1, 0, 23), (77, 77, 30), (95, 5, 22)]),
    ] {
        for (row, column, bit) in flips {
            let mut file = vector(name);
            let at = offset(&file, "d") + (row * columns + column) * size + bit / 8;
            file[at] ^= 1 << (bit % 8);
            fs::write(folder.path().join("flipped.safetensors"), file).unwrap();

            let json = fp8gemm(folder.path(), &["verify", "flipped.safetensors", "--json"]).json(1);
            let context = format!("{name} row {row} column {column} bit {bit}: {json:#}");
            assert_eq!(json["equal"], false, "{context}");
            assert_eq!(json["nearest"], "promote128", "{context}");
            let policy = report(&json, "promote128");
            assert_eq!(policy["outcome"], "differs", "{context}");
            assert_eq!(policy["differing"], 1, "{context}");
            let first = &policy["first_difference"];
            assert_eq!((&first["row"], &first["column"]), (&row.into(), &column.into()), "{context}");
            let word = |key: &str| u32::from_str_radix(&first[key].as_str().unwrap()[2..], 16).unwrap();
            assert_eq!(word("expected_bits") ^ word("actual_bits"), 1 << bit, "{context}");
            assert!(policy["kind"].as_str().unwrap().starts_with("one flipped bit"), "{context}");

            let text = fp8gemm(folder.path(), &["verify", "flipped.safetensors", "--policy", "promote128"]);
            assert_eq!(text.code, 1, "{context}");
            assert!(text.stdout.contains(&format!("row {row} column {column}: ")), "{}", text.stdout);
            assert!(text.stdout.contains("DIFFERENT: promote128 does not give"), "{}", text.stdout);
        }
    }
}

/// Breaks if a wrong bit of a recorded instruction is missed or misplaced.
#[test]
fn one_flipped_bit_of_an_instruction_is_found() {
    let folder = common::folder();
    for (variant, size, tile, row, column) in [("e4m3_e5m2_f32", 4, 3, 63, 7), ("e5m2_e5m2_f16", 2, 39, 0, 4)] {
        let mut file = vector("wgmma_m64n8k32");
        let at = offset(&file, &format!("{variant}.d")) + ((tile * 64 + row) * 8 + column) * size + size - 1;
        file[at] ^= 0x80;
        fs::write(folder.path().join("flipped.safetensors"), file).unwrap();
        let json = fp8gemm(folder.path(), &["verify", "flipped.safetensors", "--json"]).json(1);
        assert_eq!(json["differing"], 1);
        let variants = json["variants"].as_array().unwrap();
        for report in variants {
            let wrong = report["name"] == variant;
            assert_eq!(report["differing"], u32::from(wrong), "{report:#}");
            assert_eq!(report["first_difference"].is_null(), !wrong, "{report:#}");
            if wrong {
                let first = &report["first_difference"];
                assert_eq!(first["tile"], tile);
                assert_eq!((&first["row"], &first["column"]), (&row.into(), &column.into()));
            }
        }
        let text = fp8gemm(folder.path(), &["verify", "flipped.safetensors"]);
        let place = format!("first in {variant}: tile {tile} row {row} column {column}: ");
        assert!(text.stdout.contains(&place), "{}", text.stdout);
    }
}

/// Breaks if `--policy` says yes to a policy that is not the one, or no to the one.
#[test]
fn a_named_policy_is_tried_alone() {
    let run = |policy| fp8gemm(&vectors(), &["verify", "cublaslt_fast_n0.safetensors", "--policy", policy, "--json"]);
    assert_eq!(run("chain").json(0)["policies"].as_array().unwrap().len(), 1);
    let json = run("promote128").json(1);
    assert_eq!(json["nearest"], "promote128");
    assert_eq!(json["policies"][0]["rows"], 64);
    let kind = json["policies"][0]["kind"].as_str().unwrap();
    assert!(kind.starts_with("small errors"), "{kind}");
    run("promote100").refused_usage("promote100");
    let blocks = fp8gemm(&vectors(), &["verify", "deepgemm_1d2d_n0.safetensors", "--policy", "chain"]);
    blocks.refused(2, &["policy chain", "1x128"]);
    let tiles = fp8gemm(&vectors(), &["verify", "wgmma_m64n8k32.safetensors", "--policy", "chain"]);
    tiles.refused(2, &["--policy", "single instructions"]);
}

trait RefusedUsage {
    fn refused_usage(&self, word: &str);
}

impl RefusedUsage for common::Run {
    /// clap's own errors are one line too.
    fn refused_usage(&self, word: &str) {
        self.refused(2, &[word, "--help"]);
        assert_eq!(self.code, 2);
        assert_eq!(self.stdout, "");
        assert!(self.stderr.starts_with("error: ") && self.stderr.contains(word), "{}", self.stderr);
    }
}

/// Breaks if alpha and beta of a flag or of the metadata do not count, or count in the wrong order.
#[test]
fn alpha_and_beta_come_from_flags_then_metadata() {
    let folder = common::folder();
    let a = codes("a", 20, 300, 1);
    let b = codes("b", 30, 300, 2);
    let c = f32s("c", &[20, 30], &uniform(600, 3).iter().map(|x| x * 1e5).collect::<Vec<_>>());
    save(&folder.path().join("in.safetensors"), &[a, b, c], &[]);
    let gemm = ["gemm", "--a", "in.safetensors", "--b", "in.safetensors", "--engine", "twin", "--with-inputs"];
    let run = |extra: &[&str]| fp8gemm(folder.path(), &[&gemm[..], extra].concat());
    let made = run(&["-o", "d.safetensors", "--alpha", "0.3", "--beta", "-1.7", "--output-type", "f32"]);
    assert_eq!(made.code, 0, "{}", made.stderr);

    let verify = |extra: &[&str]| fp8gemm(folder.path(), &[&["verify", "d.safetensors", "--json"], extra].concat());
    let json = verify(&[]).json(0);
    assert!(json["problem"].as_str().unwrap().ends_with("c=f32 alpha=0.3 beta=-1.7"), "{json:#}");
    let wrong = verify(&["--beta", "1"]).json(1);
    assert_eq!(wrong["nearest"], "promote128");
    let kind = report(&wrong, "promote128")["kind"].as_str().unwrap();
    assert!(kind.starts_with("C is weighted with -1.7"), "{kind}");
    let missing = verify(&["--beta", "0"]).json(1);
    assert!(!missing["problem"].as_str().unwrap().contains("c="), "{missing:#}");
    // A C alone means beta = 1.
    assert_eq!(run(&["-o", "one.safetensors"]).code, 0);
    let one = fp8gemm(folder.path(), &["verify", "one.safetensors", "--json", "--beta", "1"]).json(0);
    assert!(one["problem"].as_str().unwrap().contains("d=f32 policy=promote128 c=f32 beta=1"), "{one:#}");
}

/// Breaks if `verify` settles on one reading of an ambiguous scale shape: at K <= 128, [rows, 1]
/// may be scales of rows or of 1x128 blocks, which give other bits under policies that scale inside
/// the block.
#[test]
fn ambiguous_scale_shapes_are_read_in_every_way() {
    let folder = common::folder();
    let scales: Vec<f32> = uniform(64, 9).iter().map(|x| (x * 5.0).exp2()).collect();
    let operands = [
        codes("a", 64, 128, 1),
        codes("b", 96, 128, 2),
        f32s("scale_a", &[64, 1], &scales),
        f32s("scale_b", &[1, 1], &[0.37]),
    ];
    save(&folder.path().join("in.safetensors"), &operands, &[]);
    for (policy, a, b) in [
        ("cutlass128", "1x128", "128x128"),
        ("promote32", "1x128", "128x128"),
        ("promote32", "row", "tensor"),
        ("chain", "row", "tensor"),
    ] {
        let gemm =
            ["gemm", "--a", "in.safetensors", "--b", "in.safetensors", "-o", "d.safetensors", "--engine", "twin"];
        let layouts = ["--output-type", "f32", "--policy", policy, "--scale-layout-a", a, "--scale-layout-b", b];
        let made = fp8gemm(folder.path(), &[&gemm[..], &layouts].concat());
        assert_eq!((made.code, made.stderr.as_str()), (0, ""), "{policy} {a} {b}");
        // The same tensors without the metadata that would say how to read them.
        let (dtype, shape, bytes) = common::read(&folder.path().join("d.safetensors"), "d");
        let with_d = [&operands[..], &[common::tensor("d", dtype, &shape, bytes)]].concat();
        save(&folder.path().join("bare.safetensors"), &with_d, &[]);
        let json = fp8gemm(folder.path(), &["verify", "bare.safetensors", "--json"]).json(0);
        assert!(json["reproduced_by"].as_array().unwrap().contains(&policy.into()), "{policy} {a} {b}: {json:#}");
        let problem = json["problem"].as_str().unwrap();
        let equal = json["policies"].as_array().unwrap().iter().any(|report| {
            let named = report["policy"] == policy || report["same_as"].as_array().unwrap().contains(&policy.into());
            named && report["outcome"] == "equal" && report["scale_layout_a"] == a && report["scale_layout_b"] == b
        });
        assert!(equal, "{policy} {a} {b}: {problem} {json:#}");
        let alone = fp8gemm(folder.path(), &["verify", "bare.safetensors", "--policy", policy]);
        assert_eq!(alone.code, 0, "{}", alone.stdout);
    }
    let gemm = ["gemm", "--a", "in.safetensors", "--b", "in.safetensors", "-o", "d.safetensors", "--engine", "twin"];
    let note = fp8gemm(folder.path(), &gemm);
    assert!(note.stderr.contains("ambiguous") && note.stderr.contains("--scale-layout-a 1x128"), "{}", note.stderr);
}

/// The report of one policy.
fn report<'a>(json: &'a Value, policy: &str) -> &'a Value {
    json["policies"].as_array().unwrap().iter().find(|report| report["policy"] == policy).unwrap()
}
