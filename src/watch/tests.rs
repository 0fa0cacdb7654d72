//! The watching thread against the real file system: what is done is told of, whatever it is done with.

use super::*;
use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::timeout;

/// Longer than anything here takes; only a failure waits for it.
const PATIENCE: Duration = Duration::from_secs(20);

struct Lab {
    home: TempDir,
    watcher: Watcher,
    signals: mpsc::UnboundedReceiver<Signal>,
    barriers: u64,
    state: Option<State>,
}

impl Lab {
    async fn new() -> Lab {
        let home = tempfile::tempdir().unwrap();
        for tree in ["src", "data", "result"] {
            fs::create_dir_all(home.path().join("p/cfs").join(tree)).unwrap();
        }
        fs::write(home.path().join("p/project.yaml"), "").unwrap();
        let (watcher, signals) = Watcher::start(&home.path().join("cookies")).unwrap();
        let mut lab = Lab { home, watcher, signals, barriers: 0, state: None };
        lab.watch(false).await;
        lab
    }

    async fn watch(&mut self, poll: bool) {
        let folder = self.home.path().join("p").canonicalize().unwrap();
        self.watcher.watch(Target { id: 7, folder, poll });
        self.until(|signal| matches!(signal, Signal::State { state, .. } if !state.installing)).await;
    }

    fn path(&self, below: &str) -> PathBuf {
        self.home.path().join("p/cfs/src").join(below)
    }

