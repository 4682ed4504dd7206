//! What a name to write stands for: links, pipes, folders; and what is said of tables that were written or ignored.

#![cfg(unix)]
#![allow(clippy::unwrap_used)] // a test may

mod common;

use std::fs;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use common::{Run, binary, f32s, folder, names, save, with_variables};
use fp8gemm::jit::choose;
use fp8gemm::jit::tuning::{Device, Machine, Timed, Tuned, Tuning};

/// Runs the command with its cache in this folder and no GPU, with the table that this says.
fn run(root: &Path, table: &str, arguments: &[&str]) -> Run {
    let cache = root.join("cache");
    let variables = [
        ("FP8GEMM_CACHE_DIR", cache.to_str().unwrap()),
        ("FP8GEMM_TUNING", table),
        ("FP8GEMM_NVRTC", "no-nvrtc"),
        ("CUDA_VISIBLE_DEVICES", ""),
    ];
    with_variables(root, arguments, &variables)
}

/// A table with one problem.
fn table() -> Tuning {
    let problem = "64x2112x7168 a=e4m3:1x128 b=e4m3:128x128 d=bf16".parse().unwrap();
    let configuration = choose(&problem, 132).unwrap().config().to_string();
    let timed = Timed { configuration, interleave: None, cold_us: 6.5, warm_us: 3.25 };
    let device = Device { name: "NVIDIA H200".into(), sms: 132, driver: 13_000, driver_version: None };
    let (date, model, ranking) = ("2026-11-29T13:00:00Z".to_owned(), timed.clone(), vec![timed]);
    Tuning::of(Machine::new(&device, Some((13, 0))), vec![Tuned { problem, date, tried: 31, model, ranking }])
}

/// Breaks if a command replaces a pipe (or a device, which as root it could), waits for its other end, or does not name
/// it and the rule; or if it leaves a file behind.
#[test]
fn pipes_are_refused_by_name() {
    let root = folder();
    let pipe = root.path().join("pipe.tar");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    symlink("pipe.tar", root.path().join("link.safetensors")).unwrap();
    save(&root.path().join("in.safetensors"), &[f32s("a", &[1, 128], &[1.5; 128])], &[]);
    let before = names(root.path());
    let replaced = ["a pipe, socket or device", "only a regular file is replaced"];
    let problem = ["1", "576", "7168"];
    for arguments in [
        &["cache", "export", "pipe.tar"][..],
        &[&["kernels", "compile", "--bundle", "pipe.tar"], &problem[..]].concat(),
        &["quantize", "in.safetensors", "--recipe", "deepgemm", "-o", "link.safetensors"],
    ] {
        let name = arguments.iter().find(|name| name.starts_with("pipe") || name.starts_with("link")).unwrap();
        run(root.path(), "", arguments).refused(2, &[&[*name][..], &replaced].concat());
    }
    let tune = run(root.path(), "", &[&["tune", "--table", "pipe.tar"], &problem[..]].concat());
    tune.refused(2, &["pipe.tar", "a tuning table is a regular file"]);
    run(root.path(), "", &["cache", "import", "pipe.tar"]).refused(2, &["pipe.tar", "a bundle must be a regular file"]);
    assert_eq!(names(root.path()), before);
    assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());

    // A sound bundle, as `cat bundle.tar | fp8gemm cache import /dev/stdin` has it.
    let mut import = Command::new(binary())
        .args(["cache", "import", "/dev/stdin"])
        .env("FP8GEMM_CACHE_DIR", root.path().join("cache"))
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(import.stdin.take());
    let stderr = String::from_utf8(import.wait_with_output().unwrap().stderr).unwrap();
    assert!(stderr.contains("/dev/stdin") && stderr.contains("a bundle must be a regular file"), "{stderr}");
}

/// Breaks if a bundle or the table that the environment names replaces a link, or `cache export` does not say that it has
/// written a table, or that the one that is named is not there.
#[test]
fn links_stay_links() {
    let root = folder();
    fs::create_dir(root.path().join("elsewhere")).unwrap();
    table().store(&root.path().join("mine.json"), true).unwrap();
    fs::write(root.path().join("elsewhere/b.tar"), "old").unwrap();
    for (link, target) in [("bundle.tar", "elsewhere/b.tar"), ("theirs.json", "elsewhere/t.json")] {
        symlink(target, root.path().join(link)).unwrap();
    }
    let exported = run(root.path(), "mine.json", &["cache", "export", "bundle.tar"]);
    assert_eq!(exported.stdout, "wrote 0 kernels and a table of 1 tuned problem (mine.json) to bundle.tar\n");
    let json = run(root.path(), "mine.json", &["cache", "export", "bundle.tar", "--json"]).json(0);
    assert_eq!((&json["entries"], &json["tuned"]), (&0.into(), &1.into()));
    let json = run(root.path(), "theirs.json", &["cache", "import", "elsewhere/b.tar", "--json"]).json(0);
    assert_eq!(json["tuned"], 1);
    assert_eq!(Tuning::read(&root.path().join("elsewhere/t.json")).unwrap(), Some(table()));
    assert!(["bundle.tar", "theirs.json"].iter().all(|name| root.path().join(name).is_symlink()));
    let off = run(root.path(), "off", &["cache", "export", "b.tar"]);
    assert_eq!((off.stdout.as_str(), off.stderr.as_str()), ("wrote 0 kernels to b.tar\n", ""));
    let absent = run(root.path(), "absent.json", &["cache", "export", "b.tar"]);
    assert_eq!((absent.code, absent.stdout.as_str()), (0, "wrote 0 kernels to b.tar\n"));
    let words = ["absent.json", "FP8GEMM_TUNING", "is not there"];
    assert!(words.iter().all(|word| absent.stderr.contains(word)), "{}", absent.stderr);
}

/// Breaks if `kernels explain` says that nothing is tuned where the truth is that a table was ignored: one that is cut,
/// one that is not there, a pipe.
#[test]
fn explain_says_that_a_table_is_ignored() {
    let root = folder();
    let json = table().to_json();
    fs::write(root.path().join("cut.json"), &json[..json.len() / 2]).unwrap();
    assert!(Command::new("mkfifo").arg(root.path().join("pipe.json")).status().unwrap().success());
    let arguments = ["kernels", "explain", "64", "2112", "7168", "--sms", "132"];
    for (table, word) in
        [("cut.json", "is ignored: not a tuning table"), ("absent.json", "is not there"), ("pipe.json", "a pipe")]
    {
        let text = run(root.path(), table, &arguments).stdout;
        assert!(text.contains("no tuning table is used: ") && text.contains(table) && text.contains(word), "{text}");
        let why = run(root.path(), table, &[&arguments[..], &["--json"]].concat()).json(0)["choices"][0]["why"].clone();
        assert!(why.as_str().unwrap().contains(word), "{why}");
    }
}
