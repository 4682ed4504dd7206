//! The compiler itself. Run with `FP8GEMM_NVRTC` set, or NVRTC where it is usually found:
//! `cargo test -p fp8gemm-jit --test nvrtc -- --include-ignored`.

#![allow(clippy::unwrap_used)] // In helpers too a failed unwrap is a failed test.

use std::path::Path;

use fp8gemm_jit::{
    Architecture, Attempt, BASE_OPTIONS, Cache, Compiler, Cubin, Defect, JitError, Nvrtc, Place, Report, Unit,
    compile_checked,
};

/// Four steps of `wgmma`; `misuse` reads an accumulator before the wait.
fn wgmma(misuse: bool) -> String {
    let early = if misuse { "d[0] += 1.0f; out[i] = d[1];" } else { "" };
    let ptx = fp8gemm_kernels::PTX;
    format!(
        r#"{ptx}
extern "C" __global__ void __launch_bounds__(128) tile(float* out, u64 a, u64 b, int n) {{
    float d[4] = {{}};
    for (int i = 0; i < n; i++) {{
        wgmma_fence();
        asm volatile(
            "{{ .reg .pred p; setp.ne.b32 p, %6, 0;"
            "wgmma.mma_async.sync.aligned.m64n8k32.f32.e4m3.e4m3 {{%0, %1, %2, %3}}, %4, %5, p, 1, 1; }}"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "l"(a + i), "l"(b + i), "r"(i));
        wgmma_commit();
        {early}
        wgmma_wait();
    }}
    for (int i = 0; i < 4; i++) out[threadIdx.x * 4 + i] = d[i];
}}
"#
    )
}

fn unit(source: &str) -> Unit<'_> {
    Unit { source, kernel: "tile", configuration: "a test", options: &BASE_OPTIONS }
}

fn nvrtc() -> Nvrtc {
    Nvrtc::find(None).unwrap_or_else(|error| panic!("{error}"))
}

/// Breaks if the project's PTX wrappers do not compile, if log and CUBIN are not what the readers
/// expect of this NVRTC, or if equal sources give different bytes.
#[test]
#[ignore = "needs NVRTC"]
fn wgmma_compiles_to_hopper_code() {
    let nvrtc = nvrtc();
    let source = wgmma(false);
    let checked = compile_checked(&nvrtc, &unit(&source)).unwrap();
    println!("{nvrtc}: {:?}, {} bytes", checked.compiled.elapsed, checked.compiled.cubin.len());
    assert_eq!(checked.cubin.architecture, Architecture::SM_90A);
    let [kernel] = &checked.cubin.kernels[..] else { panic!("one kernel, found {:?}", checked.cubin.kernels) };
    let [reported] = &checked.report.kernels[..] else { panic!("one kernel, found {:?}", checked.report.kernels) };
    assert_eq!((kernel.name.as_str(), reported.name.as_str()), ("tile", "tile"));
    // Two witnesses of the same figures: the log and the machine code.
    assert_eq!(kernel.registers, Some(reported.registers));
    assert_eq!(kernel.stack_bytes, Some(0));
    assert_eq!(kernel.parameter_bytes, Some(28));
    assert_eq!(reported.architecture, "sm_90a");
    assert!(reported.compile_time.is_some());

    let again = nvrtc.compile(&source, "tile", &BASE_OPTIONS).unwrap();
    println!("again: {:?}", again.elapsed);
    assert!(again.cubin == checked.compiled.cubin, "equal sources, different bytes");
}

/// Breaks if ptxas serialises `wgmma` and nobody notices.
#[test]
#[ignore = "needs NVRTC"]
fn serialised_wgmma_is_rejected() {
    match compile_checked(&nvrtc(), &unit(&wgmma(true))) {
        Err(JitError::Rejected { kernel, defects }) => {
            assert_eq!(kernel, "tile");
            let serialised = |defect: &Defect| matches!(defect, Defect::Serialised(remark) if remark.code == 7511);
            assert!(defects.iter().any(serialised), "{defects:?}");
        }
        other => panic!("{other:?}"),
    }
}

