//! `tune`'s loop over problems with a tuner that measures nothing.

use std::cell::RefCell;

use fp8gemm::jit::sass::Interleave;
use fp8gemm::jit::tuning::Device;
use fp8gemm_bench::Variant;

use super::*;

/// Calls a closure at each problem's first compilation; all kernels are right and equally fast.
struct MadeUp<F>(F);

impl<F: FnMut(&Problem) -> Result<(), BenchError>> Measure for MadeUp<F> {
    fn compile(&mut self, problem: &Problem, configs: &[KernelConfig]) -> Result<Vec<Option<String>>, BenchError> {
        (self.0)(problem)?;
        Ok(vec![None; configs.len()])
    }

    fn patterns(&mut self, _: &KernelConfig) -> Result<Vec<Interleave>, BenchError> {
        Ok(Vec::new())
    }

    fn check(&mut self, _: &Problem, _: Variant) -> Result<(), BenchError> {
        Ok(())
    }

    fn time(&mut self, _: &Problem, variants: &[Variant]) -> Result<Vec<(f64, f64)>, BenchError> {
        Ok(vec![(5.0, 3.0); variants.len()])
    }
}

fn problems(texts: &[&str]) -> Vec<Problem> {
    texts.iter().map(|size| format!("{size} a=e4m3:1x128 b=e4m3:128x128 d=bf16").parse().unwrap()).collect()
}

fn here() -> Machine {
    let device = Device { name: "made up".into(), sms: 132, driver: 13_000, driver_version: None };
    Machine::new(&device, Some((13, 0)))
}

fn known_in(path: &Path) -> Vec<Problem> {
    known(&tables(path).unwrap(), &here())
}

/// Tunes what the table does not know, as the command does.
fn run(
    path: &Path,
    wanted: &[Problem],
    stop: &AtomicBool,
    compile: impl FnMut(&Problem) -> Result<(), BenchError>,
) -> (Report, Result<(), CliError>) {
    let known = known_in(path);
    let (skipped, wanted): (Vec<_>, Vec<_>) = wanted.iter().partition(|problem| known.contains(problem));
    let (mut report, steps) = (Report::new(here(), path, &skipped), Steps::new(wanted.len()));
    let fatal = all(&mut MadeUp(compile), path, &wanted, stop, &|| false, &steps, &mut report);
    (report, fatal)
}

/// Breaks if an interrupted run loses what it has, stores half of what is in hand, does not say that it was
/// interrupted, or the next one does not go on where it was.
#[test]
fn an_interrupted_run_keeps_its_rows_and_is_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tuning.json");
    let wanted = problems(&["64x2112x7168", "1x576x7168", "128x4096x7168"]);
    let stop = AtomicBool::new(false);
    let (report, fatal) = run(&path, &wanted, &stop, |problem| {
        stop.store(*problem == wanted[1], Ordering::Relaxed);
        Ok(())
    });
    fatal.unwrap();
    assert!(report.interrupted && !report.timed_out);
    assert!(report.text().contains("; interrupted with 2 left\n"), "{}", report.text());
    assert_eq!((report.tuned.len(), report.left, known_in(&path)), (1, 2, wanted[..1].to_vec()));

    let tried = RefCell::new(Vec::new());
    let (report, fatal) = run(&path, &wanted, &AtomicBool::new(false), |problem| {
        tried.borrow_mut().push(*problem);
        Ok(())
    });
    fatal.unwrap();
    assert!(!report.interrupted && !tried.borrow().contains(&wanted[0]));
    assert_eq!((report.tuned.len(), report.skipped.len(), report.left), (2, 1, 0));
    assert_eq!(known_in(&path), wanted);
}

