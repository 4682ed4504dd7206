//! What the runner sees besides wrong bits, on subjects that misbehave on purpose.

#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicBool, Ordering};

use fp8gemm_difftest::{
    Buffers, DifftestError, Fault, Generator, Menu, Only, Options, Property, Subject, Summary, TwinPath, check, run,
};
use fp8gemm_problem::{Epilogue, OutputType, Problem};
use fp8gemm_sim::{Matrix, Path};

/// The twin, and then something it should not do.
struct Misbehaving<F>(F, u64);

impl<F: FnMut(u64, &Problem, &mut Buffers)> Subject for Misbehaving<F> {
    fn name(&self) -> String {
        "misbehaving".to_owned()
    }

    fn run(&mut self, problem: &Problem, configuration: usize, buffers: &mut Buffers) -> Result<(), DifftestError> {
        TwinPath::new(Path::best()).run(problem, configuration, buffers)?;
        self.1 += 1;
        (self.0)(self.1, problem, buffers);
        Ok(())
    }
}

fn tested(misbehave: impl FnMut(u64, &Problem, &mut Buffers) + 'static, properties: bool) -> Summary {
    let generator = Generator::new(0, Menu::twin(), Only::default());
    let mut options = Options::cases(40);
    options.properties = properties;
    run(&generator, &mut [Box::new(Misbehaving(misbehave, 0))], &options, &mut |_| {}).unwrap()
}

fn fault(misbehave: impl FnMut(u64, &Problem, &mut Buffers) + 'static) -> Fault {
    tested(misbehave, false).findings.remove(0).fault
}

/// Breaks if a byte written beside D, a changed input, or a second result that differs goes unseen; or if
/// a right D is called wrong.
#[test]
fn everything_around_d_is_seen() {
    assert!(tested(|_, _, _| {}, true).findings.is_empty());
    let before = fault(|_, _, buffers| {
        let at = buffers.d.start() - 1;
        buffers.d.bytes_mut()[at] ^= 1;
    });
    assert!(matches!(&before, Fault::Guard { place, bytes: 1 } if place == "1 bytes before it"), "{before}");
    // What the first run finds there anyway.
    let same = fault(|_, _, buffers| {
        let at = buffers.d.start() - 8;
        buffers.d.bytes_mut()[at] = 0xAB;
    });
    assert!(matches!(&same, Fault::Guard { place, bytes: 1 } if place == "8 bytes before it"), "{same}");
    let last = fault(|_, _, buffers| *buffers.d.bytes_mut().last_mut().unwrap() ^= 0xFF);
    assert!(matches!(last, Fault::Guard { .. }), "{last}");
    // Between two rows, where there is a gap.
    let between = fault(|_, _, buffers| {
        let ((rows, columns), stride, size) = (buffers.d.dim(), buffers.d.stride(), buffers.d.size());
        if rows > 1 && stride > columns {
            let at = buffers.d.start() + columns * size;
            buffers.d.bytes_mut()[at] ^= 1;
        }
    });
    assert!(matches!(&between, Fault::Guard { place, .. } if place.starts_with("row 0")), "{between}");
    let input = fault(|_, _, buffers| {
        let at = buffers.scale_b.start();
        buffers.scale_b.bytes_mut()[at] ^= 1;
    });
    assert!(matches!(input, Fault::Input { input: "scales of B", bytes: 1, .. }), "{input}");
    let flip = |buffers: &mut Buffers| {
        let at = buffers.d.start();
        buffers.d.bytes_mut()[at] ^= 1;
    };
    let bits = fault(move |_, _, buffers| flip(buffers));
    assert!(matches!(&bits, Fault::Bits { comparison, .. } if comparison.differing == 1), "{bits}");
    let second = fault(move |run, _, buffers| {
        if run.is_multiple_of(2) {
            flip(buffers);
        }
    });
    assert!(matches!(second, Fault::Unstable { .. }), "{second}");
}

/// Breaks if an element that is not written passes because the poison happens to be right.
#[test]
fn elements_that_are_not_written_are_seen() {
    // Puts back what was there before, as a kernel that forgets the element would leave it.
    let summary = tested(
        move |run, p, buffers| {
            let size = p.d.size();
            let poison = if run % 2 == 1 { 0xAB } else { 0x54 };
            let at = buffers.d.start();
            if !buffers.c_in_place {
                buffers.d.bytes_mut()[at..at + size].fill(poison);
            }
        },
        false,
    );
    assert_eq!(summary.findings.len(), 1);
    // Whatever the poison: a kernel that writes nothing, where the right D is what the first run put there.
    struct Idle;
    impl Subject for Idle {
        fn name(&self) -> String {
            "idle".to_owned()
        }
        fn run(&mut self, _: &Problem, _: usize, _: &mut Buffers) -> Result<(), DifftestError> {
            Ok(())
        }
    }
    let generator = Generator::new(0, Menu::twin(), Only::parse(["shape-small"]).unwrap());
    for index in 0..20 {
        let mut case = generator.case(index).unwrap();
        let p = Problem { c: None, d: OutputType::F32, epilogue: Epilogue::IDENTITY, ..case.problem };
        (case.problem, case.c) = (p, None);
        let poison = Matrix::F32(ndarray::Array2::from_elem((p.m, p.n), f32::from_bits(0xABAB_ABAB)));
        let fault = check(&mut Idle, &case, &poison, 0).unwrap();
        assert!(matches!(fault, Some(Fault::Unstable { .. })), "{fault:?}");
    }
}

