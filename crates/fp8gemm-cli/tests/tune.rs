//! `fp8gemm tune` and what uses its table. What it measures is tried on a Hopper machine
//! (`cargo test --release -p fp8gemm-cli --test tune -- --ignored`); some tests need NVRTC and no GPU.

#![allow(clippy::unwrap_used)] // a test may

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Run, binary, folder, with_variables};
use fp8gemm::jit::catalog::Entry;
use fp8gemm::jit::sass::Interleave;
use fp8gemm::jit::tuning::{Device, Machine, Source, Timed, Tuned, Tuning, all_candidates};
use fp8gemm::jit::{BASE_OPTIONS, Cache, Compiler, ElementwiseKernel, KernelConfig, Key, Metadata, Nvrtc, choose};
use fp8gemm::problem::Problem;
use serde_json::Value;

/// Runs the command with its cache in this folder, and other variables.
fn run(root: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Run {
    let cache = root.join("cache");
    let own = ("FP8GEMM_CACHE_DIR", cache.to_str().unwrap());
    with_variables(root, arguments, &[&[own], variables].concat())
}

/// Neither a GPU nor an NVRTC, whose version a table might not be for.
const NOTHING: [(&str, &str); 2] = [("CUDA_VISIBLE_DEVICES", ""), ("FP8GEMM_NVRTC", "no-nvrtc")];

fn table_path(root: &Path) -> PathBuf {
    root.join("cache/cubin/tuning.json")
}

fn h200() -> Device {
    Device { name: "NVIDIA H200".into(), sms: 132, driver: 13_000, driver_version: None }
}

fn dense(m: usize, n: usize, k: usize) -> Problem {
    format!("{m}x{n}x{k} a=e4m3:1x128 b=e4m3:128x128 d=bf16").parse().unwrap()
}

/// What the cost model would never put first: its last candidate's last neighbour.
fn unlikely(problem: &Problem) -> KernelConfig {
    *all_candidates(problem, 132).unwrap().last().unwrap()
}

/// A table in which that has won for each problem.
fn table(machine: Machine, problems: &[Problem]) -> Tuning {
    let timed = |config: KernelConfig, us| Timed {
        configuration: config.to_string(),
        interleave: None,
        cold_us: us,
        warm_us: us / 2.0,
    };
    let tuned = |problem: &Problem| Tuned {
        problem: *problem,
        date: "2026-11-29T13:00:00Z".into(),
        tried: 31,
        model: timed(choose(problem, 132).unwrap().config(), 8.0),
        ranking: vec![timed(unlikely(problem), 6.5)],
    };
    Tuning::of(machine, problems.iter().map(tuned).collect())
}

/// The same for one problem, won by this configuration with a pattern.
fn table_with_pattern(machine: Machine, problem: &Problem, config: KernelConfig, pattern: &str) -> Tuning {
    let mut tuned = table(machine.clone(), &[*problem]).tables()[0].problems[0].clone();
    let (configuration, interleave) = (config.to_string(), Some(pattern.to_owned()));
    tuned.ranking.insert(0, Timed { configuration, interleave, cold_us: 5.5, warm_us: 2.75 });
    Tuning::of(machine, vec![tuned])
}

/// Breaks if wrong arguments reach the GPU, or the message does not name the value and the rule.
#[test]
fn wrong_arguments_are_named_first() {
    let root = folder();
    fs::write(root.path().join("list"), "1 576 7168\n1 576\n").unwrap();
    let cases: [(&[&str], &[&str]); 11] = [
        (&[], &["which problems", "--model"]),
        (&["4096", "7168"], &["7168", "threes"]),
        (&["1x0x128"], &["1x0x128", "at least 1"]),
        (&["--model", "gpt-2"], &["gpt-2", "deepseek-v3"]),
        (&["--m", "1,2"], &["--model"]),
        (&["--model", "qwen3-235b", "--m", "0"], &["0x9216x4096", "at least 1"]),
        (&["--shapes", "list"], &["list", "line 2", "threes"]),
        (&["--shapes", "absent"], &["absent"]),
        (&["1", "576", "7168", "--time", "soon"], &["soon", "--time"]),
        (&["1", "576", "7168", "--repeat", "0"], &["repeat", "1 to"]),
        (&["1", "576", "7168", "--flush", "read", "--flush-bytes", "1"], &["flush-bytes", "256 MiB"]),
    ];
    for (arguments, words) in cases {
        run(root.path(), &[&["tune"], arguments].concat(), &[]).refused(2, words);
    }
}

/// Breaks if a machine without a GPU gets another exit code, or touches the table.
#[test]
fn no_gpu_is_exit_3() {
    let root = folder();
    for arguments in [&["tune", "1", "576", "7168"][..], &["tune", "--json", "--model", "deepseek-v3", "--m", "1"]] {
        run(root.path(), arguments, &[("CUDA_VISIBLE_DEVICES", "")]).refused(3, &[]);
    }
    assert!(!table_path(root.path()).exists());
}

/// Breaks if `explain` does not say who has chosen and why: a table that fits, none, one that is switched off,
/// of other kernels, without the problem, or damaged; or if a damaged one is more than a warning.
#[test]
fn explain_says_who_has_chosen() {
    let root = folder();
    let (tuned, other) = (dense(64, 2112, 7168), dense(64, 576, 7168));
    // No GPU: `explain` tells what the machine of the table would take.
    let explain = |variables: &[(&str, &str)]| {
        let arguments = ["kernels", "explain", "64", "2112", "7168", "--sms", "132", "--json"];
        let run = run(root.path(), &arguments, &[&NOTHING[..], variables].concat());
        let json = run.json(0);
        let choice = json["choices"][0].clone();
        (choice["source"].as_str().unwrap().to_owned(), choice, run.stderr)
    };
    let first = |choice: &Value| choice["candidates"][0]["configuration"].as_str().unwrap().to_owned();
    let model = choose(&tuned, 132).unwrap().config().to_string();
    let why = |choice: &Value| choice["why"].as_str().unwrap().to_owned();

    let (source, choice, stderr) = explain(&[]);
    assert_eq!((source.as_str(), first(&choice), stderr.as_str()), ("model", model.clone(), ""));
    assert!(why(&choice).contains("nothing is tuned"));

    let machine = Machine::new(&h200(), Some((13, 0)));
    let tables = table(machine.clone(), &[tuned]);
    tables.store(&table_path(root.path()), true).unwrap();
    let (source, choice, stderr) = explain(&[]);
    assert_eq!((source.as_str(), first(&choice), stderr.as_str()), ("tuned", unlikely(&tuned).to_string(), ""));
    assert_eq!(choice["tuned"]["ranking"][0]["cold_us"], 6.5);
    let text = run(root.path(), &["kernels", "explain", "64", "2112", "7168", "--sms", "132"], &NOTHING);
    assert!(text.stdout.contains("132 SMs of NVIDIA H200, which is not here"), "{}", text.stdout);
    assert!(text.stdout.contains("6.50 us cold, 3.25 us warm") && text.stdout.contains(&model), "{}", text.stdout);

    let (source, choice, _) = explain(&[("FP8GEMM_TUNING", "off")]);
    assert_eq!((source.as_str(), first(&choice)), ("model", model.clone()));
    assert!(why(&choice).contains("switched off"));

    table(machine.clone(), &[other]).store(&root.path().join("other.json"), true).unwrap();
    let (source, choice, _) = explain(&[("FP8GEMM_TUNING", "other.json")]);
    assert_eq!(source, "model");
    assert!(why(&choice).contains("no such problem"));

    let (source, _, stderr) = explain(&[("FP8GEMM_TUNING", "absent.json")]);
    assert_eq!(source, "model");
    assert!(stderr.contains("absent.json") && stderr.contains("not there"), "{stderr}");
    let listed = run(root.path(), &["cache", "list", "--json"], &[]).json(0);
    assert_eq!((&listed["tuned"], listed["entries"].as_array().unwrap().len()), (&Value::from(1), 0));

    let stale = Machine { kernels: "0".repeat(64), ..machine };
    table(stale, &[tuned]).store(&root.path().join("stale.json"), true).unwrap();
    let (source, choice, stderr) = explain(&[("FP8GEMM_TUNING", "stale.json")]);
    assert_eq!((source.as_str(), &choice["gpu"]), ("model", &"NVIDIA H200".into()));
    assert!(stderr.contains("WARN") && stderr.contains("other kernels"), "{stderr}");
    assert!(why(&choice).contains("other kernels"), "{choice}");

    let mut bytes = fs::read(table_path(root.path())).unwrap();
    let middle = bytes.len() / 2;
    bytes.truncate(middle);
    fs::write(table_path(root.path()), bytes).unwrap();
    let (source, choice, stderr) = explain(&[]);
    assert_eq!((source.as_str(), first(&choice)), ("model", model));
    assert!(stderr.contains("WARN") && stderr.contains("tuning table is ignored"), "{stderr}");
}

/// Breaks if `explain` refuses a table for another NVRTC than the one here where a plan takes it, since it was imported
/// with kernels of that version; or takes it without an import.
#[test]
#[ignore = "needs NVRTC"]
fn explain_takes_imported_tables_as_plans_do() {
    let root = folder();
    let cubin = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fp8gemm-jit/tests/data/scale.sm_90a.13.0.88.cubin");
    let (problem, there) = (dense(64, 2112, 7168), (12, 99));
    let (kernel, configuration) = ("made up".to_owned(), "a test".to_owned());
    let metadata = Metadata { kernel, configuration, nvrtc: there, compile_milliseconds: 12.5 };
    let other = Cache::at(root.path().join("other"));
    other.get_or_compile(&Key::new("any", &BASE_OPTIONS, there), || Ok((fs::read(cubin).unwrap(), metadata))).unwrap();
    let tables = table(Machine::new(&h200(), Some(there)), &[problem]);
    tables.store(&other.tuning_path().unwrap(), true).unwrap();
    other.export(&root.path().join("bundle.tar")).unwrap();
    tables.store(&table_path(root.path()), true).unwrap();
    let cache = || Cache::at(root.path().join("cache/cubin"));
    let both = || {
        let arguments = ["kernels", "explain", "64", "2112", "7168", "--sms", "132", "--json"];
        let explained = run(root.path(), &arguments, &[("CUDA_VISIBLE_DEVICES", "")]).json(0)["choices"][0].clone();
        let planned = Compiler::new(cache(), None).choose(&problem, &h200()).unwrap();
        assert_eq!(explained["candidates"][0]["configuration"], planned.config().to_string());
        (explained["source"].clone(), matches!(planned.source, Source::Tuned(_)))
    };
    assert_eq!(both(), ("model".into(), false));
    cache().import(&root.path().join("bundle.tar")).unwrap();
    assert_eq!(both(), ("tuned".into(), true));
}

/// Breaks if `explain` does not say which pattern a plan takes, tuned or usual, takes one that this version
/// does not know, or does not warn of that.
#[test]
fn explain_names_the_tuned_pattern() {
    let root = folder();
    let problem = dense(64, 2112, 7168);
    let arguments = ["kernels", "explain", "64", "2112", "7168", "--sms", "132"];
    let machine = Machine::new(&h200(), Some((13, 0)));
    let explain = |pattern: &str, flags: &[&str]| {
        let tables = table_with_pattern(machine.clone(), &problem, unlikely(&problem), pattern);
        tables.store(&table_path(root.path()), true).unwrap();
        run(root.path(), &[&arguments[..], flags].concat(), &NOTHING)
    };
    let known = explain("one-in-four", &[]);
    assert!(known.stdout.contains("5.50 us cold"), "{}", known.stdout);
    assert!(known.stdout.contains("FFMA:  pattern one-in-four, tuned"), "{}", known.stdout);
    let known = explain("one-in-four", &["--json"]);
    let pattern = &known.json(0)["choices"][0]["with_workspace"]["interleave"];
    assert_eq!((pattern, known.stderr.as_str()), (&"one-in-four".into(), ""));
    // The entry behind it, of the same configuration.
    let unknown = explain("every-third", &["--json"]);
    let choice = &unknown.json(0)["choices"][0];
    let pattern = &choice["with_workspace"]["interleave"];
    assert_eq!((pattern, &choice["source"]), (&"as-compiled".into(), &"tuned".into()));
    assert!(unknown.stderr.contains("WARN") && unknown.stderr.contains("every-third"), "{}", unknown.stderr);
    let unknown = explain("every-third", &[]).stdout;
    assert!(unknown.contains("6.50 us cold") && !unknown.contains("FFMA:"), "{unknown}");
    let untuned = run(root.path(), &["kernels", "explain", "4096", "7168", "2048", "--sms", "132"], &[]).stdout;
    assert!(untuned.contains("FFMA:  pattern reuse-one-in-four, usual for such tiles"), "{untuned}");
}

/// Breaks if a bundle of a list lacks a kernel that a plan of these problems takes (by the cost model or by
/// the table, with a workspace or without), or the table; or if a server that starts with it has to
/// compile, also where a plan has a tuned pattern: it has no NVRTC here.
#[test]
#[ignore = "needs NVRTC"]
fn a_server_with_the_bundle_compiles_nothing() {
    let root = folder();
    let [few, some] = [dense(1, 3072, 4096), dense(64, 3072, 4096)];
    // The last is not tuned, and takes the usual pattern.
    let problems = [few, some, dense(4096, 3072, 4096), dense(64, 2112, 7168), dense(4096, 7168, 2048)];
    let version = Nvrtc::find(None).unwrap().version();
    let machine = Machine::new(&h200(), Some(version));
    table(machine.clone(), &problems[1..2]).store(&table_path(root.path()), true).unwrap();
    // With a promotion that has runs of FFMA.
    let wide = |config: &KernelConfig| config.block_m >= 128 && config.block_n >= 128 && !config.needs_workspace();
    let interleaved = all_candidates(&problems[2], 132).unwrap().into_iter().rfind(wide).unwrap();
    let tables = table_with_pattern(machine, &problems[2], interleaved, "one-in-four");
    tables.store(&table_path(root.path()), true).unwrap();
    // Something else in the cache, which the bundle must not carry.
    run(root.path(), &["kernels", "compile", "512", "512", "512", "--output-type", "f32", "--sms", "132"], &[]).quiet();
    fs::write(root.path().join("list"), "1 3072 4096\n64x3072x4096\n4096 3072 4096\n4096x7168x2048\n").unwrap();
    let compile = |root: &Path| {
        let list = ["--shapes", "list", "64", "2112", "7168", "--sms", "132", "--json"];
        run(root, &[&["kernels", "compile", "--bundle", "bundle.tar", "--jobs", "2"], &list[..]].concat(), &[]).json(0)
    };
    let compiled = compile(root.path());
    let made = compiled["kernels"].as_array().unwrap().len();
    assert!(made >= 4 && compiled["failed"] == 0, "{compiled}");
    let bundle = &compiled["bundle"];
    assert_eq!((&bundle["problems"], &bundle["tuned"]), (&Value::from(5), &Value::from(2)));
    assert_eq!((&bundle["kernels"], &bundle["elementwise"]), (&Value::from(made), &Value::from(26)));

    let server = folder();
    fs::copy(root.path().join("bundle.tar"), server.path().join("bundle.tar")).unwrap();
    let imported = run(server.path(), &["cache", "import", "bundle.tar", "--json"], &[]).json(0);
    assert_eq!((&imported["added"], &imported["tuned"]), (&Value::from(made), &Value::from(2)));

    // What `Plan::with_options` does before it needs a GPU.
    let nowhere = Some(PathBuf::from("/no/such/nvrtc"));
    let compiler = Compiler::new(Cache::at(server.path().join("cache/cubin")), nowhere);
    let (mut taken, mut patterned) = (BTreeSet::new(), 0);
    for problem in &problems {
        for workspace in [true, false] {
            let selection = compiler.choose(problem, &h200()).unwrap();
            let configs = selection.choice.candidates.iter().map(|estimate| estimate.config);
            let config = configs.into_iter().find(|config| workspace || config.workspace_bytes(132) == 0).unwrap();
            let entry = Entry::Gemm(config);
            let (source, name) = (entry.source(), entry.to_string());
            let (unit, pattern) = (entry.unit(&source, &name), selection.interleave(&config));
            let made = compiler.make_interleaved(&unit, pattern);
            let made = made.unwrap_or_else(|error| panic!("{problem}: {error}"));
            if pattern != Interleave::AsCompiled {
                assert!(made.cubin != compiler.cubin(&unit).unwrap(), "{name}: the pattern is not there");
                patterned += 1;
            }
            taken.insert(name);
        }
    }
    let statistics = compiler.statistics();
    assert_eq!((statistics.compiled, statistics.cached), (0, 2 * problems.len() as u64 + patterned));
    // What brings operands into shape.
    for name in ["quantize_bf16_e4m3_1x128", "quantize_f32_e4m3_128x128_pow2_transposed", "repack_codes"] {
        let kernel = ElementwiseKernel::all().into_iter().find(|kernel| kernel.to_string() == name).unwrap();
        let (entry, source) = (Entry::Elementwise(kernel), kernel.source());
        compiler.make(&entry.unit(&source, name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    assert_eq!(compiler.statistics().compiled, 0);
    assert!(patterned == 4 && taken.contains(&interleaved.kernel_name()), "{patterned}, {taken:?}");
    assert!(taken.contains(&unlikely(&problems[1]).kernel_name()), "the table's kernel is not taken: {taken:?}");

    // A machine with NVRTC and the bundle: nothing is left to compile.
    fs::copy(root.path().join("list"), server.path().join("list")).unwrap();
    let again = compile(server.path());
    assert_eq!((&again["kernels"], &again["cached"]), (&Value::Array(Vec::new()), &Value::from(made)));
    assert_eq!(
        fs::read(root.path().join("bundle.tar")).unwrap(),
        fs::read(server.path().join("bundle.tar")).unwrap(),
        "equal contents are equal bytes"
    );
}

/// Fills a cache with machine code for each kernel that a plan for the problem may take, as if NVRTC
/// 13.0 had been here, and for all that quantise, transpose and repack.
fn fill(root: &Path, problem: &Problem) {
    let cubin = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fp8gemm-jit/tests/data/scale.sm_90a.13.0.88.cubin");
    let cubin = fs::read(cubin).unwrap();
    let cache = Cache::at(root.join("cache/cubin"));
    let gemms = all_candidates(problem, 132).unwrap().into_iter().map(Entry::Gemm);
    for entry in gemms.chain(ElementwiseKernel::all().into_iter().map(Entry::Elementwise)) {
        let (kernel, configuration) = ("made up".to_owned(), entry.to_string());
        let metadata = Metadata { kernel, configuration, nvrtc: (13, 0), compile_milliseconds: 12.5 };
        let key = Key::new(&entry.source(), &BASE_OPTIONS, (13, 0));
        cache.get_or_compile(&key, || Ok((cubin.clone(), metadata))).unwrap();
    }
}

/// Breaks if a machine without NVRTC cannot check that an import has all that its problems need, is not told what is
/// missing, or a bundle takes tables along that no plan will use: of other kernels, or of GPUs of another size.
#[test]
fn a_cache_is_checked_and_bundled_without_nvrtc() {
    let root = folder();
    let problem = dense(64, 2112, 7168);
    fill(root.path(), &problem);
    let machine = Machine::new(&h200(), Some((13, 0)));
    let small = Machine::new(&Device { sms: 114, ..h200() }, Some((13, 0)));
    let stale = Machine { kernels: "0".repeat(64), ..machine.clone() };
    for (machine, problems) in [(machine, &[problem][..]), (small, &[problem]), (stale, &[problem, dense(1, 2, 3)])] {
        table(machine, problems).store(&table_path(root.path()), true).unwrap();
    }
    let compile = |root: &Path, shape: &str, flags: &[&str]| {
        let arguments = [&["kernels", "compile", shape, "--sms", "132", "--bundle", "bundle.tar"], flags].concat();
        run(root, &arguments, &[("FP8GEMM_NVRTC", "/no/such/nvrtc")])
    };
    let text = "64x2112x7168 a=e4m3:1x128 b=e4m3:128x128 d=bf16";
    let made = compile(root.path(), text, &["--json"]);
    let json = made.json(0);
    assert_eq!((&json["nvrtc"], &json["kernels"]), (&Value::Null, &Value::Array(Vec::new())));
    let bundle = &json["bundle"];
    assert_eq!((&bundle["elementwise"], &bundle["tuned"]), (&Value::from(26), &Value::from(1)));
    assert!(bundle["kernels"] == json["cached"] && json["cached"].as_u64().unwrap() >= 28, "{json}");
    assert_eq!(made.stderr.lines().count(), 1, "{}", made.stderr);
    assert!(made.stderr.contains("2 tuned problems of other kernels"), "{}", made.stderr);

    let server = folder();
    fs::copy(root.path().join("bundle.tar"), server.path().join("bundle.tar")).unwrap();
    let imported = run(server.path(), &["cache", "import", "bundle.tar", "--json"], &[]).json(0);
    assert_eq!((&imported["added"], &imported["tuned"]), (&json["cached"], &Value::from(1)));
    let again = compile(server.path(), text, &[]);
    again.quiet();
    let cached = &json["cached"];
    assert!(again.stdout.starts_with("0 kernels compiled in ") && again.stdout.contains(&format!(", {cached} cached")));
    let bytes = [&root, &server].map(|folder| fs::read(folder.path().join("bundle.tar")).unwrap());
    assert!(bytes[0] == bytes[1], "equal contents are equal bytes");

    // Several problems as `tune` takes them, here one twice.
    let several =
        ["kernels", "compile", "64", "2112", "7168", text, "--sms", "132", "--bundle", "several.tar", "--json"];
    let several = run(server.path(), &several, &[("FP8GEMM_NVRTC", "/no/such/nvrtc")]).json(0);
    assert_eq!(several["bundle"]["problems"], 1);
    assert!(bytes[0] == fs::read(server.path().join("several.tar")).unwrap());

    let missing = compile(server.path(), "8x576x7168 a=e4m3:1x128 b=e4m3:128x128 d=bf16", &[]);
    assert_eq!((missing.code, missing.stdout.as_str()), (3, ""), "{}", missing.stderr);
    assert!(missing.stderr.contains("the cache lacks ") && missing.stderr.contains("NVRTC"), "{}", missing.stderr);
    assert_eq!(bytes[1], fs::read(server.path().join("bundle.tar")).unwrap(), "half a bundle");
}

/// Breaks if a table that cannot be read or written is found out after minutes of measuring: here a GPU is not even looked
/// for, which would be exit code 3.
#[test]
fn a_table_is_tried_before_a_gpu() {
    let root = folder();
    fs::create_dir(root.path().join("tables")).unwrap();
    fs::write(root.path().join("file"), "").unwrap();
    for table in ["tables", "file/tuning.json", "t/", "new/t/"] {
        run(root.path(), &["tune", "1x576x7168", "--table", table], &NOTHING).refused(2, &[table]);
    }
    assert_eq!(common::names(root.path()), ["file", "tables"], "a refused table leaves a folder or a lock");
    let good = run(root.path(), &["tune", "1x576x7168", "--table", "tables/mine.json"], &NOTHING);
    assert_eq!(good.code, 3, "{}", good.stderr);
    assert!(!root.path().join("tables/mine.json").exists());
}

/// Breaks if `cache` lists, exports or imports another tuning table than plans and `tune` use, or lists or exports one
/// where tables are switched off.
#[test]
fn bundles_carry_the_table_that_is_used() {
    let root = folder();
    let cache = |arguments: &[&str], table: &str| {
        let arguments = [&["cache", "--json"], arguments].concat();
        run(root.path(), &arguments, &[("FP8GEMM_TUNING", table)]).json(0)
    };
    let machine = Machine::new(&h200(), Some((13, 0)));
    table(machine.clone(), &[dense(1, 576, 7168), dense(2, 576, 7168)]).store(&table_path(root.path()), true).unwrap();
    table(machine, &[dense(64, 2112, 7168)]).store(&root.path().join("mine.json"), true).unwrap();
    let tuned = |variable: &str| cache(&["list"], variable)["tuned"].clone();
    assert_eq!([tuned(""), tuned("mine.json"), tuned("off")], [2, 1, 0]);
    for (variable, tuned) in [("mine.json", 1), ("", 2), ("off", 0)] {
        cache(&["export", "bundle.tar"], variable);
        let imported = cache(&["import", "bundle.tar"], "theirs.json");
        assert_eq!(imported["tuned"], tuned, "{variable}");
    }
    assert_eq!(Tuning::read(&root.path().join("theirs.json")).unwrap().unwrap().len(), 3);
    assert_eq!(Tuning::read(&table_path(root.path())).unwrap().unwrap().len(), 2);
}

/// Breaks if tuning stores a configuration that is slower than the cost model's, tunes twice what is there,
/// does not stop in time, or a plan and `explain` do not take what was tuned.
#[test]
#[ignore = "needs Hopper"]
fn tuned_kernels_are_taken() {
    let root = folder();
    let shapes = ["64", "2112", "7168", "1x576x7168", "512x4096x7168 a=e4m3:1x128 b=e4m3:1x128 d=f32 c=f32 beta=1"];
    let tune = |flags: &[&str]| {
        let run = run(root.path(), &[&["tune", "--json"], &shapes[..], flags].concat(), &[]);
        run.json(0)
    };
    let report = tune(&[]);
    let tuned = report["tuned"].as_array().unwrap();
    assert_eq!((tuned.len(), report["wrong_bits"].as_array().unwrap().len()), (3, 0), "{report}");
    for row in tuned {
        let us = |pointer: &str| row.pointer(pointer).and_then(Value::as_f64).unwrap();
        assert!(us("/ranking/0/cold_us") <= us("/model/cold_us") * 1.0001, "{row}");
        assert!(us("/ranking/0/warm_us") > 0.5 && us("/ranking/0/cold_us") < 1000.0, "{row}");
        assert!(row["tried"].as_u64().unwrap() > 5);
    }
    let again = tune(&[]);
    assert_eq!((again["tuned"].as_array().unwrap().len(), again["skipped"].as_array().unwrap().len()), (0, 3));
    let late = tune(&["--again", "--time", "1ms"]);
    assert_eq!((&late["timed_out"], &late["left"]), (&Value::Bool(true), &Value::from(3)));

    let winner = tuned[0]["ranking"][0]["configuration"].as_str().unwrap();
    let pattern = tuned[0]["ranking"][0]["interleave"].as_str().unwrap_or("as-compiled");
    let explained = run(root.path(), &["kernels", "explain", "64", "2112", "7168", "--json"], &[]).json(0);
    assert_eq!(explained["choices"][0]["source"], "tuned");
    assert_eq!(explained["choices"][0]["candidates"][0]["configuration"], winner);
    assert_eq!(explained["choices"][0]["with_workspace"]["interleave"], pattern);
    let bench = run(root.path(), &["bench", "64", "2112", "7168", "--no-rivals", "--json"], &[]).json(0);
    let suffix = pattern.parse::<Interleave>().unwrap().suffix();
    assert_eq!(bench["rows"][0]["entries"][0]["detail"], format!("{winner}{suffix}"));
}

/// Breaks if Ctrl-C loses what is tuned, gives another exit code than 130, or the next run begins again.
#[test]
#[ignore = "needs Hopper"]
fn an_interrupted_tune_goes_on() {
    let root = folder();
    let arguments = ["tune", "--json", "1x576x7168", "64x2112x7168", "4096x7168x2048", "128x4096x7168"];
    let child = Command::new(binary())
        .args(arguments)
        .current_dir(root.path())
        .env("FP8GEMM_CACHE_DIR", root.path().join("cache"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let begin = Instant::now();
    let rows = || Tuning::read(&table_path(root.path())).unwrap().map_or(0, |tables| tables.len());
    // The assertion comes after the signal: nothing is left running on the GPU.
    while rows() == 0 && begin.elapsed() < Duration::from_secs(300) {
        std::thread::sleep(Duration::from_millis(5));
    }
    common::interrupt(&child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let tuned = report["tuned"].as_array().unwrap().len();
    assert!(tuned >= 1 && report["interrupted"] == true && report["left"] == 4 - tuned, "{report}");
    assert_eq!(rows(), tuned);
    let again = run(root.path(), &arguments, &[]).json(0);
    assert_eq!(
        (&again["skipped"].as_array().unwrap().len(), &again["tuned"].as_array().unwrap().len()),
        (&tuned, &(4 - tuned))
    );
    assert_eq!(rows(), 4);
}
