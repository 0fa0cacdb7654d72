//! The frame of the command line: help, exit codes, output for people and for machines, and what goes to which stream.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

mod lab;

use lab::Ended;
use lab::Lab;
use serde_json::Value;
use std::fs;
use std::process::Command;
use std::process::Stdio;

const COMMANDS: [&str; 23] = [
    "new",
    "run",
    "sync",
    "diff",
    "runs",
    "show",
    "checkout",
    "logs",
    "cancel",
    "results",
    "tunnel",
    "executor",
    "executors",
    "funcspec",
    "doctor",
    "ignored",
    "config",
    "hook",
    "watch",
    "colony",
    "completions",
    "man",
    "version",
];

const JOB: &str = "import os\nprint('hello from the job')\nd = os.environ['PROJECT_DIR'] + '/result'\nos.makedirs(d, exist_ok=True)\nopen(d + '/out.txt', 'w').write('out')\n";

/// Lines of JSON objects, each an event.
#[track_caller]
fn events(ended: &Ended) -> Vec<Value> {
    let lines = ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e} in {line:?}")));
    let events: Vec<Value> = lines.collect();
    assert!(events.iter().all(|event| event["event"].is_string()), "{events:?}");
    events
}

#[test]
fn every_command_has_help_and_a_manual_page() {
    let lab = Lab::new();
    let help = lab.run(["--help"]).expect_code(0).stdout;
    let page = lab.run(["man"]).expect_code(0).stdout;
    for section in [".SH \"EXIT STATUS\"", ".SH ENVIRONMENT", ".SH FILES", "COLONIES_PRVKEY", ".cfsignore"] {
        assert!(page.contains(section), "{section}");
    }
    for command in COMMANDS {
        assert!(help.lines().any(|line| line.trim_start().starts_with(&format!("{command} "))), "{command} in\n{help}");
        let its = lab.run([command, "--help"]).expect_code(0).stdout;
        assert!(its.contains("--project") && its.contains("--json") && its.contains("--profile"), "{its}");
        let page = lab.run(["man", command]).expect_code(0).stdout;
        assert!(page.contains(&format!(".TH pollinator-{command} 1")), "{page}");
    }
    assert!(!lab.run(["colony", "--help"]).expect_code(0).stdout.contains("serve "), "what nobody calls by hand is hidden");
    assert!(lab.run(["man", "nonsense"]).expect_code(2).stderr.contains("nonsense"));
}

#[test]
fn completions_are_scripts_that_their_shell_takes() {
    let lab = Lab::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = lab.run(["completions", shell]).expect_code(0).stdout;
        assert!(script.contains("executors"), "{shell}");
        if shell == "bash" {
            let path = lab.home().join("script");
            fs::write(&path, script).unwrap();
            let mut bash = Command::new("bash");
            bash.arg("-n").arg(path);
            lab::finish(bash).expect_code(0);
        }
    }
}

#[test]
fn mistakes_on_the_command_line_end_with_2() {
    let lab = Lab::new();
    let cases: [&[&str]; 7] = [
        &[],
        &["nonsense"],
        &["run", "--nonsense"],
        &["sync", "sources"],
        &["run", "--count", "0"],
        &["cancel"],
        &["--color", "red", "version"],
    ];
    for arguments in cases {
        let ended = lab.run(arguments).expect_code(2);
        assert!(!ended.stderr.is_empty() && ended.stdout.is_empty(), "{arguments:?}: {ended:?}");
    }
    let lost = lab.run(["run"]).expect_code(2);
    assert!(lost.stderr.contains("there is no project.yaml") && lost.stderr.contains("hint: `pollinator new"), "{}", lost.stderr);
    assert!(!lab.state().join("colony").exists(), "a colony was started for nothing");
}

#[test]
fn version_is_told_to_people_and_machines() {
    let lab = Lab::new();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(lab.run(["version"]).expect_code(0).stdout, format!("pollinator {version}\n"));
    assert_eq!(lab.run(["-V"]).expect_code(0).stdout, format!("pollinator {version}\n"));
    assert_eq!(lab.run(["version", "--json"]).expect_code(0).json()["version"], version);
    // A broken configuration keeps nobody from asking.
    let broken = Lab::new().with("COLONIES_TLS", "perhaps");
    broken.run(["version"]).expect_code(0);
    broken.run(["completions", "bash"]).expect_code(0);
}

#[test]
fn a_broken_project_file_is_refused_with_its_place_before_anything_starts() {
    let lab = Lab::new();
    lab.run(["new", "-n", "local", "p"]).expect_code(0);
    let file = lab.home().join("p/project.yaml");
    let text = fs::read_to_string(&file).unwrap().replace("walltime: 600", "walltime: ten");
    fs::write(&file, text).unwrap();
    for command in [&["run", "-C", "p"][..], &["-C", "p/cfs/src", "diff"], &["funcspec", "--project", "p"]] {
        let refused = lab.run(command).expect_code(2);
        let expected = "error: `walltime` must be a number of seconds above 0, found \"ten\" at project.yaml:9:13";
        assert!(refused.stderr.starts_with(expected), "{}", refused.stderr);
    }
    let told = lab.run(["run", "-C", "p", "--json"]).expect_code(2);
    let last = events(&told).pop().unwrap();
    assert_eq!((last["event"].as_str(), last["code"].as_u64()), (Some("error"), Some(2)));
    assert!(!lab.state().join("colony").exists(), "a colony was started for nothing");
}

