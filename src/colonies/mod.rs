//! The Colonies protocol: what travels between a colony's members and its server.
//!
//! Source of every fact here: the recordings in `tests/wire` (a real server of release line 1.9).

pub mod client;
pub mod envelope;
pub mod error;
pub mod identity;
pub mod model;
pub mod subscribe;
pub mod time;

pub use client::Client;
pub use client::ProcessFilter;
pub use error::Error;
pub use identity::Identity;
pub use model::*;
