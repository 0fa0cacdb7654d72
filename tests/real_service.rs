//! The agent as a service: the files that are installed, read by the programs that read them in the end, and the protocol of
//! systemd's service manager.
//!
//! No service manager runs where tests run. So `systemctl` is a script that notes how it was called, and the manager's socket is
//! one of the test; `systemd-analyze` and Python's plistlib are the real ones.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

mod agency;
mod lab;

use agency::Agency;
use agency::apart::Apart;
use agency::ended;
use agency::signal;
use lab::Ended;
use lab::PATIENCE;
use lab::finish;
use lab::until;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

/// systemd-analyze rates from 0 (locked away) to 10; below 3 begins what it calls OK with a smile. What the agent needs makes up
/// the rest: the network (to any address), sockets, its user's files wherever they are, and the identity of its user (a user
/// unit has no other; looked at offline, it counts as root's). An ordinary unit without a sandbox has 9.6.
const MOST_EXPOSED: f64 = 2.9;

fn repository(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}

#[track_caller]
fn analyze(agency: &Agency, arguments: &[&str], file: &Path) -> Ended {
    let mut command = Command::new("systemd-analyze");
    command.args(arguments).arg(file).env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("LANG", "C.UTF-8");
    // Verifying makes itself a manager, which wants a runtime folder.
    let runtime = agency.lab.home().join("runtime");
    fs::create_dir_all(&runtime).unwrap();
    fs::set_permissions(&runtime, fs::Permissions::from_mode(0o700)).unwrap();
    command.env("HOME", agency.lab.home()).env("XDG_RUNTIME_DIR", runtime);
    finish(command)
}

/// A `systemctl` that notes its arguments.
fn with_systemctl(agency: &Agency, does: &str) -> (String, PathBuf) {
    let (folder, notes) = (agency.lab.home().join("programs"), agency.lab.home().join("called"));
    script(&folder, "systemctl", &format!("echo \"$*\" >> {}\n{does}", notes.display()));
    (format!("{}:{}", folder.display(), std::env::var("PATH").unwrap()), notes)
}

