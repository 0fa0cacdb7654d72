//! Work that blocks (disks, databases, locks), done where blocking is allowed.

use std::future::pending;
use std::panic::resume_unwind;
use tokio::task::JoinHandle;
use tokio::task::spawn_blocking;

/// Does it on a thread for such work. A panic in it stays a panic, of who waits for it.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    done(spawn_blocking(work)).await
}

/// What work comes to that was begun earlier and that nobody aborts.
///
/// Never returns where the runtime ends: it gives up work that no thread has taken, while tasks that wait for it may be polled
/// for a little longer. That the work was not done says nothing of a file or a job, and must not be written down as if it did.
pub async fn done<T>(work: JoinHandle<T>) -> T {
    match work.await {
        Ok(done) => done,
        Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
        Err(_) => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use std::panic::AssertUnwindSafe;

    #[tokio::test]
    async fn a_panic_stays_what_it_was() {
        assert_eq!(run(|| 7).await, 7);
        let broken = AssertUnwindSafe(run(|| panic!("the disk is a lie"))).catch_unwind().await;
        assert_eq!(*broken.unwrap_err().downcast::<&str>().unwrap(), "the disk is a lie");
    }

    /// Given up before a thread took it, as when a runtime ends.
    #[test]
    fn work_that_was_given_up_is_no_answer() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).max_blocking_threads(1).build().unwrap();
        runtime.block_on(async {
            let (go, wait) = std::sync::mpsc::channel::<()>();
            let busy = spawn_blocking(move || wait.recv().unwrap());
            let given_up = spawn_blocking(|| ());
            given_up.abort();
            let last = spawn_blocking(|| ());
            go.send(()).unwrap();
            done(busy).await;
            done(last).await;
            assert!(given_up.is_finished());
            assert_eq!(done(given_up).now_or_never(), None);
        });
    }
}
