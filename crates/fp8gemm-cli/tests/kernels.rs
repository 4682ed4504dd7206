//! `fp8gemm kernels` and `fp8gemm cache`. Those that compile need NVRTC and nvdisasm, no GPU.

#![allow(clippy::unwrap_used)] // a test may

mod common;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{Run, folder};
use fp8gemm::jit::tuning::{Device, Machine, Timed, Tuned, Tuning, all_candidates};
use fp8gemm::jit::{Cache, Key, Metadata};
use serde_json::Value;

/// Runs the command with its cache in this folder and, if wanted, without a compiler.
fn run(root: &Path, nvrtc: bool, arguments: &[&str]) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fp8gemm"));
    command.args(arguments).current_dir(root).env("FP8GEMM_CACHE_DIR", root.join("cache"));
    if !nvrtc {
        command.env("FP8GEMM_NVRTC", root.join("no-nvrtc"));
    }
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Run {
        code: output.status.code().expect("ended by a signal"),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

/// Breaks if the ways to name a problem mean different problems, a default changes, or a flag is
/// not taken.
#[test]
fn problems_have_one_meaning() {
    let root = folder();
    let problem = |arguments: &[&str]| {
        let json = run(root.path(), false, &[&["kernels", "explain", "--json"], arguments].concat()).json(0);
        json["problem"].as_str().unwrap().to_owned()
    };
    let usual = "512x7168x2048 a=e4m3:1x128 b=e4m3:128x128 d=bf16 policy=promote128";
    assert_eq!(problem(&["512", "7168", "2048"]), usual);
    assert_eq!(problem(&["512x7168x2048"]), usual);
    assert_eq!(problem(&[usual]), usual);
    assert_eq!(problem(&usual.split(' ').collect::<Vec<_>>()), usual);
    let flags =
        "--dtype-a e5m2 --dtype-b e4m3 --scales-a row --scales-b tensor --output-type f32 --c f16 --policy chain";
    let arguments: Vec<_> = ["1", "2", "3"].into_iter().chain(flags.split(' ')).collect();
    let text = "1x2x3 a=e5m2:row b=e4m3:tensor d=f32 policy=chain c=f16 beta=1.0";
    assert_eq!(problem(&arguments), text);
    assert_eq!(problem(&[&arguments[..], &["--beta", "-0.5"]].concat()), text.replace("1.0", "-0.5"));
    for (words, error) in [
        (&["1", "2"][..], "M N K"),
        (&["1", "2", "x"], "K is \"x\", but must be a whole number from 1"),
        (&["abc", "1", "1"], "M is \"abc\", but must be a whole number from 1"),
        (&["1", "1e3", "1"], "N is \"1e3\""),
        (&["18446744073709551616x1x1"], "M is \"18446744073709551616\""),
        (&["-1", "1", "1"], "M is \"-1\""),
        (&["1x2"], "`1x2`: a problem is M N K"),
        (&["1", "2", "2147483137"], "K is 2147483137: TMA"),
        (&["18446744073709551615", "2", "3"], "M is 18446744073709551615: TMA"),
        (&["2147483136", "1048576", "3"], "number of output tiles"),
        (&["2147483648x2x3 a=e4m3:row b=e4m3:row d=f32 policy=chain"], "M is 2147483648"),
        (&[usual, "--policy", "chain"], "leave the flags out"),
        (&["--policy", "chain"], "need its sizes"),
        (&["1", "2", "3", "--policy", "chain"], "chain"),
        (&["1", "2", "3", "--policy", "promote64"], "promote128, chain"),
        (&["0", "2", "3"], "M is \"0\""),
        (&["1", "2", "3", "--beta", "1"], "C"),
        (&[], "which problem"),
    ] {
        run(root.path(), false, &[&["kernels", "explain"], words].concat()).refused(2, &[error]);
    }
}

/// Breaks if the choice printed is not the one that is made, or does not depend on the GPU.
#[test]
fn explain_prints_the_choice() {
    let root = folder();
    let json = run(root.path(), false, &["kernels", "explain", "4096", "7168", "16384", "--sms", "78,132", "--json"]);
    let json = json.json(0);
    let problem = "4096x7168x16384 a=e4m3:1x128 b=e4m3:128x128 d=bf16".parse().unwrap();
    for (choice, sms) in json["choices"].as_array().unwrap().iter().zip([78, 132]) {
        let expected = fp8gemm::jit::choose(&problem, sms).unwrap();
        assert_eq!(choice["sms"], sms);
        let names: Vec<_> =
            choice["candidates"].as_array().unwrap().iter().map(|c| c["configuration"].as_str().unwrap()).collect();
        assert_eq!(names, expected.candidates.iter().map(|e| e.config.to_string()).collect::<Vec<_>>());
        assert_eq!(choice["candidates"][0]["shared_bytes"], expected.config().shared_bytes());
    }
    let text = run(root.path(), false, &["kernels", "explain", "4096", "7168", "16384", "--sms", "132"]);
    let taken = fp8gemm::jit::choose(&problem, 132).unwrap().config();
    assert_eq!(text.code, 0);
    assert!(
        text.stdout.contains(&format!("taken: a tile of {} x {}", taken.block_m, taken.block_n)),
        "{}",
        text.stdout
    );
}

/// Breaks if stream-K, which needs a workspace, is said to be taken without one, or registers are said of a kernel that
/// has other ones.
#[test]
fn explain_tells_workspaces_and_registers_apart() {
    let root = folder();
    let explain = |sizes: [&str; 3], flag| {
        run(root.path(), false, &[&["kernels", "explain", "--sms", "132"], &sizes[..], flag].concat())
    };
    let sizes = ["4096", "2112", "7168"];
    let choice = explain(sizes, &["--json"]).json(0)["choices"][0].clone();
    let [with, without] =
        ["with_workspace", "without_workspace"].map(|which| choice[which]["configuration"].as_str().unwrap());
    assert_eq!((with, &choice["candidates"][0]["registers"]), (stream_k(true).as_str(), &serde_json::json!([232, 40])));
    assert!(without == stream_k(false) && with.contains("_sk") && !without.contains("_sk"), "{with}, {without}");
    let text = explain(sizes, &[]).stdout;
    assert!(text.contains("with a workspace the first is taken, without one number 2\n"), "{text}");
    let taken =
        |how| text.lines().find(|line| line.starts_with(&format!("taken {how} a workspace: a tile of "))).unwrap();
    assert!(taken("with").contains("of 232 (loading: 40) registers") && taken("without").contains("128 x 192"));

    let few = explain(["1", "576", "7168"], &[]).stdout;
    assert!(few.contains("taken: a tile of 8 x 8") && !few.contains("registers"), "{few}");
    let few = explain(["1", "576", "7168"], &["--json"]).json(0);
    assert_eq!(few["choices"][0]["candidates"][0]["registers"], Value::Null);
}

/// Breaks if what `explain` prints of an estimate is not all of it: the time follows from the terms by the formula at the
/// head of `choose.rs`.
#[test]
fn explain_prints_every_term() {
    let root = folder();
    for problem in ["4096x2112x7168", "1x576x7168", "512x300x70 a=e4m3:1x128 b=e4m3:1x128 d=f32 c=f32 beta=1"] {
        let explain = ["kernels", "explain", problem, "--sms", "132"];
        let choices = &run(root.path(), false, &[&explain[..], &["--json"]].concat()).json(0)["choices"];
        for candidate in choices[0]["candidates"].as_array().unwrap() {
            let term = |name: &str| candidate["terms"][name].as_f64().unwrap();
            let block = term("tensor").max(term("l2")) * term("pairing");
            let cycles = term("rounds") * (term("k_blocks") * block + term("ends")) + term("handover") + term("launch");
            let (us, printed) = (cycles / term("clock_hz") * 1e6, candidate["compute_us"].as_f64().unwrap());
            assert!((us - printed).abs() < 1e-9 * printed, "{problem}: {us}: {candidate}");
        }
        let text = run(root.path(), false, &explain).stdout;
        assert!(text.contains("\nterms: a block of K ") && text.contains("L2 "), "{text}");
    }
}

/// What a plan takes for 4096x2112x7168 with a workspace, and without one.
fn stream_k(workspace: bool) -> String {
    let problem = "4096x2112x7168 a=e4m3:1x128 b=e4m3:128x128 d=bf16".parse().unwrap();
    let choice = fp8gemm::jit::choose(&problem, 132).unwrap();
    let mut configs = choice.candidates.iter().map(|one| one.config);
    configs.find(|config| workspace || config.workspace_bytes(132) == 0).unwrap().to_string()
}

/// Breaks if a missing compiler or disassembler is another exit code than 3, or does not say what
/// was looked for.
#[test]
fn what_is_missing_is_named() {
    let root = folder();
    run(root.path(), false, &["kernels", "compile", "1", "2", "3"]).refused(3, &["NVRTC", "no-nvrtc"]);
    run(root.path(), false, &["kernels", "compile", "--all"]).refused(3, &["NVRTC", "no-nvrtc"]);
    let mut sass = Command::new(env!("CARGO_BIN_EXE_fp8gemm"));
    sass.args(["kernels", "sass", "1", "2", "3"]).env("FP8GEMM_NVRTC", root.path()).env("PATH", root.path());
    sass.env_remove("CUDA_HOME").env_remove("CUDA_PATH");
    let output = sass.output().unwrap();
    // Where a toolkit lies in its usual place, NVRTC is what is missing.
    assert_eq!(output.status.code(), Some(3));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("nvdisasm") || error.contains("NVRTC"), "{error}");
}

