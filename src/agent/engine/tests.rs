use super::*;
use crate::event::Tree;
use crate::project::OnSave;
use crate::project::WhenBusy;

fn place(path: &str) -> Place {
    (Tree::Src, path.to_owned())
}

fn touched(path: &str) -> Input {
    Input::Touched { place: place(path), open: false }
}

fn done() -> Input {
    Input::Ended(Outcome::Done(Done::default()))
}

/// A project that is watched and in step.
fn in_step(manners: Manners) -> Engine {
    let mut engine = Engine::new(manners, 1, 0);
    let begun = engine.step(0, Input::Watching(Watching::Live));
    assert!(begun.is_empty(), "{begun:?}");
    let begun = engine.step(manners.quiet, Input::Tick);
    assert_eq!(begun.len(), 1);
    engine.step(500, done());
    assert!(engine.is_in_sync());
    engine
}

#[test]
fn a_save_is_brought_over_when_it_is_still() {
    let mut engine = in_step(Manners::default());
    assert_eq!(engine.step(1000, touched("a")), []);
    assert_eq!((engine.wake(), engine.is_in_sync()), (Some(1300), false));
    assert_eq!(engine.status().phase, Phase::Settling);
    let begun = engine.step(1300, Input::Tick);
    assert_eq!(begun, [Action::Sync { scope: Scope::Paths(vec![place("a")]), all: false, by: None }]);
    engine.step(1310, touched("a"));
    engine.step(1320, done());
    assert!(!engine.is_in_sync(), "it was touched while it was brought over");
    assert_eq!(engine.step(1610, Input::Tick).len(), 1);
}

#[test]
fn a_run_of_what_is_in_step_looks_at_nothing() {
    let mut engine = in_step(Manners::default());
    let fresh = |engine: &mut Engine, now| match engine.step(now, Input::Ask(now, Ask::Run)).as_slice() {
        [Action::Run { fresh, .. }] => *fresh,
        other => panic!("{other:?}"),
    };
    assert!(fresh(&mut engine, 1000));
    engine.step(1001, done());
    engine.step(1002, touched("a"));
    assert!(!fresh(&mut engine, 1003));
    engine.step(1004, done());
    assert!(fresh(&mut engine, 1005), "the run brought it over");
    engine.step(1006, done());
    assert_eq!(engine.step(1007, Input::Watching(Watching::Polling)).len(), 1);
    engine.step(1007, done());
    assert!(!fresh(&mut engine, 1008), "nobody would have told");
}

#[test]
fn a_run_of_a_commit_says_nothing_of_what_is_here() {
    let mut engine = in_step(Manners::default());
    engine.step(1000, touched("a"));
    assert!(matches!(engine.step(1001, Input::Ask(1, Ask::RunOther)).as_slice(), [Action::Run { fresh: false, .. }]));
    assert_eq!(engine.step(1002, done()), [Action::Answer(1, Ok(()))]);
    assert!(!engine.is_in_sync());
    assert_eq!(engine.step(1300, Input::Tick).len(), 1);
}

#[test]
fn a_flush_answers_at_once_where_all_is_stored_and_else_when_it_is() {
    let mut engine = in_step(Manners::default());
    assert_eq!(engine.step(1000, Input::Ask(1, Ask::Flush)), [Action::Answer(1, Ok(()))]);
    engine.step(1001, Input::Touched { place: place("a"), open: true });
    let begun = engine.step(1002, Input::Ask(2, Ask::Flush));
    assert_eq!(begun, [Action::Sync { scope: Scope::Paths(vec![place("a")]), all: true, by: None }]);
    assert_eq!(engine.step(1003, Input::Ask(3, Ask::Flush)), []);
    assert_eq!(engine.step(1004, done()), [Action::Answer(2, Ok(())), Action::Answer(3, Ok(()))]);
}

#[test]
fn who_asks_is_told_what_could_not_be_brought_over() {
    let mut engine = in_step(Manners::default());
    engine.step(1000, touched("a"));
    engine.step(1001, Input::Ask(1, Ask::Flush));
    let done = Done { problems: vec![(place("a"), "cannot be read".into())], ..Done::default() };
    match engine.step(1002, Input::Ended(Outcome::Done(done))).as_slice() {
        [Action::Answer(1, Err(failure))] => assert!(failure.reason.contains("src/a cannot be read"), "{failure:?}"),
        other => panic!("{other:?}"),
    }
    assert_eq!((engine.status().phase, engine.is_in_sync()), (Phase::Error, false));
    let again = engine.wake().unwrap();
    assert!(again > 1002);
    assert_eq!(engine.step(again, Input::Tick).len(), 1, "it is tried again");
    engine.step(again + 1, Input::Ended(Outcome::Done(Done::default())));
    assert!(engine.is_in_sync());
}

