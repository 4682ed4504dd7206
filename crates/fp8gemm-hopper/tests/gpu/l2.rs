//! Words of the L2 policies: the host writes them as constants, the hardware says what they should be.

use std::ffi::c_void;

use fp8gemm_hopper::cudarc::driver::{CudaSlice, DevicePtrMut, result};
use fp8gemm_hopper::cudarc::nvrtc::Ptx;
use fp8gemm_hopper::l2_policy;
use fp8gemm_jit::{BASE_OPTIONS, Unit};

use crate::setup;

/// Stores evict-normal, then evict-first, each for all accesses.
const SOURCE: &str = r#"// fp8gemm test of L2 policies
extern "C" __global__ void policies(unsigned long long* words) {
    unsigned long long normal, first;
    asm volatile("createpolicy.fractional.L2::evict_normal.b64 %0, 1.0;" : "=l"(normal));
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(first));
    words[0] = normal;
    words[1] = first;
}
"#;

fn unit() -> Unit<'static> {
    Unit { source: SOURCE, kernel: "policies", configuration: "L2 policies", options: &BASE_OPTIONS }
}

/// Breaks if the word for weights that are read once is not the policy it is taken for: the hardware takes any word,
/// and another one costs only time. (The word for everything else is not one that
/// `createpolicy` makes: see `EVICT_NORMAL`.)
#[test]
#[ignore = "needs Hopper"]
fn policies_are_those_of_the_hardware() {
    let (gpu, compiler) = setup();
    let stream = gpu.context().new_stream().unwrap();
    let cubin = compiler.cubin(&unit()).unwrap();
    let module = gpu.context().load_module(Ptx::from_binary(cubin.to_vec())).unwrap();
    let function = module.load_function(unit().kernel).unwrap();
    let mut words: CudaSlice<u64> = stream.alloc_zeros(2).unwrap();
    {
        let (pointer, _used) = words.device_ptr_mut(&stream);
        let mut parameters = [(&raw const pointer).cast_mut().cast::<c_void>()];
        gpu.context().bind_to_thread().unwrap();
        // SAFETY: the kernel takes one pointer, to two words that live until the download below on the same stream;
        // the driver copies the parameter before it returns.
        unsafe {
            let (function, stream) = (function.cu_function(), stream.cu_stream());
            result::launch_kernel(function, (1, 1, 1), (1, 1, 1), 0, stream, &mut parameters)
        }
        .unwrap();
    }
    let found = stream.clone_dtoh(&words).unwrap();
    let expected = [0x16F0_0000_0000_0000, l2_policy(1 << 30)];
    assert_eq!(found, expected, "{found:#018X?}, not {expected:#018X?}");
}

/// Breaks if the kernel above does not compile. Needs NVRTC and no GPU.
#[test]
#[ignore = "needs NVRTC"]
fn the_kernel_of_policies_compiles() {
    let nvrtc = fp8gemm_jit::Nvrtc::find(None).unwrap();
    fp8gemm_jit::compile_checked(&nvrtc, &unit()).unwrap();
}