/// Breaks if a flag is ignored, a list without problems is blamed on something else, or a bundle that cannot be written is
/// found out after minutes of compiling (without NVRTC that would be exit code 3).
#[test]
fn compile_refuses_before_it_compiles() {
    let root = folder();
    fs::write(root.path().join("header.csv"), "m,n,k\n").unwrap();
    let cases: [(&[&str], &[&str]); 8] = [
        (&["--all", "--sms", "132"], &["--sms", "--all"]),
        (&["--cover", "--sms", "78,132"], &["--sms", "--cover"]),
        (&["--cover", "--policy", "chain"], &["M N K"]),
        (&["--shapes", "header.csv"], &["header.csv: there is no problem in it"]),
        (&["--bundle", "b.tar"], &["--bundle", "which problems"]),
        (&["1", "2", "3", "4x5x6", "--policy", "chain"], &["flags", "in quotes"]),
        (&["1", "2", "3", "--bundle", "no/such/b.tar"], &["no/such/b.tar"]),
        (&["1", "2", "3", "--bundle", "."], &["folder"]),
    ];
    for (arguments, words) in cases {
        run(root.path(), false, &[&["kernels", "compile"], arguments].concat()).refused(2, words);
    }
}

/// Breaks if a kernel that is kept nowhere counts as compiled.
#[test]
#[ignore = "needs NVRTC"]
fn a_cache_that_takes_nothing_is_an_error() {
    let root = folder();
    fs::write(root.path().join("file"), "").unwrap();
    for arguments in [&["128", "512", "1024"][..], &["128x512x1024", "--bundle", "b.tar"], &["--cover"]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fp8gemm"));
        command.args(["kernels", "compile"]).args(arguments).current_dir(root.path());
        let output = command.env("FP8GEMM_CACHE_DIR", root.path().join("file/below")).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{arguments:?}: {error}");
        assert!(error.contains("cannot be written"), "{error}");
    }
}

