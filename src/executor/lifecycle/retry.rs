//! Asking the server until it answers or refuses for good.

use crate::colonies::Error;
use std::future::Future;
use std::time::Duration;

/// Pause before the second try; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(300);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// How often an answer that is a fault of the server (5xx, garbage) is taken for passing.
pub const SERVER_TRIES: u32 = if cfg!(test) { 3 } else { 10 };

/// Repeats a call while it fails for a reason that passes: no answer, no membership (the executor registers again
/// meanwhile), and for some time faults of the server's own.
pub async fn until_answered<T, F, R>(what: &str, call: F) -> Result<T, Error>
where
    F: Fn() -> R,
    R: Future<Output = Result<T, Error>>,
{
    repeat(what, SERVER_TRIES, |_| call()).await
}

/// As [`until_answered`], for what must not be lost: faults of the server's own are taken for passing however long they
/// last, unless they say that what is spoken of does not exist. The call is told how often the server was at fault.
pub async fn until_heard<T, F, R>(what: &str, call: F) -> Result<T, Error>
where
    F: Fn(u32) -> R,
    R: Future<Output = Result<T, Error>>,
{
    repeat(what, u32::MAX, call).await
}

async fn repeat<T, F, R>(what: &str, server_tries: u32, call: F) -> Result<T, Error>
where
    F: Fn(u32) -> R,
    R: Future<Output = Result<T, Error>>,
{
    let mut pause = FIRST_PAUSE;
    let mut server_errors = 0;
    loop {
        let error = match call(server_errors).await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let at_fault = error.is_passing_fault();
        server_errors += u32::from(at_fault);
        if !(error.is_temporary() || error.is_not_member() || (at_fault && server_errors < server_tries)) {
            return Err(error);
        }
        tracing::debug!(what, %error, ?pause, "asking again");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
