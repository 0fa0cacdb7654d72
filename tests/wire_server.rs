//! The local colony's server answers as a real one: every recorded case is replayed in the order of its story, and
//! either compared or named in [`DIFFERENCES`] with the reason why we answer otherwise.

#![allow(clippy::unwrap_used)] // a failure of a helper is a failure of the test

mod wire_replay;

use serde_json::Value;
use serde_json::json;
use std::collections::BTreeSet;
use wire_replay::World;
use wire_replay::recording;

/// Where the local colony differs on purpose: recording, number of the case, our status, words of our message (empty:
/// an answer, looked at where it is replayed), and why.
const DIFFERENCES: &[(&str, usize, u16, &str, &str)] = &[
    ("addlog", 5, 400, "NUL character", "one reply instead of two one after the other; the real words name its database"),
    ("addfile", 11, 400, "NUL character", "the real server says that all is well and stores nothing"),
    ("addattribute", 1, 400, "cannot be changed", "the real words name its database"),
    ("addattribute", 2, 400, "cannot be changed", "the real words name its database"),
    ("addexecutor", 2, 200, "", "two executors with one key: the real server answers with the other one"),
    ("addexecutor", 6, 200, "", "one object instead of a list, as clients of line 1.8 send it, is taken"),
    ("getlogs", 8, 400, "must not be negative", "one reply instead of two; the real words name its database"),
    ("getlogs", 15, 200, "", "the real server mixes in lines of another colony's executor of the same name"),
    ("getprocess", 7, 200, "", "the real server stores the output of a close that it refuses"),
    ("getprocesses", 8, 400, "must not be negative", "the real words name its database"),
    ("getprocesshist", 1, 403, "not a member", "the real server answers 200 with an empty body"),
    ("createsnapshot", 8, 400, "colon", "the real server takes the name, and then cannot list any snapshot of the colony"),
    ("getsnapshot", 5, 500, "does not exists", "there is no such snapshot here, see createsnapshot 8"),
    ("getsnapshots", 2, 200, "", "the list can be read here, see createsnapshot 8"),
    ("submitfuncspec", 18, 400, "error converting memory to int", "the words say what is allowed"),
    ("submitfuncspec", 19, 400, "error converting memory to int", "the words say what is allowed"),
    ("submitfuncspec", 34, 400, "error converting memory to int", "the words say what is allowed"),
    ("submitfuncspec", 35, 400, "error converting memory to int", "the words say what is allowed"),
    ("submitfuncspec", 36, 400, "error converting memory to int", "the words say what is allowed"),
    ("submitfuncspec", 38, 400, "error converting memory to int", "the words say what is allowed"),
    ("submitfuncspec", 39, 400, "error converting memory to int", "the words say what is allowed"),
    ("errors", 18, 400, "invalid JSON", "the real server's handler dies: 500 with an empty body"),
    ("errors", 26, 403, "public key recovery code", "the same refusal in other words"),
    ("errors", 27, 403, "public key recovery code", "the same refusal in other words"),
    ("errors", 33, 400, "not JSON", "the real words are those of its JSON library"),
    ("errors", 34, 400, "not JSON", "the real words are those of its JSON library"),
    ("errors", 35, 400, "not an envelope", "the real server's handler dies: 500 with an empty body"),
    ("assignprocess", 29, 200, "", "the real server woke the wrong executor; here all that wait are woken"),
    ("assignprocess", 30, 404, "No process", "see assignprocess 29"),
    ("assignprocess", 31, 404, "No process", "the process was assigned already, see assignprocess 29"),
];

/// Recordings that are replayed elsewhere, or are about something else.
const ELSEWHERE: &[&str] = &[
    "crypto",
    "crypto-refused",
    "identities",
    "s3-requests",
    "other-settings",
    "subscribe",
    "session-cli",
    "session-run-follow",
    "session-run-unchanged",
];

