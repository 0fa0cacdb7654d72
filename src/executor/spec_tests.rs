//! Tests of [`super`].

use super::*;
use proptest::prelude::*;
use serde_json::json;

/// The specification that a project submits, after the server has normalised its numbers.
fn usual() -> Value {
    json!({
        "processid": "ab12", "starttime": "2026-11-23T05:00:00Z",
        "spec": {
            "funcname": "execute", "maxexectime": 599, "maxretries": 3,
            "kwargs": { "docker-image": "python:3.12", "rebuild-image": false, "init-cmd": "", "cmd": "python3",
                "args": ["/cfs/pollinator/p/s1/src/main.py"] },
            "conditions": { "nodes": 1, "processespernode": 1, "cpu": "1000m", "mem": "1000Mi", "walltime": 600,
                "gpu": { "count": 0, "name": "" } },
            "env": { "PROJECT_DIR": "/cfs/pollinator/p" },
            "fs": { "mount": "/cfs",
                "snapshots": [{ "snapshotid": "s1", "label": "/pollinator/p/src", "dir": "/pollinator/p/s1/src",
                    "keepfiles": true, "keepsnaphot": true }],
                "dirs": [{ "label": "/pollinator/p/result", "dir": "/pollinator/p/result", "keepfiles": false,
                    "onconflicts": { "onstart": { "keeplocal": false }, "onclose": { "keeplocal": true } } }] }
        }
    })
}

fn read(value: Value) -> Result<Job, Refusal> {
    Job::read(&serde_json::from_value(value).unwrap(), false)
}

/// The usual specification with one thing changed.
fn with(pointer: &str, new: Value) -> Value {
    let mut value = usual();
    *value.pointer_mut(pointer).unwrap() = new;
    value
}

fn refused_field(value: Value) -> String {
    read(value).unwrap_err().field
}

#[test]
fn the_usual_specification() {
    let job = read(usual()).unwrap();
    assert_eq!(job.walltime, Duration::from_secs(600));
    assert_eq!(job.max_exec, Some(Duration::from_secs(599)));
    assert_eq!((job.cpu_millis, job.mem_mib, job.processes()), (1000, 1000, 1));
    assert_eq!(job.mount, "/cfs");
    assert!(job.snapshots[0].keep_snapshot, "the misspelt key is understood");
    assert_eq!(job.snapshots[0].dir.as_str(), "pollinator/p/s1/src");
    assert_eq!(job.dirs[0].label, "/pollinator/p/result");
    assert!(job.dirs[0].close_keeps_local && !job.dirs[0].start_keeps_local && !job.dirs[0].keep_files);
    let Work::Execute(command) = job.work else { panic!() };
    assert_eq!(command.args, ["/cfs/pollinator/p/s1/src/main.py"]);
}

#[test]
fn refusals_name_the_field() {
    for (pointer, new, field) in [
        ("/spec/conditions/nodes", json!(0), "conditions.nodes"),
        ("/spec/conditions/nodes", json!(-3), "conditions.nodes"),
        ("/spec/conditions/nodes", json!(1i64 << 40), "conditions.nodes"),
        ("/spec/conditions/processespernode", json!(0), "conditions.processespernode"),
        ("/spec/conditions/walltime", json!(0), "conditions.walltime"),
        ("/spec/conditions/walltime", json!(-1), "conditions.walltime"),
        ("/spec/conditions/mem", json!("lots"), "conditions.mem"),
        ("/spec/conditions/cpu", json!("1.5m"), "conditions.cpu"),
        ("/spec/conditions/gpu/count", json!(-1), "conditions.gpu.count"),
        ("/spec/kwargs/cmd", json!(""), "kwargs.cmd"),
        ("/spec/kwargs/cmd", json!(" \n"), "kwargs.cmd"),
        ("/spec/kwargs/cmd", json!(7), "kwargs.cmd"),
        ("/spec/kwargs/cmd", json!("a\0b"), "kwargs.cmd"),
        ("/spec/kwargs/args", json!(["a", ["b"]]), "kwargs.args[1]"),
        ("/spec/kwargs/args", json!(["a\0"]), "kwargs.args[0]"),
        ("/spec/kwargs/docker-image", json!(7), "kwargs.docker-image"),
        ("/spec/env", json!({ "A-B": "x" }), "env"),
        ("/spec/env", json!({ "1A": "x" }), "env"),
        ("/spec/env", json!({ "A": "x\0" }), "env.A"),
        ("/spec/fs/mount", json!("cfs"), "fs.mount"),
        ("/spec/fs/mount", json!("/"), "fs.mount"),
        ("/spec/fs/mount", json!("/a/../b"), "fs.mount"),
        ("/spec/fs/dirs/0/dir", json!("/../x"), "fs.dirs[0].dir"),
        ("/spec/fs/dirs/0/dir", json!("/"), "fs.dirs[0].dir"),
        ("/spec/fs/dirs/0/label", json!("/a/.."), "fs.dirs[0].label"),
        ("/spec/fs/snapshots/0/dir", json!(""), "fs.snapshots[0].dir"),
        ("/spec/funcname", json!("dance"), "funcname"),
        ("/processid", json!("../x"), "processid"),
    ] {
        assert_eq!(refused_field(with(pointer, new.clone())), field, "{pointer} {new}");
    }
    let bare = serde_json::from_value(with("/spec/kwargs/docker-image", json!(""))).unwrap();
    assert!(Job::read(&bare, false).is_ok());
    assert_eq!(Job::read(&bare, true).unwrap_err().field, "kwargs.docker-image");
}

