//! Kernels behind the C interface: the worked example is right, the wrong one is found.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;

use fp8gemm_difftest::{DifftestError, External, Fault, Generator, Menu, Only, Options, Subject, Summary, run};
use fp8gemm_problem::Policy;
use fp8gemm_sim::Path as Engine;
use tempfile::TempDir;

/// Compiles C into a shared library; `None` where there is no C compiler.
fn compile(folder: &TempDir, name: &str, source: &Path) -> Option<PathBuf> {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let library = folder.path().join(format!("lib{name}.so"));
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let output = Command::new(compiler)
        .args(["-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", "-I"])
        .arg(crate_folder.join("include"))
        .arg(source)
        .arg("-o")
        .arg(&library)
        .arg("-lm")
        .output();
    let Ok(output) = output else {
        println!("no C compiler here: not tested");
        return None;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(library)
}

fn example(folder: &TempDir, name: &str) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/external").join(name).with_extension("c");
    compile(folder, name, &source)
}

fn text(folder: &TempDir, name: &str, source: &str) -> Option<PathBuf> {
    let path = folder.path().join(format!("{name}.c"));
    std::fs::write(&path, source).unwrap();
    compile(folder, name, &path)
}

fn tested(library: &Path, cases: u64, only: &[&str]) -> Summary {
    let menu = Menu { policies: vec![Policy::PROMOTE_128, Policy::Chain, Policy::Cutlass128], ..Menu::twin() };
    let generator = Generator::new(0, menu, Only::parse(only.iter().copied()).unwrap());
    let mut options = Options::cases(cases);
    options.oracle = Engine::best();
    let mut subjects: Vec<Box<dyn Subject>> = vec![Box::new(External::open(library).unwrap())];
    run(&generator, &mut subjects, &options, &mut |_| {}).unwrap()
}

/// Breaks if the twin and a plain C implementation of the policies, which share no code, differ in a bit
/// or the interface passes something wrong.
#[test]
fn the_c_reference_has_the_twins_bits() {
    let folder = tempfile::tempdir().unwrap();
    let Some(library) = example(&folder, "reference") else { return };
    let summary = tested(&library, 80, &[]);
    assert!(summary.findings.is_empty(), "{}", summary.findings[0].fault);
    assert_eq!((summary.cases, summary.subjects), (80, vec!["plain C reference".to_owned()]));
}

/// Breaks if a wrong kernel passes, or its case stays large: two columns are what it takes.
#[test]
fn a_wrong_kernel_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let Some(library) = example(&folder, "wrong") else { return };
    let summary = tested(&library, 60, &["scale-ordinary", "normal", "shape-scale-edge", "shape-tile-edge"]);
    let [finding] = &summary.findings[..] else { panic!("not found in {} cases", summary.cases) };
    println!("{} of case {}: {}", finding.case.problem, finding.origin.index, finding.shrunk);
    assert!(matches!(finding.shrunk, Fault::Bits { .. }));
    let p = finding.case.problem;
    assert!(p.m == 1 && p.n <= 193 && p.k <= 4, "{p}");
}

/// Breaks if a library that is no kernel is taken for one, or the error does not say what it lacks.
#[test]
fn unfit_libraries_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let missing = External::open(&folder.path().join("libnowhere.so"));
    assert!(matches!(missing, Err(DifftestError::Library { .. })), "{missing:?}");
    let no_library = folder.path().join("text.so");
    std::fs::write(&no_library, "no library").unwrap();
    assert!(matches!(External::open(&no_library), Err(DifftestError::Library { .. })));
    let Some(empty) = text(&folder, "empty", "int nothing_here = 1;\n") else { return };
    match External::open(&empty) {
        Err(DifftestError::Symbol { symbol, .. }) => assert_eq!(symbol, "fp8gemm_external_version"),
        other => panic!("{other:?}"),
    }
    let half = "#include <stdint.h>\nuint32_t fp8gemm_external_version(void) { return 1; }\n";
    match External::open(&text(&folder, "half", half).unwrap()) {
        Err(DifftestError::Symbol { symbol, .. }) => assert_eq!(symbol, "fp8gemm_external_gemm"),
        other => panic!("{other:?}"),
    }
    let newer = "#include <stdint.h>\nuint32_t fp8gemm_external_version(void) { return 9; }\n\
                 int32_t fp8gemm_external_gemm(const void *g) { (void)g; return 0; }\n";
    match External::open(&text(&folder, "newer", newer).unwrap()) {
        Err(DifftestError::Version { found, expected, .. }) => assert_eq!((found, expected), (9, 1)),
        other => panic!("{other:?}"),
    }
}

