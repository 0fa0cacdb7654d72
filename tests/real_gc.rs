//! `gc` over a real S3 server that is not ours, through the program. Needs `scripts/parts.sh weed`.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

mod lab;
#[path = "common/noise.rs"]
mod noise;
#[path = "common/raw_s3.rs"]
mod raw_s3;
#[path = "common/weed.rs"]
mod weed;

use lab::Lab;
use pollinator::store::Metadata;
use pollinator::store::Store;
use raw_s3::Call;
use raw_s3::Raw;
use std::collections::BTreeSet;
use std::fs;

/// A machine whose settings name the colony of `host` and this object store.
fn machine(host: &Lab, weed: &weed::Weed) -> Lab {
    let store = weed.access();
    let exports = host.run(["colony", "env"]).expect_code(0).stdout;
    let lines = exports.lines().filter_map(|line| line.strip_prefix("export ")?.split_once('='));
    let colony = lines.filter(|(name, _)| name.starts_with("COLONIES_"));
    let machine = colony.fold(Lab::new(), |lab, (name, value)| lab.with(name, value.trim_matches('\'')));
    machine
        .with("AWS_S3_ENDPOINT", store.endpoint.clone())
        .with("AWS_S3_ACCESSKEY", store.access_key.clone())
        .with("AWS_S3_SECRETKEY", store.secret_key.expose())
        .with("AWS_S3_BUCKET", store.bucket.clone())
        .with("AWS_S3_TLS", "false")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_machine_replaced_another_one_removes() {
    let weed = weed::Weed::start("cleaned-up").await;
    let (host, store, raw) = (Lab::new(), Store::new(weed.access()).unwrap(), Raw::new(weed.access()));
    let (one, other) = (machine(&host, &weed), machine(&host, &weed));
    let (here, there) = (one.project("p", "print()\n"), other.project("p", "print()\n"));
    let large = noise::bytes(20 << 20);
    for bytes in [&noise::bytes(17 << 20), &large] {
        fs::write(here.join("cfs/data/large"), bytes).unwrap();
        one.run_in(&here, ["sync"]).expect_code(0);
    }
    // Beside it: a neighbour's object, somebody's note, an object without a row, and an upload that nobody finishes.
    let [neighbour, lost] = ["p2", "p"].map(|project| format!("pollinator/{project}/{}", "a".repeat(64)));
    for key in [neighbour.as_str(), lost.as_str(), "pollinator/p/note"] {
        store.put_bytes(key, bytes::Bytes::from_static(b"x"), &Metadata::new(), &|_| ()).await.unwrap();
    }
    let path = format!("/cleaned-up/pollinator/p/{}", "b".repeat(64));
    let begun = raw.send(Call { method: "POST", path: &path, query: &[("uploads", "")], ..Call::EMPTY }).await;
    let part = [("uploadId", begun.tag("UploadId").unwrap()), ("partNumber", "1".into())];
    let query = part.each_ref().map(|(name, value)| (*name, value.as_str()));
    assert_eq!(raw.send(Call { method: "PUT", path: &path, query: &query, body: &large, ..Call::EMPTY }).await.status, 200);
    let before: BTreeSet<String> = store.list("").await.unwrap().into_iter().map(|(key, _)| key).collect();
    let young = other.run_in(&there, ["gc"]).expect_code(0);
    assert_eq!(young.stdout, "nothing to remove\n", "{}", young.all());
    let report = other.run_in(&there, ["gc", "--older-than", "0s", "--json"]).expect_code(0);
    assert_eq!(report.stderr, "");
    let report = report.json();
    let count = |kind: &str| report[kind].as_array().unwrap().len();
    assert_eq!((count("revisions"), count("objects"), count("uploads")), (1, 2, 1), "{report}");
    let after: BTreeSet<String> = store.list("").await.unwrap().into_iter().map(|(key, _)| key).collect();
    assert_eq!(before.difference(&after).count(), 2);
    assert!(after.contains(&neighbour) && after.contains("pollinator/p/note") && !after.contains(&lost), "{after:?}");
    assert_eq!(store.unfinished("").await.unwrap(), []);
    other.run_in(&there, ["sync", "data"]).expect_code(0);
    assert!(fs::read(there.join("cfs/data/large")).unwrap() == large);
    let nothing = other.run_in(&there, ["gc", "--older-than", "0s"]).expect_code(0);
    assert_eq!(nothing.stdout, "nothing to remove\n");
}