/// A cache with one sound and one damaged entry, as a machine without NVRTC may have it.
fn fill(root: &Path) -> Key {
    let cubin =
        fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../fp8gemm-jit/tests/data/scale.sm_90a.13.0.88.cubin"));
    let cubin = cubin.unwrap();
    let cache = Cache::at(root.join("cache/cubin"));
    let keys = [1, 2].map(|number| Key::new(&format!("source {number}"), &["-o"], (13, 0)));
    for key in &keys {
        let metadata = Metadata {
            kernel: "scale".to_owned(),
            configuration: "a test".to_owned(),
            nvrtc: (13, 0),
            compile_milliseconds: 12.5,
        };
        cache.get_or_compile(key, || Ok((cubin.clone(), metadata))).unwrap();
    }
    fs::write(root.join(format!("cache/cubin/{}.cubin", keys[1])), "damaged").unwrap();
    keys[0]
}

/// Breaks if a cache command loses an entry, hides a damaged one, or moves a damaged one along.
#[test]
fn caches_are_looked_after() {
    let root = folder();
    let cache = |arguments: &[&str]| run(root.path(), false, &[&["cache", "--json"], arguments].concat()).json(0);
    assert_eq!(cache(&["list"])["entries"], Value::Array(Vec::new()));
    let key = fill(root.path());
    let listed = cache(&["list"]);
    assert_eq!((&listed["damaged"], listed["entries"].as_array().unwrap().len()), (&Value::from(1), 2));
    let sound = listed["entries"].as_array().unwrap().iter().find(|entry| entry["key"] == key.to_string()).unwrap();
    assert_eq!((&sound["configuration"], &sound["nvrtc"]), (&Value::from("a test"), &Value::from("13.0")));
    let text = run(root.path(), false, &["cache", "list"]);
    assert!(text.stdout.contains("a test") && text.stdout.contains("1 damaged"), "{}", text.stdout);

    assert_eq!(cache(&["export", "bundle.tar"])["entries"], 1);
    assert_eq!(cache(&["clear"])["entries"], 2);
    assert_eq!(cache(&["list"])["entries"], Value::Array(Vec::new()));
    let imported = cache(&["import", "bundle.tar"]);
    assert_eq!((&imported["added"], &imported["present"]), (&Value::from(1), &Value::from(0)));
    assert_eq!(cache(&["import", "bundle.tar"])["present"], 1);
    assert_eq!(cache(&["list"])["entries"][0]["key"], key.to_string());

    fs::write(root.path().join("bundle.tar"), "no bundle").unwrap();
    run(root.path(), false, &["cache", "import", "bundle.tar"]).refused(2, &["bundle.tar"]);
    run(root.path(), false, &["cache", "import", "absent.tar"]).refused(2, &["absent.tar"]);
    run(root.path(), false, &["cache", "export", "no/such/folder/b.tar"]).refused(2, &["b.tar"]);
}