/// Replays cases of one recording; those in the table are held against it.
async fn play(world: &mut World, file: &str, numbers: impl IntoIterator<Item = usize>) -> Value {
    let mut last = Value::Null;
    for nr in numbers {
        match DIFFERENCES.iter().find(|d| (d.0, d.1) == (file, nr)) {
            None => world.replay(file, nr).await,
            Some((_, _, status, words, why)) => {
                let (got, payload) = world.differs(file, nr).await;
                let said = payload["message"].as_str().unwrap_or_default();
                if got != *status || !said.contains(words) {
                    world.troubles.push(format!("{file}#{nr}: {got} {payload} instead of {status} {words:?} ({why})"));
                }
                last = payload;
            }
        }
    }
    last
}

/// Colony, users and two executors, as most stories begin.
async fn settled(world: &mut World) {
    play(world, "addcolony", [0]).await;
    play(world, "adduser", [0]).await;
    play(world, "addexecutor", [0, 1]).await;
    for name in ["wire-exec", "wire-exec2"] {
        let who = json!({ "colonyname": "wire", "executorname": name });
        world.must("colony owner", "approveexecutormsg", who).await;
    }
}

/// Members come and are approved; files; snapshots.
async fn story_of_members_and_files(world: &mut World) {
    let w = world;
    play(w, "errors", 39..=43).await;
    play(w, "version", [0]).await;
    play(w, "getserverinfo", [0]).await;
    play(w, "getcluster", [0]).await;
    play(w, "addcolony", 0..=3).await;
    play(w, "adduser", 0..=2).await;
    play(w, "getusers", 0..=1).await;
    play(w, "getuser", 0..=1).await;
    play(w, "getcolony", [0]).await;
    play(w, "getcolonies", [0]).await;
    play(w, "getexecutors", [0]).await;
    play(w, "addexecutor", [0]).await;
    play(w, "getexecutors", [1]).await;
    play(w, "assignprocess", [0]).await;
    play(w, "addexecutor", [1]).await;
    play(w, "getstatistics", 0..=1).await;
    play(w, "approveexecutor", 0..=2).await;
    play(w, "rejectexecutor", [0]).await;
    play(w, "assignprocess", [1]).await;
    play(w, "approveexecutor", [3]).await;
    play(w, "getexecutors", [2]).await;
    play(w, "getexecutor", 0..=1).await;
    play(w, "getexecutorbyid", [0]).await;
    play(w, "getcolonystats", [0]).await;
    play(w, "updateexecutor", [0]).await;
    play(w, "addfunction", 0..=1).await;
    play(w, "getfunctions", [0]).await;
    play(w, "removefunction", [0]).await;

    play(w, "addfile", 0..=14).await;
    play(w, "getfile", 0..=5).await;
    play(w, "getfiles", 0..=3).await;
    play(w, "getfilelabels", 0..=5).await;
    play(w, "addfile", 15..=18).await;
    play(w, "getfilelabels", 6..=7).await;
    play(w, "createsnapshot", 0..=7).await;
    play(w, "getsnapshot", 0..=4).await;
    play(w, "getsnapshots", 0..=1).await;
    play(w, "addfile", [19]).await;
    play(w, "createsnapshot", [8]).await;
    play(w, "getsnapshot", [5]).await;
    assert_eq!(play(w, "getsnapshots", [2]).await, Value::Null);
    play(w, "removefile", 0..=4).await;
    play(w, "getsnapshot", [6]).await;
    play(w, "getfile", [6]).await;
    play(w, "removesnapshot", 0..=3).await;
    play(w, "removeallsnapshot", 0..=1).await;
    play(w, "removeuser", [0]).await;
}

