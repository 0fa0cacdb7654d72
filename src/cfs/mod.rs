//! Room `cfs`.
