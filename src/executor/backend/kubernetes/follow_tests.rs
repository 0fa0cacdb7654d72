//! Streams that fall silent with something under way: an API server of our own, since no real one can be told when to stall.

use super::*;
use crate::executor::backend::kubernetes::Settings;
use crate::executor::backend::kubernetes::lines::Mark;
use axum::Router;
use axum::body::Body;
use axum::extract::Query;
use axum::extract::State;
use axum::routing::get;
use std::collections::HashMap;
use std::path::PathBuf;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;

/// A log that was asked for, and is not answered yet.
struct Asked {
    follow: bool,
    answer: oneshot::Sender<Body>,
}

impl Asked {
    /// Answers with a stream, that ends when what is given is dropped.
    fn open(self) -> mpsc::UnboundedSender<Result<String, std::io::Error>> {
        let (to, from) = mpsc::unbounded_channel();
        self.answer.send(Body::from_stream(UnboundedReceiverStream::new(from))).unwrap();
        to
    }
}

/// A follower of a log that the test gives out.
struct Desk {
    folder: tempfile::TempDir,
    asked: mpsc::UnboundedReceiver<Asked>,
    wanted: watch::Sender<Wanted>,
    whole: JoinHandle<bool>,
    serving: JoinHandle<()>,
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.whole.abort();
        self.serving.abort();
    }
}

type Asking = mpsc::UnboundedSender<Asked>;

async fn log(State(tell): State<Asking>, Query(query): Query<HashMap<String, String>>) -> Body {
    let (answer, answered) = oneshot::channel();
    let asked = Asked { follow: query.get("follow").is_some_and(|follow| follow == "true"), answer };
    match tell.send(asked) {
        Ok(()) => answered.await.unwrap(),
        Err(_) => Body::empty(),
    }
}

impl Desk {
    async fn new() -> Desk {
        let folder = tempfile::tempdir().unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let config = folder.path().join("config");
        let server = format!("http://{}", listener.local_addr().unwrap());
        let text = serde_json::json!({
            "current-context": "c",
            "clusters": [{ "name": "c", "cluster": { "server": server } }],
            "users": [{ "name": "u", "user": {} }],
            "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "u" } }],
        });
        std::fs::write(&config, text.to_string()).unwrap();
        let (tell, asked) = mpsc::unbounded_channel();
        let router = Router::new().route("/api/v1/namespaces/n/pods/p/log", get(log)).with_state(tell);
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let settings = Settings { kubeconfig: Some(config), namespace: Some("n".into()), ..Settings::default() };
        let (wanted, receiver) = watch::channel(Wanted::Follow);
        let follower = Follower {
            cluster: Arc::new(Cluster::new(&settings).unwrap()),
            pod: "p".into(),
            container: "c".into(),
            recorder: Recorder::open(&folder.path().join("output"), &folder.path().join("position")).unwrap(),
            wanted: receiver,
            was_open: false,
            next: None,
        };
        Desk { asked, wanted, whole: tokio::spawn(follower.run()), serving, folder }
    }

    async fn asked(&mut self) -> Asked {
        tokio::time::timeout(Duration::from_secs(60), self.asked.recv()).await.expect("the log is not asked for").unwrap()
    }

    fn output(&self) -> PathBuf {
        self.folder.path().join("output")
    }

    /// Waits until the output has this.
    async fn until(&self, part: &str) {
        let reached = async {
            while !std::fs::read_to_string(self.output()).is_ok_and(|text| text.contains(part)) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), reached).await.expect("it does not come");
    }
}

/// Record number `n`, as a cluster gives it, and its line.
fn record(n: usize) -> (String, String) {
    let line = format!("line {n} {}\n", "x".repeat(1000));
    (format!("2026-11-28T10:{:02}:{:02}.5Z {line}", n / 60, n % 60), line)
}

fn records(range: std::ops::Range<usize>) -> String {
    range.map(|n| record(n).0).collect()
}

fn lines(range: std::ops::Range<usize>) -> String {
    range.map(|n| record(n).1).collect()
}

/// After much output a silent stream is opened anew soon. What it has under way comes all the same, also where the log has been
/// rotated and a new stream begins behind it.
#[tokio::test]
async fn what_a_silent_stream_has_under_way_is_not_lost_to_a_rotation() {
    let mut desk = Desk::new().await;
    let first = desk.asked().await.open();
    first.send(Ok(records(0..300))).unwrap();
    desk.until(&lines(299..300)).await;
    // Silent for long enough; but the new one is not open yet when more comes.
    let second = desk.asked().await;
    first.send(Ok(records(300..340))).unwrap();
    desk.until(&lines(339..340)).await;
    // Nobody waits for it any more.
    drop(second.answer.send(Body::from(records(340..350))));
    let third = desk.asked().await.open();
    third.send(Ok(records(340..350))).unwrap();
    desk.until(&lines(349..350)).await;
    assert_eq!(std::fs::read_to_string(desk.output()).unwrap(), lines(0..350));
}

