//! Pollinator: a folder on a laptop runs on a supercomputer, a Kubernetes cluster or this machine.
//!
//! The library is the whole product; the programs in `src/bin` only start it. Rooms (modules) stand
//! on floors and name only rooms on lower floors: `docs/architecture.md` is the map.
//!
//! Nothing in here prints: long operations emit [`event::Event`]s, and the command line, `--json`
//! and the tests are readers of that one stream.

pub mod agent;
pub mod blocking;
pub mod cfs;
pub mod cli;
pub mod colonies;
pub mod colony;
pub mod config;
pub mod content;
pub mod durable;
pub mod event;
pub mod executor;
pub mod index;
pub mod journal;
pub mod lock;
pub mod net;
pub mod open_files;
pub mod panics;
pub mod project;
pub mod run;
pub mod socket;
pub mod sqlite;
pub mod store;
pub mod watch;