/// Breaks if a shape that does not fit the GPU ends the list, is not reported with its sizes, or a GPU that has
/// failed is used further, or is told as the end of the time.
#[test]
fn a_shape_that_is_too_large_does_not_end_the_list() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tuning.json");
    let wanted = problems(&["64x2112x7168", "1x576x7168", "128x4096x7168"]);
    let cuda = |code, name: &str| BenchError::Cuda { call: "cuMemAlloc", code, name: name.to_owned() };
    let too_large = || HopperError::TooLarge { what: "number of output tiles", value: 1 << 40, rule: "a rule" };
    let errors: [&dyn Fn() -> BenchError; 3] =
        [&|| cuda(2, "CUDA_ERROR_OUT_OF_MEMORY"), &|| too_large().into(), &|| BenchError::Memory {
            problem: wanted[0],
            needed: 1 << 40,
            free: 1 << 30,
        }];
    for error in errors {
        let _ = std::fs::remove_file(&path);
        let fail = |problem: &Problem| if *problem == wanted[0] { Err(error()) } else { Ok(()) };
        let (report, fatal) = run(&path, &wanted, &AtomicBool::new(false), fail);
        fatal.unwrap();
        assert_eq!((report.tuned.len(), report.failures.len(), report.left), (2, 1, 0));
        assert!(report.failures[0].contains("64x2112x7168"), "{:?}", report.failures);
        assert_eq!(known_in(&path), wanted[1..]);
    }
    let lost = |_: &Problem| Err(cuda(700, "CUDA_ERROR_ILLEGAL_ADDRESS"));
    let (report, fatal) = run(&folder.path().join("other.json"), &wanted, &AtomicBool::new(false), lost);
    assert!(fatal.unwrap_err().to_string().contains("ILLEGAL_ADDRESS"));
    assert_eq!((report.tuned.len(), report.left), (0, 3));
    assert!(report.text().contains("; stopped by an error with 3 left\n"), "{}", report.text());
    assert!(report.stopped_by.is_some_and(|error| error.contains("ILLEGAL_ADDRESS")) && !report.timed_out);
}

/// Breaks if what was measured is lost with the table that it was for, the rest of the list is measured in vain, or the
/// report blames the time; also where it was the last problem.
#[test]
fn what_cannot_be_stored_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tuning.json");
    let wanted = problems(&["64x2112x7168", "1x576x7168", "128x4096x7168"]);
    let (report, fatal) = run(&path, &wanted, &AtomicBool::new(false), |problem| {
        if *problem == wanted[1] && path.is_file() {
            std::fs::remove_file(&path).unwrap();
            std::fs::create_dir(&path).unwrap();
        }
        Ok(())
    });
    assert!(fatal.unwrap_err().to_string().contains("tuning.json"));
    assert_eq!((report.tuned.len(), report.left), (2, 1));
    assert_eq!(report.tuned[1].tuned.problem, wanted[1]);
    assert!(report.text().contains("; stopped by an error with 1 left\n"), "{}", report.text());
    assert!(!report.timed_out && !report.interrupted);
    let other = folder.path().join("other.json");
    let (report, fatal) = run(&other, &wanted[..1], &AtomicBool::new(false), |_| {
        std::fs::create_dir_all(&other).unwrap();
        Ok(())
    });
    assert!(fatal.is_err() && report.text().contains("; stopped by an error with 0 left\n"), "{}", report.text());
    // As the next run finds it.
    assert!(tables(&path).is_err());
}

/// Breaks if a table's folder that takes nothing is found out after measuring, or the test leaves a table behind.
#[test]
fn tables_are_tried_before_measuring() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/tuning.json");
    Tuning::probe(&path).unwrap();
    assert!(!path.exists() && tables(&path).unwrap().is_empty());
    std::fs::write(folder.path().join("file"), "").unwrap();
    let error = CliError::from(Tuning::probe(&folder.path().join("file/tuning.json")).unwrap_err());
    assert!(error.to_string().contains("cannot") && error.to_string().contains("file/tuning.json"), "{error}");
    assert!(Tuning::probe(folder.path()).unwrap_err().to_string().contains("a folder"));
    assert_eq!(error.exit_code(), 2);
}

/// Breaks if the bar stands still during a problem, goes back, or runs into the next problem's share.
#[test]
fn the_bar_moves_within_a_problem() {
    let steps = Steps::new(2);
    let problem = problems(&["4096x7168x2048"])[0];
    let most = 4 * first_candidates(&problem, 132).unwrap().len();
    for index in 0..2 {
        steps.begin(index, &problem, 132);
        let mut before = 0;
        for made in 0..2 * most {
            steps.one();
            let now = steps.progress.position();
            assert!(made > most / 2 || now > before || made == 0, "stands still after {made} of {most}");
            assert!(now >= before && now < (index as u64 + 1) * Steps::SHARE);
            before = now;
        }
        assert_eq!(before, (index as u64 + 1) * Steps::SHARE - 1);
    }
}