/// As above, at the end of a container.
#[tokio::test]
async fn what_a_stream_has_under_way_when_its_container_ends_is_not_lost_to_a_rotation() {
    let mut desk = Desk::new().await;
    let first = desk.asked().await.open();
    first.send(Ok(records(0..10))).unwrap();
    desk.until(&lines(9..10)).await;
    desk.wanted.send(Wanted::Finish).unwrap();
    let second = desk.asked().await;
    assert!(!second.follow);
    first.send(Ok(records(10..20))).unwrap();
    desk.until(&lines(19..20)).await;
    drop(second.answer.send(Body::from(records(20..30))));
    let third = desk.asked().await;
    assert!(!third.follow);
    drop(third.answer.send(Body::from(records(20..30))));
    assert!((&mut desk.whole).await.unwrap());
    assert_eq!(std::fs::read_to_string(desk.output()).unwrap(), lines(0..30));
}

/// A cluster that has no second stream to give (it has too much to do) does not end the first.
#[tokio::test]
async fn a_stream_outlives_a_second_one_that_cannot_be_opened() {
    let mut desk = Desk::new().await;
    let first = desk.asked().await.open();
    first.send(Ok(records(0..300))).unwrap();
    desk.until(&lines(299..300)).await;
    // No answer at all: the connection is closed.
    drop(desk.asked().await.answer);
    let again = desk.asked().await;
    first.send(Ok(records(300..310))).unwrap();
    desk.until(&lines(309..310)).await;
    drop(again);
    assert_eq!(std::fs::read_to_string(desk.output()).unwrap(), lines(0..310));
}

/// Where one process of a job failed, another may print on: it is not listened to for ever.
#[tokio::test]
async fn who_prints_on_is_not_listened_to_for_ever() {
    let mut desk = Desk::new().await;
    let first = desk.asked().await.open();
    let printing = tokio::spawn(async move {
        let mut tick = tokio::time::interval(Duration::from_millis(50));
        for n in 0.. {
            tick.tick().await;
            if first.send(Ok(records(n..n + 1))).is_err() {
                return n;
            }
        }
        0
    });
    desk.until(&lines(9..10)).await;
    desk.wanted.send(Wanted::Finish).unwrap();
    let second = desk.asked().await;
    assert!(!second.follow);
    let printed = tokio::time::timeout(Duration::from_secs(60), printing).await.unwrap().unwrap();
    drop(second.answer.send(Body::from(records(0..printed))));
    assert!((&mut desk.whole).await.unwrap());
    assert_eq!(std::fs::read_to_string(desk.output()).unwrap(), lines(0..printed));
}

/// A connection that broke tells nothing of what came before a rotation.
#[tokio::test]
async fn what_a_broken_stream_did_not_give_before_a_rotation_is_told() {
    let mut desk = Desk::new().await;
    let first = desk.asked().await.open();
    first.send(Ok(records(0..10))).unwrap();
    desk.until(&lines(9..10)).await;
    first.send(Err(std::io::Error::other("the node is gone"))).unwrap();
    let second = desk.asked().await.open();
    second.send(Ok(records(20..30))).unwrap();
    desk.until(&lines(29..30)).await;
    let told = "pollinator: the cluster rotated this log away while it could not be read: lines may be missing here\n";
    assert_eq!(std::fs::read_to_string(desk.output()).unwrap(), [lines(0..10), told.into(), lines(20..30)].concat());
}

#[test]
fn after_much_output_silence_is_not_believed_for_long() {
    let mut silence = Silence::default();
    assert_eq!(silence.limit(), SILENCE);
    silence.take(false);
    assert_eq!(silence.limit(), SILENCE * 2);
    silence.look_soon();
    for _ in 0..TIMES {
        assert_eq!(silence.limit(), SOON);
        silence.take(false);
        silence.looked();
    }
    assert_eq!(silence.limit(), SILENCE * 2);
    silence.take(true);
    assert_eq!(silence.limit(), SILENCE);
    (0..9).for_each(|_| silence.take(false));
    assert_eq!(silence.limit(), LONGEST_SILENCE);
}

#[test]
fn a_gap_stands_before_the_records_that_follow_it() {
    let record = |n: i128| Record { time: n, bytes: b"x\n".to_vec() };
    for tells_gap in [true, false] {
        let mut batch = Batch { tells_gap, ..Batch::default() };
        let mut resume = Resume::after(Some(Mark::after(None, &record(1))));
        batch.add(resume.admit(record(5_000_000_000)), &mut resume);
        batch.add(resume.admit(record(5_000_000_001)), &mut resume);
        assert_eq!(batch.empty(), (vec![record(5_000_000_000), record(5_000_000_001)], tells_gap));
        assert_eq!((batch.empty(), batch.read), ((vec![], false), 2 * (2 + FRAME)));
    }
}
