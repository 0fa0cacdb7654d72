//! What happens by itself: git hooks, notifications.

pub mod hooks;
pub mod notify;
pub mod programs;