/// Breaks if a failure loses the compiler's words, or comes as another error.
#[test]
#[ignore = "needs NVRTC"]
fn failures_carry_the_log() {
    let nvrtc = nvrtc();
    let log = |source: &str, options: &[&str]| match nvrtc.compile(source, "made_up.cu", options) {
        Err(JitError::Compile { name, code, log }) => {
            assert_eq!(name, "made_up.cu");
            assert!(code.starts_with("NVRTC_ERROR"), "{code}");
            log
        }
        other => panic!("{other:?}"),
    };
    let undefined = log("extern \"C\" __global__ void k() {\n int x = y; }", &BASE_OPTIONS);
    assert!(undefined.contains("made_up.cu(2): error: identifier \"y\" is undefined"), "{undefined}");
    let ptx = log("extern \"C\" __global__ void k() { asm volatile(\"wgmma.bogus;\"); }", &BASE_OPTIONS);
    assert!(ptx.contains("ptxas"), "{ptx}");
    let option = log("", &["--nonsense"]);
    assert!(option.contains("--nonsense"), "{option}");
    let sm_90 = log(&wgmma(false), &["--gpu-architecture=sm_90", "--std=c++20", "-default-device"]);
    assert!(sm_90.contains("sm_90"), "{sm_90}");
}

/// Breaks if options that give no machine code, or text that is no C string, are not told apart.
#[test]
#[ignore = "needs NVRTC"]
fn wrong_arguments() {
    let nvrtc = nvrtc();
    let kernel = "extern \"C\" __global__ void k() {}";
    match nvrtc.compile(kernel, "k", &["--gpu-architecture=compute_90a"]) {
        Err(JitError::NoCubin { options, .. }) => assert_eq!(options, "--gpu-architecture=compute_90a"),
        other => panic!("{other:?}"),
    }
    for (source, name, options, expected) in
        [("a\0", "k", "-o", ("source", 1)), ("", "ab\0c", "-o", ("name", 2)), ("", "k", "\0", ("option", 0))]
    {
        match nvrtc.compile(source, name, &[options]) {
            Err(JitError::NulByte { argument, at }) => assert_eq!((argument, at), expected),
            other => panic!("{other:?}"),
        }
    }
    let no_log = nvrtc.compile(kernel, "k", &BASE_OPTIONS[..3]).unwrap();
    assert!(matches!(Report::parse(&no_log.log), Err(JitError::Report { .. })), "{}", no_log.log);
}

/// Breaks if threads that compile at once disturb each other.
#[test]
#[ignore = "needs NVRTC"]
fn threads_share_one_compiler() {
    let nvrtc = nvrtc();
    std::thread::scope(|scope| {
        for value in 0..6_u32 {
            let nvrtc = &nvrtc;
            scope.spawn(move || {
                let name = format!("store_{value}");
                let source = format!("extern \"C\" __global__ void {name}(unsigned* p) {{ *p = {value}; }}");
                for _ in 0..3 {
                    let compiled = nvrtc.compile(&source, &name, &BASE_OPTIONS).unwrap();
                    assert_eq!(Cubin::parse(&compiled.cubin).unwrap().kernels[0].name, name);
                    assert_eq!(Report::parse(&compiled.log).unwrap().kernels[0].name, name);
                }
            });
        }
    });
}

