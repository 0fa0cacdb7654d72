//! The embedded local colony: a Colonies server, an S3 endpoint and an executor, for one person on one machine.

mod database;
pub mod objects;
mod scheduler;
mod server;
