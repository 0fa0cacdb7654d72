//! Room `executor`.
pub mod mount;
pub mod place;
pub mod quantity;
pub mod spec;
pub mod text;