fn script(folder: &Path, name: &str, text: &str) {
    fs::create_dir_all(folder).unwrap();
    let path = folder.join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn installed(agency: &Agency) -> PathBuf {
    agency.lab.home().join(".config/systemd/user/pollinatord.service")
}

#[track_caller]
fn command(agency: &Agency, path: &str, arguments: &[&str]) -> Ended {
    let mut command = agency.agent_command(arguments);
    command.env("PATH", path);
    finish(command)
}

#[test]
fn systemd_finds_nothing_to_say_about_the_unit() {
    let agency = Agency::without_agent();
    let nowhere = agency.lab.home().join("no-programs").display().to_string();
    let done = command(&agency, &nowhere, &["install"]).expect_code(0);
    let unit = installed(&agency);
    assert!(done.all().contains(&format!("wrote {}", unit.display())), "{}", done.all());
    let by_hand = "run `systemctl --user daemon-reload` yourself";
    assert!(done.all().contains(by_hand) && done.all().contains("pollinatord start"), "{}", done.all());
    let text = fs::read_to_string(&unit).unwrap();
    assert!(text.contains(&format!("ExecStart={}\n", env!("CARGO_BIN_EXE_pollinatord"))), "{text}");
    let said = analyze(&agency, &["--user", "--man=no", "verify"], &unit).expect_code(0);
    let about_us: Vec<&str> = said.stderr.lines().filter(|line| line.contains("pollinatord")).collect();
    assert!(about_us.is_empty(), "{about_us:?}");
    // That of the repository, with a program that is there.
    let copy = agency.lab.home().join("pollinatord.service");
    let text = fs::read_to_string(repository("systemd/pollinatord.service")).unwrap();
    fs::write(&copy, text.replace("/usr/local/bin/pollinatord", "/bin/true")).unwrap();
    let said = analyze(&agency, &["--user", "--man=no", "verify"], &copy).expect_code(0);
    assert!(!said.stderr.contains("pollinatord"), "{}", said.stderr);
    // And it does find faults.
    fs::write(&copy, "[Service]\nExecStart=/nowhere/pollinatord\nWatchdogSek=3\n").unwrap();
    assert!(analyze(&agency, &["--user", "--man=no", "verify"], &copy).stderr.contains("WatchdogSek"));
}

#[test]
fn systemd_finds_nothing_to_say_about_the_unit_of_an_executor() {
    let agency = Agency::without_agent();
    let text = fs::read_to_string(repository("systemd/pollinator-executor.service")).unwrap();
    let copy = agency.lab.home().join("pollinator-executor.service");
    // With a program that is there.
    fs::write(&copy, text.replace("/usr/local/bin/pollinator ", &format!("{} ", env!("CARGO_BIN_EXE_pollinator")))).unwrap();
    let said = analyze(&agency, &["--man=no", "verify"], &copy).expect_code(0);
    assert!(!said.stderr.contains("pollinator-executor"), "{}", said.stderr);
    // Jobs outlive the service, and nothing keeps their set-uid helpers, namespaces and devices from them.
    assert!(text.contains("\nKillMode=process\n") && text.contains("\nDelegate=yes\n"));
    for word in ["NoNewPrivileges=yes", "PrivateDevices", "SystemCallFilter", "RestrictNamespaces", "ProtectKernelTunables"] {
        assert!(!text.contains(word), "{word}");
    }
}

#[test]
fn the_unit_is_exposed_to_no_more_than_the_agent_needs() {
    let agency = Agency::without_agent();
    let unit = repository("systemd/pollinatord.service");
    let said = analyze(&agency, &["security", "--offline=true", "--json=short"], &unit);
    let rated = analyze(&agency, &["security", "--offline=true", "--no-pager"], &unit);
    let line = rated.stdout.lines().find(|line| line.contains("Overall exposure level")).expect("a rating").to_owned();
    let rating: f64 = line.split(':').nth(1).unwrap().split_whitespace().next().unwrap().parse().unwrap();
    assert!(rating <= MOST_EXPOSED, "{line}\n{}", said.stdout);
}

#[test]
fn installing_is_told_to_the_service_manager_and_undone_without_a_trace() {
    let agency = Agency::without_agent();
    let (path, notes) = with_systemctl(&agency, "exit 0");
    let called = || fs::read_to_string(&notes).unwrap_or_default();
    let done = command(&agency, &path, &["install"]).expect_code(0);
    assert!(done.stdout.contains("starts at login") && !done.all().contains("yourself"), "{}", done.all());
    assert_eq!(called(), "--user daemon-reload\n--user enable --now pollinatord.service\n");
    let first = fs::read(installed(&agency)).unwrap();
    command(&agency, &path, &["install"]).expect_code(0);
    assert_eq!(fs::read(installed(&agency)).unwrap(), first, "twice is once");
    fs::remove_file(&notes).unwrap();
    command(&agency, &path, &["uninstall"]).expect_code(0);
    assert_eq!(called().lines().next(), Some("--user disable --now pollinatord.service"));
    assert!(!installed(&agency).exists());
    let again = command(&agency, &path, &["uninstall"]).expect_code(0);
    assert!(again.stdout.contains("nothing was installed"), "{}", again.all());
    // A manager that refuses is told of, and the file is there all the same.
    let (path, _) = with_systemctl(&agency, "echo no bus here >&2; exit 1");
    let done = command(&agency, &path, &["install", "--json"]).expect_code(0).json();
    assert_eq!(done["active"], false);
    assert!(done["advice"][0].as_str().unwrap().contains("no bus here"), "{done}");
    assert!(installed(&agency).exists());
}

#[test]
fn for_all_users_the_unit_stands_where_the_machine_has_its_own() {
    let agency = Agency::without_agent();
    let (path, notes) = with_systemctl(&agency, "exit 0");
    // In a mount namespace, so that nothing is written to this machine.
    let mut apart = Apart::new(&agency, &["-Urm"]);
    apart.run("mount -t tmpfs none /etc/systemd");
    let program = env!("CARGO_BIN_EXE_pollinatord");
    apart.run(&format!("PATH={path} {program} install --system"));
    let unit = apart.run("cat /etc/systemd/user/pollinatord.service");
    assert!(unit.contains(&format!("ExecStart={program}\n")), "{unit}");
    apart.run(&format!("PATH={path} {program} uninstall --system"));
    apart.run("! test -e /etc/systemd/user/pollinatord.service");
    let called = fs::read_to_string(notes).unwrap();
    assert_eq!(called, "--global enable pollinatord.service\n--global disable pollinatord.service\n");
    assert!(!installed(&agency).exists());
}

#[test]
fn the_settings_of_a_shell_are_not_those_of_a_service_and_a_wish_for_another_place_is_obeyed() {
    let agency = Agency::without_agent();
    let (path, _) = with_systemctl(&agency, "exit 0");
    let elsewhere = agency.lab.home().join("other config");
    let mut command = agency.agent_command(["install"]);
    command.env("PATH", &path).env("XDG_CONFIG_HOME", &elsewhere).env("COLONIES_SERVER_HOST", "colony.example");
    let done = finish(command).expect_code(0);
    assert!(done.all().contains("COLONIES_SERVER_HOST") && done.all().contains("agent.env"), "{}", done.all());
    assert!(elsewhere.join("systemd/user/pollinatord.service").exists() && !installed(&agency).exists());
}

#[test]
fn launchd_can_read_its_file_as_it_is_and_as_it_is_installed() {
    let agency = Agency::without_agent();
    let odd = "/Users/a & b/<bin>/pollinatord";
    let texts = [
        (fs::read_to_string(repository("launchd/io.colonyos.pollinatord.plist")).unwrap(), "/usr/local/bin/pollinatord"),
        (pollinator::agent::service::plist(Path::new(odd)).unwrap(), odd),
    ];
    let python = "import json, plistlib, sys\nprint(json.dumps(plistlib.load(open(sys.argv[1], 'rb'))))";
    for (text, program) in texts {
        let file = agency.lab.home().join("file.plist");
        fs::write(&file, text).unwrap();
        let read = python3(python, &file).expect_code(0).json();
        assert_eq!(read["Label"], "io.colonyos.pollinatord");
        assert_eq!(read["ProgramArguments"], serde_json::json!([program]));
        assert_eq!((&read["RunAtLoad"], &read["KeepAlive"]["SuccessfulExit"]), (&true.into(), &false.into()));
        assert_eq!(read["Umask"], 0o077);
    }
}

fn python3(text: &str, file: &Path) -> Ended {
    let mut command = Command::new("python3");
    command.args(["-I", "-c", text]).arg(file);
    finish(command)
}

/// What the agent tells a service manager, as a list of lines.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn new(agency: &Agency) -> Manager {
        let path = agency.lab.home().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Manager { socket, path }
    }

    #[track_caller]
    fn hears(&self) -> Vec<String> {
        let mut text = [0; 4096];
        let length = self.socket.recv(&mut text).expect("it is told something");
        String::from_utf8_lossy(&text[..length]).lines().map(str::to_owned).collect()
    }

    /// The next that is no beat.
    #[track_caller]
    fn hears_news(&self) -> Vec<String> {
        loop {
            let heard = self.hears();
            if heard != ["WATCHDOG=1"] {
                return heard;
            }
        }
    }
}