/// One process from its submission to its second close, with everything that is read meanwhile.
async fn story_of_a_process(w: &mut World) {
    play(w, "assignprocess", 2..=5).await;
    play(w, "submitfuncspec", [0]).await;
    play(w, "getprocess", [0]).await;
    play(w, "assignprocess", [6]).await;
    play(w, "getprocess", [1]).await;
    play(w, "addlog", 0..=6).await;
    play(w, "getlogs", 0..=12).await;
    play(w, "searchlogs", 0..=2).await;
    play(w, "addattribute", 0..=4).await;
    play(w, "getattribute", 0..=1).await;
    play(w, "getprocess", [2]).await;
    play(w, "setoutput", 0..=1).await;
    play(w, "getprocess", [3]).await;
    play(w, "removeprocess", [0]).await;
    play(w, "closesuccessful", [0]).await;
    play(w, "getprocess", [4]).await;
    play(w, "closesuccessful", [1]).await;
    play(w, "getprocess", [5]).await;
    play(w, "addattribute", [5]).await;
    play(w, "setoutput", [2]).await;
    play(w, "closefailed", [0]).await;
    play(w, "cancelprocess", [0]).await;
    play(w, "addexecutorlog", [0]).await;
    play(w, "getlogs", [13]).await;

    w.submit("ca0cfe").await;
    play(w, "addlog", [7]).await;
    play(w, "closesuccessful", [2]).await;
    play(w, "closefailed", [1]).await;
    play(w, "assignprocess", [7]).await;
    play(w, "closefailed", [2]).await;
    play(w, "getprocess", [6]).await;
    play(w, "closefailed", [3]).await;
    play(w, "closesuccessful", [3]).await;
    assert_eq!(play(w, "getprocess", [7]).await["out"], json!([]), "a refused close changes nothing");
    w.submit("866441").await;
    w.assign("executor", "866441").await;
    play(w, "closefailed", [4]).await;
    play(w, "getprocess", [8]).await;
    w.submit("1b8e6b").await;
    play(w, "cancelprocess", 1..=2).await;
    play(w, "getprocess", [9]).await;
    w.submit("d4fa9d").await;
    w.assign("executor", "d4fa9d").await;
    play(w, "cancelprocess", 3..=5).await;
    play(w, "getprocess", [10]).await;
    play(w, "addlog", [8]).await;
    play(w, "closesuccessful", [4]).await;
    play(w, "closefailed", [5]).await;
}

/// Deadlines, conditions, priorities, lists, pausing.
async fn story_of_the_queue(w: &mut World) {
    w.submit("9020fe").await;
    play(w, "assignprocess", [8]).await;
    w.until("9020fe", 0).await;
    play(w, "getprocess", [11]).await;
    play(w, "addlog", [9]).await;
    play(w, "closesuccessful", [5]).await;
    play(w, "assignprocess", [9]).await;
    play(w, "getprocess", [12]).await;
    w.until("9020fe", 3).await;
    play(w, "getprocess", [13]).await;
    w.submit("835170").await;
    w.until("835170", 3).await;
    play(w, "getprocess", [14]).await;
    play(w, "submitfuncspec", [1]).await;
    play(w, "assignprocess", [10]).await;
    w.until("2f8d02", 3).await;
    play(w, "getprocess", [15]).await;

    let conditions = ["f78fef", "774f64", "772c90", "6147e0", "54a24c", "0af739", "e70480"];
    for (nr, process) in conditions.into_iter().enumerate() {
        play(w, "submitfuncspec", [2 + nr]).await;
        play(w, "assignprocess", [11 + nr]).await;
        play(w, "getprocess", [16 + nr]).await;
        w.cancel(process).await;
    }
    w.submit("a4685f").await;
    play(w, "assignprocess", 18..=20).await;
    w.close("a4685f").await;
    w.submit("ed40eb").await;
    play(w, "assignprocess", [21]).await;
    w.close("ed40eb").await;
    play(w, "submitfuncspec", 9..=28).await;
    play(w, "submitfuncspec", 29..=31).await;
    for (nr, process) in ["672714", "9e5118", "fef130"].into_iter().enumerate() {
        play(w, "assignprocess", [22 + nr]).await;
        w.close(process).await;
    }
    play(w, "pauseassignments", [0]).await;
    play(w, "getpausestatus", [0]).await;
    play(w, "assignprocess", 25..=26).await;
    play(w, "resumeassignments", [0]).await;
    play(w, "getpausestatus", [1]).await;
    play(w, "removeallprocesses", 0..=1).await;
    w.submit("6ed150").await;
    w.assign("executor", "6ed150").await;
    play(w, "getprocesses", 0..=14).await;
    play(w, "getprocesshist", 0..=1).await;
    play(w, "getcolonystats", [1]).await;
    play(w, "getfunctions", [1]).await;
    play(w, "reportallocation", [0]).await;
}

