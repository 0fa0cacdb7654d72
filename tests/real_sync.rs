//! Two machines share a project over a real S3 server that is not ours, through the program. Needs `scripts/parts.sh weed`.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

mod lab;
#[path = "common/noise.rs"]
mod noise;
#[path = "common/weed.rs"]
mod weed;

use lab::Lab;
use std::fs;
use std::os::unix::fs::PermissionsExt;

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
async fn what_one_machine_brings_over_another_one_gets() {
    let weed = weed::Weed::start("between-machines").await;
    let host = Lab::new();
    let (one, other) = (machine(&host, &weed), machine(&host, &weed));
    let (here, there) = (one.project("p", "print()\n"), other.project("p", "print()\n"));
    let large = noise::bytes(20 << 20);
    fs::create_dir_all(here.join("cfs/data/empty")).unwrap();
    fs::write(here.join("cfs/data/large åäö 100%_.bin"), &large).unwrap();
    fs::write(here.join("cfs/data/tool.sh"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(here.join("cfs/data/tool.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(here.join("cfs/data/nothing"), "").unwrap();
    one.run_in(&here, ["sync"]).expect_code(0);
    let again = one.run_in(&here, ["sync"]).expect_code(0);
    assert!(!again.all().contains("Uploaded"), "{}", again.all());
    other.run_in(&there, ["sync"]).expect_code(0);
    assert!(fs::read(there.join("cfs/data/large åäö 100%_.bin")).unwrap() == large);
    assert_eq!(fs::metadata(there.join("cfs/data/tool.sh")).unwrap().permissions().mode() & 0o111, 0o111);
    assert_eq!(fs::metadata(there.join("cfs/data/nothing")).unwrap().len(), 0);
    assert!(there.join("cfs/data/empty").is_dir());
    // What is deleted on the other machine is gone in the colony, and the doctor finds nothing wrong with the bucket.
    fs::remove_file(there.join("cfs/data/nothing")).unwrap();
    other.run_in(&there, ["sync", "data"]).expect_code(0);
    let doctor = one.run_in(&here, ["doctor", "--json"]);
    let bad: Vec<_> = doctor.json().as_array().unwrap().iter().filter(|f| f["outcome"] == "bad").cloned().collect();
    assert!(bad.is_empty(), "{bad:?}");
}
