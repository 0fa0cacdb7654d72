//! One run of a project: its files brought over, its process submitted, followed, and its results brought home.
//!
//! [`submit`] reads as the whole way of a run up to its process; [`follow::follow`] and [`results::fetch`] are the rest.

pub mod batch;
pub mod checkout;
pub mod commit;
pub mod connection;
pub mod error;
pub mod follow;
mod git;
pub mod history;
pub mod interrupted;
pub mod points;
pub mod provenance;
pub mod reclaim;
pub mod results;
pub mod source;
pub mod spec;
pub mod submission;
mod substitute;
pub mod trees;
pub mod tunnel;

pub use connection::Connection;
pub use connection::Manners;
pub use error::Error;
pub use source::Source;
pub use submission::Options;
pub use submission::Preview;
pub use submission::preview;
pub use submission::submit;
