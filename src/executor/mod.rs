//! Room `executor`.
pub mod place;
pub mod quantity;
pub mod spec;
