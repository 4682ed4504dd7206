//! Cases made ahead of their turn, on threads beside the one that runs them. What is made does not depend on
//! when, or on how many threads.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use rayon::ThreadPoolBuilder;

use crate::DifftestError;
use crate::maker::{Made, Maker};

/// Makes cases on threads and gives them out in their order.
pub(crate) struct Ahead<'a> {
    maker: &'a Maker<'a>,
    cases: u64,
    /// Cases made and not yet taken, at most.
    window: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The next that nobody makes yet.
    next: u64,
    /// The next to be taken.
    taken: u64,
    made: BTreeMap<u64, Result<Made, DifftestError>>,
    /// Being made now.
    working: usize,
    ended: bool,
}

impl<'a> Ahead<'a> {
    /// Runs `body` with the cases; `jobs` threads make them, or with 0 each is made when it is asked for.
    pub(crate) fn run<R>(maker: &'a Maker<'a>, cases: u64, jobs: usize, body: impl FnOnce(&Self) -> R) -> R {
        let window = 2 * jobs as u64;
        let ahead = Self { maker, cases, window, state: Mutex::default(), changed: Condvar::new() };
        thread::scope(|scope| {
            // Ends the threads on whatever way `body` ends.
            let _end = End(&ahead);
            for number in 0..jobs {
                let spawned =
                    thread::Builder::new().name(format!("ahead-{number}")).spawn_scoped(scope, || ahead.work());
                if let Err(error) = spawned {
                    tracing::warn!(%error, "fewer threads make cases ahead");
                    break;
                }
            }
            body(&ahead)
        })
    }