/// Refusals, removal, and the second colony.
async fn story_of_refusals(w: &mut World) {
    w.close("6ed150").await;
    w.submit("966570").await;
    w.assign("executor", "966570").await;
    play(w, "errors", 0..=37).await;
    w.close("966570").await;
    play(w, "removeprocess", 1..=2).await;
    play(w, "getlogs", [14]).await;
    let bob =
        json!({ "user": { "colonyname": "wire2", "userid": w.signer("user of colony wire2").unwrap().id(), "name": "bob" } });
    w.must("owner of colony wire2", "addusermsg", bob).await;
    let third = w.signer("executor of colony wire2").unwrap();
    let executor = json!({ "executor": { "executorid": third.id(), "executortype": "t", "executorname": "wire-exec", "colonyname": "wire2" } });
    w.must("owner of colony wire2", "addexecutormsg", executor).await;
    assert_eq!(play(w, "getlogs", [15]).await, Value::Null, "another colony's lines");
    play(w, "removecolony", 0..=1).await;

    play(w, "errors", [38]).await;
    w.must("colony owner", "approveexecutormsg", json!({ "colonyname": "wire", "executorname": "wire-exec" })).await;
    play(w, "addexecutor", [2]).await;
    play(w, "removeexecutor", 0..=1).await;
    play(w, "getexecutor", [2]).await;
    play(w, "getexecutors", [3]).await;
    play(w, "addexecutor", [6]).await;
}

fn no_troubles(world: &World) {
    assert!(world.troubles.is_empty(), "{} cases differ:\n{}", world.troubles.len(), world.troubles.join("\n"));
}

/// Members of a story that were played, for [`every_case_is_played`].
async fn main_story() -> World {
    let mut world = World::new(|_| {}).await;
    story_of_members_and_files(&mut world).await;
    story_of_a_process(&mut world).await;
    story_of_the_queue(&mut world).await;
    story_of_refusals(&mut world).await;
    world
}

/// Two executors wait; a process names the second.
async fn story_of_waking_up() -> World {
    let mut w = World::new(|_| {}).await;
    settled(&mut w).await;
    for round in [[27, 28], [29, 30]] {
        let poll = json!({ "colonyname": "wire", "timeout": 5, "availablecpu": "", "availablemem": "" });
        let spec = w.case("assignprocess", 27)["response"]["payload"]["spec"].clone();
        let before = heard(&w).await;
        // Both are waiting when the process comes.
        let submit = async {
            while heard(&w).await.iter().zip(&before).any(|(now, before)| now == before) {
                tokio::task::yield_now().await;
            }
            w.must("user", "submitfuncspecmsg", json!({ "spec": spec })).await
        };
        let started = std::time::Instant::now();
        let second = async {
            let answer = w.call("second executor", "assignprocessmsg", poll.clone()).await;
            (answer, started.elapsed())
        };
        let ((second, after), first, process) =
            tokio::join!(second, w.call("executor", "assignprocessmsg", poll.clone()), submit);
        assert_eq!((second.0, &second.1["processid"]), (200, &process["processid"]), "{}", second.1);
        assert!(after.as_secs() < 4, "woken at once, not when its poll ran out: {after:?}");
        assert_eq!(first.0, 404, "{}", first.1);
        w.seen.extend(round.map(|nr| ("assignprocess".to_owned(), nr)));
        let recorded = w.case("assignprocess", 27)["response"]["payload"].clone();
        w.same_frame(&recorded, &second.1).unwrap();
    }
    play(&mut w, "assignprocess", [31]).await;
    w
}

