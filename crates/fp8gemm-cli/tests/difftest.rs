//! `fp8gemm difftest`: reports, files, folders and refusals.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{binary, folder, fp8gemm, names, vectors, without_gpu};
use safetensors::Dtype;
use serde_json::Value;

/// The JSON with every time taken out.
fn without_times(mut document: Value) -> Value {
    document["seconds"] = Value::Null;
    document
}

/// Breaks if the default run needs a GPU, finds something, takes its cases from anything but the seed,
/// or prints another document the second time.
#[test]
fn two_runs_with_one_seed_agree() {
    let folder = folder();
    let run_with = |seed: &str, jobs: &[&str]| {
        let arguments = [&["difftest", "--cases", "60", "--seed", seed, "--json"], jobs].concat();
        let run = without_gpu(folder.path(), &arguments);
        assert!(run.stderr.contains("engine auto compares the twin's SIMD paths"), "{}", run.stderr);
        without_times(run.json(0))
    };
    let run = |seed: &str| run_with(seed, &[]);
    let (x, y) = (run("3"), run("3"));
    assert_eq!(x, y);
    // However many threads make the cases.
    for jobs in ["0", "1", "5"] {
        assert_eq!(run_with("3", &["--jobs", jobs]), x, "{jobs} threads");
    }
    assert_eq!((&x["engine"], &x["equal"], &x["cases"]), (&"twin".into(), &true.into(), &60.into()));
    assert!(x["outputs"].as_u64().unwrap() > 100_000, "{x}");
    assert_ne!(x["outputs"], run("4")["outputs"]);
    assert_eq!(names(folder.path()), Vec::<String>::new());
}

/// Breaks if `--only` is not kept, `--time` does not end a run, or the summary does not fit a page.
#[test]
fn regimes_and_time() {
    let folder = folder();
    let arguments = ["difftest", "--engine", "twin", "--cases", "20", "--only", "sparse,shape-small", "--json"];
    let document = fp8gemm(folder.path(), &arguments).json(0);
    assert_eq!(document["coverage"]["data"], serde_json::json!({ "sparse": 20 }));
    assert_eq!(document["coverage"]["shape"], serde_json::json!({ "shape-small": 20 }));
    let arguments = ["difftest", "--engine", "twin", "--cases", "100000000", "--time", "300ms"];
    let run = fp8gemm(folder.path(), &arguments);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{}", run.stdout);
    assert!(run.stdout.contains("EQUAL") && run.stdout.contains("(time is up)"), "{}", run.stdout);
    assert!(run.stdout.lines().count() < 40, "{}", run.stdout);
}