/// Breaks if a property that a subject does not compute is counted as checked, or is the reason given for
/// cases that were passed over.
#[test]
fn properties_that_are_not_computed_are_not_counted() {
    /// The twin for everything but an f32 C, which cutting K needs.
    struct NoF32C;
    impl Subject for NoF32C {
        fn name(&self) -> String {
            "no f32 C".to_owned()
        }
        fn run(&mut self, p: &Problem, configuration: usize, buffers: &mut Buffers) -> Result<(), DifftestError> {
            if p.c == Some(OutputType::F32) {
                let rule = "no f32 C".to_owned();
                return Err(DifftestError::Unsupported { subject: self.name(), problem: *p, rule });
            }
            TwinPath::new(Path::best()).run(p, configuration, buffers)
        }
    }
    let generator = Generator::new(0, Menu::twin(), Only::default());
    let summary = run(&generator, &mut [Box::new(NoF32C)], &Options::cases(100), &mut |_| {}).unwrap();
    assert!(summary.findings.is_empty(), "{}", summary.findings[0].fault);
    assert_eq!(summary.coverage.counts["property"]["cut-k"], 0);
    assert_eq!(summary.properties, summary.coverage.counts["property"].values().sum::<u64>());
    assert_eq!(summary.cases + summary.passed_over, 100);
    assert!(summary.passed_over > 5 && summary.rule.as_deref() == Some("no f32 C"), "{:?}", summary.rule);
}

/// Breaks if a difference that shows only with C in D's place is not shrunk, or is shrunk to another one.
#[test]
fn what_only_c_in_place_shows_is_shrunk() {
    let summary = tested(
        |_, _, buffers| {
            if buffers.c_in_place {
                let at = buffers.d.start();
                buffers.d.bytes_mut()[at] ^= 1;
            }
        },
        false,
    );
    let finding = &summary.findings[0];
    assert!(matches!(finding.shrunk, Fault::Bits { .. }), "{}", finding.shrunk);
    let p = finding.case.problem;
    assert_eq!((p.m, p.n, p.k, p.c), (1, 1, 1, Some(p.d)), "{p}");
}

/// Breaks if a run without time does nothing and calls that equal.
#[test]
fn one_case_always_runs() {
    let generator = Generator::new(0, Menu::twin(), Only::default());
    let mut options = Options::cases(10);
    options.time = Some(std::time::Duration::ZERO);
    let mut subjects: Vec<Box<dyn Subject>> = vec![Box::new(TwinPath::new(Path::best()))];
    let summary = run(&generator, &mut subjects, &options, &mut |_| {}).unwrap();
    assert_eq!((summary.cases, summary.timed_out), (1, true));
}

/// Breaks if a kernel whose bits depend on the number of rows passes: bits of each case are right, so
/// only the property can tell.
#[test]
fn properties_are_checked() {
    let mut rows = std::collections::BTreeMap::new();
    let summary = tested(
        move |_, p, buffers| {
            // Right at the first M that a family of problem shows, wrong at any other.
            let key = Problem { m: 1, a: p.b, ..*p }.to_string();
            let first = *rows.entry(key).or_insert(p.m);
            if first != p.m {
                let at = buffers.d.start();
                buffers.d.bytes_mut()[at] ^= 1;
            }
        },
        true,
    );
    let finding = &summary.findings[0];
    let found = matches!(finding.fault, Fault::Property { property: Property::BatchInvariance, .. });
    assert!(found, "{}", finding.fault);
}

/// Breaks if an interrupted run loses what it has, or goes on.
#[test]
fn runs_can_be_stopped() {
    static STOP: AtomicBool = AtomicBool::new(false);
    let generator = Generator::new(0, Menu::twin(), Only::default());
    let mut options = Options::cases(1_000_000);
    options.stop = Some(&STOP);
    let mut subjects: Vec<Box<dyn Subject>> = vec![Box::new(TwinPath::new(Path::best()))];
    let mut done = |index| {
        if index == 5 {
            STOP.store(true, Ordering::Relaxed);
        }
    };
    let summary = run(&generator, &mut subjects, &options, &mut done).unwrap();
    assert_eq!((summary.cases, summary.interrupted), (5, true));
}

/// Breaks if the default run of the command finds the twin's SIMD paths wrong, or stops covering a kind
/// of shape, data, scales, type or output: 200 cases cover all.
#[test]
fn simd_paths_are_the_specification() {
    let generator = Generator::new(0, Menu::twin(), Only::default());
    let mut subjects: Vec<Box<dyn Subject>> = Vec::new();
    subjects.extend(TwinPath::all().into_iter().map(|path| Box::new(path) as Box<dyn Subject>));
    let summary = run(&generator, &mut subjects, &Options::cases(200), &mut |_| {}).unwrap();
    assert!(summary.findings.is_empty(), "{}", summary.findings[0].fault);
    assert_eq!(summary.cases, 200);
    assert_eq!(summary.coverage.gaps(), Vec::<String>::new());
    let specials = summary.coverage.specials;
    for corner in [specials.nan, specials.infinite, specials.zero, specials.negative_zero, specials.subnormal] {
        assert!(corner > 100, "{specials:?}");
    }
    let ordinary = summary.outputs / 2 / 3 - (specials.nan + specials.zero + specials.negative_zero);
    assert!(2 * ordinary > summary.outputs / 6, "most outputs say nothing: {specials:?}");
}
