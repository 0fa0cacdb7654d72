//! What the agent does when the world around it breaks: it comes back by itself, or says what to do; and it never spins.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

mod agency;
mod chaos;
mod lab;
#[path = "common/tap.rs"]
mod tap;

use agency::Agency;
use agency::ended;
use agency::signal;
use chaos::Colony;
use lab::Lab;
use lab::until;
use serde_json::Value;
use std::fs;
use std::io::Read;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;
use tap::Flow;
use tap::Tap;

/// Writes what it was made of, once a gate is open.
const GATED: &str = "import os, time
here = os.path.dirname(__file__)
while not os.path.exists(open(here + '/gate').read()): time.sleep(0.02)
open(os.environ['PROJECT_DIR'] + '/result/out', 'w').write('home')
";
/// Processor time within which an agent counts as idle over some seconds.
const IDLE: Duration = Duration::from_millis(200);

/// A colony, with a tap in front of its server and of its store, and an agent that knows only these.
struct Site {
    agency: Agency,
    server: Tap,
    store: Tap,
    /// Whose colony it is; ends it, after the agent.
    home: Lab,
}

impl Site {
    fn new() -> Site {
        let home = Lab::new();
        let colony = Colony::of(&home);
        let server = Tap::new(&format!("127.0.0.1:{}", colony.port()));
        let store = Tap::new(colony.variables["AWS_S3_ENDPOINT"].trim_start_matches("http://"));
        let colony = colony
            .with("COLONIES_SERVER_HOST", "127.0.0.1")
            .with("COLONIES_SERVER_PORT", server.port)
            .with("AWS_S3_ENDPOINT", format!("127.0.0.1:{}", store.port));
        let lab = colony.variables.iter().fold(Lab::new(), |lab, (name, value)| lab.with(name, value.clone()));
        let site = Site { agency: Agency { lab }, server, store, home };
        site.agency.agent(["start"]).expect_code(0);
        site
    }

    fn project(&self, name: &str) -> std::path::PathBuf {
        let project = self.agency.lab.project(name, GATED);
        self.agency.save(&project, "src/gate", self.gate().to_str().unwrap());
        self.agency.watch(&project);
        project
    }

    fn gate(&self) -> std::path::PathBuf {
        self.home.home().join("gate")
    }
}

/// Processor time that a process used so far.
fn processor_time(pid: u32) -> Duration {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<u64> = text.rsplit(')').next().unwrap().split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
    // SAFETY: asks for a constant.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as u64;
    Duration::from_millis((fields[11] + fields[12]) * 1000 / ticks)
}

/// Panics where the agent is busy over some seconds: there is nothing to wait for but time.
#[track_caller]
fn expect_idle(pid: u32, seconds: u64, most: Duration) {
    let before = processor_time(pid);
    std::thread::sleep(Duration::from_secs(seconds));
    let used = processor_time(pid) - before;
    assert!(used <= most, "{used:?} of processor time in {seconds} s");
}

/// Seconds from now until the next try.
fn until_next_try(status: &Value) -> f64 {
    let next: jiff::Timestamp = status["next_try"].as_str().unwrap_or_else(|| panic!("{status:#}")).parse().unwrap();
    next.duration_since(jiff::Timestamp::now()).as_secs_f64()
}

#[test]
fn a_network_that_is_cut_is_told_of_tries_back_off_and_all_is_well_when_it_is_back() {
    let site = Site::new();
    let project = site.project("cut");
    site.server.set(Flow::Cut);
    site.store.set(Flow::Cut);
    site.agency.save(&project, "src/meanwhile", "1");
    let status = |state: &str| {
        until(state, || site.agency.project_status(&project)["state"] == state);
        site.agency.project_status(&project)
    };
    let offline = status("offline");
    assert!(offline["reason"].is_string() && offline["next_try"].is_string(), "{offline:#}");
    assert_eq!(offline["in_sync"], false);
    // Pauses grow: after some tries the next one is more than three seconds away.
    until("the tries back off", || {
        let status = site.agency.project_status(&project);
        status["state"] == "offline" && until_next_try(&status) > 3.0
    });
    let connections = site.server.connections() + site.store.connections();
    for n in 0..20 {
        // Saves do not bring tries forward.
        site.agency.save(&project, "src/meanwhile", &n.to_string());
    }
    expect_idle(site.agency.pid(), 5, IDLE);
    let made = site.server.connections() + site.store.connections() - connections;
    assert!(made <= 20, "{made} connections in 5 s");
    site.server.set(Flow::Open);
    site.store.set(Flow::Open);
    site.agency.until_in_sync(&project);
    site.agency.agrees(&project);
}

