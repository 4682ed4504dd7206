//! Launches that generated cases do not make: many tiles in a row, and a chain of dependent launches.

use fp8gemm_difftest::{DataRegime, Generator, HopperSubject, Menu, Only, ScaleRegime};
use fp8gemm_formats::ScaledMatrix;
use fp8gemm_hopper::cudarc::driver::{CudaSlice, DevicePtr};
use fp8gemm_hopper::{DeviceMatrix, HopperError, LaunchOptions, Operands, Plan, ScaleForm};
use fp8gemm_jit::mutants::{KernelForm, KernelMutant};
use fp8gemm_jit::{JitError, KernelConfig};
use fp8gemm_problem::{Problem, Side};
use fp8gemm_sim::{Matrix, Path};

/// Outputs of many tiles, the last ones for few rows.
const MANY_TILES: [&str; 6] = [
    "2048x4096x32 a=e4m3:tensor b=e4m3:tensor d=f32",
    "2048x4096x32 a=e4m3:1x128 b=e4m3:128x128 d=bf16",
    "2048x2304x640 a=e4m3:tensor b=e4m3:tensor d=f32 c=f32 beta=1",
    "8x4608x4096 a=e4m3:1x128 b=e4m3:128x128 d=bf16",
    "32x19200x1024 a=e4m3:1x128 b=e4m3:128x128 d=bf16",
    "16x9216x4096 a=e4m3:1x128 b=e4m3:128x128 d=f32 policy=split2",
];

/// Runs large outputs of few K blocks on every configuration that applies, so many times each, and says
/// which gave other bits than the twin.
///
/// Of a wrong kernel only in the form that is asked for. Few rows are there for kernels with swapped operands: every
/// SM has several CTAs.
pub(crate) fn many_tiles(
    gpu: &HopperSubject,
    mutant: Option<(KernelMutant, KernelForm)>,
    launches: usize,
) -> Option<String> {
    let generator = Generator::new(17, Menu::kernels(), Only::default());
    let stream = gpu.gpu().context().new_stream().unwrap();
    for text in MANY_TILES {
        let problem: Problem = text.parse().unwrap();
        let candidates = fp8gemm_jit::choose(&problem, gpu.gpu().sms()).unwrap().candidates;
        let mut configs: Vec<KernelConfig> = candidates.into_iter().map(|candidate| candidate.config).collect();
        if let Some((mutant, form)) = mutant {
            configs.retain(|config| mutant.applies(config) && KernelForm::of(config) == form);
        }
        if configs.is_empty() {
            continue;
        }
        let case = generator.fill(&problem, 0, DataRegime::Normal, ScaleRegime::Ordinary).unwrap();
        let expected = bytes(&case.twin(Path::best()).unwrap());
        let mut found = vec![0; expected.len()];
        let c: Option<CudaSlice<u8>> = case.c.as_ref().map(|c| stream.clone_htod(&bytes(c)).unwrap());
        let codes = |x: &ScaledMatrix| stream.clone_htod(&x.codes().iter().copied().collect::<Vec<u8>>()).unwrap();
        let (a, b) = (codes(&case.a), codes(&case.b));
        for config in configs {
            let plan = match mutant {
                None => Plan::with_config(gpu.gpu(), gpu.compiler(), &problem, config),
                Some((mutant, _)) => Plan::mutant(gpu.gpu(), gpu.compiler(), &problem, config, mutant),
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
                stream.memcpy_dtoh(&d, &mut found).unwrap();
                stream.synchronize().unwrap();
                if found != expected {
                    return Some(format!("{text}, launch {time}, `{config}`"));
                }
            }
        }
    }
    None
}

/// D += A B^T twenty times, each launch allowed to start before the one before has ended, by the best kernel of this
/// form; nothing where there is none that reads C.
pub(crate) fn chain_is_right(gpu: &HopperSubject, form: KernelForm, mutant: Option<KernelMutant>) -> Option<bool> {
    let problem = "512x512x256 a=e4m3:tensor b=e4m3:tensor d=f32 c=f32 beta=1".parse().unwrap();
    let candidates = fp8gemm_jit::choose(&problem, gpu.gpu().sms()).unwrap().candidates;
    let config = candidates.into_iter().map(|one| one.config).find(|config| KernelForm::of(config) == form)?;
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
    Some(stream.clone_dtoh(&d).unwrap().iter().all(|x| *x == 20.0 * 256.0))
}

// Sizes of the chain of few rows.
const M: usize = 8;
const N: usize = 4096;
const K: usize = 8192;

/// The two products of the chain below: A of the second is D of the first, byte by byte.
fn chain_of_few_rows() -> [Problem; 2] {
    [K, 4 * N].map(|k| format!("{M}x{N}x{k} a=e4m3:1x128 b=e4m3:128x128 d=f32").parse().unwrap())
}