/// Breaks if the list leaves kernels out, or takes what is not there for cached.
#[test]
fn the_list_is_the_catalogue() {
    let root = folder();
    fill(root.path());
    let json = run(root.path(), false, &["kernels", "list", "--json"]).json(0);
    let kernels = json["kernels"].as_array().unwrap();
    assert_eq!(kernels.len(), fp8gemm::jit::catalog::entries().len());
    assert_eq!((&json["cached"], &json["nvrtc"]), (&Value::from(0), &Value::Null));
    let first = fp8gemm::jit::catalog::full()[0];
    assert_eq!(kernels[0]["configuration"], first.kernel_name());
    assert_eq!(kernels[0]["shared_bytes"], first.shared_bytes());
    let cached = run(root.path(), false, &["kernels", "list", "--cached", "--json"]).json(0);
    assert_eq!(cached["kernels"], Value::Array(Vec::new()));
}

/// Breaks if a kernel is compiled twice, is not used afterwards, or a machine without NVRTC cannot
/// live on an exported cache; or if its machine code is not as it should be.
#[test]
#[ignore = "needs NVRTC and nvdisasm"]
fn one_problem_from_source_to_machine_code() {
    let root = folder();
    let compile = |nvrtc| run(root.path(), nvrtc, &["kernels", "compile", "128", "512", "1024", "--json"]).json(0);
    let first = compile(true);
    assert_eq!((&first["cached"], &first["failed"]), (&Value::from(0), &Value::from(0)));
    let kernel = &first["kernels"][0];
    assert_eq!(kernel["spills"], 0);
    assert!(kernel["milliseconds"].as_f64().unwrap() > 1.0 && kernel["registers"].as_u64().unwrap() > 32, "{kernel}");
    assert_eq!(compile(true)["cached"], 1);
    assert_eq!((&compile(false)["cached"], &compile(false)["nvrtc"]), (&Value::from(1), &Value::Null));
    let listed = run(root.path(), true, &["kernels", "list", "--cached", "--json"]).json(0);
    assert_eq!((&listed["cached"], &listed["kernels"][0]["configuration"]), (&Value::from(1), &kernel["name"]));

    let sass = run(root.path(), true, &["kernels", "sass", "128", "512", "1024"]);
    assert_eq!(sass.code, 0, "{}", sass.stderr);
    assert!(sass.stdout.contains(kernel["name"].as_str().unwrap()) && sass.stdout.contains(" QGMMA.64x"));
    let counted = run(root.path(), true, &["kernels", "sass", "--summary", "--json", "128", "512", "1024"]).json(0);
    let lines = sass.stdout.lines().filter(|line| line.contains(" QGMMA.64x")).count();
    assert_eq!(counted["summary"]["qgmma"], lines);
    assert_eq!(counted["faults"], Value::Array(Vec::new()));
}

