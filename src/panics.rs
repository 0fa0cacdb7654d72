//! Panics, where one piece of work must not end the work beside it.

use futures_util::FutureExt;
use std::any::Any;
use std::panic::AssertUnwindSafe;

/// What work comes to, or what it said when it panicked. What it was changing may be half changed: to be used where that is its own
/// matter alone.
///
/// # Errors
/// What a panic said.
pub async fn caught<T>(work: impl Future<Output = T>) -> Result<T, String> {
    AssertUnwindSafe(work).catch_unwind().await.map_err(|panic| said(panic.as_ref()))
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_panic_said_is_told() {
        assert_eq!(caught(async { 7 }).await, Ok(7));
        assert_eq!(caught(async { panic!("a plain text") }).await, Err::<(), _>("a plain text".into()));
        assert_eq!(caught(async { panic!("number {}", 7) }).await, Err::<(), _>("number 7".into()));
    }
}
