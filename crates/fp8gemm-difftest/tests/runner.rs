//! What the runner sees besides wrong bits, on subjects that misbehave on purpose.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use fp8gemm_difftest::{
    Buffers, DifftestError, Event, Fault, Generator, Menu, Only, Options, Prepare, Property, Subject, Summary,
    TwinPath, check, run,
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
    let mut done = |event: Event<'_>| {
        if matches!(event, Event::Done(5)) {
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

/// All of a summary but its times.
fn told(summary: &Summary) -> String {
    let Summary { cases, passed_over, rule, checks, outputs, properties, coverage, findings, .. } = summary;
    let findings: Vec<String> = findings
        .iter()
        .map(|found| {
            format!("{} {} {} {} {}", found.configuration, found.problem, found.origin, found.fault, found.shrunk)
        })
        .collect();
    format!("{cases} {passed_over} {rule:?} {checks} {outputs} {properties} {coverage:?} {findings:?}")
}

/// Breaks if the number of threads that make cases changes anything that a run tells, findings included.
#[test]
fn jobs_change_nothing() {
    let run_with = |jobs: usize, wrong: bool| {
        let generator = Generator::new(9, Menu::kernels(), Only::default());
        let mut options = Options::cases(40);
        options.jobs = jobs;
        // By tries alone: what time allows differs.
        options.effort.tries = 60;
        let mut subjects: Vec<Box<dyn Subject>> = vec![Box::new(TwinPath::new(Path::best()))];
        if wrong {
            // Wrong in every problem of more than 100 rows.
            subjects.push(Box::new(Misbehaving(
                |_, p: &Problem, buffers: &mut Buffers| {
                    let at = buffers.d.start();
                    buffers.d.bytes_mut()[at] ^= u8::from(p.m > 100);
                },
                0,
            )));
        }
        let summary = run(&generator, &mut subjects, &options, &mut |_| {}).unwrap();
        assert_eq!(summary.findings.len(), usize::from(wrong));
        told(&summary)
    };
    for wrong in [false, true] {
        let alone = run_with(0, wrong);
        for jobs in [1, 5] {
            assert_eq!(run_with(jobs, wrong), alone, "{jobs} threads");
        }
    }
}

/// The twin in three ways, of which each must have been prepared before it runs.
struct Prepared(Arc<Mutex<BTreeSet<(String, usize)>>>, Arc<AtomicU64>);

struct Preparing(Arc<Mutex<BTreeSet<(String, usize)>>>);

impl Prepare for Preparing {
    fn configurations(&self, problem: &Problem) -> usize {
        if problem.k > 2000 { 0 } else { 1 + problem.m % 3 }
    }

    fn prepare(&self, problem: &Problem, configuration: usize) {
        self.0.lock().unwrap().insert((problem.to_string(), configuration));
    }
}

impl Subject for Prepared {
    fn name(&self) -> String {
        "prepared".to_owned()
    }

    fn preparer(&self) -> Option<Arc<dyn Prepare>> {
        Some(Arc::new(Preparing(self.0.clone())))
    }

    fn configurations(&mut self, problem: &Problem) -> Result<Vec<String>, DifftestError> {
        let rule = "K is too long".to_owned();
        match Preparing(self.0.clone()).configurations(problem) {
            0 => Err(DifftestError::Unsupported { subject: self.name(), problem: *problem, rule }),
            count => Ok((0..count).map(|number| format!("way {number}")).collect()),
        }
    }

    fn run(&mut self, problem: &Problem, configuration: usize, buffers: &mut Buffers) -> Result<(), DifftestError> {
        assert!(self.0.lock().unwrap().contains(&(problem.to_string(), configuration)), "{problem}, {configuration}");
        self.1.fetch_add(1, Ordering::Relaxed);
        TwinPath::new(Path::best()).run(problem, configuration, buffers)
    }
}

/// Breaks if a subject is run in a way that was not prepared: kernels would be compiled one after another
/// on the thread that runs. Every property's problems are among them.
#[test]
fn everything_is_prepared_before_it_runs() {
    for jobs in [0, 3] {
        let prepared = Prepared(Arc::default(), Arc::default());
        let (set, runs) = (prepared.0.clone(), prepared.1.clone());
        let mut options = Options::cases(120);
        options.jobs = jobs;
        let generator = Generator::new(2, Menu::kernels(), Only::default());
        let summary = run(&generator, &mut [Box::new(prepared)], &options, &mut |_| {}).unwrap();
        assert!(summary.findings.is_empty(), "{}", summary.findings[0].fault);
        assert!(summary.passed_over > 5 && summary.cases + summary.passed_over == 120);
        assert!(Property::ALL.iter().all(|property| summary.coverage.counts["property"][property.name()] > 3));
        // Nor is much prepared for nothing.
        let (set, runs) = (set.lock().unwrap().len() as u64, runs.load(Ordering::Relaxed));
        assert!(set < runs && runs > 300, "{set} prepared, {runs} runs");
    }
}

/// Breaks if a finding is told only after it was shrunk, which takes long, or after the run has ended: a run
/// that is killed would lose it.
#[test]
fn findings_are_told_as_they_come() {
    let generator = Generator::new(0, Menu::twin(), Only::default());
    let flip = |_: u64, p: &Problem, buffers: &mut Buffers| {
        let at = buffers.d.start();
        buffers.d.bytes_mut()[at] ^= u8::from(p.k > 128 && p.m * p.n > 0);
    };
    let mut subjects: Vec<Box<dyn Subject>> =
        vec![Box::new(Misbehaving(flip, 0)), Box::new(TwinPath::new(Path::best()))];
    let mut told = Vec::new();
    let mut options = Options::cases(30);
    options.effort.tries = 60;
    let summary = run(&generator, &mut subjects, &options, &mut |event| match event {
        Event::Found(found) => {
            assert_eq!((found.case.problem, found.tries), (found.problem, 0));
            told.push(("found", found.origin.index));
        }
        Event::Shrunk(found) => {
            assert!(found.case.problem.macs() < found.problem.macs() && found.tries > 0);
            told.push(("shrunk", found.origin.index));
        }
        Event::Done(done) => told.push(("done", done - 1)),
        _ => {}
    })
    .unwrap();
    let index = summary.findings[0].origin.index;
    let at = told.iter().position(|event| *event == ("found", index)).unwrap();
    assert_eq!(told[at..at + 3], [("found", index), ("shrunk", index), ("done", index)]);
    assert_eq!(told.last(), Some(&("done", 29)));
}
