//! Settings of the Kubernetes backend.

use serde::Deserialize;

/// Settings.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Settings {}
