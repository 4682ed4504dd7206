//! Our kernels on a Hopper GPU, single instructions, and kernels that are wrong on purpose:
//!
//! `cargo test --release -p fp8gemm-difftest --features hopper --test gpu -- --ignored --nocapture`

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use fp8gemm_difftest::instruction::{QUESTIONS, ask, examine, examine_scalars, mmas, scalar, wgmmas};
use fp8gemm_difftest::{Case, Generator, HopperSubject, Menu, Only, Options, Subject, run};
use fp8gemm_hopper::cudarc::driver::{CudaSlice, DevicePtr};
use fp8gemm_hopper::{DeviceMatrix, LaunchOptions, Operands, Plan};
use fp8gemm_jit::mutants::KernelMutant;
use fp8gemm_jit::{KernelConfig, ProbeKernel};
use fp8gemm_sim::Path;

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
    assert!(summary.findings.is_empty(), "{:?}", summary.findings[0].fault);
    assert!(summary.cases >= 55);
}

/// Breaks if a wrong kernel is not found: by generated cases, or, for what only a launch after a launch
/// shows, by a chain of them. Prints what found each.
#[test]
#[ignore = "needs Hopper"]
fn kernel_mutants_are_found() {
    let gpu = subject();
    let mut survivors = Vec::new();
    let mut found_by = BTreeMap::new();
    for mutant in KernelMutant::ALL {
        let by = if mutant == KernelMutant::PredecessorUnawaited {
            (!chain_is_right(&gpu, Some(mutant))).then(|| "a chain of dependent launches".to_owned())
        } else {
            by_cases(&gpu, mutant)
        };
        println!("{mutant}: {}", by.as_deref().unwrap_or("SURVIVED"));
        match by {
            Some(by) => drop(found_by.insert(mutant.name(), by)),
            None => survivors.push(mutant.name()),
        }
    }
    assert!(chain_is_right(&gpu, None), "the right kernel fails the chain");
    assert!(survivors.is_empty(), "{survivors:?}");
}

/// The first of the cases that shows a mutant.
fn by_cases(gpu: &HopperSubject, mutant: KernelMutant) -> Option<String> {
    let mut subjects: Vec<Box<dyn Subject>> = vec![Box::new(gpu.mutant(mutant).unwrap())];
    let mut options = Options::cases(150);
    options.oracle = Path::best();
    options.properties = false;
    // What is found need not be small here.
    options.effort.tries = 0;
    let generator = Generator::new(1, Menu::gpu(), Only::default());
    let summary = run(&generator, &mut subjects, &options, &mut |_| {}).unwrap();
    let finding = summary.findings.first()?;
    let configuration = &finding.configuration;
    Some(format!("{} ({}), case {}, {configuration}", finding.fault.kind(), finding.problem, finding.origin.index))
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
    let generator = Generator::new(1, Menu::gpu(), Only::default());
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