#[test]
fn failures_are_tried_again_with_growing_pauses_and_nothing_is_forgotten() {
    let mut engine = in_step(Manners::default());
    engine.step(1000, touched("a"));
    engine.step(1300, Input::Tick);
    let failure = Failure { reason: "no".into(), offline: true, temporary: true, ..Failure::default() };
    let failed = || Input::Ended(Outcome::Failed { failure: failure.clone(), synced: false });
    engine.step(1310, failed());
    assert_eq!(engine.status().phase, Phase::Offline);
    let (mut now, mut pauses) = (1310, Vec::new());
    for _ in 0..10 {
        let wake = engine.wake().unwrap();
        pauses.push(wake - now);
        assert_eq!(engine.step(wake - 400, touched("b")), [], "a change does not bring a try forward");
        let begun = engine.step(wake, Input::Tick);
        assert!(matches!(&begun[..], [Action::Sync { .. }]), "{begun:?}");
        now = wake;
        engine.step(now, failed());
    }
    assert!(pauses[0] <= 1000 && pauses[9] > 29_000 && pauses[9] <= 60_000, "{pauses:?}");
    let wake = engine.wake().unwrap();
    match engine.step(wake, Input::Tick).as_slice() {
        [Action::Sync { scope: Scope::Paths(paths), .. }] => assert_eq!(paths, &[place("a"), place("b")]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn saves_while_a_run_is_under_way_do_what_was_wished() {
    for when_busy in [WhenBusy::Queue, WhenBusy::Replace, WhenBusy::Skip] {
        let manners = Manners { on_save: OnSave::Run, when_busy, ..Manners::default() };
        let mut engine = in_step(manners);
        engine.step(1000, Input::Opened("r0".into()));
        engine.step(1001, touched("a"));
        let begun = engine.step(1301, Input::Tick);
        match (when_busy, begun.as_slice()) {
            (WhenBusy::Replace, [Action::Run { replace, .. }]) => assert_eq!(replace, &["r0"]),
            (WhenBusy::Queue | WhenBusy::Skip, [Action::Sync { .. }]) => {}
            other => panic!("{other:?}"),
        }
        engine.step(1310, done());
        let after = engine.step(2000, Input::Closed { run: "r0".into(), fetch: false });
        assert_eq!(matches!(after.as_slice(), [Action::Run { .. }]), when_busy == WhenBusy::Queue, "{after:?}");
    }
}

#[test]
fn results_come_home_when_a_process_closes_or_wait_to_be_asked_for() {
    let mut engine = in_step(Manners::default());
    let begun = engine.step(1000, Input::Closed { run: "r".into(), fetch: true });
    assert_eq!(begun, [Action::Fetch { runs: vec!["r".into()], by: None }]);
    engine.step(1001, Input::Ended(Outcome::Done(Done { fetched: vec!["r".into()], ..Done::default() })));
    assert!(engine.status().results_waiting.is_empty());
    let mut engine = in_step(Manners { fetch: false, ..Manners::default() });
    assert_eq!(engine.step(1000, Input::Closed { run: "r".into(), fetch: true }), []);
    assert_eq!(engine.status().results_waiting, ["r"]);
}

#[test]
fn nothing_is_done_while_it_is_paused_unless_somebody_asks() {
    let mut engine = in_step(Manners::default());
    engine.step(1000, Input::Pause(Some(9000)));
    engine.step(1001, touched("a"));
    assert_eq!((engine.step(2000, Input::Tick), engine.status().phase), (vec![], Phase::Paused));
    assert_eq!(engine.wake(), Some(9000));
    assert_eq!(engine.step(2001, Input::Ask(1, Ask::Flush)).len(), 1);
    engine.step(2002, done());
    engine.step(2003, touched("b"));
    assert_eq!(engine.step(9000, Input::Tick).len(), 1);
}

#[test]
fn a_project_that_wants_nothing_on_a_save_is_left_alone_and_says_so() {
    let mut engine = Engine::new(Manners { on_save: OnSave::Off, ..Manners::default() }, 1, 0);
    assert_eq!(engine.step(0, Input::Watching(Watching::Live)), []);
    assert_eq!(engine.step(10_000, touched("a")), []);
    assert_eq!((engine.wake(), engine.is_in_sync()), (None, false));
}

#[test]
fn nothing_is_begun_by_itself_in_the_middle_of_a_checkout() {
    let mut engine = Engine::new(Manners::default(), 1, 0);
    engine.step(0, Input::Watching(Watching::Live));
    assert_eq!(engine.step(300, Input::Tick).len(), 1);
    engine.step(400, Input::Ended(Outcome::Done(Done::default())));
    let mut now = 1000;
    while now < 60_000 {
        let place = (crate::event::Tree::Src, format!("f{now}"));
        assert!(engine.is_restless(now) || now == 1000);
        assert!(engine.step(now, Input::Hold(now + 200)).is_empty());
        assert!(engine.step(now, Input::Touched { place, open: false }).is_empty(), "at {now}");
        now += 100;
    }
    assert!(engine.wake().is_some_and(|wake| wake <= now + 200));
    assert_eq!(engine.step(now + 200, Input::Tick).len(), 1, "all of it at once");
    // Who asks does not wait.
    let mut engine = Engine::new(Manners::default(), 1, 0);
    engine.step(0, Input::Hold(1_000_000));
    assert_eq!(engine.step(1, Input::Ask(7, Ask::Sync)).len(), 1);
}

#[test]
fn results_that_cannot_come_home_hold_up_no_save_and_back_off() {
    let mut engine = in_step(Manners::default());
    let begun = engine.step(1000, Input::Closed { run: "r".into(), fetch: true });
    assert_eq!(begun, [Action::Fetch { runs: vec!["r".into()], by: None }]);
    let failed = |code| Input::Ended(Outcome::Failed { failure: Failure { code, ..Failure::default() }, synced: false });
    assert_eq!(engine.step(1001, failed(1)), []);
    let status = engine.status();
    assert!(status.failure.is_some() && status.next_try.is_some_and(|at| at > 1001), "{status:?}");
    engine.step(1002, touched("a"));
    let begun = engine.step(1302, Input::Tick);
    assert!(matches!(begun.as_slice(), [Action::Sync { .. }]), "{begun:?}");
    engine.step(1303, done());
    let next = engine.wake().unwrap();
    assert!(engine.step(next - 1, Input::Tick).is_empty());
    assert!(matches!(engine.step(next, Input::Tick).as_slice(), [Action::Fetch { .. }]));
    // Somebody else brought them.
    engine.step(next + 1, failed(1));
    engine.step(next + 2, Input::Fetched("r".into()));
    assert_eq!((engine.status().failure, engine.status().results_waiting.len()), (None, 0));
}