/// Breaks if bad use is not one clear line with exit code 2, or a missing GPU not 3.
#[test]
fn bad_use_is_refused() {
    let folder = folder();
    fs::write(folder.path().join("text.so"), "no library").unwrap();
    fs::create_dir(folder.path().join("foreign")).unwrap();
    fs::write(folder.path().join("foreign/notes.txt"), "x").unwrap();
    fs::create_dir(folder.path().join("empty")).unwrap();
    let refused = |arguments: &[&str], words: &[&str]| {
        let all: Vec<&str> = [&["difftest"], arguments].concat();
        without_gpu(folder.path(), &all).refused(2, words);
    };
    refused(&["--only", "sparce", "--engine", "twin"], &["sparce", "alignment-limit", "shape-tails", "scale-tiny"]);
    refused(&["--engine", "twin", "--device", "1"], &["--device 1"]);
    refused(&["--external", "./nowhere.so"], &["nowhere.so", "cannot be loaded"]);
    refused(&["--external", "./text.so"], &["text.so", "cannot be loaded"]);
    refused(&["check", "foreign"], &["notes.txt", "no problem file"]);
    refused(&["check", "empty"], &["empty", "holds no problem file"]);
    refused(&["check", "nowhere"], &["nowhere", "no such file"]);
    refused(&["write", "foreign"], &["foreign", "not empty"]);
    refused(&["write", "new", "--policy", "chain", "--scales", "1x128"], &["no policy is legal"]);
    refused(&["fit", "nowhere.safetensors"], &["nowhere", "no such file"]);
    refused(&["mutants", "--name", "no such mutant"], &["no such mutant", "floor alignment"]);
    let whole = vectors().join("deepgemm_1d2d_n0.safetensors");
    refused(&["fit", whole.to_str().unwrap()], &["e4m3_e4m3_f32.d"]);
    refused(&["write", "new", "--only", "shape-empty"], &["shape-empty", "from 1"]);
    refused(&["replay", "nowhere.safetensors"], &["nowhere.safetensors", "no such file"]);
    refused(&["replay", "empty", "--engine", "twin"], &["empty", "holds no case"]);
    refused(&["replay", whole.to_str().unwrap(), "--engine", "twin"], &["deepgemm_1d2d_n0", "no case of difftest"]);
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fp8gemm-difftest/regressions");
    refused(&["replay", kept.to_str().unwrap(), "--engine", "twin", "--device", "1"], &["--device 1"]);
    for arguments in [
        ["--seed", "x"],
        ["--seed", "-1"],
        ["--cases", "0"],
        ["--time", "soon"],
        ["--time", "0"],
        ["--policy", "promote100"],
        ["--jobs", "-1"],
        ["--jobs", "5000"],
    ] {
        let run = without_gpu(folder.path(), &["difftest", arguments[0], arguments[1]]);
        assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{}", run.stderr);
        assert!(run.stderr.contains(arguments[1]), "{}", run.stderr);
    }
    // Flags that would not be looked at.
    for (arguments, word) in [
        (["--cases", "5", "mutants"].as_slice(), "'mutants'"),
        (&["--policy", "chain", "--engine", "twin"], "--policy"),
        (&["--policy", "chain"], "--external"),
        (&["--device", "0", "--external", "./text.so"], "--device"),
        (&["--engine", "twin", "--external", "./text.so"], "--engine"),
        (&["cublaslt", "--record-all"], "--record"),
        (&["replay"], "FILE|DIR"),
    ] {
        let run = without_gpu(folder.path(), &[&["difftest"], arguments].concat());
        assert_eq!((run.code, run.stdout.as_str(), run.stderr.lines().count()), (2, "", 1), "{}", run.stderr);
        assert!(run.stderr.contains(word), "{}", run.stderr);
    }
    for (arguments, lacks) in [
        (vec!["--engine", "hopper"], "engine hopper"),
        (vec!["replay", kept.to_str().unwrap(), "--engine", "hopper"], "engine hopper"),
        (vec!["instructions"], "engine hopper"),
        (vec!["cublaslt"], "engine cuBLASLt"),
    ] {
        without_gpu(folder.path(), &[&["difftest"], arguments.as_slice()].concat()).refused(3, &[lacks]);
    }
    assert!(!folder.path().join("new").exists());
}

/// Breaks if `--json` before the subcommand is refused, or prints something else than behind it.
#[test]
fn json_stands_anywhere() {
    let folder = folder();
    let name = ["--name", "floor", "--cases", "20"];
    let run = |words: &[&str]| fp8gemm(folder.path(), &[words, &name].concat()).json(0);
    let behind = run(&["difftest", "mutants", "--json"]);
    assert_eq!(behind["mutants"].as_array().unwrap().len(), 1);
    assert_eq!(run(&["difftest", "--json", "mutants"]), behind);
    assert_eq!(run(&["--json", "difftest", "mutants"]), behind);
}

/// Breaks if a mutant survives, or if the shrunk file that is kept of one does not show `verify` the
/// difference: in a few elements, under the policy that it names.
#[test]
fn verify_explains_what_difftest_kept() {
    let folder = folder();
    let arguments = ["difftest", "mutants", "--cases", "200", "--name", "C ignored", "--out", "kept", "--json"];
    let document = fp8gemm(folder.path(), &arguments).json(0);
    let mutant = &document["mutants"][0];
    assert!(mutant["found_after"].as_u64().unwrap() <= 200, "{mutant}");
    let file = mutant["file"].as_str().unwrap();
    let verified = fp8gemm(folder.path(), &["verify", file, "--policy", "promote128", "--engine", "twin", "--json"]);
    let report = verified.json(1);
    assert_eq!((&report["equal"], &report["m"], &report["n"]), (&false.into(), &1.into(), &1.into()), "{report}");
    assert_eq!(report["policies"][0]["differing"], 1);
    assert!(report["metadata"]["fault"].as_str().unwrap().contains("1 of 1 elements differ"), "{report}");
    // And so does the folder's check.
    let checked = fp8gemm(folder.path(), &["difftest", "check", "kept", "--json"]).json(1);
    assert_eq!(checked["files"][0]["differing"], 1);
}

