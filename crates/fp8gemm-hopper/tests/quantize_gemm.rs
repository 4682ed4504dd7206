//! Host matrices of numbers quantised and multiplied on the GPU, against the CPU's recipe and the
//! twin, bit for bit. Needs a Hopper GPU, its driver and NVRTC:
//! `cargo test --release -p fp8gemm-hopper --test quantize_gemm -- --ignored`.

#![allow(clippy::unwrap_used)]

use fp8gemm_formats::ScaledMatrix;
use fp8gemm_formats::quantize::Quantizer;
use fp8gemm_hopper::{Gpu, HostMatrix, HostOperand, HostStep, HostView, OperandLayout, Product, gemm_on_gpu};
use fp8gemm_jit::{Cache, Compiler};
use fp8gemm_problem::{OperandSpec, OutputType, Policy, Problem};
use fp8gemm_sim::{Gemm, Matrix};
use half::{bf16, f16};
use ndarray::{Array2, ArrayView2, ShapeBuilder, s};
use rand::{Rng, SeedableRng, rngs::StdRng};

fn setup() -> (Gpu, Compiler) {
    (Gpu::open(0).unwrap_or_else(|error| panic!("{error}")), Compiler::new(Cache::from_environment(), None))
}

/// How a matrix lies in host memory.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Memory {
    Rows,
    Columns,
    /// Rows, and columns, of a wider matrix.
    SomeColumnsOfRows,
    SomeRowsOfColumns,
    /// Neither rows nor columns are contiguous.
    EverySecond,
}

/// `[rows, k]` numbers in an allocation that holds them as `Memory` says.
struct Stored<T> {
    data: Array2<T>,
    memory: Memory,
}

impl<T: Copy> Stored<T> {
    fn new((rows, k): (usize, usize), memory: Memory, mut next: impl FnMut() -> T) -> Self {
        let data = match memory {
            Memory::Rows => Array2::from_shape_simple_fn((rows, k), next),
            Memory::Columns => Array2::from_shape_simple_fn((rows, k).f(), next),
            Memory::SomeColumnsOfRows => Array2::from_shape_simple_fn((rows, k + 3), next),
            Memory::SomeRowsOfColumns => Array2::from_shape_simple_fn((rows + 5, k).f(), next),
            Memory::EverySecond => Array2::from_shape_simple_fn((2 * rows, 2 * k), &mut next),
        };
        Self { data, memory }
    }

    fn view(&self) -> ArrayView2<'_, T> {
        let (height, width) = self.data.dim();
        match self.memory {
            Memory::Rows | Memory::Columns => self.data.view(),
            Memory::SomeColumnsOfRows => self.data.slice(s![.., 2..width - 1]),
            Memory::SomeRowsOfColumns => self.data.slice(s![1..height - 4, ..]),
            Memory::EverySecond => self.data.slice(s![..;2, ..;2]),
        }
    }
}

enum Numbers {
    Bf16(Stored<bf16>),
    F16(Stored<f16>),
    F32(Stored<f32>),
}

impl Numbers {
    /// Most are around 1; some blocks have zeros, subnormals or a few huge or infinite numbers.
    fn random(ty: OutputType, shape: (usize, usize), memory: Memory, rng: &mut StdRng) -> Self {
        let mut next = || match rng.random_range(0..4000) {
            0 => f32::INFINITY,
            1 => f32::NAN,
            2 => -0.0,
            3 => 1e-41,
            4 => -6e4,
            _ => (0..6).map(|_| rng.random::<f32>()).sum::<f32>() - 3.0,
        };
        match ty {
            OutputType::Bf16 => Self::Bf16(Stored::new(shape, memory, || bf16::from_f32(next()))),
            OutputType::F16 => Self::F16(Stored::new(shape, memory, || f16::from_f32(next()))),
            OutputType::F32 => Self::F32(Stored::new(shape, memory, next)),
        }
    }

    fn view(&self) -> HostView<'_> {
        match self {
            Self::Bf16(x) => HostView::Bf16(x.view()),
            Self::F16(x) => HostView::F16(x.view()),
            Self::F32(x) => HostView::F32(x.view()),
        }
    }

    fn quantized(&self, quantizer: Quantizer) -> ScaledMatrix {
        match self {
            Self::Bf16(x) => quantizer.quantize(x.view()),
            Self::F16(x) => quantizer.quantize(x.view()),
            Self::F32(x) => quantizer.quantize(x.view()),
        }
        .unwrap()
    }
}

fn assert_same(found: &ScaledMatrix, expected: &ScaledMatrix, what: &str) {
    assert_eq!((found.ty(), found.layout()), (expected.ty(), expected.layout()), "{what}");
    assert!(found.codes() == expected.codes(), "{what}: codes differ");
    // The bits of a NaN are not the recipe's.
    let bits = |x: &ScaledMatrix| x.scales().mapv(|scale| if scale.is_nan() { f32::NAN } else { scale }.to_bits());
    assert!(bits(found) == bits(expected), "{what}: scales differ");
}

fn matrix(d: HostMatrix) -> Matrix {
    match d {
        HostMatrix::Bf16(d) => Matrix::Bf16(d),
        HostMatrix::F16(d) => Matrix::F16(d),
        HostMatrix::F32(d) => Matrix::F32(d),
    }
}

fn problem((m, n, k): (usize, usize, usize), [a, b]: [Quantizer; 2], d: OutputType) -> Problem {
    let spec = |quantizer: Quantizer| OperandSpec { ty: quantizer.ty, scales: quantizer.layout };
    let (policy, epilogue) = (Policy::PROMOTE_128, fp8gemm_problem::Epilogue::IDENTITY);
    Problem { m, n, k, a: spec(a), b: spec(b), c: None, d, policy, epilogue }
}

