//! Delta uploads to a real S3 server that is not ours: SeaweedFS. Needs `scripts/parts.sh weed`.

#![allow(clippy::unwrap_used, clippy::expect_used)] // In tests a panic is the message.

#[path = "common/counting_proxy.rs"]
mod counting_proxy;
mod delta_cases;
#[path = "common/noise.rs"]
mod noise;
#[path = "common/sides.rs"]
mod sides;
#[path = "common/weed.rs"]
mod weed;

/// The one SeaweedFS of this process.
async fn seaweed() -> &'static weed::Weed {
    static SERVER: tokio::sync::OnceCell<weed::Weed> = tokio::sync::OnceCell::const_new();
    SERVER.get_or_init(async || weed::Weed::start("delta").await).await
}

delta_cases!(Some(seaweed().await.access()));
