//! The resident agent: it watches projects, brings over what changed, starts runs, and brings results home.
//!
//! [`engine`] decides and is pure; [`daemon`] is its life; [`control`] is how others speak with it. [`hooks`] has git start it.

pub mod control;
pub mod daemon;
pub mod engine;
mod error;
mod follow;
mod gitlock;
pub mod hooks;
pub mod life;
mod links;
pub mod lock;
mod member;
mod memory;
pub mod notify;
mod operations;
pub mod programs;
pub mod roster;
pub mod service;

pub use daemon::Options;
pub use daemon::serve;
pub use error::Error;
