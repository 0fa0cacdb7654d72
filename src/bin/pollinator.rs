//! The `pollinator` command.
fn main() {}