#[test]
fn a_service_manager_is_told_of_the_agents_life() {
    let agency = Agency::without_agent();
    let manager = Manager::new(&agency);
    let mut command = agency.agent_command(Vec::<&str>::new());
    command.env("NOTIFY_SOCKET", &manager.path).env("WATCHDOG_USEC", "600000").stdout(Stdio::null()).stderr(Stdio::null());
    let mut agent = command.spawn().unwrap();
    assert_eq!(manager.hears_news(), ["READY=1"]);
    assert_eq!(agency.agent(["status"]).code, Some(0), "it is ready when it says so");
    let began = std::time::Instant::now();
    for _ in 0..4 {
        assert_eq!(manager.hears(), ["WATCHDOG=1"]);
    }
    assert!(began.elapsed().as_millis() < 2400, "in time: {:?}", began.elapsed());
    signal(agent.id(), 1);
    let reloading = manager.hears_news();
    assert_eq!(reloading[0], "RELOADING=1");
    assert!(reloading[1].strip_prefix("MONOTONIC_USEC=").is_some_and(|time| time.parse::<u64>().is_ok()), "{reloading:?}");
    assert_eq!(manager.hears_news(), ["READY=1"]);
    signal(agent.id(), 15);
    assert_eq!(manager.hears_news(), ["STOPPING=1"]);
    assert_eq!(ended(&mut agent), Some(0));
}