    /// The case of that number; they are asked for in their order. Waits for it, or makes it.
    pub(crate) fn take(&self, index: u64) -> Result<Made, DifftestError> {
        let start = Instant::now();
        let mut state = self.state();
        state.taken = index;
        let made = loop {
            if let Some(made) = state.made.remove(&index) {
                break Some(made);
            }
            if state.next <= index || state.working == 0 {
                state.next = state.next.max(index + 1);
                break None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        };
        state.taken = index + 1;
        drop(state);
        self.changed.notify_all();
        let waiting = start.elapsed();
        let mut made = match made {
            Some(made) => made?,
            None => self.maker.make(index, None, &|| true)?,
        };
        made.times.waiting = waiting;
        Ok(made)
    }

    fn work(&self) {
        // One thread each: as many run as were asked for, and the one that runs subjects keeps its core.
        let pool = ThreadPoolBuilder::new().num_threads(1).build().ok();
        while let Some(index) = self.claim() {
            let mut claim = Claim { ahead: self, made: None };
            claim.made = Some((index, self.maker.make(index, pool.as_ref(), &|| !self.state().ended)));
        }
    }

    fn claim(&self) -> Option<u64> {
        let mut state = self.state();
        loop {
            if state.ended || state.next >= self.cases {
                return None;
            }
            if state.next < state.taken + self.window {
                break;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let index = state.next;
        state.next += 1;
        state.working += 1;
        Some(index)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that runs under the lock can leave it half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives a case out, or, where making it panicked, tells that it will not come.
struct Claim<'a, 'b> {
    ahead: &'a Ahead<'b>,
    made: Option<(u64, Result<Made, DifftestError>)>,
}

impl Drop for Claim<'_, '_> {
    fn drop(&mut self) {
        let mut state = self.ahead.state();
        state.working -= 1;
        if let Some((index, made)) = self.made.take() {
            state.made.insert(index, made);
        }
        drop(state);
        self.ahead.changed.notify_all();
    }
}

struct End<'a, 'b>(&'a Ahead<'b>);

impl Drop for End<'_, '_> {
    fn drop(&mut self) {
        self.0.state().ended = true;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Generator, Menu, Only, Prepare};
    use fp8gemm_problem::Problem;
    use fp8gemm_sim::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    /// Counts what is prepared.
    #[derive(Default)]
    struct Counting {
        prepared: Mutex<Vec<(String, usize)>>,
        largest: AtomicUsize,
    }

    impl Prepare for Counting {
        fn configurations(&self, problem: &Problem) -> usize {
            if problem.m > 100 { 0 } else { 3 }
        }

        fn prepare(&self, problem: &Problem, configuration: usize) {
            self.largest.fetch_max(configuration, Ordering::Relaxed);
            self.prepared.lock().unwrap().push((problem.to_string(), configuration));
        }
    }

    fn made(jobs: usize) -> (Vec<String>, Vec<(String, usize)>) {
        let generator = Generator::new(3, Menu::twin(), Only::default());
        let counting = Arc::new(Counting::default());
        let preparers = vec![Some(counting.clone() as Arc<dyn Prepare>)];
        let maker = Maker { generator: &generator, oracle: Path::best(), properties: true, preparers };
        let texts = Ahead::run(&maker, 40, jobs, |ahead| {
            (0..40)
                .map(|index| {
                    let Made { case, twin, .. } = ahead.take(index).unwrap();
                    assert_eq!(twin.is_some(), case.problem.m <= 100, "{case}");
                    let d = twin.map(|twin| twin.d);
                    format!("{case} {d:?}")
                })
                .collect()
        });
        let mut prepared = counting.prepared.lock().unwrap().clone();
        prepared.sort();
        assert_eq!(counting.largest.load(Ordering::Relaxed), 2);
        (texts, prepared)
    }

    /// Breaks if the number of threads changes a case, the order of cases, or what is prepared; or if a
    /// case that nobody computes is predicted.
    #[test]
    fn threads_change_nothing() {
        let alone = made(0);
        assert!(alone.1.len() > 60, "{}", alone.1.len());
        for jobs in [1, 3, 8] {
            assert_eq!(made(jobs), alone, "{jobs} threads");
        }
    }

    /// Breaks if more cases are made than the window holds, or the threads do not end with the run.
    #[test]
    fn no_more_is_made_than_the_window_holds() {
        let generator = Generator::new(3, Menu::twin(), Only::parse(["shape-small"]).unwrap());
        let maker = Maker { generator: &generator, oracle: Path::best(), properties: false, preparers: vec![None] };
        let most = Ahead::run(&maker, u64::MAX, 2, |ahead| {
            ahead.take(0).unwrap();
            // As many as it should be, however slow the machine; then time for one too many.
            let begin = Instant::now();
            while ahead.state().next < 1 + 4 && begin.elapsed() < Duration::from_secs(60) {
                thread::sleep(Duration::from_millis(1));
            }
            thread::sleep(Duration::from_millis(200));
            let state = ahead.state();
            state.next
        });
        assert_eq!(most, 1 + 4);
    }

    /// Breaks if a thread that panics leaves the run waiting for its case for ever.
    #[test]
    fn a_lost_case_is_made_again() {
        struct Once(AtomicUsize);
        impl Prepare for Once {
            fn configurations(&self, _: &Problem) -> usize {
                1
            }
            fn prepare(&self, _: &Problem, _: usize) {
                assert!(self.0.fetch_add(1, Ordering::Relaxed) > 0, "the first time, on purpose");
            }
        }
        let generator = Generator::new(3, Menu::twin(), Only::parse(["shape-small"]).unwrap());
        let preparers = vec![Some(Arc::new(Once(AtomicUsize::new(0))) as Arc<dyn Prepare>)];
        let maker = Maker { generator: &generator, oracle: Path::best(), properties: false, preparers };
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            Ahead::run(&maker, 3, 1, |ahead| {
                thread::sleep(Duration::from_millis(100));
                for index in 0..3 {
                    ahead.take(index).unwrap();
                }
            });
        }));
        // The scope tells of the thread's panic, after the run has ended.
        assert!(panicked.is_err());
    }
}
