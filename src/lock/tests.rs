use super::*;

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_lock_that_outlives_its_holder_for_a_moment_is_waited_for() {
    let state = tempfile::tempdir().unwrap();
    let path = state.path().join("a.lock");
    let lock = take(&path, |_| Duration::ZERO, &CancellationToken::new()).unwrap();
    // As if another process had written it, and had died since: no process has this number.
    let dead = Holder { pid: u32::MAX, ..Holder::here() };
    std::fs::write(&path, serde_json::to_string(&dead).unwrap()).unwrap();
    let ends = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        drop(lock);
    });
    take(&path, |holder| if holder.is_some_and(Holder::is_alive) { Duration::ZERO } else { PATIENCE }, &CancellationToken::new())
        .unwrap();
    ends.join().unwrap();
}

#[test]
fn the_second_is_told_who_is_first() {
    let state = tempfile::tempdir().unwrap();
    let path = state.path().join("new/a.lock");
    assert!(holder(&path).is_none());
    let lock = take(&path, |_| Duration::ZERO, &CancellationToken::new()).unwrap();
    assert_eq!(holder(&path), Some(Ok(Holder::here())));
    assert!(Holder::here().is_here());
    let refused = take(&path, |_| Duration::ZERO, &CancellationToken::new()).unwrap_err();
    assert!(refused.to_string().contains(&format!("process {}", std::process::id())), "{refused}");
    assert_eq!(lock.keep(), Ok(()));
    std::fs::remove_file(&path).unwrap();
    assert_eq!(lock.keep(), Err(Lost::Gone));
    drop(lock);
    assert!(holder(&path).is_none());
    take(&path, |_| Duration::ZERO, &CancellationToken::new()).unwrap();
}

const QUICK: Pace =
    Pace { beat: Duration::from_millis(10), watch: Duration::from_millis(300), glance: Duration::from_millis(10) };

fn elsewhere(host: &str) -> Holder {
    Holder { host: host.into(), boot: "another".into(), ..Holder::here() }
}

fn put(path: &Path, holder: &Holder) {
    let file = File::options().create(true).truncate(false).write(true).open(path).unwrap();
    write_name(&file, holder).unwrap();
}

fn quick(path: &Path) -> Result<Lock, Error> {
    take_beside(path, |_| Duration::ZERO, &CancellationToken::new(), Some(QUICK))
}

fn touched(path: &Path) -> SystemTime {
    signs::look(path).unwrap().touched
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "never: {what}");
        std::thread::sleep(LOOK);
    }
}

/// What one machine sees of the other where each has a lock of its own: its name, and signs of its life.
#[test]
fn who_lives_on_another_machine_keeps_the_folder_though_the_lock_can_be_had() {
    let state = tempfile::tempdir().unwrap();
    let path = state.path().join("a.lock");
    put(&path, &elsewhere("login2"));
    let patient = Pace { watch: PATIENCE, ..QUICK };
    std::thread::scope(|scope| {
        let taken = scope.spawn(|| take_beside(&path, |_| Duration::ZERO, &CancellationToken::new(), Some(patient)));
        while !taken.is_finished() {
            File::options().append(true).open(&path).unwrap().set_modified(SystemTime::now()).unwrap();
            std::thread::sleep(LOOK);
        }
        let refused = taken.join().unwrap().unwrap_err();
        assert!(refused.to_string().contains("on login2"), "{refused}");
    });
    assert_eq!(name_in(&path), Some(elsewhere("login2")), "its name stands");
    // It gives no more signs of life.
    let lock = quick(&path).unwrap();
    assert_eq!(name_in(&path), Some(Holder::here()));
    drop(lock);
    assert_eq!(name_in(&path), None, "who left is not waited for");
    // It ends well while it is watched: its name goes.
    put(&path, &elsewhere("login2"));
    std::thread::scope(|scope| {
        let taken = scope.spawn(|| quick(&path));
        std::fs::write(&path, "").unwrap();
        taken.join().unwrap().unwrap();
    });
    // Told to stop meanwhile.
    put(&path, &elsewhere("login2"));
    let stop = CancellationToken::new();
    stop.cancel();
    assert!(matches!(take_beside(&path, |_| Duration::ZERO, &stop, Some(PACE)), Err(Error::Stopped)));
    // Where no other machine sees it, nobody is watched, and neither are containers of this one.
    take_beside(&path, |_| Duration::ZERO, &stop, None).unwrap();
    put(&path, &Holder { host: "container".into(), ..Holder::here() });
    take_beside(&path, |_| Duration::ZERO, &stop, Some(PACE)).unwrap();
}

#[test]
fn who_holds_it_shows_so_and_gives_way_to_another_name() {
    let state = tempfile::tempdir().unwrap();
    let path = state.path().join("a.lock");
    let lock = quick(&path).unwrap();
    let before = touched(&path);
    until("a sign of life", || touched(&path) != before);
    std::fs::write(&path, "{\"pid\": torn").unwrap();
    until("its name again", || name_in(&path) == Some(Holder::here()));
    assert_eq!(lock.keep(), Ok(()));
    put(&path, &elsewhere("login2"));
    until("it gives way", || lock.keep() == Err(Lost::Taken(elsewhere("login2"))));
    drop(lock);
    assert_eq!(name_in(&path), Some(elsewhere("login2")), "the other's name stands");
}

#[test]
fn of_two_who_wait_for_the_end_of_a_third_one_gives_way() {
    let state = tempfile::tempdir().unwrap();
    let path = state.path().join("a.lock");
    put(&path, &elsewhere("login2"));
    let refused = std::thread::scope(|scope| {
        let slow = Pace { glance: Duration::from_millis(200), ..QUICK };
        let at = &path;
        let taken = scope.spawn(move || take_beside(at, |_| Duration::ZERO, &CancellationToken::new(), Some(slow)));
        until("it writes its name", || name_in(&path) == Some(Holder::here()));
        put(&path, &elsewhere("login3"));
        taken.join().unwrap().unwrap_err()
    });
    assert!(refused.to_string().contains("on login3"), "{refused}");
}

/// While nobody looks (this machine sleeps), nobody is found dead.
#[test]
fn silence_is_counted_in_looks() {
    let state = tempfile::tempdir().unwrap();
    let path = state.path().join("a.lock");
    put(&path, &elsewhere("login2"));
    let mut watch = Watch::at(&path, QUICK);
    std::thread::sleep(QUICK.watch * 2);
    assert!(watch.beats());
    until("it is silent", || !watch.beats());
    File::options().append(true).open(&path).unwrap().set_modified(SystemTime::now()).unwrap();
    assert!(watch.beats());
}