/// Breaks if a scale that is NaN makes a kept file unreadable.
#[test]
fn files_with_nonfinite_scales_are_verified() {
    let folder = folder();
    let arguments = ["difftest", "write", "p", "--cases", "6", "--only", "scale-nonfinite,shape-small"];
    assert_eq!(fp8gemm(folder.path(), &arguments).code, 0);
    complete(&folder.path().join("p"), &[]);
    let names = names(&folder.path().join("p"));
    for name in names {
        let path = format!("p/{name}");
        let run = fp8gemm(folder.path(), &["verify", &path, "--engine", "twin", "--policy", "promote128"]);
        assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
    }
}

/// Adds `d` to the problem files as a kernel's owner would, here with the C-less half of the twin: runs
/// `gemm` on each, and flips a bit of the ones named.
fn complete(folder: &Path, wrong: &[usize]) {
    for (i, name) in names(folder).into_iter().enumerate() {
        let path = folder.join(&name);
        let bytes = fs::read(&path).unwrap();
        let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let metadata = metadata.metadata().clone().unwrap();
        let file = path.to_str().unwrap();
        let out = folder.join("d.out.safetensors");
        let has_c = safetensors::SafeTensors::deserialize(&bytes).unwrap().tensor("c").is_ok();
        let mut arguments = vec!["gemm", "--a", file, "--b", file, "--engine", "twin", "-o", out.to_str().unwrap()];
        arguments.extend(["--policy", &metadata["policy"], "--output-type", &metadata["output_type"]]);
        arguments.extend(["--alpha", &metadata["alpha"], "--beta", &metadata["beta"], "--allow-nonfinite-scales"]);
        if has_c {
            arguments.extend(["--c", file]);
        }
        let run = fp8gemm(folder, &arguments);
        assert_eq!(run.code, 0, "{}", run.stderr);
        let (dtype, shape, mut d) = common::read(&out, "d");
        fs::remove_file(&out).unwrap();
        if wrong.contains(&i) {
            d[0] ^= 1;
        }
        let mut tensors = vec![common::tensor("d", dtype, &shape, d)];
        for name in ["a", "b", "scale_a", "scale_b", "c"] {
            if name != "c" || has_c {
                let (dtype, shape, bytes) = common::read(&path, name);
                tensors.push(common::tensor(name, dtype, &shape, bytes));
            }
        }
        let metadata: Vec<(&str, &str)> = metadata.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        common::save(&path, &tensors, &metadata);
    }
}

