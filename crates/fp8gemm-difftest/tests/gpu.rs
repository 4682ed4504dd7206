//! Our kernels on a Hopper GPU, single instructions, and kernels that are wrong on purpose:
//!
//! `cargo test --release -p fp8gemm-difftest --features hopper --test gpu -- --ignored --nocapture`

#![allow(clippy::unwrap_used)]

mod common;

use common::Regression;
use std::collections::BTreeMap;

use fp8gemm_difftest::instruction::{QUESTIONS, ask, examine, examine_scalars, mmas, scalar, wgmmas};
use fp8gemm_difftest::{
    Case, DataRegime, DifftestError, Generator, HopperSubject, Menu, Only, Options, ScaleRegime, ShapeRegime, Subject,
    replay, run,
};
use fp8gemm_formats::ScaledMatrix;
use fp8gemm_hopper::cudarc::driver::{CudaSlice, DevicePtr};
use fp8gemm_hopper::{DeviceMatrix, HopperError, LaunchOptions, Operands, Plan, ScaleForm};
use fp8gemm_jit::mutants::KernelMutant;
use fp8gemm_jit::sass::{Disassembler, Listing};
use fp8gemm_jit::{BASE_OPTIONS, JitError, KERNEL, KernelConfig, Nvrtc, ProbeKernel, Unit, catalog, compile_checked};
use fp8gemm_problem::{Problem, Side};
use fp8gemm_sim::{Matrix, Path};

fn subject() -> HopperSubject {
    HopperSubject::open(0).unwrap()
}

/// Breaks if one output of one instruction has other bits than the model: every N, type mix,
/// accumulator, source of A and sign of `wgmma`, chains of one to four, with C and without, on data of
/// every regime.
#[test]
#[ignore = "needs Hopper"]
fn wgmma_is_as_modelled() {
    all_as_modelled(&wgmmas(), |columns| if columns <= 32 { 84 } else { 14 });
}

/// Breaks if `mma.sync` on FP8 is not the emulation that it is modelled as: settles the order of the
/// f32 accumulator, which nobody has published.
#[test]
#[ignore = "needs Hopper"]
fn mma_sync_is_the_emulation() {
    all_as_modelled(&mmas(), |_| 840);
}