#[test]
fn a_store_that_refuses_is_told_of_and_is_not_asked_again_and_again() {
    for status in [403, 503] {
        let site = Site::new();
        let project = site.project("refused");
        site.store.set(Flow::Refuses(status));
        site.agency.save(&project, "src/new", "x");
        until("it is told of", || {
            let told = site.agency.project_status(&project);
            told["reason"].is_string() && told["next_try"].is_string() && ["error", "offline"].iter().any(|s| told["state"] == *s)
        });
        until("the tries back off", || {
            let told = site.agency.project_status(&project);
            told["next_try"].is_string() && until_next_try(&told) > 3.0
        });
        let before = site.store.connections();
        expect_idle(site.agency.pid(), 4, IDLE);
        let made = site.store.connections() - before;
        assert!(made <= 40, "{made} connections in 4 s, status {status}");
        site.store.set(Flow::Open);
        site.agency.until_in_sync(&project);
        site.agency.agrees(&project);
    }
}

#[test]
fn a_server_that_restarts_during_a_run_is_found_again_and_the_results_come_home() {
    let agency = Agency::new();
    let project = agency.lab.project("restarted", GATED);
    let gate = agency.lab.home().join("gate");
    agency.save(&project, "src/gate", gate.to_str().unwrap());
    agency.watch(&project);
    agency.lab.run_in(&project, ["run"]).expect_code(0);
    until("it runs", || agency.project_status(&project)["runs"][0]["state"] == "running");
    agency.lab.run(["colony", "stop"]).expect_code(0);
    agency.lab.run(["colony", "start"]).expect_code(0);
    fs::write(&gate, "").unwrap();
    until("its results are home", || agency.project_status(&project)["runs"][0]["fetched"] == true);
    assert_eq!(fs::read_to_string(project.join("cfs/result/out")).unwrap(), "home");
    assert_eq!(agency.project_status(&project)["runs"].as_array().unwrap().len(), 1);
    agency.until_in_sync(&project);
}

#[test]
fn a_revoked_key_is_said_and_a_run_under_way_is_neither_given_up_nor_taken_for_ended() {
    let site = Site::new();
    let project = site.project("revoked");
    site.agency.lab.run_in(&project, ["run"]).expect_code(0);
    until("it runs", || site.agency.project_status(&project)["runs"][0]["state"] == "running");
    let users = revoke(&site.home);
    // The follower has to ask again to hear it.
    site.server.set(Flow::Open);
    site.agency.save(&project, "src/new", "x");
    until("it is told of", || site.agency.project_status(&project)["state"] == "error");
    until("the tries back off", || {
        let told = site.agency.project_status(&project);
        told["state"] == "error" && until_next_try(&told) > 3.0
    });
    let told = site.agency.project_status(&project);
    let text = format!("{} {}", told["reason"], told["hint"]);
    assert!(text.contains("COLONIES_PRVKEY") || text.contains("key"), "{told:#}");
    expect_idle(site.agency.pid(), 4, IDLE);
    give_back(&site.home, &users);
    until("it is in sync again", || {
        // A person who mended it says so.
        site.agency.agent(["resume"]).expect_code(0);
        site.agency.project_status(&project)["in_sync"] == true
    });
    let status = site.agency.project_status(&project);
    assert_eq!((&status["runs"][0]["state"], &status["runs"][0]["fetched"]), (&"running".into(), &false.into()), "{status:#}");
    fs::write(site.gate(), "").unwrap();
    until("its results are home", || site.agency.project_status(&project)["runs"][0]["fetched"] == true);
    assert_eq!(fs::read_to_string(project.join("cfs/result/out")).unwrap(), "home");
}

/// Books of a laboratory's colony.
fn books(lab: &Lab) -> rusqlite::Connection {
    let colony = lab.state().join("colony");
    let path = [colony.join("colony.db"), colony.join("server/colony.db")].into_iter().find(|path| path.exists()).unwrap();
    let db = rusqlite::Connection::open(path).unwrap();
    db.busy_timeout(Duration::from_secs(10)).unwrap();
    db
}

/// Takes the users out of the colony's books, as an administrator would; gives their ids.
fn revoke(lab: &Lab) -> Vec<(String, String)> {
    let db = books(lab);
    let mut query = db.prepare("SELECT user_id, colony FROM user").unwrap();
    let users: Vec<(String, String)> =
        query.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect();
    assert!(!users.is_empty());
    db.execute("UPDATE user SET user_id = 'gone-' || user_id", []).unwrap();
    users
}