#[test]
fn accepted_beyond_the_existing_executors() {
    for (pointer, new) in [
        ("/spec/maxexectime", json!(-1)),
        ("/spec/maxexectime", json!(5000)),
        ("/spec/maxretries", json!(0)),
        ("/spec/conditions/mem", json!("512Ki")),
        ("/spec/conditions/cpu", json!("2")),
        ("/spec/conditions/cpu", json!("5m")),
        ("/spec/fs/mount", json!("")),
        ("/spec/fs/snapshots", json!(null)),
        ("/spec/kwargs/args", json!(null)),
        ("/spec/kwargs/rebuild-image", json!("yes")),
    ] {
        assert!(read(with(pointer, new.clone())).is_ok(), "{pointer} {new}");
    }
    // The older executors show files at the usual place whatever is said.
    let unsaid = read(with("/spec/fs/mount", json!(""))).unwrap();
    assert_eq!((unsaid.mount.as_str(), unsaid.snapshots.len(), unsaid.dirs.len()), ("/cfs", 1, 1));
    assert_eq!(read(with("/spec/fs", json!({}))).unwrap().mount, "", "no files, no place");
    let job = read(with("/spec/kwargs/args", json!(["a", 3, true]))).unwrap();
    let Work::Execute(command) = job.work else { panic!() };
    assert_eq!(command.args, ["a", "3", "true"]);
    assert_eq!(read(with("/spec/kwargs/args", json!("a b"))).unwrap().notices.len(), 1);
}

#[test]
fn the_process_id_stands_in_every_place() {
    let mut value = usual();
    value["spec"]["kwargs"]["cmd"] = json!("echo {processid} {processid}");
    value["spec"]["kwargs"]["init-cmd"] = json!("mkdir {processid}");
    value["spec"]["kwargs"]["args"] = json!(["{processid}-{processid}"]);
    value["spec"]["fs"]["dirs"][0]["dir"] = json!("/r/{processid}/{processid}");
    value["spec"]["fs"]["dirs"][0]["label"] = json!("/r/{processid}");
    let job = read(value).unwrap();
    let Work::Execute(command) = job.work else { panic!() };
    assert_eq!(command.cmd, "echo ab12 ab12");
    assert_eq!(command.init, "mkdir ab12");
    assert_eq!(command.args, ["ab12-ab12"]);
    assert_eq!(job.dirs[0].dir.as_str(), "r/ab12/ab12");
    assert_eq!(job.dirs[0].label, "/r/ab12");
}

#[test]
fn labels_keep_their_leading_slash_or_its_absence() {
    for (text, want) in [("/a//b/", "/a/b"), ("a/b", "a/b")] {
        assert_eq!(read(with("/spec/fs/dirs/0/label", json!(text))).unwrap().dirs[0].label, want);
    }
    assert_eq!(read(with("/spec/fs/snapshots/0/label", json!(""))).unwrap().snapshots[0].label, "");
}

#[test]
fn sync_needs_no_command_and_no_numbers() {
    let mut value = usual();
    value["spec"]["funcname"] = json!("sync");
    value["spec"]["kwargs"] = json!({});
    value["spec"]["conditions"] = json!({});
    assert_eq!(read(value).unwrap().work, Work::Sync);
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(".{0,6}", inner, 0..4).prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_kwargs_are_read_or_refused(cmd in any_json(), args in any_json(), init in any_json(), image in any_json(),
        rebuild in any_json(), cpu in ".{0,8}", mem in ".{0,8}", dir in ".{0,16}", nodes in any::<i64>()) {
        let mut value = usual();
        value["spec"]["kwargs"] = json!({ "cmd": cmd, "args": args, "init-cmd": init, "docker-image": image,
            "rebuild-image": rebuild });
        let before = read(value.clone());
        if let Ok(job) = before {
            prop_assert!(job.processes() == 1);
        }
        value["spec"]["conditions"]["cpu"] = json!(cpu);
        value["spec"]["conditions"]["mem"] = json!(mem);
        value["spec"]["conditions"]["nodes"] = json!(nodes);
        value["spec"]["fs"]["dirs"][0]["dir"] = json!(dir);
        let _ = read(value);
    }
}
