//! The Colonies protocol: what travels between a colony's members and its server.
//!
//! Source of every fact here: the recordings in `tests/wire` (a real server of release line 1.9).

mod calls;
pub mod client;
pub mod envelope;
pub mod error;
pub mod files;
pub mod identity;
pub mod members;
pub mod model;
pub mod subscribe;
pub mod time;

pub use calls::ProcessFilter;
pub use client::Client;
pub use error::Error;
pub use files::*;
pub use identity::Identity;
pub use members::*;
pub use model::*;