fn give_back(lab: &Lab, users: &[(String, String)]) {
    let db = books(lab);
    for (id, colony) in users {
        let back =
            db.execute("UPDATE user SET user_id = ?1 WHERE user_id = 'gone-' || ?1 AND colony = ?2", [id, colony]).unwrap();
        assert_eq!(back, 1);
    }
}

#[test]
fn books_of_a_newer_version_are_refused_and_left_as_they_are() {
    let agency = Agency::new();
    let project = agency.lab.project("newer", GATED);
    agency.watch(&project);
    agency.agent(["stop"]).expect_code(0);
    let path = agency.lab.state().join("journal.db");
    let version = |set: Option<u32>| -> u32 {
        let db = rusqlite::Connection::open(&path).unwrap();
        if let Some(set) = set {
            db.pragma_update(None, "user_version", set).unwrap();
        }
        db.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap()
    };
    let usual = version(None);
    version(Some(usual + 100));
    agency.agent(["start"]).expect_code(0);
    until("it is told of", || agency.project_status(&project)["state"] == "error");
    let status = agency.project_status(&project);
    let reason = status["reason"].as_str().unwrap();
    assert!(reason.contains("journal.db") && reason.contains("newer"), "{status:#}");
    assert_eq!((version(None), status["in_sync"].as_bool()), (usual + 100, Some(false)));
    version(Some(usual));
    agency.agent(["restart"]).expect_code(0);
    agency.until_in_sync(&project);
}

#[test]
fn a_list_of_projects_that_cannot_be_read_is_named_and_left_alone() {
    let agency = Agency::without_agent();
    fs::create_dir_all(agency.lab.state()).unwrap();
    let path = agency.lab.state().join("projects.json");
    for bad in [r#"{"version": 9, "future": []}"#, "{\"version\": 1, \"proj"] {
        fs::write(&path, bad).unwrap();
        let refused = agency.agent(["start"]).expect_code(1);
        assert!(refused.stderr.contains("projects.json"), "{}", refused.all());
        let refused = agency.agent(Vec::<&str>::new()).expect_code(1);
        assert!(refused.stderr.contains("projects.json") && refused.stderr.contains("move the file away"), "{}", refused.all());
        assert_eq!(fs::read_to_string(&path).unwrap(), bad);
    }
    fs::remove_file(&path).unwrap();
}

#[test]
fn an_agent_whose_state_folder_is_gone_ends_and_says_so_and_the_next_one_is_left_alone() {
    let site = Site::new();
    let agency = &site.agency;
    agency.agent(["stop"]).expect_code(0);
    let mut first = agency.foreground();
    let aside = agency.lab.home().join("aside");
    fs::rename(agency.lab.state(), &aside).unwrap();
    // Another one may start at once; what the first one does in its end must not be to its harm.
    agency.agent(["start"]).expect_code(0);
    let second = agency.pid();
    assert_ne!(second, first.id());
    assert_eq!(ended(&mut first), Some(1));
    let mut said = String::new();
    first.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("state folder") && said.contains("pollinatord start"), "{said}");
    assert_eq!(agency.pid(), second);
}

#[test]
fn a_state_folder_that_cannot_be_written_is_named() {
    let home = Lab::new();
    let below_a_file = home.home().join("file");
    fs::write(&below_a_file, "x").unwrap();
    let agency = Agency { lab: Lab::new() };
    let mut command = agency.agent_command(["start"]);
    command.env("POLLINATOR_STATE_DIR", below_a_file.join("state"));
    let refused = lab::finish(command);
    assert!(matches!(refused.code, Some(1 | 2)), "{}", refused.all());
    assert!(refused.stderr.contains(below_a_file.to_str().unwrap()), "{}", refused.all());
    // No file may grow: what a full disk looks like to whoever writes.
    let mut limited = Command::new("sh");
    let program = agency.agent_command(Vec::<&str>::new());
    limited.args(["-c", "trap '' XFSZ; ulimit -f 0; exec \"$0\""]).arg(program.get_program()).env_clear();
    limited.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let refused = lab::finish(limited);
    assert_eq!(refused.code, Some(1), "{}", refused.all());
    assert!(refused.stderr.contains(agency.lab.state().to_str().unwrap()), "{}", refused.all());
    agency.agent(["start"]).expect_code(0);
}

#[test]
fn a_long_state_folder_has_its_socket_elsewhere() {
    let lab = Lab::new();
    let long = lab.home().join("l".repeat(120)).join("state");
    let run_time = lab.home().join("run");
    fs::create_dir_all(&run_time).unwrap();
    let lab = lab.with("POLLINATOR_STATE_DIR", long.to_str().unwrap()).with("XDG_RUNTIME_DIR", run_time.to_str().unwrap());
    let agency = Agency { lab };
    agency.agent(["start"]).expect_code(0);
    assert_eq!(agency.status()["agent"]["state_dir"], long.to_str().unwrap());
    assert!(agency.agent(["start"]).expect_code(0).stdout.contains("already"));
}

