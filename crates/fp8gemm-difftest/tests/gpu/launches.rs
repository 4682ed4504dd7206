//! Launches that generated cases do not make: many tiles in a row, and a chain of dependent launches.

use fp8gemm_difftest::{DataRegime, Generator, HopperSubject, Menu, Only, ScaleRegime};
use fp8gemm_formats::ScaledMatrix;
use fp8gemm_hopper::cudarc::driver::{CudaSlice, DevicePtr};
use fp8gemm_hopper::{DeviceMatrix, HopperError, LaunchOptions, Operands, Plan, ScaleForm};
use fp8gemm_jit::mutants::KernelMutant;
use fp8gemm_jit::{JitError, KernelConfig};
use fp8gemm_problem::{Problem, Side};
use fp8gemm_sim::{Matrix, Path};

/// Runs large outputs of few K blocks on every configuration that applies, so many times each, and says
/// which gave other bits than the twin.
pub(crate) fn many_tiles(gpu: &HopperSubject, mutant: Option<KernelMutant>, launches: usize) -> Option<String> {
    let generator = Generator::new(17, Menu::kernels(), Only::default());
    let stream = gpu.gpu().context().new_stream().unwrap();
    for text in [
        "2048x4096x32 a=e4m3:tensor b=e4m3:tensor d=f32",
        "2048x4096x32 a=e4m3:1x128 b=e4m3:128x128 d=bf16",
        "2048x2304x640 a=e4m3:tensor b=e4m3:tensor d=f32 c=f32 beta=1",
    ] {
        let problem: Problem = text.parse().unwrap();
        let case = generator.fill(&problem, 0, DataRegime::Normal, ScaleRegime::Ordinary).unwrap();
        let expected = bytes(&case.twin(Path::best()).unwrap());
        let mut found = vec![0; expected.len()];
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

/// The elements as they lie in memory.
fn bytes(x: &Matrix) -> Vec<u8> {
    match x {
        Matrix::Bf16(x) => x.iter().flat_map(|x| x.to_ne_bytes()).collect(),
        Matrix::F16(x) => x.iter().flat_map(|x| x.to_ne_bytes()).collect(),
        Matrix::F32(x) => x.iter().flat_map(|x| x.to_ne_bytes()).collect(),
    }
}

/// D += A B^T twenty times, each launch allowed to start before the one before has ended.
pub(crate) fn chain_is_right(gpu: &HopperSubject, mutant: Option<KernelMutant>) -> bool {
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
