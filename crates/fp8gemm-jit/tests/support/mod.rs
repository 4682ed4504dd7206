//! What the tests of the cache share.
#![allow(dead_code, unreachable_pub, reason = "each test uses a part of it")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fp8gemm_jit::{Key, Metadata};
use tracing::{Event, Id, Level, Metadata as Callsite, Subscriber, span};

/// A recorded CUBIN for `sm_90a`: imports accept nothing else.
pub const CUBIN: &[u8] = include_bytes!("../data/scale.sm_90a.13.0.88.cubin");

pub fn key(number: u32) -> Key {
    Key::new(&format!("source {number}"), &["--option"], (13, 0))
}

pub fn metadata() -> Metadata {
    Metadata { kernel: "scale".into(), configuration: "a test".into(), nvrtc: (13, 0), compile_milliseconds: 12.5 }
}

/// Counts the warnings that a piece of code emits on this thread.
#[derive(Clone, Default)]
pub struct Events(Arc<AtomicUsize>);

impl Events {
    pub fn during<T>(run: impl FnOnce() -> T) -> (Self, T) {
        let events = Self::default();
        let value = tracing::subscriber::with_default(events.clone(), run);
        (events, value)
    }

    pub fn warnings(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Subscriber for Events {
    fn enabled(&self, _: &Callsite<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        if *event.metadata().level() == Level::WARN {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}