/// Breaks if launches of few rows are not by kernels with swapped operands. Needs no GPU.
#[test]
fn few_rows_are_for_swapped_operands() {
    let forms = |problem: &Problem| {
        let candidates = fp8gemm_jit::choose(problem, 132).unwrap().candidates;
        candidates.into_iter().map(|one| KernelForm::of(&one.config)).collect::<Vec<_>>()
    };
    assert!(chain_of_few_rows().iter().all(|problem| forms(problem)[0] == KernelForm::Swapped));
    for text in MANY_TILES {
        let problem: Problem = text.parse().unwrap();
        assert_eq!(problem.m <= 32, forms(&problem).contains(&KernelForm::Swapped), "{text}");
    }
}

/// Twenty times in turn with one of two numbers everywhere: a product, then one whose A and scales of A both
/// are that product, each launch allowed to start before the one before has ended, with weights that may
/// be loaded earlier still and without. A token or a scale that is older shows in the number that comes out.
pub(crate) fn chain_of_few_rows_is_right(gpu: &HopperSubject, mutant: Option<KernelMutant>) -> bool {
    let stream = gpu.gpu().context().new_stream().unwrap();
    // f32 1.0 and -2.0 are, byte by byte, the codes 0, 0, -0, 1.875 and 0, 0, 0, -2.0.
    let (numbers, codes) = ([1.0f32, -2.0], [1.875f32, -2.0]);
    let plan = |problem: Problem| {
        let config = fp8gemm_jit::choose(&problem, gpu.gpu().sms()).unwrap().config();
        assert_eq!(KernelForm::of(&config), KernelForm::Swapped, "{problem}");
        match mutant {
            None => Plan::with_config(gpu.gpu(), gpu.compiler(), &problem, config).unwrap(),
            Some(mutant) => Plan::mutant(gpu.gpu(), gpu.compiler(), &problem, config, mutant).unwrap(),
        }
    };
    let plans = chain_of_few_rows().map(plan);
    // E4M3 1.0 and -2.0.
    let a: [CudaSlice<u8>; 2] = [0x38, 0xC0].map(|code| stream.clone_htod(&vec![code; M * K]).unwrap());
    let weights: CudaSlice<u8> = stream.clone_htod(&vec![0x38; N * K.max(4 * N)]).unwrap();
    let ones: CudaSlice<f32> = stream.clone_htod(&vec![1.0f32; K / 128 * M]).unwrap();
    // Sums over K become their average.
    let averages = |k: usize, terms: usize| vec![1.0 / terms as f32; N / 128 * (k / 128)];
    let scales_b: [CudaSlice<f32>; 2] =
        [averages(K, K), averages(4 * N, N)].map(|scales| stream.clone_htod(&scales).unwrap());
    let between: CudaSlice<f32> = stream.alloc_zeros(M * N).unwrap();
    let at = |pointer, stride| DeviceMatrix { pointer, stride };
    let pointer = |x: &CudaSlice<u8>| x.device_ptr(&stream).0;
    let numbers_at = |x: &CudaSlice<f32>| x.device_ptr(&stream).0;
    [true, false].into_iter().all(|constant| {
        let options = LaunchOptions::default().overlapping_previous(true).constant_weights(constant);
        let results: Vec<CudaSlice<f32>> = (0..20).map(|_| stream.alloc_zeros(M * N).unwrap()).collect();
        stream.synchronize().unwrap();
        for (turn, d) in results.iter().enumerate() {
            let first = Operands {
                a: at(pointer(&a[turn % 2]), K),
                b: at(pointer(&weights), K),
                scale_a: at(numbers_at(&ones), M),
                scale_b: at(numbers_at(&scales_b[0]), K / 128),
                c: None,
                d: at(numbers_at(&between), N),
            };
            let second = Operands {
                a: at(numbers_at(&between), 4 * N),
                b: at(pointer(&weights), 4 * N),
                scale_a: at(numbers_at(&between), M),
                scale_b: at(numbers_at(&scales_b[1]), 4 * N / 128),
                c: None,
                d: at(numbers_at(d), N),
            };
            for (plan, operands) in plans.iter().zip([first, second]) {
                // SAFETY: all slices live until the end of this function, which waits for the stream below, and are as
                // long as the shapes say; no kernel writes weights.
                unsafe { plan.prepare(&operands).unwrap().launch_with(&stream, options) }.unwrap();
            }
        }
        results.iter().enumerate().all(|(turn, d)| {
            let expected = numbers[turn % 2] * codes[turn % 2];
            stream.clone_dtoh(d).unwrap().iter().all(|x| *x == expected)
        })
    })
}

/// The elements as they lie in memory.
fn bytes(x: &Matrix) -> Vec<u8> {
    match x {
        Matrix::Bf16(x) => x.iter().flat_map(|x| x.to_ne_bytes()).collect(),
        Matrix::F16(x) => x.iter().flat_map(|x| x.to_ne_bytes()).collect(),
        Matrix::F32(x) => x.iter().flat_map(|x| x.to_ne_bytes()).collect(),
    }
}
