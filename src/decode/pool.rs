//! The threads that decode, and the way there and back.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rayon::{ThreadPool, ThreadPoolBuilder};
use tokio::sync::oneshot;

use super::internal;
use crate::error::{Error, ErrorKind, Phase, Result};

/// The threads that decode, for all pipelines of a process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct DecodePool {
    threads: Arc<ThreadPool>,
}

impl DecodePool {
    /// A pool of `threads` threads, one at least.
    ///
    /// # Errors
    /// When the operating system gives no threads.
    pub fn new(threads: usize) -> Result<Self> {
        ThreadPoolBuilder::new()
            .num_threads(threads.max(1))
            .thread_name(|index| format!("decode-{index}"))
            .build()
            .map(|threads| Self { threads: Arc::new(threads) })
            .map_err(|error| internal(format!("cannot start {threads} threads to decode on: {error}")))
    }

    /// Runs `work` on the pool. Work whose caller is gone before its turn comes is skipped.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let (sender, receiver) = oneshot::channel();
        self.threads.spawn(move || {
            if sender.is_closed() {
                return;
            }
            // rayon aborts the process when a spawned job panics: events of other pipelines would go with it.
            // Nothing that `work` had in hand is used after it.
            let outcome = catch_unwind(AssertUnwindSafe(work));
            // The caller may be gone by now; what it would have got is dropped here.
            let _ = sender.send(outcome);
        });
        match receiver.await {
            Ok(Ok(value)) => Ok(value),
            // What a panic says may quote a value: it is not repeated.
            Ok(Err(_panic)) => {
                Err(Error::new(Phase::Decode, ErrorKind::DecoderFailed, "decoding a batch panicked"))
            }
            Err(_closed) => Err(internal("the threads to decode on are gone")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_becomes_an_error_without_its_text_and_the_pool_lives_on() {
        let pool = DecodePool::new(1).expect("a pool");
        let error = pool.run(|| -> u8 { panic!("a secret value") }).await.expect_err("it panicked");
        assert_eq!(error.kind, ErrorKind::DecoderFailed);
        assert!(!error.to_string().contains("secret"));
        assert_eq!(pool.run(|| 7).await.expect("it works"), 7);
    }

    #[tokio::test]
    async fn work_is_skipped_when_its_caller_is_gone() {
        let pool = DecodePool::new(1).expect("a pool");
        let (open, gate) = std::sync::mpsc::channel::<()>();
        let first = tokio::spawn({
            let pool = pool.clone();
            async move { pool.run(move || gate.recv()).await }
        });
        // GIVEN work that waits behind other work, and whose caller leaves
        let ran = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let second = {
            let ran = Arc::clone(&ran);
            pool.run(move || ran.store(true, std::sync::atomic::Ordering::SeqCst))
        };
        assert!(futures_util::FutureExt::now_or_never(second).is_none());
        // WHEN its turn comes
        open.send(()).expect("the first work waits");
        first.await.expect("no panic").expect("it ran").expect("the gate was opened");
        pool.run(|| ()).await.expect("it works");
        // THEN it is not done
        assert!(!ran.load(std::sync::atomic::Ordering::SeqCst));
    }
}
