//! What is said of drivers and GPUs that cannot be used, and of several GPUs: against a libcuda that this test
//! compiles, with `cc`.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)] // a test may

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::{Run, folder, vectors, with_variables};
use fp8gemm::jit::choose;
use fp8gemm::jit::tuning::{Device, Machine, Timed, Tuned, Tuning};
use fp8gemm::problem::Problem;

/// All of the driver that is called before a context is made. Macros say what it answers.
const LIBCUDA: &str = r#"
int cuInit(unsigned flags) { return INIT; }
int cuDriverGetVersion(int *version) { *version = VERSION; return 0; }
int cuDeviceGetCount(int *count) { *count = COUNT; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }
int cuDeviceTotalMem_v2(unsigned long *bytes, int device) { *bytes = 1ul << 36; return 0; }
int cuDeviceGetName(char *name, int length, int device) {
    const char *names[] = {NAMES};
    const char *from = names[device];
    while (--length > 0 && *from) *name++ = *from++;
    *name = 0;
    return 0;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    /* Compute capability, major and minor; number of SMs. */
    *value = attribute == 75 ? MAJOR : attribute == 76 ? 0 : attribute == 16 ? 132 : -1;
    return 0;
}
int cuGetErrorName(int code, const char **name) {
    *name = code == 803 ? "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH" : code == 999 ? "CUDA_ERROR_UNKNOWN" : "another";
    return 0;
}
int cuLaunchKernelEx(void) { return 999; }
#ifndef WITHOUT_TENSOR_MAPS
int cuTensorMapEncodeTiled(void) { return 999; }
#endif
"#;

