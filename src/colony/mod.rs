//! Room `colony`.

pub mod objects;