/// The agent as a service's main process: the shell has the number that its `exec` leaves to the agent.
fn as_a_service(agency: &Agency, path: &str) -> std::process::Child {
    let mut command = agency.agent_command(Vec::<&str>::new());
    let mut shell = Command::new("sh");
    shell.args(["-c", "SYSTEMD_EXEC_PID=$$ exec \"$0\""]).arg(env!("CARGO_BIN_EXE_pollinatord")).env_clear();
    for (name, value) in command.env("PATH", path).env("INVOCATION_ID", "0123456789abcdef").get_envs() {
        shell.env(name, value.unwrap());
    }
    let log = agency.lab.home().join("log");
    let log = fs::File::options().create(true).append(true).open(log).unwrap();
    let child = shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
    until("the agent answers", || agency.agent(["status", "--json"]).code != Some(4));
    child
}

#[test]
fn a_colony_that_a_service_starts_is_a_unit_of_its_own() {
    let agency = Agency::without_agent();
    let (programs, notes) = (agency.lab.home().join("programs"), agency.lab.home().join("called"));
    // Does what the real one does as far as can be seen from here: it starts what stands behind the `--`.
    let does = "while [ \"$1\" != -- ]; do echo \"$1\" >> NOTES; shift; done; shift; exec \"$@\"";
    script(&programs, "systemd-run", &does.replace("NOTES", &notes.display().to_string()));
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let project = agency.lab.project("unit", "print('ran')\n");
    let mut agent = as_a_service(&agency, &path);
    agency.watch(&project);
    let called = fs::read_to_string(&notes).unwrap();
    let words: Vec<&str> = called.lines().collect();
    for word in ["--user", "--collect", "--pipe", "--property=KillMode=process", &format!("--setenv=PATH={path}")] {
        assert!(words.contains(&word), "{word}: {called}");
    }
    assert!(!called.contains("INVOCATION_ID") && !called.contains("AWS_"), "{called}");
    agency.agent(["stop"]).expect_code(0);
    assert_eq!(ended(&mut agent), Some(0));
    agency.lab.run(["colony", "status"]).expect_code(0);
    agency.lab.run(["colony", "stop"]).expect_code(0);
    // Where the manager refuses, it is started as ever.
    script(&programs, "systemd-run", "echo Failed to connect to bus >&2; exit 1");
    let mut agent = as_a_service(&agency, &path);
    agency.until_in_sync(&project);
    let log = fs::read_to_string(agency.lab.home().join("log")).unwrap();
    assert!(log.contains("cannot be a unit of its own"), "{log}");
    agency.agent(["stop"]).expect_code(0);
    assert_eq!(ended(&mut agent), Some(0));
}
