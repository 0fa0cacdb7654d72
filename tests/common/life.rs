//! An executor in a runtime of its own. Killed, it is gone between two of its steps, and no step sees its runtime end: that no
//! killed process would see, either. What blocks (a copy, a database) is done to its end.

use std::future::Future;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// A running executor; dropped without being stopped it is as suddenly gone as by a kill.
pub struct Life<E> {
    shutdown: CancellationToken,
    kill: Option<oneshot::Sender<()>>,
    ended: Option<oneshot::Receiver<Result<(), E>>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl<E: std::fmt::Debug + Send + 'static> Life<E> {
    pub fn of(run: impl Future<Output = Result<(), E>> + Send + 'static, shutdown: CancellationToken) -> Life<E> {
        let (kill, killed) = oneshot::channel();
        let (tell, ended) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                tokio::select! {
                    // One that is not awaited has been dropped.
                    ended = run => drop(tell.send(ended)),
                    _ = killed => {}
                }
            });
            runtime.shutdown_background();
        });
        Life { shutdown, kill: Some(kill), ended: Some(ended), thread: Some(thread) }
    }

    pub async fn stop(mut self) {
        self.shutdown.cancel();
        self.ended.take().unwrap().await.unwrap().unwrap();
    }

    pub fn kill(self) {}
}

impl<E> Drop for Life<E> {
    fn drop(&mut self) {
        drop(self.kill.take());
        let ended = self.thread.take().unwrap().join();
        // A second panic would hide the first.
        if !std::thread::panicking() {
            ended.unwrap();
        }
    }
}