/// Breaks if the library that was found is not usable by its path, by its folder, or by a link to
/// it from elsewhere (the builtins lie beside the target, not beside the link).
#[test]
#[ignore = "needs NVRTC"]
fn every_way_to_name_it() {
    let found = nvrtc();
    let path = found.path();
    assert!(path.is_absolute(), "{found:?} should name its file");
    let elsewhere = tempfile::tempdir().unwrap();
    let link = elsewhere.path().join("libnvrtc.so");
    #[cfg(unix)]
    std::os::unix::fs::symlink(path, &link).unwrap();
    for wish in [path, path.parent().unwrap(), elsewhere.path(), &link] {
        let nvrtc = Nvrtc::find(Some(wish)).unwrap();
        assert_eq!(nvrtc.place(), Place::Argument);
        assert_eq!(nvrtc.version(), found.version());
        assert_eq!(nvrtc.path(), path.canonicalize().unwrap());
        assert!(nvrtc.attempts().0.is_empty());
        nvrtc.compile("extern \"C\" __global__ void k() {}", "k", &BASE_OPTIONS).unwrap();
    }
}

/// Breaks if a wrong wish panics, falls back to another compiler, or does not say why.
#[test]
fn wrong_wishes_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("libnvrtc.so");
    std::fs::write(&text, "not a library").unwrap();
    let empty = tempfile::tempdir().unwrap();
    let attempts = |wish: &Path| match Nvrtc::find(Some(wish)) {
        Err(JitError::NvrtcNotFound { attempts }) => attempts.0,
        other => panic!("{other:?}"),
    };
    for wish in [&text, folder.path()] {
        let [Attempt { place, reason, .. }] = &attempts(wish)[..] else { panic!("one attempt") };
        assert_eq!(*place, Place::Argument);
        assert!(!reason.is_empty());
    }
    assert_eq!(attempts(empty.path())[0].reason, "has no NVRTC library");
    assert_eq!(attempts(&empty.path().join("typo"))[0].reason, "does not exist");
}

/// Breaks if another library is taken for NVRTC, or its refusal does not name what is missing.
#[test]
#[cfg(target_os = "linux")]
fn another_library_is_refused() {
    // Any shared library that this process already uses will do.
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let libc = maps.lines().filter_map(|line| line.split_whitespace().nth(5)).find(|path| path.contains("/libc."));
    let libc = Path::new(libc.expect("the C library is mapped"));
    let error = Nvrtc::find(Some(libc)).unwrap_err().to_string();
    assert!(error.contains("is not NVRTC") && error.contains("nvrtcVersion"), "{error}");
}

/// Breaks if a kernel is compiled twice, is not on disk afterwards, or cannot be used on a machine
/// without NVRTC that imported a bundle.
#[test]
#[ignore = "needs NVRTC"]
fn from_source_to_bundle_and_back() {
    let here = tempfile::tempdir().unwrap();
    let source = wgmma(false);
    let unit = unit(&source);
    let compiler = Compiler::new(Cache::at(here.path()), None);
    let cubin = compiler.cubin(&unit).unwrap();
    assert_eq!(compiler.cubin(&unit).unwrap(), cubin);
    let listed = compiler.cache().list().unwrap();
    let [entry] = &listed[..] else { panic!("one entry, found {listed:?}") };
    let metadata = entry.metadata.as_ref().unwrap();
    assert_eq!((metadata.kernel.as_str(), metadata.configuration.as_str()), ("tile", "a test"));
    assert_eq!(metadata.nvrtc, compiler.nvrtc().unwrap().version());
    let bundle = here.path().join("kernels.tar");
    assert_eq!(compiler.cache().export(&bundle).unwrap().entries, 1);

    let there = tempfile::tempdir().unwrap();
    let nowhere = there.path().join("no-nvrtc");
    let without = Compiler::new(Cache::at(there.path().join("cubin")), Some(nowhere));
    assert!(matches!(without.cubin(&unit), Err(JitError::NvrtcNotFound { .. })));
    without.cache().import(&bundle).unwrap();
    assert_eq!(without.cubin(&unit).unwrap(), cubin);
    let other = Unit { options: &BASE_OPTIONS[..3], ..unit };
    assert!(matches!(without.cubin(&other), Err(JitError::NvrtcNotFound { .. })));
}
