//! Where there are no mount namespaces: none can be made.

use crate::executor::backend::Failure;
use crate::executor::backend::binds::Bind;
use std::path::Path;

/// What a child would do.
#[derive(Debug)]
pub(super) struct Plan;

impl Plan {
    /// Nothing.
    pub(super) fn apply(self, _: &mut std::process::Command) {}
}

/// Never.
pub(super) fn is_possible(_: &str, _: &[&Path]) -> bool {
    false
}

/// Refused.
pub(super) fn plan(_: &Path, _: &str, _: &[Bind], _: &str) -> Result<Plan, Failure> {
    Err(Failure::Unsupported { field: "fs.mount".into(), reason: NONE.into() })
}

/// Never.
pub(super) fn probe(_: &Path) -> Result<(), String> {
    Err(NONE.into())
}

const NONE: &str = "this system has no mount namespaces";
