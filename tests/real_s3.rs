//! The object store client against a real S3 server that is not ours: SeaweedFS.
//!
//! `scripts/parts.sh weed` brings the program below `.test-parts/`; without it these tests fail. The server is started by the
//! first test on ports of its own, keeps its data in a temporary folder, and ends with this process.

#![allow(clippy::unwrap_used, clippy::expect_used)] // In tests a panic is the message.

#[path = "common/cut_proxy.rs"]
mod cut_proxy;
#[path = "common/noise.rs"]
mod noise;
#[path = "common/raw_s3.rs"]
mod raw_s3;
#[path = "common/store_conformance.rs"]
mod store_conformance;
#[path = "common/weed.rs"]
mod weed;

use pollinator::store::Store;

/// The one SeaweedFS of this process.
async fn seaweed() -> &'static weed::Weed {
    static SERVER: tokio::sync::OnceCell<weed::Weed> = tokio::sync::OnceCell::const_new();
    SERVER
        .get_or_init(async || {
            let weed = weed::Weed::start("conformance").await;
            Store::new(weed.access()).unwrap().ensure_bucket().await.unwrap();
            weed
        })
        .await
}

store_conformance!(seaweed());