/// Breaks if a right D is called wrong or a wrong one right, if D beside its problem is not found, or if
/// a missing D passes.
#[test]
fn folders_are_checked() {
    let root = folder();
    let problems = root.path().join("p");
    let check = || fp8gemm(root.path(), &["difftest", "check", "p", "--json"]);
    let written = fp8gemm(root.path(), &["difftest", "write", "p", "--cases", "12", "--seed", "2"]);
    assert_eq!((written.code, names(&problems).len()), (0, 12), "{}", written.stderr);
    check().refused(2, &["none of its 12 files has a D"]);
    complete(&problems, &[]);
    let report = check().json(0);
    assert_eq!((&report["equal"], report["files"].as_array().unwrap().len()), (&true.into(), 12));
    // One D goes into a file of its own, without any metadata.
    let path = problems.join(&names(&problems)[4]);
    let (dtype, shape, mut d) = common::read(&path, "d");
    let rest: Vec<_> = ["a", "b", "scale_a", "scale_b", "c"]
        .into_iter()
        .filter(|name| {
            let bytes = fs::read(&path).unwrap();
            safetensors::SafeTensors::deserialize(&bytes).unwrap().tensor(name).is_ok()
        })
        .map(|name| {
            let (dtype, shape, bytes) = common::read(&path, name);
            common::tensor(name, dtype, &shape, bytes)
        })
        .collect();
    let bytes = fs::read(&path).unwrap();
    let metadata = safetensors::SafeTensors::read_metadata(&bytes).unwrap().1.metadata().clone().unwrap();
    let metadata: Vec<(&str, &str)> = metadata.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    common::save(&path, &rest, &metadata);
    let missing = check();
    assert_eq!(missing.json(2)["missing"].as_array().unwrap().len(), 1);
    let beside = path.with_extension("d.safetensors");
    common::save(&beside, &[common::tensor("d", dtype, &shape, d.clone())], &[]);
    assert_eq!(check().json(0)["equal"], true);
    d[0] ^= 1;
    common::save(&beside, &[common::tensor("d", dtype, &shape, d.clone())], &[]);
    let wrong = check().json(1);
    let differing: Vec<u64> =
        wrong["files"].as_array().unwrap().iter().map(|file| file["differing"].as_u64().unwrap()).collect();
    assert_eq!(differing.iter().sum::<u64>(), 1);
    // Of another type than the problem wants, and one that belongs to nothing.
    let other = if dtype == Dtype::F32 { Dtype::BF16 } else { Dtype::F32 };
    let size = if other == Dtype::F32 { 4 } else { 2 };
    let zeros = vec![0; shape.iter().product::<usize>() * size];
    common::save(&beside, &[common::tensor("d", other, &shape, zeros)], &[]);
    check().refused(2, &["the problem wants"]);
    fs::write(beside.with_extension("npy"), "x").unwrap();
    check().refused(2, &["a problem has one D", ".d.npy"]);
    fs::remove_file(beside.with_extension("npy")).unwrap();
    fs::rename(&beside, problems.join("stray.d.safetensors")).unwrap();
    check().refused(2, &["stray.d.safetensors"]);
}

/// Breaks if recordings that others made cannot be checked as a folder, or one without a policy passes.
#[test]
fn recordings_are_checked_as_a_folder() {
    let root = folder();
    let recorded = root.path().join("recorded");
    fs::create_dir(&recorded).unwrap();
    for name in ["deepgemm_1d2d_n0", "deepgemm_1d1d_n1", "cublaslt_precise_n0"] {
        let file = format!("{name}.safetensors");
        fs::copy(vectors().join(&file), recorded.join(&file)).unwrap();
    }
    fp8gemm(root.path(), &["difftest", "check", "recorded"]).refused(2, &["does not say its policy"]);
    let report = fp8gemm(root.path(), &["difftest", "check", "recorded", "--policy", "promote128", "--json"]).json(0);
    assert_eq!(report["files"].as_array().unwrap().len(), 3);
    let wrong = fp8gemm(root.path(), &["difftest", "check", "recorded", "--policy", "promote64", "--json"]).json(1);
    assert!(wrong["files"][0]["differing"].as_u64().unwrap() > 0);
}