    fn write(&self, below: &str, text: &str) {
        let path = self.path(below);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// All signals up to one.
    async fn until(&mut self, wanted: impl Fn(&Signal) -> bool) -> Vec<Signal> {
        let mut heard = Vec::new();
        loop {
            let signal = timeout(PATIENCE, self.signals.recv()).await.expect("in time").expect("the thread lives");
            if let Signal::State { state, .. } = &signal {
                self.state = Some(state.clone());
            }
            let is_it = wanted(&signal);
            heard.push(signal);
            if is_it {
                return heard;
            }
        }
    }

    /// All signals of what was done until now, with the watches of new folders set.
    async fn settled(&mut self) -> Vec<Signal> {
        let mut heard = Vec::new();
        loop {
            self.barriers += 1;
            let number = self.barriers;
            assert!(self.watcher.barrier(number).await);
            heard.extend(self.until(|signal| *signal == Signal::Barrier(number)).await);
            if self.state.as_ref().is_some_and(|state| !state.extending && !state.installing) {
                return heard;
            }
        }
    }

    /// The paths that were told of until now.
    async fn touched(&mut self) -> BTreeSet<String> {
        let paths = |signal| match signal {
            Signal::Touched { tree, path, project: 7, .. } => Some(format!("{tree}/{path}")),
            _ => None,
        };
        self.settled().await.into_iter().filter_map(paths).collect()
    }
}

fn is_told(touched: &BTreeSet<String>, path: &str) -> bool {
    // A folder that is told of stands for all that is below it.
    std::path::Path::new(path).ancestors().any(|above| touched.contains(above.to_str().unwrap()))
}

#[tokio::test]
async fn saves_of_all_kinds_are_told_of() {
    let mut lab = Lab::new().await;
    lab.write("a", "1");
    assert_eq!(lab.touched().await, ["src/a".to_owned()].into());
    // As editors and `sed -i` do it.
    lab.write("tmp", "2");
    fs::rename(lab.path("tmp"), lab.path("a")).unwrap();
    assert!(lab.touched().await.contains("src/a"));
    fs::remove_file(lab.path("a")).unwrap();
    assert_eq!(lab.touched().await, ["src/a".to_owned()].into());
    fs::write(lab.home.path().join("p/cfs/data/d"), "x").unwrap();
    fs::write(lab.home.path().join("p/cfs/result/r"), "x").unwrap();
    assert_eq!(lab.touched().await, ["data/d".to_owned()].into(), "results are others' business");
}

#[tokio::test]
async fn reading_makes_no_events() {
    let mut lab = Lab::new().await;
    for number in 0..50 {
        lab.write(&format!("d{number}/f"), "text");
    }
    lab.settled().await;
    for number in 0..50 {
        assert_eq!(fs::read_to_string(lab.path(&format!("d{number}/f"))).unwrap(), "text");
        assert_eq!(fs::read_dir(lab.path(&format!("d{number}"))).unwrap().count(), 1);
    }
    assert!(lab.touched().await.is_empty());
}

#[tokio::test]
async fn what_is_made_in_a_new_folder_at_once_is_told_of() {
    let mut lab = Lab::new().await;
    for round in 0..30 {
        let deep = format!("n{round}/b/c/d");
        lab.write(&format!("{deep}/file"), "x");
        let touched = lab.touched().await;
        assert!(is_told(&touched, &format!("src/{deep}/file")), "{touched:?}");
        // And what is done in it later, which only its own watch tells.
        lab.write(&format!("{deep}/later"), "x");
        assert_eq!(lab.touched().await, [format!("src/{deep}/later")].into());
    }
}

#[tokio::test]
async fn a_folder_that_moved_is_watched_at_its_new_place() {
    let mut lab = Lab::new().await;
    lab.write("old/deep/f", "1");
    lab.settled().await;
    fs::rename(lab.path("old"), lab.path("new")).unwrap();
    let touched = lab.touched().await;
    assert!(is_told(&touched, "src/old/deep/f") && is_told(&touched, "src/new/deep/f"), "{touched:?}");
    lab.write("new/deep/f", "2");
    assert_eq!(lab.touched().await, ["src/new/deep/f".to_owned()].into());
    // Out of the tree and back.
    let outside = lab.home.path().join("outside");
    fs::rename(lab.path("new"), &outside).unwrap();
    assert!(is_told(&lab.touched().await, "src/new/deep/f"));
    fs::write(outside.join("deep/f"), "3").unwrap();
    assert!(lab.touched().await.is_empty(), "it is not ours out there");
    fs::rename(&outside, lab.path("back")).unwrap();
    lab.settled().await;
    fs::write(lab.path("back/deep/f"), "4").unwrap();
    assert_eq!(lab.touched().await, ["src/back/deep/f".to_owned()].into());
}

#[tokio::test]
async fn what_is_left_out_has_no_watches() {
    let mut lab = Lab::new().await;
    let watches = |lab: &Lab| lab.state.as_ref().unwrap().watches;
    let before = watches(&lab);
    lab.write(".cfsignore", "node_modules/\n*.log\n");
    lab.settled().await;
    for number in 0..100 {
        lab.write(&format!("node_modules/m{number}/x/y"), "x");
    }
    lab.write(".git/objects/aa/bb", "x");
    lab.write("a.log", "x");
    lab.write(".main.py.swp", "x");
    assert!(lab.touched().await.is_empty());
    assert_eq!(watches(&lab), before);
    // A rule that goes lets in what it kept out.
    lab.write(".cfsignore", "*.log\n");
    let heard = lab.settled().await;
    assert!(heard.iter().any(|signal| matches!(signal, Signal::Rescan { .. })), "{heard:?}");
    assert_eq!(watches(&lab), before + 1 + 200);
    lab.write("node_modules/m7/x/y", "z");
    assert_eq!(lab.touched().await, ["src/node_modules/m7/x/y".to_owned()].into());
}

#[tokio::test]
async fn a_file_is_told_to_be_open_until_it_is_closed() {
    use std::io::Write;
    let mut lab = Lab::new().await;
    let mut file = fs::File::create(lab.path("big")).unwrap();
    file.write_all(b"half").unwrap();
    let last = |heard: Vec<Signal>| match heard.into_iter().rfind(|signal| matches!(signal, Signal::Touched { .. })) {
        Some(Signal::Touched { open, .. }) => open,
        other => panic!("{other:?}"),
    };
    assert!(last(lab.settled().await));
    drop(file);
    assert!(!last(lab.settled().await));
}

#[tokio::test]
async fn a_queue_that_was_too_short_has_everything_looked_at() {
    let mut lab = Lab::new().await;
    let limit: u64 = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
    let folder = lab.path("");
    // Two events for each, faster than they are taken.
    let made = tokio::task::spawn_blocking(move || {
        let threads: Vec<_> = (0..4)
            .map(|thread| {
                let folder = folder.clone();
                std::thread::spawn(move || {
                    for number in 0..limit / 2 {
                        let path = folder.join(format!("{thread}-{number}"));
                        fs::write(&path, "").unwrap();
                        fs::remove_file(&path).unwrap();
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
    made.await.unwrap();
    let heard = lab.settled().await;
    let overflows = lab.state.as_ref().unwrap().overflows;
    // Where the thread was fast enough for all of it, every file was told of.
    if overflows == 0 {
        let touched = heard.iter().filter(|signal| matches!(signal, Signal::Touched { .. })).count() as u64;
        assert!(touched >= limit * 2, "{touched}");
    } else {
        assert!(heard.iter().any(|signal| matches!(signal, Signal::Rescan { .. })));
    }
    lab.write("after", "x");
    assert!(lab.touched().await.contains("src/after"));
}

#[tokio::test]
async fn a_project_that_goes_and_comes_back_is_lost_and_found() {
    let mut lab = Lab::new().await;
    lab.write("a", "1");
    lab.settled().await;
    let (project, aside) = (lab.home.path().join("p"), lab.home.path().join("aside"));
    fs::rename(&project, &aside).unwrap();
    lab.until(|signal| matches!(signal, Signal::State { state, .. } if state.lost)).await;
    fs::rename(&aside, &project).unwrap();
    lab.until(|signal| matches!(signal, Signal::State { state, .. } if !state.lost && !state.installing)).await;
    lab.write("a", "2");
    assert!(lab.touched().await.contains("src/a"));
    // Another folder in the place of a tree.
    fs::rename(lab.path(""), lab.home.path().join("p/cfs/was")).unwrap();
    fs::create_dir(lab.path("")).unwrap();
    lab.settled().await;
    lab.write("b", "1");
    assert!(lab.touched().await.contains("src/b"));
}

#[tokio::test]
async fn a_project_that_is_polled_says_so() {
    let mut lab = Lab::new().await;
    lab.watch(true).await;
    let state = lab.state.clone().unwrap();
    assert_eq!((state.kind, state.watches), (Kind::Polling, 0));
    assert!(state.reason.is_some());
}

#[tokio::test]
async fn settings_are_told_of() {
    let mut lab = Lab::new().await;
    fs::write(lab.home.path().join("p/project.yaml"), "projectname: p\n").unwrap();
    let heard = lab.settled().await;
    assert!(heard.contains(&Signal::Settings { project: 7 }), "{heard:?}");
    fs::write(lab.home.path().join("p/README"), "x").unwrap();
    assert!(lab.touched().await.is_empty());
}

/// The backend of other systems, on this one: what it has to do with us.
#[tokio::test]
async fn the_portable_backend_tells_of_a_whole_tree() {
    use super::backend::Backend;
    use super::backend::Raw;
    let home = tempfile::tempdir().unwrap();
    let root = home.path().canonicalize().unwrap();
    fs::create_dir(root.join("deep")).unwrap();
    let mut queue = super::portable::Queue::new().unwrap();
    queue.add(&root).unwrap();
    assert!(queue.is_watched(&root.join("deep")) && queue.is_recursive());
    fs::write(root.join("deep/file"), "x").unwrap();
    let is_it = |raw: &Raw| matches!(raw, Raw::Entry { path, .. } if path.ends_with("deep/file"));
    while !timeout(PATIENCE, queue.next()).await.expect("in time").iter().any(is_it) {}
    queue.remove_below(&root);
    assert_eq!(queue.count_below(&root), 0);
}
