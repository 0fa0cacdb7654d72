//! Settings and credentials: where they come from, what holds, and what is missing.

pub mod access;

pub use access::ColonyAccess;
pub use access::Secret;
pub use access::StoreAccess;