/// A working driver with two Hopper GPUs of one size.
const USUAL: [(&str, &str); 5] = [
    ("INIT", "0"),
    ("VERSION", "13000"),
    ("COUNT", "2"),
    ("MAJOR", "9"),
    ("NAMES", r#""NVIDIA H100 80GB HBM3", "NVIDIA H200""#),
];

/// Compiles the library into this folder, [`USUAL`] but for these macros.
fn libcuda(folder: &Path, others: &[(&str, &str)]) {
    fs::write(folder.join("libcuda.c"), LIBCUDA).unwrap();
    let mut cc = Command::new("cc");
    cc.current_dir(folder).args([
        "-w",
        "-shared",
        "-fPIC",
        "-Wl,-soname,libcuda.so.1",
        "-o",
        "libcuda.so.1",
        "libcuda.c",
    ]);
    let usual = USUAL.iter().filter(|(name, _)| others.iter().all(|(other, _)| other != name));
    cc.args(usual.chain(others).map(|(name, value)| format!("-D{name}={value}")));
    let status = cc.status().expect("this test needs a C compiler, cc");
    assert!(status.success(), "{others:?}");
    // The name that cudarc tries first.
    fs::copy(folder.join("libcuda.so.1"), folder.join("libcuda.so")).unwrap();
}

/// Runs the command in `work` with the driver of this folder, its cache there, and no NVRTC.
fn run(driver: &Path, work: &Path, arguments: &[&str]) -> Run {
    let path = driver.to_str().unwrap();
    let nowhere = driver.join("no-nvrtc");
    let variables =
        [("LD_LIBRARY_PATH", path), ("FP8GEMM_CACHE_DIR", path), ("FP8GEMM_NVRTC", nowhere.to_str().unwrap())];
    with_variables(work, arguments, &variables)
}

/// What a driver answers, and the words that must be said of it.
type Case = (&'static [(&'static str, &'static str)], &'static [&'static str]);

const CASES: [Case; 7] = [
    (&[("VERSION", "11080"), ("WITHOUT_TENSOR_MAPS", "1")], &["CUDA 11.8", "at least 12.0"]),
    (&[("VERSION", "11080")], &["CUDA 11.8", "at least 12.0"]),
    (&[("INIT", "100")], &["sees no GPU"]),
    (&[("COUNT", "0")], &["sees no GPU"]),
    (&[("COUNT", "1"), ("MAJOR", "8"), ("NAMES", "\"NVIDIA A100-SXM4-80GB\"")], &["A100-SXM4-80GB", "8.0", "9.0"]),
    (
        &[("INIT", "803")],
        &["cuInit failed with code 803: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "restart", "NVIDIA Container Toolkit"],
    ),
    (&[("INIT", "999")], &["cuInit failed with code 999: CUDA_ERROR_UNKNOWN"]),
];

/// Breaks if a driver or GPU that cannot be used is a panic, or another exit code, or is passed over without a
/// reason; or if the reason does not say what is wrong.
#[test]
fn what_cannot_be_used_is_said_and_passed_over() {
    for (answers, words) in CASES {
        let driver = folder();
        libcuda(driver.path(), answers);
        let run = |arguments: &[&str]| run(driver.path(), &vectors(), arguments);
        let json = run(&["doctor", "--json"]).json(0);
        let reason = json["gpu"]["reason"].as_str().unwrap_or_default();
        assert!(words.iter().all(|word| reason.contains(word)) && !reason.contains('\n'), "{answers:?}: {reason}");
        assert_eq!((&json["auto"]["engine"], &json["auto"]["reason"]), (&"twin".into(), &reason.into()));
        let file = "deepgemm_1d2d_n0.safetensors";
        run(&["verify", file, "--engine", "hopper"]).refused(3, &[&["engine hopper: "], words].concat());
        let auto = run(&["verify", file, "--engine", "auto", "--json"]);
        assert_eq!(auto.json(0)["engine"], "twin");
        assert!(auto.stderr.starts_with("note: engine auto takes the CPU twin: "), "{}", auto.stderr);
        assert!(auto.stderr.lines().count() == 1 && auto.stderr.contains(reason), "{}", auto.stderr);
        let problem = ["kernels", "explain", "1", "576", "7168"];
        run(&[&problem[..], &["--device", "0"]].concat()).refused(3, words);
        assert!(run(&[&problem[..], &["--json"]].concat()).json(0)["choices"][0]["gpu"].is_null());
    }
}

/// Breaks if `explain` speaks of another GPU than the one that is asked for, or does not name it.
#[test]
fn explain_is_about_the_device() {
    let driver = folder();
    libcuda(driver.path(), &[]);
    let problem: Problem = "64x2112x7168 a=e4m3:1x128 b=e4m3:128x128 d=bf16".parse().unwrap();
    let last = choose(&problem, 132).unwrap().candidates.last().unwrap().config.to_string();
    let timed = Timed { configuration: last.clone(), interleave: None, cold_us: 6.5, warm_us: 3.25 };
    let machine = Machine::new(
        &Device { name: "NVIDIA H200".into(), sms: 132, driver: 13_000, driver_version: None },
        Some((13, 0)),
    );
    let date = "2026-11-29T13:00:00Z".to_owned();
    let tuned = Tuned { problem, date, tried: 31, model: timed.clone(), ranking: vec![timed] };
    Tuning::of(machine, vec![tuned]).store(&driver.path().join("cubin/tuning.json"), true).unwrap();

    let explain = |flags: &[&str]| {
        let arguments = [&["kernels", "explain", "64", "2112", "7168"], flags].concat();
        run(driver.path(), driver.path(), &arguments)
    };
    for (flags, device, source) in [
        (&["--json"][..], 0, "model"),
        (&["--json", "--device", "0"], 0, "model"),
        (&["--json", "--device", "1"], 1, "tuned"),
    ] {
        let explained = explain(flags);
        let choice = &explained.json(0)["choices"][0];
        let gpu = ["NVIDIA H100 80GB HBM3", "NVIDIA H200"][device];
        assert_eq!((&choice["gpu"], &choice["device"]), (&gpu.into(), &device.into()), "{choice:#}");
        assert_eq!((&choice["source"], &choice["sms"]), (&source.into(), &132.into()), "{choice:#}");
        assert_eq!(choice["candidates"][0]["configuration"] == last.as_str(), source == "tuned");
        let why = choice["why"].as_str().unwrap_or_default();
        assert_eq!(why.contains("for \"NVIDIA H200\", here is \"NVIDIA H100"), source == "model", "{why}");
        assert_eq!(explained.stderr.contains("WARN"), source == "model", "{}", explained.stderr);
    }
    let text = explain(&["--device", "1"]).stdout;
    assert!(text.contains("132 SMs of GPU 1, NVIDIA H200; the first is taken, with a workspace and without"), "{text}");
    explain(&["--device", "2"]).refused(3, &["device 2", "0 and 1"]);
    assert_eq!(explain(&["--device", "1", "--sms", "132"]).code, 2);
    // Of another size than those here.
    let other = explain(&["--sms", "114", "--json"]).json(0);
    assert!(other["choices"][0]["gpu"].is_null() && other["choices"][0]["device"].is_null(), "{other:#}");
}