/// When each executor was last heard of.
async fn heard(w: &World) -> Vec<Value> {
    let list = w.must("user", "getexecutorsmsg", json!({ "colonyname": "wire" })).await;
    list.as_array().unwrap().iter().map(|e| e["lastheardfromtime"].clone()).collect()
}

/// An executor registers again, then is removed, while it runs a process.
async fn story_of_a_lost_executor() -> World {
    let mut w = World::new(|_| {}).await;
    play(&mut w, "addcolony", [0]).await;
    play(&mut w, "adduser", [0]).await;
    play(&mut w, "addexecutor", [0]).await;
    let approve = json!({ "colonyname": "wire", "executorname": "wire-exec" });
    w.must("colony owner", "approveexecutormsg", approve.clone()).await;
    w.submit("2a4ee3").await;
    w.assign("executor", "2a4ee3").await;
    play(&mut w, "addexecutor", 3..=5).await;
    w.must("colony owner", "approveexecutormsg", approve).await;
    w.assign("executor", "2a4ee3").await;
    play(&mut w, "removeexecutor", 2..=3).await;
    play(&mut w, "getexecutors", [4]).await;
    w
}

/// More ways to write quantities.
async fn story_of_quantities() -> World {
    let mut w = World::new(|_| {}).await;
    settled(&mut w).await;
    play(&mut w, "submitfuncspec", 32..=42).await;
    w
}

#[tokio::test(flavor = "multi_thread")]
async fn every_recorded_case_is_answered_as_recorded_or_differs_on_purpose() {
    let worlds = [main_story().await, story_of_waking_up().await, story_of_a_lost_executor().await, story_of_quantities().await];
    worlds.iter().for_each(no_troubles);
    let seen: BTreeSet<_> = worlds.iter().flat_map(|w| w.seen.clone()).collect();
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wire");
    let mut missing = Vec::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if path.extension().is_none_or(|e| e != "json") || ELSEWHERE.contains(&name.as_str()) {
            continue;
        }
        let count = recording(&name).as_array().unwrap().len();
        missing.extend((0..count).filter(|nr| !seen.contains(&(name.clone(), *nr))).map(|nr| format!("{name}#{nr}")));
    }
    assert!(missing.is_empty(), "never played: {missing:?}");
}

/// The Go command line as administrator, user and executor.
#[tokio::test(flavor = "multi_thread")]
async fn the_go_command_line_is_answered_as_recorded() {
    let mut w = World::new(|_| {}).await;
    let count = recording("session-cli")["exchanges"].as_array().unwrap().len();
    play(&mut w, "session-cli", 0..count).await;
    no_troubles(&w);
}

/// One run of the Go pollinator with an executor, and a second run with nothing changed.
#[tokio::test(flavor = "multi_thread")]
async fn a_whole_run_of_the_go_client_is_answered_as_recorded() {
    let mut w = World::new(|_| {}).await;
    w.known.numbers_differ = true;
    let (colony, owner) = (json!("bench"), w.signer("colony owner").unwrap());
    let whose = |case: &Value| {
        let envelope = &case["request"]["envelope"];
        let text = |field: &str| envelope[field].as_str().unwrap().to_owned();
        pollinator::colonies::identity::recover(&text("payload"), &text("signature")).unwrap()
    };
    let (executor, user) = (whose(&w.case("session-run-follow", 0)), whose(&w.case("session-run-follow", 1)));
    w.stand_in(&executor, w.signer("executor").unwrap());
    w.stand_in(&user, w.signer("user").unwrap());
    // Made in the database: the server owner's key is not among the recorded ones.
    let bench = pollinator::colonies::Colony { colonyid: owner.id().to_owned(), name: "bench".into() };
    w.server.make_colony(&bench).await.unwrap();
    let user = json!({ "user": { "colonyname": colony, "userid": w.signer("user").unwrap().id(), "name": "benchuser" } });
    w.must("colony owner", "addusermsg", user).await;
    let executor = json!({ "executor": { "executorid": w.signer("executor").unwrap().id(), "executorname": "bench-exec",
        "executortype": "container-executor", "colonyname": colony } });
    w.must("colony owner", "addexecutormsg", executor).await;
    let approve = json!({ "colonyname": colony, "executorname": "bench-exec" });
    w.must("colony owner", "approveexecutormsg", approve).await;

    // The first exchange is the executor's long poll, which ends with the submission, the twelfth.
    let count = recording("session-run-follow")["exchanges"].as_array().unwrap().len();
    play(&mut w, "session-run-follow", (1..12).chain([0]).chain(12..count)).await;
    let count = recording("session-run-unchanged")["exchanges"].as_array().unwrap().len();
    play(&mut w, "session-run-unchanged", 0..count).await;
    no_troubles(&w);
}