#[test]
fn another_user_gets_no_answer() {
    use std::os::unix::fs::PermissionsExt;
    let agency = Agency::new();
    let socket = agency.lab.state().join("agent.sock");
    // SAFETY: no arguments, always succeeds.
    if unsafe { libc::getuid() } != 0 {
        let mode = fs::metadata(&socket).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        return;
    }
    // Even where the file system lets anybody in.
    for path in [agency.lab.home(), &agency.lab.state(), &socket] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    }
    let asked = |user: u32| {
        let socket = socket.clone();
        // Of this thread alone: what the C library would do changes the whole process.
        let ask = move || {
            // SAFETY: plain numbers; it changes who the thread, which ends after this, acts for.
            let changed = unsafe { libc::syscall(libc::SYS_setresuid, -1, user, -1) };
            assert_eq!(changed, 0);
            let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
            stream.set_read_timeout(Some(lab::PATIENCE)).unwrap();
            // Who is refused may find that the other end is closed already.
            let _ = stream.write_all(b"GET /v1/agent HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            let mut answer = String::new();
            let _ = stream.read_to_string(&mut answer);
            answer
        };
        std::thread::spawn(ask).join().unwrap()
    };
    assert_eq!(asked(65534), "");
    assert!(asked(0).starts_with("HTTP/1.1 200"));
}

#[test]
fn a_project_that_somebody_else_works_on_says_that_it_waits() {
    let site = Site::new();
    let project = site.project("locked");
    let locks = site.agency.lab.state().join("locks");
    let held: Vec<fs::File> = fs::read_dir(&locks).unwrap().map(|entry| fs::File::open(entry.unwrap().path()).unwrap()).collect();
    assert!(!held.is_empty());
    held.iter().for_each(|file| file.lock().unwrap());
    site.agency.save(&project, "src/new", "x");
    until("it says that it waits", || {
        let reason = site.agency.project_status(&project)["reason"].to_string();
        reason.contains("waiting")
    });
    drop(held);
    site.agency.until_in_sync(&project);
    assert!(site.agency.project_status(&project)["reason"].is_null());
}

#[test]
fn fifty_projects_at_rest_cost_next_to_nothing() {
    let site = Site::new();
    for n in 0..50 {
        let project = site.agency.lab.project(&format!("rest-{n}"), GATED);
        site.agency.agent(["add", project.to_str().unwrap()]).expect_code(0);
    }
    until("all are in sync", || {
        let status = site.agency.status();
        status["projects"].as_array().unwrap().iter().all(|project| project["in_sync"] == true)
    });
    let pid = site.agency.pid();
    let connections = || site.server.connections() + site.store.connections();
    // What the last synchronization leaves behind (books that are put away) comes to an end.
    let end = Instant::now() + lab::PATIENCE;
    loop {
        let before = processor_time(pid);
        std::thread::sleep(Duration::from_secs(1));
        if processor_time(pid) == before {
            break;
        }
        assert!(Instant::now() < end, "it does not come to rest");
    }
    let before = connections();
    // Nothing is to happen: only time can show that.
    expect_idle(pid, 10, Duration::from_millis(50));
    assert_eq!(connections(), before);
}

#[test]
fn settings_that_are_read_again_replace_the_way_to_the_colony() {
    let agency = Agency::new();
    let project: &Path = &agency.lab.project("again", GATED);
    agency.watch(project);
    signal(agency.pid(), 1);
    agency.save(project, "src/new", "x");
    agency.until_in_sync(project);
    agency.agrees(project);
    // Where saves are not brought over, results come home all the same, after a restart as well.
    let gate = agency.lab.home().join("gate");
    agency.save(project, "src/gate", gate.to_str().unwrap());
    let settings = fs::read_to_string(project.join("project.yaml")).unwrap();
    fs::write(project.join("project.yaml"), format!("{settings}agent:\n  onSave: off\n")).unwrap();
    let mut command = agency.lab.command(["run"]);
    command.current_dir(project).stdout(Stdio::piped()).stderr(Stdio::piped());
    lab::finish(command).expect_code(0);
    agency.agent(["restart"]).expect_code(0);
    fs::write(&gate, "").unwrap();
    until("its results are home", || agency.project_status(project)["runs"][0]["fetched"] == true);
    assert_eq!(fs::read_to_string(project.join("cfs/result/out")).unwrap(), "home");
}
