//! Room `executor`.
pub mod backend;
pub mod error;
pub mod files;
pub mod journal;
mod lifecycle;
pub mod logs;
pub mod mount;
pub mod options;
pub mod place;
pub mod quantity;
pub mod spec;
pub mod text;