/// Settings that we offer: no second registration, and how long an executor may be silent. Those that we do not:
/// a time zone of the server (14 cases are compared all the same, times being times), and assignment that is not
/// exclusive (cases 14 to 20), in which `["*"]` and storage match and the answer has a deadline.
#[tokio::test(flavor = "multi_thread")]
async fn other_settings_are_answered_as_recorded() {
    let mut w = World::new(|settings| {
        settings.register_again = false;
        settings.silence = std::time::Duration::from_secs(2);
        settings.silence_check = std::time::Duration::from_secs(1);
    })
    .await;
    play(&mut w, "addcolony", [0]).await;
    play(&mut w, "adduser", [0]).await;
    play(&mut w, "other-settings", 0..=1).await;
    let approve = |name: &str| json!({ "colonyname": "wire", "executorname": name });
    w.must("colony owner", "approveexecutormsg", approve("wire-exec")).await;
    play(&mut w, "other-settings", 2..=4).await;
    w.until("5a624a", 0).await;
    play(&mut w, "other-settings", 5..=11).await;
    // The recorded executor came back under another name with its old key.
    let again = json!({ "executor": { "executorid": w.signer("executor").unwrap().id(), "executorname": "again",
        "executortype": "container-executor", "colonyname": "wire" } });
    w.must("colony owner", "addexecutormsg", again).await;
    w.must("colony owner", "approveexecutormsg", approve("again")).await;
    play(&mut w, "other-settings", 12..=13).await;
    no_troubles(&w);
    assert_eq!(recording("other-settings").as_array().unwrap().len(), 21, "14 are compared, 7 are of a setting not offered");
}

/// Without the faults that the contract is played with, labels are what they seem.
#[tokio::test(flavor = "multi_thread")]
async fn a_local_colony_takes_labels_literally() {
    let mut w = World::new(|settings| settings.faulty_labels = false).await;
    play(&mut w, "addcolony", [0]).await;
    play(&mut w, "adduser", [0]).await;
    play(&mut w, "addfile", [0, 2, 15, 16, 17, 18]).await;
    no_troubles_but_numbers(&w);
    let snapshot = |label: &str, name: &str| json!({ "colonyname": "wire", "label": label, "name": name });
    let wild = w.must("user", "createsnapshotmsg", snapshot("/w/my_proj/src", "wild")).await;
    assert_eq!(wild["fileids"].as_array().unwrap().len(), 2, "only files of its own project");
    let parent = w.must("user", "createsnapshotmsg", snapshot("/pollinator/p", "parent")).await;
    assert_eq!(parent["fileids"].as_array().unwrap().len(), 2, "files of sub-labels are in it");
}

/// Files are numbered from 1 in every world, so that only `sequencenr` may differ here.
fn no_troubles_but_numbers(world: &World) {
    let other: Vec<_> = world.troubles.iter().filter(|t| !t.contains(".sequencenr")).collect();
    assert!(other.is_empty(), "{other:?}");
}
