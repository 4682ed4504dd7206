//! Between the matrices of the CPU model and those of the GPU: the same data under two types, so
//! that neither crate depends on the other. Nothing is copied.

use fp8gemm_hopper::{HostMatrix, HostView};
use fp8gemm_sim::{Matrix, MatrixView};

/// A D that a GPU computed, as the twin gives it and `compare` takes it.
///
/// ```
/// use fp8gemm::{convert, hopper::HostMatrix, sim::Matrix};
/// use ndarray::array;
///
/// let d = convert::matrix(HostMatrix::F32(array![[1.0, -0.0]]));
/// assert!(d.view().bits_equal(&Matrix::F32(array![[1.0, -0.0]]).view()));
/// ```
pub fn matrix(d: HostMatrix) -> Matrix {
    match d {
        HostMatrix::Bf16(d) => Matrix::Bf16(d),
        HostMatrix::F16(d) => Matrix::F16(d),
        HostMatrix::F32(d) => Matrix::F32(d),
    }
}

/// A C of the twin, as `hopper::gemm_on_gpu` takes it.
///
/// ```
/// use fp8gemm::{convert, problem::OutputType, sim::Matrix};
/// use ndarray::Array2;
///
/// let c = Matrix::F32(Array2::zeros((2, 3)));
/// let view = convert::host_view(&c.view());
/// assert_eq!((view.ty(), view.dim()), (OutputType::F32, (2, 3)));
/// ```
pub fn host_view<'a>(c: &MatrixView<'a>) -> HostView<'a> {
    // A view of a view is cheap, and ndarray's lives as long as the data.
    match c.clone() {
        MatrixView::Bf16(c) => HostView::Bf16(c),
        MatrixView::F16(c) => HostView::F16(c),
        MatrixView::F32(c) => HostView::F32(c),
    }
}