#[test]
fn colours_are_used_only_where_they_are_wanted() {
    let lab = Lab::new();
    assert!(!lab.run(["run"]).all().contains('\x1b'));
    assert!(lab.run(["--color", "always", "run"]).stderr.contains("\x1b[31;1merror: \x1b[0m"));
    assert!(!lab.run(["--color", "never", "run"]).all().contains('\x1b'));
    let loud = Lab::new().with("CLICOLOR_FORCE", "1").with("NO_COLOR", "1");
    assert!(!loud.run(["run"]).all().contains('\x1b'));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let lab = Lab::new();
    let mut child = lab.command(["completions", "bash"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ended = lab::wait(child);
    assert!(ended.stderr.is_empty(), "{}", ended.stderr);
    assert_ne!(ended.code, Some(101), "a panic");
}

#[test]
fn nobody_there_ends_with_4() {
    // A port that is taken and not listened on refuses connections.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    drop(taken);
    let endpoint = format!("http://127.0.0.1:{port}");
    let key = "1".repeat(64);
    let lab = [
        ("COLONIES_SERVER_HOST", "127.0.0.1"),
        ("COLONIES_SERVER_PORT", &port.to_string()),
        ("COLONIES_TLS", "false"),
        ("COLONIES_COLONY_NAME", "lab"),
        ("COLONIES_PRVKEY", &key),
        ("AWS_S3_ENDPOINT", &endpoint),
        ("AWS_S3_ACCESSKEY", "a"),
        ("AWS_S3_SECRETKEY", "b"),
        ("AWS_S3_BUCKET", "c"),
    ]
    .into_iter()
    .fold(Lab::new(), |lab, (name, value)| lab.with(name, value));
    let ended = lab.run(["executors"]).expect_code(4);
    assert!(ended.stderr.contains("cannot reach the Colonies server") && ended.stderr.contains("hint: "), "{}", ended.stderr);
    // A key that is none is a mistake in the configuration.
    let lab = lab.with("COLONIES_PRVKEY", "5ec5e7");
    let ended = lab.run(["executors"]).expect_code(2);
    assert!(ended.stderr.contains("64 hexadecimal digits") && !ended.stderr.contains("5ec5e7"), "{}", ended.stderr);
}

/// One laboratory with a colony for all that needs one: starting it costs more than asking it.
#[test]
fn listings_are_documents_and_long_operations_are_events() {
    let lab = Lab::new();
    let project = lab.project("p", JOB);
    let file = project.join("project.yaml");
    // A warning must not stand in front of a document.
    let text = fs::read_to_string(&file).unwrap().replace("  nodes: 1\n", "  nodes: 1\n  mme: 1Gi\n");
    fs::write(&file, text).unwrap();
    fs::write(project.join("cfs/src/.cfsignore"), "*.tmp\n").unwrap();
    fs::write(project.join("cfs/src/x.tmp"), "x").unwrap();

    // The first of them starts the colony, and says so beside the document.
    let executors = lab.run(["executors", "--json"]).expect_code(0);
    assert_eq!(executors.json()[0]["executorname"], "local");
    assert!(executors.stderr.contains("started the local colony"), "{}", executors.stderr);
    assert_eq!(lab.run_in(&project, ["runs", "--json"]).expect_code(0).json(), serde_json::json!([]));

    let diff = lab.run_in(&project, ["diff", "--json"]).expect_code(0);
    assert_eq!(diff.json()[0]["tree"], "src");
    let warning = "warning: unknown key `mme` at project.yaml:6:3 is not used; did you mean `mem`?";
    assert!(diff.stderr.contains(warning), "{}", diff.stderr);
    let plain = lab.run_in(&project, ["diff"]).expect_code(0);
    assert!(plain.stdout.contains("> src/main.py") && !plain.stdout.contains("x.tmp"), "{}", plain.stdout);
    for command in [&["run", "--dry-run"][..], &["sync", "--dry-run"]] {
        lab.run_in(&project, command.iter().chain(&["--json"])).expect_code(0).json();
    }

    let ignored = lab.run_in(&project, ["ignored", "cfs/src/x.tmp"]).expect_code(0).stdout;
    assert!(ignored.contains("is left out") && ignored.contains(".cfsignore:1"), "{ignored}");
    let ignored = lab.run(["-C", "p", "--json", "ignored", "cfs/src/x.tmp", "p/cfs/src/main.py"]).expect_code(0).json();
    assert_eq!((&ignored[0]["ignored"], &ignored[1]["ignored"]), (&Value::Bool(true), &Value::Bool(false)));
    assert!(lab.run_in(&project, ["ignored", "project.yaml"]).expect_code(2).stderr.contains("is not below"));

    let run = lab.run_in(&project, ["run", "--follow", "--json"]).expect_code(0);
    let seen = events(&run);
    let kinds: Vec<&str> = seen.iter().filter_map(|event| event["event"].as_str()).collect();
    for kind in ["warning", "transfer-started", "file-done", "submitted", "log", "finished"] {
        assert!(kinds.contains(&kind), "{kind} in {kinds:?}");
    }
    assert_eq!(kinds.iter().filter(|kind| **kind == "finished").count(), 1);
    events(&lab.run_in(&project, ["sync", "--json"]).expect_code(0));
    events(&lab.run_in(&project, ["results", "--json"]).expect_code(0));
    assert!(events(&lab.run_in(&project, ["logs", "--json"]).expect_code(0)).iter().any(|event| event["event"] == "log"));

    let runs = lab.run_in(&project, ["runs", "--json"]).expect_code(0).json();
    let id = runs[0]["process_id"].as_str().unwrap().to_owned();
    for run in ["last", &id, &id[..10]] {
        let shown = lab.run_in(&project, ["show", run, "--json"]).expect_code(0).json();
        assert_eq!(shown["process"]["processid"], id.as_str());
    }
    assert_eq!(lab.run_in(&project, ["show", "nonsense"]).code, Some(2));

    let log = lab.run_in(&project, ["logs", "last"]).expect_code(0);
    assert_eq!(log.stdout, "hello from the job\n");
    let doctor = lab.run_in(&project, ["doctor", "--json"]).expect_code(0);
    doctor.json();
    assert_eq!(lab.run(["colony", "status", "--json"]).expect_code(0).json()["running"], true);
    let env = lab.run(["colony", "env", "--json"]).expect_code(0).json();
    assert!(env["COLONIES_PRVKEY"].as_str().unwrap().len() == 64, "{env}");
    for command in [&["executors"][..], &["runs", "--all"], &["show"], &["doctor"], &["diff"], &["config"], &["colony", "status"]]
    {
        let ended = lab.run_in(&project, command).expect_code(0);
        assert!(!ended.all().contains('\x1b') && !ended.stdout.is_empty(), "{command:?}: {}", ended.all());
    }
}

#[test]
fn the_function_specification_is_that_of_todays_tool() {
    let lab = Lab::new();
    let project = lab.project("p", JOB);
    let spec = lab.run_in(&project, ["funcspec", "--follow"]).expect_code(0).json();
    let conditions = &spec["conditions"];
    assert_eq!((spec["funcname"].as_str(), conditions["executortype"].as_str()), (Some("execute"), Some("container-executor")));
    assert_eq!(conditions["executornames"], serde_json::json!(["local"]));
    assert_eq!((conditions["cpu"].as_str(), conditions["mem"].as_str()), (Some("100m"), Some("50Mi")));
    assert_eq!((conditions["nodes"].as_i64(), conditions["processespernode"].as_i64()), (Some(1), Some(1)));
    assert_eq!((conditions["walltime"].as_i64(), spec["maxexectime"].as_i64()), (Some(100), Some(99)));
    assert_eq!(
        (spec["maxretries"].as_i64(), spec["maxwaittime"].as_i64(), spec["priority"].as_i64()),
        (Some(3), Some(-1), Some(5))
    );
    let words = &spec["kwargs"];
    assert_eq!((words["cmd"].as_str(), words["docker-image"].as_str()), (Some("python3"), Some("python:3.12")));
    assert_eq!((&words["rebuild-image"], &words["init-cmd"]), (&Value::Bool(false), &Value::from("")));
    let env = serde_json::json!({ "PROJECT_DIR": "/cfs/pollinator/p", "RESULT_DIR": "/cfs/pollinator/p/result" });
    assert_eq!((&spec["env"], &spec["label"]), (&env, &Value::from("")));
    let fs = &spec["fs"];
    let (snapshot, result, data) = (&fs["snapshots"][0], &fs["dirs"][0], &fs["dirs"][1]);
    let id = snapshot["snapshotid"].as_str().unwrap();
    assert_eq!((fs["mount"].as_str(), snapshot["label"].as_str()), (Some("/cfs"), Some("/pollinator/p/src")));
    assert_eq!(snapshot["dir"], format!("/pollinator/p/{id}/src"));
    assert_eq!(words["args"], serde_json::json!([format!("/cfs/pollinator/p/{id}/src/main.py")]));
    assert_eq!((&snapshot["keepfiles"], &snapshot["keepsnapshot"]), (&Value::Bool(true), &Value::Bool(true)), "{snapshot}");
    assert_eq!((result["label"].as_str(), &result["keepfiles"]), (Some("/pollinator/p/result"), &Value::Bool(false)));
    assert_eq!((data["label"].as_str(), &data["keepfiles"]), (Some("/pollinator/p/data"), &Value::Bool(true)));
    assert_eq!(result["onconflicts"], serde_json::json!({ "onstart": { "keeplocal": false }, "onclose": { "keeplocal": true } }));
    assert_eq!(data["onconflicts"], serde_json::json!({ "onstart": { "keeplocal": false }, "onclose": { "keeplocal": false } }));
}