/// Breaks if the fitter does not find Hopper's constants in what an H200 gave, or claims to know what
/// the recordings do not say: normal data alone leaves the rules for subnormals and zeros open.
#[test]
fn the_fitter_recovers_hopper() {
    let root = folder();
    let file = vectors().join("wgmma_m64n8k32.safetensors");
    let file = file.to_str().unwrap();
    let report = fp8gemm(root.path(), &["difftest", "fit", file, "--json"]).json(0);
    for (fit, constant) in [(0, "HOPPER_FP8_F32"), (1, "HOPPER_FP8_F16")] {
        let fit = &report["fits"][fit];
        assert_eq!((&fit["models"], &fit["recovers"]), (&1.into(), &constant.into()), "{fit}");
        assert_eq!(fit["outputs"], 81_920);
    }
    let report = fp8gemm(root.path(), &["difftest", "fit", file, "--distribution", "0,1", "--json"]).json(0);
    let open: Vec<&str> = report["fits"][0]["parameters"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|parameter| parameter["values"].as_array().unwrap().len() > 1)
        .map(|parameter| parameter["name"].as_str().unwrap())
        .collect();
    assert_eq!(open, ["subnormals normalised", "zero products in the maximum"]);
    // One wrong output, and no model is left.
    let mut bytes = fs::read(file).unwrap();
    let at = common::offset(&bytes, "e4m3_e4m3_f32.d") + 2;
    bytes[at] ^= 1;
    fs::write(root.path().join("wrong.safetensors"), bytes).unwrap();
    let report = fp8gemm(root.path(), &["difftest", "fit", "wrong.safetensors", "--json"]).json(1);
    assert_eq!((&report["fits"][0]["models"], &report["fits"][1]["models"]), (&0.into(), &1.into()));
}

/// Breaks if Ctrl-C loses the summary of what was done, or is not answered.
#[cfg(unix)]
#[test]
fn an_interrupted_run_reports() {
    let root = folder();
    let interrupted_after = |seconds: f64| {
        let child = Command::new(binary())
            .args(["difftest", "--engine", "twin", "--cases", "100000000", "--json"])
            .current_dir(root.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_secs_f64(seconds));
        common::interrupt(&child);
        let output = child.wait_with_output().unwrap();
        (output.status.code(), serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default())
    };
    // On a busy machine 1.5 s may be before there is a handler, or before the first case.
    let too_early = |(code, report): &(Option<i32>, Value)| code.is_none() || report["cases"] == 0;
    let (code, report) = [1.5, 10.0, 60.0]
        .into_iter()
        .map(interrupted_after)
        .find(|output| !too_early(output))
        .expect("no case within a minute");
    assert_eq!(code, Some(130));
    assert_eq!((&report["interrupted"], &report["equal"]), (&true.into(), &true.into()));
}

/// Breaks if a kept case is not run again, on every path of the twin, or if one that has become wrong, or
/// whose file was changed, passes.
#[test]
fn kept_cases_are_replayed() {
    let root = folder();
    let arguments = ["difftest", "mutants", "--name", "ignored", "--cases", "200", "--out", "kept", "--json"];
    let found = fp8gemm(root.path(), &arguments).json(0);
    let files = names(&root.path().join("kept"));
    assert_eq!(files.len(), found["mutants"].as_array().unwrap().len());
    let replay = |path: &str| fp8gemm(root.path(), &["difftest", "replay", path, "--engine", "twin", "--json"]);
    let report = replay("kept").json(0);
    assert_eq!((&report["equal"], report["files"].as_array().unwrap().len()), (&true.into(), files.len()));
    let paths = report["subjects"].as_array().unwrap().len();
    assert!(report["files"].as_array().unwrap().iter().all(|file| file["runs"] == paths), "{report}");
    // What `write` makes has no D; the twin's is made anew.
    let written = ["difftest", "write", "p", "--cases", "5", "--only", "shape-small,scale-nonfinite"];
    assert_eq!(fp8gemm(root.path(), &written).code, 0);
    assert_eq!(replay("p").json(0)["files"].as_array().unwrap().len(), 5);
    // One bit of what the twin gave then, and one of an operand: the twin's D is no longer the file's.
    let file = root.path().join("kept").join(&files[0]);
    let right = fs::read(&file).unwrap();
    for name in ["expected", "a"] {
        let mut bytes = right.clone();
        let at = common::offset(&bytes, name);
        bytes[at] ^= if name == "a" { 0x40 } else { 1 };
        fs::write(root.path().join("changed.safetensors"), &bytes).unwrap();
        let report = replay("changed.safetensors").json(1);
        assert!(report["files"][0]["fault"].as_str().unwrap().contains("`expected`"), "{name}: {report}");
    }
    // Metadata of another problem.
    let text = String::from_utf8_lossy(&right).into_owned();
    let start = text.find("regimes").unwrap();
    let mut bytes = right.clone();
    let at = right.windows(6).position(|window| window == b"shape-").unwrap();
    assert!(at > start);
    bytes[at] = b'x';
    fs::write(root.path().join("changed.safetensors"), bytes).unwrap();
    replay("changed.safetensors").refused(2, &["changed.safetensors", "regimes"]);
}