fn all_as_modelled(kernels: &[ProbeKernel], count: impl Fn(usize) -> usize) {
    let gpu = subject();
    let (mut outputs, mut faults) = (0, Vec::new());
    for kernel in kernels {
        let (_, columns, _) = kernel.tile().unwrap();
        for accumulate in [true, false] {
            let examined = examine(gpu.gpu(), gpu.compiler(), *kernel, count(columns), 11, accumulate).unwrap();
            outputs += examined.d.len();
            if let Some((place, found, model)) = examined.first {
                let (differing, all) = (examined.differing, examined.d.len());
                faults.push(format!(
                    "{kernel}, C {accumulate}: {differing} of {all}, output {place}: {found:#010X}, model {model:#010X}"
                ));
            }
        }
    }
    println!("{} kernels, {outputs} outputs", kernels.len());
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Breaks if a question on record has another answer than the model's.
#[test]
#[ignore = "needs Hopper"]
fn questions_have_the_models_answers() {
    let gpu = subject();
    let mut faults = Vec::new();
    for question in QUESTIONS {
        let answer = ask(gpu.gpu(), gpu.compiler(), question).unwrap();
        println!("{answer:#010X}  {}", question.name);
        if answer != question.predicted {
            faults.push(format!("{}: {answer:#010X}, model {:#010X}", question.name, question.predicted));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Breaks if fma, mul, add or a cast of f32 is not IEEE arithmetic with canonical NaN. Prints what
/// additions in memory do.
#[test]
#[ignore = "needs Hopper"]
fn scalar_instructions_are_ieee() {
    let gpu = subject();
    let scalars = examine_scalars(gpu.gpu(), gpu.compiler(), 1 << 20, 5).unwrap();
    for (word, name) in scalar::WORDS.iter().enumerate() {
        let (differing, all, first) = (scalars.differing[word], scalars.elements, scalars.first[word]);
        println!("{name}: {differing} of {all} differ from IEEE; first {first:X?}");
    }
    println!("additions in memory that do not flush subnormals: {:?}", &scalars.not_flushed[3..5]);
    for word in [0, 1, 2, 5, 6, 7] {
        assert_eq!(scalars.differing[word], 0, "{}: {:X?}", scalar::WORDS[word], scalars.first[word]);
    }
}

/// Breaks if one of our kernels gives one bit that the twin does not, on generated cases of every regime,
/// or breaks a property.
#[test]
#[ignore = "needs Hopper"]
fn generated_cases() {
    let mut subjects: Vec<Box<dyn Subject>> = vec![Box::new(subject())];
    let mut options = Options::cases(60);
    options.oracle = Path::best();
    let summary = run(&Generator::new(3, Menu::gpu(), Only::default()), &mut subjects, &options, &mut |_| {}).unwrap();
    println!("{} cases, {} outputs, {} properties", summary.cases, summary.outputs, summary.properties);
    println!("{:.1?}, {:.1?}", summary.time, summary.times);
    assert!(summary.findings.is_empty(), "{:?}", summary.findings[0].fault);
    assert!(summary.cases >= 55);
}

/// Breaks if D of M, N or K of 0 is not what the twin says: nothing, or what the epilogue makes of +0.
#[test]
#[ignore = "needs Hopper"]
fn problems_without_products() {
    let mut subjects: Vec<Box<dyn Subject>> = vec![Box::new(subject())];
    let mut options = Options::cases(60);
    options.oracle = Path::best();
    let only = Only::parse([ShapeRegime::Empty.name()]).unwrap();
    let summary = run(&Generator::new(5, Menu::gpu(), only), &mut subjects, &options, &mut |_| {}).unwrap();
    println!("{} cases, {} outputs", summary.cases, summary.outputs);
    assert!(summary.findings.is_empty(), "{:?}", summary.findings[0].fault);
    assert!(summary.cases == 60 && summary.outputs > 10_000);
}

/// Breaks if one of our kernels gives other bits than a kept case should have, in any configuration.
#[test]
#[ignore = "needs Hopper"]
fn regressions_stay_right() {
    let mut gpu = subject();
    let (files, mut configurations) = (common::files(), 0);
    assert!(files.len() >= 4, "{files:?}");
    for path in &files {
        let Regression { case, expected, .. } = common::read(path);
        match replay(&mut gpu, &case, &expected) {
            Ok(replayed) => {
                assert!(replayed.fault.is_none(), "{}: {:?}", path.display(), replayed.fault);
                configurations += replayed.configurations;
            }
            // A policy of the twin alone, say.
            Err(error @ DifftestError::Unsupported { .. }) => println!("passed over: {error}"),
            Err(error) => panic!("{}: {error}", path.display()),
        }
    }
    println!("{} kept cases, {configurations} runs, every bit equal, each twice", files.len());
    assert!(configurations >= files.len());
}

/// Breaks if a wrong kernel is not found: by generated cases; for what only a launch after a launch shows,
/// by a chain of them; for what is out of order only now and then, by many tiles in a row; and where no bit
/// need show it, in the machine code (`missing_fences_and_waits_show_in_machine_code` of `fp8gemm-jit`
/// proves that without a GPU). Prints what found each, as the table of `docs/mutants.md`.
#[test]
#[ignore = "needs Hopper"]
fn kernel_mutants_are_found() {
    let gpu = subject();
    let tool = Disassembler::find(gpu.compiler().nvrtc().ok().map(Nvrtc::path));
    let mut survivors = Vec::new();
    println!("| wrong kernel | found by | on |\n|---|---|---|");
    for mutant in KernelMutant::ALL {
        let ordered = mutant.missing_instruction();
        let by = match mutant {
            KernelMutant::PredecessorUnawaited => {
                let wrong = !chain_is_right(&gpu, Some(mutant));
                wrong.then(|| Found::new("dependent launches", "a chain of twenty".to_owned()))
            }
            _ => by_cases(&gpu, mutant),
        };
        let by = by.or_else(|| by_many_tiles(&gpu, mutant));
        // Beside the bits, not only where they show nothing.
        let code = ordered.map(|missing| match &tool {
            Ok(tool) => in_machine_code(&gpu, tool, mutant, missing),
            Err(_) => Some(Found::new("machine code", "in the tests of fp8gemm-jit: no disassembler here".to_owned())),
        });
        let found: Vec<Found> = [by, code.flatten()].into_iter().flatten().collect();
        let text = |part: fn(&Found) -> &str| found.iter().map(part).collect::<Vec<_>>().join("; ");
        if found.is_empty() {
            println!("| {mutant} | **nothing** | |");
            survivors.push(mutant.name());
        } else {
            println!("| {mutant} | {} | {} |", text(|found| found.by), text(|found| &found.on));
        }
    }
    assert!(chain_is_right(&gpu, None), "the right kernel fails the chain");
    assert!(many_tiles(&gpu, None, 4).is_none(), "the right kernel fails the many tiles");
    assert!(survivors.is_empty(), "{survivors:?}");
}

/// What found a mutant, and on what.
struct Found {
    by: &'static str,
    on: String,
}

impl Found {
    fn new(by: &'static str, on: String) -> Self {
        Self { by, on }
    }
}

/// The first of the cases that shows a mutant.
fn by_cases(gpu: &HopperSubject, mutant: KernelMutant) -> Option<Found> {
    let mut subjects: Vec<Box<dyn Subject>> = vec![Box::new(gpu.mutant(mutant).unwrap())];
    let mut options = Options::cases(150);
    options.oracle = Path::best();
    options.properties = false;
    // What is found need not be small here.
    options.effort.tries = 0;
    // A mutant computes nothing without products.
    let menu = Menu { empty: false, ..Menu::gpu() };
    let generator = Generator::new(1, menu, Only::default());
    let summary = run(&generator, &mut subjects, &options, &mut |_| {}).unwrap();
    let finding = summary.findings.first()?;
    let (origin, configuration) = (finding.origin, &finding.configuration);
    Some(Found::new(
        finding.fault.kind(),
        format!("case {}: {}, `{configuration}`", origin.index + 1, origin.regimes()),
    ))
}

/// Tiles in a row, each stored as soon as the one before, where an order that is mostly kept by itself may
/// not be: none of the cases has as many.
fn by_many_tiles(gpu: &HopperSubject, mutant: KernelMutant) -> Option<Found> {
    // For those that write beyond D there is no room here.
    mutant.missing_instruction()?;
    many_tiles(gpu, Some(mutant), 40)
}

/// Runs large outputs of few K blocks on every configuration that applies, so many times each, and says
/// which gave other bits than the twin.
fn many_tiles(gpu: &HopperSubject, mutant: Option<KernelMutant>, launches: usize) -> Option<Found> {
    let generator = Generator::new(17, Menu::kernels(), Only::default());
    let stream = gpu.gpu().context().new_stream().unwrap();
    for text in [
        "4096x4096x32 a=e4m3:tensor b=e4m3:tensor d=f32",
        "4096x4096x32 a=e4m3:1x128 b=e4m3:128x128 d=bf16",
        "2048x2304x640 a=e4m3:tensor b=e4m3:tensor d=f32 c=f32 beta=1",
    ] {
        let problem: Problem = text.parse().unwrap();
        let case = generator.fill(&problem, 0, DataRegime::Normal, ScaleRegime::Ordinary).unwrap();
        let expected = bytes(&case.twin(Path::best()).unwrap());
        let c: Option<CudaSlice<u8>> = case.c.as_ref().map(|c| stream.clone_htod(&bytes(c)).unwrap());
        let codes = |x: &ScaledMatrix| stream.clone_htod(&x.codes().iter().copied().collect::<Vec<u8>>()).unwrap();
        let (a, b) = (codes(&case.a), codes(&case.b));
        for candidate in fp8gemm_jit::choose(&problem, gpu.gpu().sms()).unwrap().candidates {
            let config = candidate.config;
            let plan = match mutant {
                None => Plan::with_config(gpu.gpu(), gpu.compiler(), &problem, config),
                Some(mutant) if mutant.applies(&config) => {
                    Plan::mutant(gpu.gpu(), gpu.compiler(), &problem, config, mutant)
                }
                Some(_) => continue,
            };
            let plan = match plan {
                Err(HopperError::Jit(JitError::Rejected { .. })) => continue,
                plan => plan.unwrap(),
            };
            let scales = |side, x: &ScaledMatrix| {
                let (rows, k) = (x.rows(), x.columns());
                let form: ScaleForm = plan.scale_form(side);
                let (height, width) = form.shape(rows, k);
                let at = |i: usize, j: usize| match form {
                    ScaleForm::One => (0, 0),
                    ScaleForm::Rows => (j, 0),
                    ScaleForm::BlocksByRows => (j, i * 128),
                    ScaleForm::Squares => (i * 128, j * 128),
                };
                let view = x.view();
                let places = (0..height).flat_map(|i| (0..width).map(move |j| at(i, j)));
                let numbers: Vec<f32> = places.map(|(row, column)| view.scale_at(row, column)).collect();
                (stream.clone_htod(&numbers).unwrap(), width)
            };
            let ((sa, stride_a), (sb, stride_b)) = (scales(Side::A, &case.a), scales(Side::B, &case.b));
            let mut d: CudaSlice<u8> = stream.alloc_zeros(expected.len()).unwrap();
            let workspace: CudaSlice<u8> = stream.alloc_zeros(plan.workspace_bytes().max(1)).unwrap();
            let at = |pointer, stride| DeviceMatrix { pointer, stride };
            let operands = Operands {
                a: at(a.device_ptr(&stream).0, problem.k),
                b: at(b.device_ptr(&stream).0, problem.k),
                scale_a: at(sa.device_ptr(&stream).0, stride_a),
                scale_b: at(sb.device_ptr(&stream).0, stride_b),
                c: c.as_ref().map(|c| at(c.device_ptr(&stream).0, problem.n)),
                d: at(d.device_ptr(&stream).0, problem.n),
            };
            let prepared = plan.prepare_with_workspace(&operands, workspace.device_ptr(&stream).0).unwrap();
            for time in 1..=launches {
                stream.memset_zeros(&mut d).unwrap();
                // SAFETY: the slices have the problem's shapes without padding, and live until the download
                // below, which waits for the launch on the same stream.
                unsafe { prepared.launch_with(&stream, LaunchOptions::default()) }.unwrap();
                if stream.clone_dtoh(&d).unwrap() != expected {
                    return Some(Found::new("many tiles", format!("{text}, launch {time}, `{config}`")));
                }
            }
        }
    }
    None
}

/// The elements as they lie in memory.
fn bytes(x: &Matrix) -> Vec<u8> {
    match x {
        Matrix::Bf16(x) => x.iter().flat_map(|x| x.to_ne_bytes()).collect(),
        Matrix::F16(x) => x.iter().flat_map(|x| x.to_ne_bytes()).collect(),
        Matrix::F32(x) => x.iter().flat_map(|x| x.to_ne_bytes()).collect(),
    }
}

/// Whether the machine code of a mutant lacks what it should have.
fn in_machine_code(
    gpu: &HopperSubject,
    tool: &Disassembler,
    mutant: KernelMutant,
    missing: &'static str,
) -> Option<Found> {
    let config = catalog::cover().into_iter().find(|config| mutant.applies(config))?;
    let source = mutant.source(&config)?;
    let unit = Unit { source: &source, kernel: KERNEL, configuration: mutant.name(), options: &BASE_OPTIONS };
    let checked = compile_checked(gpu.compiler().nvrtc().unwrap(), &unit).unwrap();
    let summary = Listing::parse(&tool.disassemble(&checked.compiled.cubin).unwrap()).unwrap().summary();
    let fault = summary.faults(&config).into_iter().find(|fault| fault.what == missing)?;
    Some(Found::new("machine code", fault.to_string()))
}

/// D += A B^T twenty times, each launch allowed to start before the one before has ended.
fn chain_is_right(gpu: &HopperSubject, mutant: Option<KernelMutant>) -> bool {
    let problem = "512x512x256 a=e4m3:tensor b=e4m3:tensor d=f32 c=f32 beta=1".parse().unwrap();
    let config: KernelConfig = fp8gemm_jit::choose(&problem, gpu.gpu().sms()).unwrap().config();
    let plan = match mutant {
        None => Plan::with_config(gpu.gpu(), gpu.compiler(), &problem, config).unwrap(),
        Some(mutant) => Plan::mutant(gpu.gpu(), gpu.compiler(), &problem, config, mutant).unwrap(),
    };
    let stream = gpu.gpu().context().new_stream().unwrap();
    // 1.0 everywhere.
    let ones: CudaSlice<u8> = stream.clone_htod(&vec![0x38; 512 * 256]).unwrap();
    let scale: CudaSlice<f32> = stream.clone_htod(&[1.0f32]).unwrap();
    let d: CudaSlice<f32> = stream.alloc_zeros(512 * 512).unwrap();
    {
        let ((ones, _ones), (scale, _scale), (d, _d)) =
            (ones.device_ptr(&stream), scale.device_ptr(&stream), d.device_ptr(&stream));
        let at = |pointer, stride| DeviceMatrix { pointer, stride };
        let (operand, scale, d) = (at(ones, 256), at(scale, 1), at(d, 512));
        let operands = Operands { a: operand, b: operand, scale_a: scale, scale_b: scale, c: Some(d), d };
        let prepared = plan.prepare(&operands).unwrap();
        for _ in 0..20 {
            // SAFETY: the slices have the problem's shapes, and live until the download below, which waits
            // for the launches on the same stream.
            unsafe { prepared.launch_with(&stream, LaunchOptions::default().overlapping_previous(true)) }.unwrap();
        }
    }
    stream.clone_dtoh(&d).unwrap().iter().all(|x| *x == 20.0 * 256.0)
}

/// Breaks if the cases that the GPU is tested with leave the kernels' paths out: they must be computed by
/// several configurations, with stream-K and shared operands among them. Needs no GPU.
#[test]
fn cases_reach_the_kernels_paths() {
    let generator = Generator::new(1, Menu { empty: false, ..Menu::gpu() }, Only::default());
    let mut names = BTreeMap::<&str, usize>::new();
    for index in 0..150 {
        let Case { problem, .. } = generator.case(index).unwrap();
        let Ok(choice) = fp8gemm_jit::choose(&problem, 132) else { continue };
        for candidate in choice.candidates {
            for mutant in KernelMutant::ALL.into_iter().filter(|mutant| mutant.applies(&candidate.config)) {
                *names.entry(mutant.name()).or_default() += 1;
            }
        }
    }
    for mutant in KernelMutant::ALL {
        assert!(names.get(mutant.name()).is_some_and(|count| *count > 5), "{mutant}: {names:?}");
    }
}