/// Breaks if what is quantised on the GPU from any of the input types, layouts in host memory, scale
/// layouts or odd shapes is not what the CPU quantises, if D is not the twin's, or if a pass or copy is
/// not named.
#[test]
#[ignore = "needs Hopper"]
fn numbers_give_the_twins_bits() {
    use Memory::{Columns, EverySecond, Rows, SomeColumnsOfRows, SomeRowsOfColumns};
    use OutputType::{Bf16, F16, F32};
    let (gpu, compiler) = setup();
    let mut rng = StdRng::seed_from_u64(20);
    for (shape, types, memories, quantizers, d) in [
        ((1, 1, 1), [Bf16, F32], [Rows, Rows], ["deepgemm", "deepgemm:128x128"], F32),
        ((3, 5, 7), [F16, Bf16], [Columns, Rows], ["deepgemm", "deepgemm:1x128"], F32),
        ((130, 200, 500), [F32, F32], [Rows, Columns], ["deepgemm", "deepgemm:128x128"], Bf16),
        ((257, 576, 1000), [Bf16, Bf16], [Rows, Rows], ["deepgemm", "deepgemm:128x128"], Bf16),
        ((129, 77, 384), [F16, F32], [SomeColumnsOfRows, SomeRowsOfColumns], ["deepgemm:1x128:e5m2", "deepgemm"], F16),
        ((200, 136, 640), [Bf16, F16], [SomeRowsOfColumns, EverySecond], ["deepgemm", "deepgemm:128x128"], F32),
        ((64, 300, 257), [F32, Bf16], [EverySecond, Columns], ["deepgemm-ue8m0", "deepgemm-ue8m0:128x128"], F32),
        ((150, 150, 300), [Bf16, F16], [Rows, Rows], ["deepgemm:128x128", "deepgemm:128x128:e5m2"], F32),
        ((150, 150, 300), [F16, F16], [Columns, Rows], ["deepgemm:128x128", "deepgemm:1x128"], Bf16),
        ((512, 512, 2048), [Bf16, Bf16], [Rows, Columns], ["deepgemm", "deepgemm:128x128"], Bf16),
    ] {
        let (m, n, k) = shape;
        let x = Numbers::random(types[0], (m, k), memories[0], &mut rng);
        let y = Numbers::random(types[1], (n, k), memories[1], &mut rng);
        let quantizers = quantizers.map(|text| text.parse::<Quantizer>().unwrap());
        let (a, b) = (x.quantized(quantizers[0]), y.quantized(quantizers[1]));
        let problem = problem(shape, quantizers, d);
        let what = format!("{problem} from {types:?} {memories:?}");
        let twin = Gemm::new(a.view(), b.view()).output(d).policy(problem.policy).run().unwrap();
        let raw_a = || HostOperand::Raw { matrix: x.view(), quantizer: quantizers[0] };
        let raw_b = || HostOperand::Raw { matrix: y.view(), quantizer: quantizers[1] };
        let both = gemm_on_gpu(&gpu, &compiler, raw_a(), raw_b(), None, &problem).unwrap();
        // One operand may be FP8 already, on either side.
        let only_a = gemm_on_gpu(&gpu, &compiler, raw_a(), &b.view(), None, &problem).unwrap();
        let only_b = gemm_on_gpu(&gpu, &compiler, &a.view(), raw_b(), None, &problem).unwrap();
        for (product, quantized) in [(both, [true, true]), (only_a, [true, false]), (only_b, [false, true])] {
            let Product { d, quantized_a, quantized_b, steps, .. } = product;
            assert!(matrix(d).view().bits_equal(&twin.view()), "{what}: D differs");
            assert_eq!([quantized_a.is_some(), quantized_b.is_some()], quantized, "{what}");
            for (found, expected, memory) in [(quantized_a, &a, memories[0]), (quantized_b, &b, memories[1])] {
                let Some(found) = found else { continue };
                assert_same(&found.download().unwrap(), expected, &what);
                assert!(steps.iter().any(|step| matches!(step, HostStep::OnGpu { step, .. } if *step == found.step())));
                let transposed = matches!(memory, Columns | SomeRowsOfColumns);
                let layout = found.quantization().layout;
                assert_eq!(layout == OperandLayout::MnMajor, transposed && found.quantization().k > 1, "{what}");
                let packed = steps.iter().any(|step| matches!(step, HostStep::Packed { .. }));
                assert!(packed || memory != EverySecond, "{what}: {steps:?}");
            }
        }
    }
}

/// Breaks if an operand without elements is quantised, or its empty product is another than that of
/// codes.
#[test]
#[ignore = "needs Hopper"]
fn nothing_to_quantise() {
    let (gpu, compiler) = setup();
    let quantizers = ["deepgemm", "deepgemm:128x128"].map(|text| text.parse::<Quantizer>().unwrap());
    for shape in [(0, 7, 5), (7, 0, 5), (7, 9, 0)] {
        let (m, n, k) = shape;
        let (x, y) = (Array2::<f32>::ones((m, k)), Array2::<f32>::ones((n, k)));
        let raw = |x, quantizer| HostOperand::Raw { matrix: HostView::F32(x), quantizer };
        let (a, b) = (raw(x.view(), quantizers[0]), raw(y.view(), quantizers[1]));
        let problem = problem(shape, quantizers, OutputType::F32);
        let product = gemm_on_gpu(&gpu, &compiler, a, b, None, &problem).unwrap();
        assert!(product.quantized_a.is_none() && product.quantized_b.is_none());
        assert_eq!(product.d, HostMatrix::F32(Array2::zeros((m, n))));
    }
}