/// The C libraries of fp8gemm-difftest.
#[cfg(unix)]
fn examples() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fp8gemm-difftest/examples/external")
}

/// Compiles a library into this folder; says so where there is no C compiler.
#[cfg(unix)]
fn library(folder: &Path, name: &str, source: &Path) -> bool {
    let built = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()))
        .args(["-O2", "-ffp-contract=off", "-fPIC", "-shared", "-I"])
        .arg(examples().join("../../include"))
        .arg("-I")
        .arg(examples())
        .arg(source)
        .args(["-lm", "-o"])
        .arg(folder.join(name).with_extension("so"))
        .status();
    let Ok(built) = built else {
        println!("no C compiler here: not tested");
        return false;
    };
    assert!(built.success(), "{name}");
    true
}

/// Breaks if a finding is written only when it has been made smaller, or at the end of the run: a run that
/// is killed would lose it.
#[cfg(unix)]
#[test]
fn a_killed_run_keeps_its_findings() {
    let root = folder();
    // So slow that shrinking takes its 20 seconds.
    let source = "#define _POSIX_C_SOURCE 199309L\n#include <time.h>\n#define fp8gemm_external_gemm quick\n\
                  #include \"wrong.c\"\n#undef fp8gemm_external_gemm\n\
                  int32_t fp8gemm_external_gemm(const fp8gemm_gemm *g) {\n\
                  const struct timespec pause = {0, 100000000}; nanosleep(&pause, 0); return quick(g); }\n";
    fs::write(root.path().join("slow.c"), source).unwrap();
    if !library(root.path(), "slow", &root.path().join("slow.c")) {
        return;
    }
    let mut child = Command::new(binary())
        .args(["difftest", "--external", "./slow.so", "--seed", "1", "--out", "found"])
        .current_dir(root.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let found = root.path().join("found");
    let kept = || names(&found).into_iter().find(|name| name.ends_with(".safetensors"));
    let start = std::time::Instant::now();
    while !found.exists() || kept().is_none() {
        assert!(child.try_wait().unwrap().is_none(), "it has ended");
        assert!(start.elapsed().as_secs() < 60, "nothing was kept");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(child.try_wait().unwrap().is_none(), "it has ended");
    child.kill().unwrap();
    child.wait().unwrap();
    let file = found.join(kept().unwrap());
    // As generated, not yet shrunk, and whole.
    let report = fp8gemm(root.path(), &["verify", file.to_str().unwrap(), "--engine", "twin", "--json"]).json(1);
    assert!(report["m"].as_u64().unwrap() > 1, "{report}");
}

/// Breaks if somebody's wrong library passes, or its case is not kept where `verify` shows it. Needs a C
/// compiler; says so where there is none.
#[cfg(unix)]
#[test]
fn a_wrong_library_is_caught() {
    let root = folder();
    let examples = examples();
    if !["reference", "wrong"].iter().all(|name| library(root.path(), name, &examples.join(name).with_extension("c"))) {
        return;
    }
    let right = fp8gemm(root.path(), &["difftest", "--external", "./reference.so", "--cases", "30", "--json"]).json(0);
    assert_eq!(right["subjects"][0], "plain C reference");
    let arguments = ["difftest", "--external", "./wrong.so", "--out", "found", "--json"];
    let wrong = fp8gemm(root.path(), &arguments).json(1);
    let finding = &wrong["findings"][0];
    let file = finding["file"].as_str().unwrap();
    let policy = finding["shrunk_problem"].as_str().unwrap().split("policy=").nth(1).unwrap();
    let policy = policy.split(' ').next().unwrap();
    let verified = fp8gemm(root.path(), &["verify", file, "--policy", policy, "--engine", "twin", "--json"]).json(1);
    assert_eq!(verified["equal"], false);
}
