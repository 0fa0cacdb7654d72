//! A large object comes in ranges from a real S3 server that is not ours, through the program, which is killed on the way.
//! Needs `scripts/parts.sh weed`.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

mod chaos;
#[path = "common/count_proxy.rs"]
mod count_proxy;
mod lab;
#[path = "common/noise.rs"]
mod noise;
#[path = "common/weed.rs"]
mod weed;

use count_proxy::CountProxy;
use count_proxy::Limit;
use lab::Lab;
use std::process::Stdio;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 200 * MIB;

#[tokio::test(flavor = "multi_thread")]
async fn a_large_object_is_fetched_in_ranges_and_taken_up_after_kill_9() {
    let weed = weed::Weed::start("large-objects").await;
    let (host, machine, content) = (Lab::new(), Lab::new(), noise::bytes(SIZE as usize));
    let (here, there) = (host.project("p", "print()\n"), machine.project("p", "print()\n"));
    std::fs::write(here.join("cfs/data/large åäö.bin"), &content).unwrap();
    let store = weed.access();
    let proxy = CountProxy::start(&store.endpoint).await;
    let colony = chaos::Colony::of(&host)
        .with("AWS_S3_ACCESSKEY", &store.access_key)
        .with("AWS_S3_SECRETKEY", store.secret_key.expose())
        .with("AWS_S3_BUCKET", &store.bucket)
        .with("AWS_S3_ENDPOINT", &store.endpoint);
    lab::finish(colony.command(&host, &here, ["sync"])).expect_code(0);
    let colony = colony.with("AWS_S3_ENDPOINT", &proxy.address);
    proxy.limit(Limit::Hold(130 * MIB));
    let mut command = colony.command(&machine, &there, ["sync", "data"]);
    let mut child = chaos::Killed(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    proxy.reached().await;
    child.0.kill().unwrap();
    child.0.wait().unwrap();
    proxy.limit(Limit::None);
    let ended = lab::finish(colony.command(&machine, &there, ["sync", "data"])).expect_code(0);
    assert!(std::fs::read(there.join("cfs/data/large åäö.bin")).unwrap() == content, "{}", ended.all());
    assert_eq!(std::fs::read_dir(there.join("cfs/data")).unwrap().count(), 1);
    assert!(proxy.gets() >= 13, "{} requests for 13 ranges", proxy.gets());
    // Four ranges of 16 MiB were under way.
    assert!(proxy.bytes() <= SIZE + 65 * MIB, "{} bytes travelled for {SIZE}", proxy.bytes());
    lab::finish(colony.command(&machine, &there, ["sync", "--verify", "data"])).expect_code(0);
}
