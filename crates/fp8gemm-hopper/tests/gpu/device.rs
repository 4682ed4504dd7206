//! A problem in plain device memory, for tests of ways to launch.

use std::sync::Arc;

use fp8gemm_hopper::cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DevicePtrMut};
use fp8gemm_hopper::{DeviceMatrix, Gpu, Operands, Plan};
use fp8gemm_jit::Compiler;
use fp8gemm_problem::Problem;
use fp8gemm_sim::Matrix;
use ndarray::Array2;

use crate::data::Case;

/// A tensor-scaled f32 problem in device memory, K a multiple of 16 and N of 4.
pub(crate) struct Device {
    pub(crate) case: Case,
    pub(crate) plan: Plan,
    pub(crate) a: CudaSlice<u8>,
    pub(crate) b: CudaSlice<u8>,
    pub(crate) scale_a: CudaSlice<f32>,
    pub(crate) scale_b: CudaSlice<f32>,
    pub(crate) d: CudaSlice<f32>,
}

impl Device {
    pub(crate) fn new(gpu: &Gpu, compiler: &Compiler, stream: &Arc<CudaStream>, problem: &str, seed: u64) -> Self {
        Self::of(Plan::new(gpu, compiler, &problem.parse().unwrap()).unwrap(), stream, seed)
    }

    /// D is set to 1, for problems with beta.
    pub(crate) fn of(plan: Plan, stream: &Arc<CudaStream>, seed: u64) -> Self {
        let problem = *plan.problem();
        let case = telling(problem, seed);
        let codes = |x: &fp8gemm_formats::ScaledMatrix| stream.clone_htod(x.codes().as_slice().unwrap()).unwrap();
        let scale = |x: &fp8gemm_formats::ScaledMatrix| stream.clone_htod(&[x.scales()[(0, 0)]]).unwrap();
        Self {
            plan,
            a: codes(&case.a),
            b: codes(&case.b),
            scale_a: scale(&case.a),
            scale_b: scale(&case.b),
            d: stream.clone_htod(&vec![1.0f32; problem.m * problem.n]).unwrap(),
            case,
        }
    }

    pub(crate) fn operands(&mut self, stream: &CudaStream) -> Operands {
        let p = self.case.problem;
        let at = |pointer, stride| DeviceMatrix { pointer, stride };
        let d = at(self.d.device_ptr_mut(stream).0, p.n);
        Operands {
            a: at(self.a.device_ptr(stream).0, p.k),
            b: at(self.b.device_ptr(stream).0, p.k),
            scale_a: at(self.scale_a.device_ptr(stream).0, 1),
            scale_b: at(self.scale_b.device_ptr(stream).0, 1),
            c: p.c.map(|_| d),
            d,
        }
    }

    pub(crate) fn result(&self, stream: &Arc<CudaStream>) -> Matrix {
        let p = self.case.problem;
        Matrix::F32(Array2::from_shape_vec((p.m, p.n), stream.clone_dtoh(&self.d).unwrap()).unwrap())
    }

    /// The twin's D after so many accumulations onto ones.
    pub(crate) fn twin_after(&self, launches: usize) -> Matrix {
        let mut case = Case { c: self.case.c.clone(), kinds: String::new(), ..self.case.rows(&all(&self.case)) };
        for _ in 0..launches {
            case.c = Some(case.twin());
        }
        case.c.unwrap()
    }
}

/// All rows.
pub(crate) fn all(case: &Case) -> Vec<usize> {
    (0..case.problem.m).collect()
}

/// The seed's data, with a C of ones; fails if most of D is NaN or what it was before.
fn telling(problem: Problem, seed: u64) -> Case {
    let mut case = Case::seeded(problem, seed);
    let ones = Array2::from_elem((problem.m, problem.n), 1.0f32);
    case.c = problem.c.map(|ty| Matrix::from_f32(ones, ty));
    let sample = case.rows(&[0, problem.m / 2, problem.m - 1]).twin().to_f32();
    let idle = sample.iter().filter(|x| x.is_nan() || **x == 1.0 || **x == 0.0).count();
    assert!(2 * idle < sample.len(), "{problem}, seed {seed}: {idle} of {} outputs tell nothing", sample.len());
    case
}
