//! One `CudaContext` for each GPU, kept so that cudarc orders uses of slices, and what belongs to it.
//!
//! cudarc records and waits for the events of a slice only while the `CudaContext` *object* that the
//! stream or slice comes from counts at least one stream that it created. Two objects for one GPU have
//! two counts, and a count falls back to 0 when the last such stream is dropped, though its work may
//! still run. Either way a slice could be read or released while a kernel writes to it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::{CudaContext, CudaStream};

use crate::HopperError;
use crate::kernel::bind;

/// An idle stream of each GPU that was opened; it keeps its context, and the context's count above 0.
///
/// Never emptied: slices may outlive every `Gpu` and plan, and all that they keep alive is the context,
/// which cannot own a stream, since streams own it. So a GPU that was opened stays open until the process
/// ends, as with the CUDA runtime.
static OPENED: Mutex<BTreeMap<usize, Arc<CudaStream>>> = Mutex::new(BTreeMap::new());

/// The one context of this GPU that [`Gpu`](crate::Gpu)s share, current on this thread.
pub(crate) fn open(ordinal: usize) -> Result<Arc<CudaContext>, HopperError> {
    let idle = kept(&OPENED, ordinal, || {
        let context = CudaContext::new(ordinal).map_err(HopperError::cuda("cuDevicePrimaryCtxRetain"))?;
        context.new_stream().map_err(HopperError::cuda("cuStreamCreate"))
    })?;
    bind(idle.context())?;
    Ok(Arc::clone(idle.context()))
}

/// What the table has for this key, else what `make` gives, which is then kept. Errors are not.
fn kept<T, E>(
    table: &Mutex<BTreeMap<usize, Arc<T>>>,
    key: usize,
    make: impl FnOnce() -> Result<Arc<T>, E>,
) -> Result<Arc<T>, E> {
    // Nothing that runs under the lock can leave the table half changed.
    let lock = || table.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(first) = lock().get(&key) {
        return Ok(Arc::clone(first));
    }
    // Not under the lock: opening a GPU takes long. Two threads may open the same; the second to come
    // here takes the first's.
    let made = make()?;
    Ok(Arc::clone(lock().entry(key).or_insert_with(|| Arc::clone(&made))))
}

/// Whether a stream is of the plan's CUDA context: enough for a launch on raw pointers.
pub(crate) fn same_context(what: &'static str, found: &CudaContext, plan: &CudaContext) -> Result<(), HopperError> {
    if found.cu_ctx() == plan.cu_ctx() {
        return Ok(());
    }
    Err(HopperError::WrongContext { what, found: found.ordinal(), plan: plan.ordinal() })
}

/// Whether a stream, or the one that memory is of, is of the plan's `CudaContext` object: only then do
/// cudarc's events order a launch.
pub(crate) fn ordered(what: &'static str, stream: &CudaStream, plan: &Arc<CudaContext>) -> Result<(), HopperError> {
    let found = stream.context();
    if Arc::ptr_eq(found, plan) {
        return Ok(());
    }
    Err(HopperError::WrongContext { what, found: found.ordinal(), plan: plan.ordinal() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Breaks if a GPU that is opened twice has two contexts, each with its own count of streams (also when
    /// two threads open it at once), if two GPUs share one, or if a failure is remembered.
    #[test]
    fn the_first_is_kept() {
        let table = Mutex::new(BTreeMap::new());
        let open = |key, value| kept(&table, key, || Ok::<_, ()>(Arc::new(value)));
        assert_eq!(kept(&table, 0, || Err::<Arc<i32>, _>("lost")), Err("lost"));
        let first = open(0, 1).unwrap();
        assert!(Arc::ptr_eq(&first, &open(0, 2).unwrap()));
        assert_eq!((*first, *open(1, 3).unwrap()), (1, 3));
        // Another thread comes first while this one is opening.
        let late = kept(&table, 2, || {
            open(2, 4)?;
            Ok::<_, ()>(Arc::new(5))
        });
        assert_eq!(late.map(|found| *found), Ok(4));
    }

    /// Breaks if the error for a context of the caller's own on the plan's GPU does not say what to do.
    #[test]
    fn the_error_names_the_remedy() {
        let error = HopperError::WrongContext { what: "D", found: 0, plan: 0 };
        assert_eq!(
            error.to_string(),
            "D is of another CudaContext (device 0) than the plan (device 0); streams and memory come from Gpu::context"
        );
    }
}
