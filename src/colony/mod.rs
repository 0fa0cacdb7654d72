//! Room `colony`.