/// Breaks if a plan without a workspace, or one that has a tuning table, has to compile after `kernels compile M N K`.
#[test]
#[ignore = "needs NVRTC"]
fn one_problem_has_every_kernel_that_plans_take() {
    let root = folder();
    let problem = "4096x2112x7168 a=e4m3:1x128 b=e4m3:128x128 d=bf16".parse().unwrap();
    let tuned = all_candidates(&problem, 132).unwrap().last().unwrap().to_string();
    let timed = Timed { configuration: tuned.clone(), interleave: None, cold_us: 6.5, warm_us: 3.25 };
    let machine =
        Machine::new(&Device { name: "NVIDIA H200".into(), sms: 132, driver: 13_000, driver_version: None }, None);
    let date = "2026-11-29T13:00:00Z".to_owned();
    let entry = Tuned { problem, date, tried: 31, model: timed.clone(), ranking: vec![timed] };
    Tuning::of(machine, vec![entry]).store(&root.path().join("cache/cubin/tuning.json"), true).unwrap();
    let compile = || {
        let arguments = ["kernels", "compile", "4096", "2112", "7168", "--sms", "132", "--json"];
        run(root.path(), true, &arguments).json(0)
    };
    let made = compile();
    let names: Vec<_> = made["kernels"].as_array().unwrap().iter().map(|kernel| kernel["name"].as_str()).collect();
    // A kernel's name is the configuration's without the raster.
    let expected = [stream_k(false), stream_k(true), tuned];
    assert_eq!(names, expected.each_ref().map(|name| name.rsplit_once("_g").map(|(kernel, _)| kernel)));
    assert_eq!((&compile()["kernels"], &compile()["cached"]), (&Value::Array(Vec::new()), &Value::from(3)));
}

