//! Delta uploads to the local colony's own store. The same cases run on a real S3 server in `real_delta.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used)] // In tests a panic is the message.

#[path = "common/counting_proxy.rs"]
mod counting_proxy;
mod delta_cases;
#[path = "common/noise.rs"]
mod noise;
#[path = "common/sides.rs"]
mod sides;

delta_cases!(None);
