//! CFS, the meta-filesystem of a colony: rows in the Colonies server, bytes in the object store.
//!
//! [`plan`] compares three trees and is pure; [`sync()`] carries a plan out; [`snapshot()`] freezes a tree for a run;
//! [`reclaim()`] removes what nothing needs any more.

mod carry;
mod claim;
mod download;
mod error;
mod failed;
mod fetch;
mod here;
mod incoming;
pub mod labels;
mod large;
mod list;
mod place;
pub mod plan;
mod reclaim;
mod snapshot;
mod some;
mod sync;
mod tree;
mod unfinished;
mod upload;
mod verify;

pub use error::Error;
pub use fetch::FetchReport;
pub use fetch::Missing;
pub use fetch::fetch;
pub use fetch::fetch_missing;
pub use list::RemoteFile;
pub use list::RemoteTree;
pub use plan::Plan;
pub use plan::Policy;
pub use reclaim::ReclaimOptions;
pub use reclaim::Reclaimed;
pub use reclaim::Removed;
pub use reclaim::reclaim;
pub use snapshot::frozen_again;
pub use snapshot::own_label;
pub use snapshot::snapshot;
pub use some::sync_some;
pub use sync::SyncOptions;
pub use sync::SyncReport;
pub use sync::forget_tree;
pub use sync::sync;
pub use sync::was_synchronized;
pub use tree::digest;
pub use tree::look;
pub use upload::forget_objects;
pub use upload::keys_under_way;
pub use upload::note_part_copy;
pub use upload::store_place;
pub use verify::VerifyReport;
pub use verify::verify;

use crate::colonies::Client;
use crate::store::Store;

/// Both halves of CFS. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Cfs {
    /// The rows.
    pub client: Client,
    /// The bytes.
    pub store: Store,
}

/// Metadata key under which the permission bits of a file travel with its object, octal.
pub const MODE: &str = "pollinator-mode";