/// Breaks if `--interleave` prints the kernel as it was, changes more than flags, or is taken where there is
/// nothing to change.
#[test]
#[ignore = "needs NVRTC and nvdisasm"]
fn machine_code_with_a_pattern() {
    let root = folder();
    let sass = |more: &[&str]| run(root.path(), true, &[&["kernels", "sass"], more].concat());
    let problem = ["4096", "7168", "2048"];
    let plain = sass(&problem).stdout;
    let changed = sass(&[&["--interleave", "one-in-four"], &problem[..]].concat());
    assert_eq!(changed.code, 0, "{}", changed.stderr);
    assert!(changed.stdout != plain && changed.stdout.lines().nth(1).unwrap().ends_with("_yield-one-in-four"));
    let bare = |text: &str| text.lines().skip(2).collect::<Vec<_>>().join("\n").replace(".reuse", "");
    assert_eq!(bare(&changed.stdout), bare(&plain));
    let counted = sass(&[&["--summary", "--json", "--interleave", "none"], &problem[..]].concat()).json(0);
    assert_eq!(counted["ffma_runs"]["yielding"], 0);
    assert!(counted["ffma_runs"]["ffma"].as_u64().unwrap() > 100, "{counted}");

    let tensor = "512x512x1024 a=e4m3:tensor b=e4m3:tensor d=bf16 policy=chain";
    let refused = sass(&[tensor, "--interleave", "none"]);
    assert_eq!((refused.code, refused.stdout.as_str()), (2, ""), "{}", refused.stderr);
    assert!(refused.stderr.contains("no run of at least 8"), "{}", refused.stderr);
    let unknown = sass(&["--interleave", "all", "1", "2", "3"]);
    assert!(unknown.code == 2 && unknown.stderr.contains("deepgemm-2025"), "{}", unknown.stderr);
}

/// Breaks if a worker whose command was killed complains on the terminal, each for itself, or does not end.
#[test]
fn workers_of_a_killed_command_end_silently() {
    let root = folder();
    let mut worker = Command::new(env!("CARGO_BIN_EXE_fp8gemm"))
        .args(["kernels", "compile", "--worker"])
        .env("FP8GEMM_CACHE_DIR", root.path())
        .env("FP8GEMM_NVRTC", root.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = worker.stdin.take().unwrap();
    // The answer goes nowhere.
    drop(worker.stdout.take());
    writeln!(stdin, "transpose_codes").unwrap();
    let begin = Instant::now();
    while worker.try_wait().unwrap().is_none() {
        if begin.elapsed() > Duration::from_secs(60) {
            worker.kill().unwrap();
            panic!("it does not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let Output { status, stderr, .. } = worker.wait_with_output().unwrap();
    assert_eq!((status.code(), String::from_utf8(stderr).unwrap().as_str()), (Some(0), ""));
    drop(stdin);
}

/// Breaks if Ctrl-C in the middle of a long compilation leaves a damaged entry or a worker that goes
/// on, or if the next run starts again from nothing.
#[test]
#[ignore = "needs NVRTC"]
#[cfg(unix)]
fn an_interrupted_compilation_is_resumed() {
    let root = folder();
    let entries = || {
        let listed = run(root.path(), true, &["cache", "list", "--json"]).json(0);
        assert_eq!(listed["damaged"], 0);
        listed["entries"].as_array().unwrap().len()
    };
    let mut child = Command::new(env!("CARGO_BIN_EXE_fp8gemm"))
        .args(["kernels", "compile", "--cover", "--jobs", "2"])
        .env("FP8GEMM_CACHE_DIR", root.path().join("cache"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let begin = Instant::now();
    let cached = || {
        fs::read_dir(root.path().join("cache/cubin")).map_or(0, |files| {
            files.flatten().filter(|file| file.path().extension().is_some_and(|end| end == "cubin")).count()
        })
    };
    while cached() < 3 {
        assert!(begin.elapsed() < Duration::from_secs(60), "nothing is compiled");
        std::thread::sleep(Duration::from_millis(10));
    }
    common::interrupt(&child);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    // Workers finish the kernel at hand: two at most. A third would be one that goes on.
    let before = entries();
    std::thread::sleep(Duration::from_secs(6));
    let after = entries();
    assert!(after <= before + 2, "{before} then {after} entries");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(entries(), after);
    assert!(after < fp8gemm::jit::catalog::cover().len(), "it was over before the signal");
    // What is there is taken as it is: the list says so without compiling.
    let listed = run(root.path(), true, &["kernels", "list", "--cover", "--json"]).json(0);
    assert_eq!(listed["cached"], after);
}
