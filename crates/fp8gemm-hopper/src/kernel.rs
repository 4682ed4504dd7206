//! A compiled kernel, loaded into one CUDA context. Plans that need the same one share it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use cudarc::driver::{CudaContext, CudaFunction, result, sys};
use cudarc::nvrtc::Ptx;
use fp8gemm_jit::sass::Interleave;
use fp8gemm_jit::{BASE_OPTIONS, Compiler, KERNEL, KernelConfig, Unit};

use crate::{Gpu, HopperError};

/// A kernel that stays loaded as long as this lives, and the context it is loaded in.
#[derive(Debug)]
pub(crate) struct Kernel {
    function: CudaFunction,
    context: Arc<CudaContext>,
}

/// A context's handle, a compiled configuration and what was changed in its code. The handle is not reused while the kernel lives, since
/// the kernel keeps the context.
type Key = (usize, KernelConfig, Interleave);

/// What is loaded now. A kernel is unloaded with its last plan.
static LOADED: Mutex<Option<HashMap<Key, Weak<Kernel>>>> = Mutex::new(None);

impl Kernel {
    /// The loaded kernel of this configuration and pattern: one that some plan holds, or from the compiler.
    pub(crate) fn load(
        gpu: &Gpu,
        compiler: &Compiler,
        config: &KernelConfig,
        interleave: Interleave,
    ) -> Result<Arc<Self>, HopperError> {
        let key = (gpu.context().cu_ctx() as usize, config.compiled(), interleave);
        if let Some(kernel) = with_loaded(|loaded| loaded.get(&key).and_then(Weak::upgrade)) {
            return Ok(kernel);
        }
        // Not under the lock: compiling takes long. Two threads may load the same kernel; the
        // second to come here takes the first's.
        let (source, name) = (config.source(), config.kernel_name());
        let kernel = Arc::new(Self::compile(gpu, compiler, config, (&source, &name), interleave)?);
        Ok(with_loaded(|loaded| {
            if let Some(first) = loaded.get(&key).and_then(Weak::upgrade) {
                return first;
            }
            loaded.retain(|_, kernel| kernel.strong_count() > 0);
            loaded.insert(key, Arc::downgrade(&kernel));
            kernel
        }))
    }

    /// A kernel of its own, from this source and with this name.
    pub(crate) fn compile(
        gpu: &Gpu,
        compiler: &Compiler,
        config: &KernelConfig,
        (source, name): (&str, &str),
        interleave: Interleave,
    ) -> Result<Self, HopperError> {
        let unit = Unit { source, kernel: KERNEL, configuration: name, options: &BASE_OPTIONS };
        let function = load_interleaved(gpu, compiler, &unit, interleave)?;
        function
            .set_attribute(
                sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                // At most SHARED_LIMIT, which `config.check` has seen to.
                config.shared_bytes() as i32,
            )
            .map_err(HopperError::cuda("cuFuncSetAttribute"))?;
        Ok(Self { function, context: Arc::clone(gpu.context()) })
    }

    pub(crate) fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    pub(crate) fn handle(&self) -> sys::CUfunction {
        self.function.cu_function()
    }
}

/// Compiles, or takes from the cache, and loads. The function keeps its module, and the context.
pub(crate) fn load_function(gpu: &Gpu, compiler: &Compiler, unit: &Unit<'_>) -> Result<CudaFunction, HopperError> {
    load_interleaved(gpu, compiler, unit, Interleave::AsCompiled)
}

/// The same with a pattern in the promotion's `FFMA`.
fn load_interleaved(
    gpu: &Gpu,
    compiler: &Compiler,
    unit: &Unit<'_>,
    interleave: Interleave,
) -> Result<CudaFunction, HopperError> {
    let cubin = compiler.make_interleaved(unit, interleave)?.cubin;
    let context = gpu.context();
    bind(context)?;
    let module =
        context.load_module(Ptx::from_binary(cubin.to_vec())).map_err(HopperError::cuda("cuModuleLoadData"))?;
    let function = module.load_function(unit.kernel).map_err(HopperError::cuda("cuModuleGetFunction"))?;
    tracing::debug!(kernel = unit.configuration, %interleave, device = gpu.info().ordinal, "kernel loaded");
    Ok(function)
}

/// Makes `context` the thread's current one. cudarc's own function would also return, as ours, an
/// error that some earlier release of memory left behind.
pub(crate) fn bind(context: &CudaContext) -> Result<(), HopperError> {
    let current = result::ctx::get_current().map_err(HopperError::cuda("cuCtxGetCurrent"))?;
    if current == Some(context.cu_ctx()) {
        return Ok(());
    }
    // SAFETY: the context is alive: it is borrowed.
    unsafe { result::ctx::set_current(context.cu_ctx()) }.map_err(HopperError::cuda("cuCtxSetCurrent"))
}

fn with_loaded<R>(f: impl FnOnce(&mut HashMap<Key, Weak<Kernel>>) -> R) -> R {
    // Nothing that runs under the lock can leave the map half changed.
    f(LOADED.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default())
}