/// Breaks if the header is no C99, or no C++, to a compiler that is strict.
#[test]
fn the_header_is_strict_c_and_cpp() {
    let folder = tempfile::tempdir().unwrap();
    let source = "#include \"fp8gemm_external.h\"\nint main(void) { return sizeof(fp8gemm_gemm) == 0; }\n";
    for (compiler, standard, file) in [("cc", "-std=c99", "h.c"), ("c++", "-std=c++11", "h.cc")] {
        let path = folder.path().join(file);
        std::fs::write(&path, source).unwrap();
        let output = Command::new(compiler)
            .args([standard, "-Wall", "-Wextra", "-Werror", "-pedantic", "-fsyntax-only", "-I"])
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("include"))
            .arg(&path)
            .output();
        match output {
            Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
            Err(_) => println!("no {compiler} here: not tested"),
        }
    }
}

/// Breaks if the fields of the structs here lie elsewhere than the header's: sizes of what the library sees,
/// the first and the last fields with their values, sizes of 0 and names that no report should hold.
#[test]
fn structs_and_names_arrive() {
    let folder = tempfile::tempdir().unwrap();
    let long = "x".repeat(300);
    let source = format!(
        "#include \"fp8gemm_external.h\"\n#include <stddef.h>\n\
         uint32_t fp8gemm_external_version(void) {{ return FP8GEMM_EXTERNAL_VERSION; }}\n\
         const char *fp8gemm_external_name(void) {{ return \"\\033[31m{long}\"; }}\n\
         int32_t fp8gemm_external_gemm(const fp8gemm_gemm *g) {{\n\
             if (g->version != FP8GEMM_EXTERNAL_VERSION || g->size != sizeof *g) return 2;\n\
             if (g->a.rows != g->m || g->b.columns != g->k || g->d.columns != g->n) return 3;\n\
             if (g->policy != FP8GEMM_PROMOTE || g->policy_parameter != 128) return 4;\n\
             if (g->a.data == NULL || g->d.data == NULL || g->d.stride < g->n || g->d.type < FP8GEMM_BF16) return 5;\n\
             return g->beta != 0.0f && g->c.data == NULL ? 6 : FP8GEMM_UNSUPPORTED; }}\n"
    );
    let Some(library) = text(&folder, "looks", &source) else { return };
    let menu = Menu { policies: vec![Policy::PROMOTE_128], ..Menu::twin() };
    let generator = Generator::new(0, menu, Only::default());
    let mut subjects: Vec<Box<dyn Subject>> = vec![Box::new(External::open(&library).unwrap())];
    let summary = run(&generator, &mut subjects, &Options::cases(60), &mut |_| {}).unwrap();
    assert!(summary.findings.is_empty(), "{}", summary.findings[0].fault);
    assert_eq!(summary.passed_over, 60);
    assert_eq!(summary.subjects[0], format!("[31m{}", "x".repeat(96)));
}

/// Breaks if a library may write beside D or into an input and pass.
#[test]
fn writes_out_of_bounds_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let reference = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/external/reference.c");
    let writes = |name: &str, what: &str| {
        let source = format!(
            "#define fp8gemm_external_gemm inner\n#include \"{}\"\n#undef fp8gemm_external_gemm\n\
             int32_t fp8gemm_external_gemm(const fp8gemm_gemm *g);\n\
             int32_t fp8gemm_external_gemm(const fp8gemm_gemm *g) {{ int32_t status = inner(g); {what} return status; }}\n",
            reference.display()
        );
        text(&folder, name, &source)
    };
    let before = "((uint8_t *)g->d.data)[-4096] ^= 1;";
    let Some(library) = writes("before", before) else { return };
    let fault = |library: PathBuf| tested(&library, 5, &["shape-small"]).findings.remove(0).fault;
    let found = fault(library);
    assert!(matches!(&found, Fault::Guard { place, .. } if place == "4096 bytes before it"), "{found}");
    let found = fault(writes("input", "((uint8_t *)g->b.data)[0] ^= 1;").unwrap());
    assert!(matches!(found, Fault::Input { input: "B", bytes: 1, .. }), "{found}");
}

/// Breaks if a library that fails, or computes nothing, looks as if it were right.
#[test]
fn failures_are_no_success() {
    let folder = tempfile::tempdir().unwrap();
    let returns = |name: &str, status: u32| {
        let source = format!(
            "#include \"fp8gemm_external.h\"\nuint32_t fp8gemm_external_version(void) {{ return FP8GEMM_EXTERNAL_VERSION; }}\n\
             int32_t fp8gemm_external_gemm(const fp8gemm_gemm *g) {{ (void)g; return {status}; }}\n"
        );
        text(&folder, name, &source)
    };
    let Some(failing) = returns("failing", 7) else { return };
    let summary = tested(&failing, 5, &[]);
    assert!(summary.findings[0].fault.to_string().contains("returned 7"), "{}", summary.findings[0].fault);
    let summary = tested(&returns("idle", 1).unwrap(), 5, &[]);
    assert_eq!((summary.cases, summary.passed_over, summary.findings.len()), (0, 5, 0));
    assert_eq!(summary.rule.as_deref(), Some("the library says so"));
    let summary = tested(&returns("silent", 0).unwrap(), 5, &[]);
    assert!(matches!(summary.findings[0].fault, Fault::Bits { .. }));
}
