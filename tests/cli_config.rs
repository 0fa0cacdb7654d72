//! Settings from the outside: which hold, where they come from, what is refused; and that no secret is ever shown.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

mod lab;

use lab::Ended;
use lab::Lab;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// A secret that must not be seen anywhere.
const KEY: &str = "5ec5e75ec5e75ec5e75ec5e75ec5e75ec5e75ec5e75ec5e75ec5e75ec5e75ec5";

const WHOLE: [(&str, &str); 8] = [
    ("COLONIES_SERVER_HOST", "colonies.example.org"),
    ("COLONIES_SERVER_PORT", "50080"),
    ("COLONIES_COLONY_NAME", "lab"),
    ("COLONIES_PRVKEY", KEY),
    ("AWS_S3_ENDPOINT", "s3.example.org:9000"),
    ("AWS_S3_ACCESSKEY", "access"),
    ("AWS_S3_SECRETKEY", KEY),
    ("AWS_S3_BUCKET", "bucket"),
];

fn lab(variables: &[(&str, &str)]) -> Lab {
    variables.iter().fold(Lab::new(), |lab, (name, value)| lab.with(name, *value))
}

fn whole(more: &[(&str, &str)]) -> Lab {
    lab(&[&WHOLE[..], more].concat())
}

fn config_file(lab: &Lab, text: &str, mode: u32) -> PathBuf {
    let path = lab.home().join(".config/pollinator/config.toml");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

/// One setting of `config --json`: its value and origin.
#[track_caller]
fn setting(shown: &Ended, name: &str) -> (Option<String>, String) {
    let document = shown.json();
    let row = document["settings"].as_array().unwrap().iter().find(|row| row["name"] == name).unwrap().clone();
    (row["value"].as_str().map(str::to_owned), row["origin"].as_str().unwrap().to_owned())
}

#[test]
fn nothing_configured_is_the_local_colony() {
    let lab = lab(&[("AWS_S3_REGION_KEY", ""), ("COLONIES_VERBOSE", "true")]);
    let shown = lab.run(["config", "--json"]).expect_code(0);
    assert_eq!(shown.json()["local"], true);
    assert!(lab.run(["config"]).expect_code(0).stdout.contains("embedded local colony"));
}

#[test]
fn config_shows_each_value_with_its_origin_and_hides_secrets() {
    let lab = whole(&[("COLONYOS_DASHBOARD_URL", "https://dashboard.example.org")]);
    let shown = lab.run(["--json", "config"]).expect_code(0);
    assert_eq!(
        setting(&shown, "COLONIES_SERVER_HOST"),
        (Some("colonies.example.org".into()), "environment, COLONIES_SERVER_HOST".into())
    );
    assert_eq!(setting(&shown, "COLONIES_PRVKEY").0.as_deref(), Some("***"));
    assert_eq!(setting(&shown, "COLONIES_TLS"), (Some("true".into()), "default".into()));
    let plain = lab.run(["config", "-v"]).expect_code(0);
    assert!(plain.stdout.contains("colony lab at colonies.example.org:50080"), "{}", plain.stdout);
    assert!(!plain.all().contains(KEY) && !shown.all().contains(KEY));
}

#[test]
fn half_a_configuration_is_refused_with_all_that_is_missing() {
    for (name, value) in [WHOLE[0], WHOLE[3], ("COLONIES_TLS", "true"), ("AWS_S3_REGION_KEY", "eu-north-1")] {
        let lab = lab(&[(name, value)]);
        for command in [&["config"][..], &["executors"], &["run", "--project", "p"], &["doctor"]] {
            if command[0] == "run" {
                lab.run(["new", "-n", "local", "p"]);
            }
            let refused = lab.run(command);
            assert_ne!(refused.code, Some(0), "{command:?}");
            for (missing, _) in WHOLE.iter().filter(|(other, _)| *other != name && *other != "COLONIES_SERVER_PORT") {
                assert!(refused.all().contains(missing), "{command:?} with {name}: {}", refused.all());
            }
            assert!(refused.all().contains(&format!("unset {name}")), "{}", refused.all());
            assert!(!refused.all().contains(KEY));
        }
        assert!(!lab.state().join("colony").exists(), "the local colony was started all the same");
    }
    assert_eq!(lab(&[WHOLE[0]]).run(["config"]).code, Some(2));
}

#[test]
fn aliases_mean_the_same_and_may_not_differ() {
    let shown =
        whole(&[("COLONIES_SERVER_TLS", "false"), ("AWS_S3_REGION_KEY", "eu-north-1")]).run(["config", "--json"]).expect_code(0);
    assert_eq!(setting(&shown, "COLONIES_TLS"), (Some("false".into()), "environment, COLONIES_SERVER_TLS".into()));
    assert_eq!(setting(&shown, "AWS_S3_REGION").0.as_deref(), Some("eu-north-1"));
    whole(&[("COLONIES_TLS", "yes"), ("COLONIES_SERVER_TLS", "true")]).run(["config"]).expect_code(0);
    let refused = whole(&[("COLONIES_TLS", "true"), ("COLONIES_SERVER_TLS", "false")]).run(["config"]).expect_code(2);
    assert!(refused.stderr.contains("COLONIES_TLS") && refused.stderr.contains("COLONIES_SERVER_TLS"), "{}", refused.stderr);
    let regions = whole(&[("AWS_S3_REGION", "a"), ("AWS_S3_REGION_KEY", "b")]).run(["config"]).expect_code(2);
    assert!(regions.stderr.contains("AWS_S3_REGION_KEY"), "{}", regions.stderr);
}

#[test]
fn values_of_the_wrong_kind_are_named() {
    for (name, value) in [
        ("COLONIES_TLS", "maybe"),
        ("COLONIES_SERVER_PORT", "0"),
        ("COLONIES_SERVER_PORT", "65536"),
        ("COLONIES_SERVER_PORT", "http"),
        ("COLONIES_SERVER_HOST", "https://colonies.example.org"),
        ("AWS_S3_ENDPOINT", "s3.example.org:99999"),
        ("AWS_S3_ENDPOINT", "ftp://s3.example.org"),
        ("AWS_S3_ENDPOINT", "s3.example.org/bucket"),
        ("AWS_S3_SKIPVERIFY", "2"),
    ] {
        let refused = whole(&[(name, value)]).run(["config"]).expect_code(2);
        assert!(refused.stderr.contains(name) && refused.stderr.contains(value), "{}", refused.stderr);
    }
    // A scheme says whether TLS is spoken; it may not be contradicted, and nonsense does not slip by beside it.
    for tls in ["true", "perhaps"] {
        let refused =
            whole(&[("AWS_S3_ENDPOINT", "http://s3.example.org:9000"), ("AWS_S3_TLS", tls)]).run(["config"]).expect_code(2);
        assert!(refused.stderr.contains("AWS_S3_TLS"), "{}", refused.stderr);
    }
    let shown = whole(&[("AWS_S3_ENDPOINT", "http://[::1]:9000/")]).run(["config", "--json"]).expect_code(0);
    assert_eq!(setting(&shown, "AWS_S3_TLS"), (Some("false".into()), "default".into()));
}

#[test]
fn a_variable_that_is_no_text_is_refused_and_not_overlooked() {
    let lab = Lab::new();
    let mut command = lab.command(["config"]);
    command.env("COLONIES_PRVKEY", std::ffi::OsStr::from_bytes(b"\xff\xfe"));
    let refused = lab::finish(command).expect_code(2);
    assert!(refused.stderr.contains("COLONIES_PRVKEY"), "{}", refused.stderr);
}

const PROFILES: &str = r#"
default = "lumi"
[profile.lumi]
dashboard = "https://dashboard.example.org"
[profile.lumi.colony]
host = "lumi.example.org"
name = "lumi"
key-command = "echo called >> $HOME/called; echo 5ec5e7"
[profile.lumi.store]
endpoint = "s3.lumi.example.org"
bucket = "b"
access-key = "a"
secret-key-file = "s3.key"
[profile.other.colony]
host = "other.example.org"
"#;

#[test]
fn a_profile_holds_where_the_environment_says_nothing() {
    let lab = lab(&[("COLONIES_SERVER_PORT", "99")]);
    let key = config_file(&lab, PROFILES, 0o644).with_file_name("s3.key");
    fs::write(&key, KEY).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let shown = lab.run(["config", "--json", "--profile", "lumi"]).expect_code(0);
    assert!(setting(&shown, "COLONIES_SERVER_HOST").1.contains("profile lumi, colony.host"));
    assert_eq!(setting(&shown, "COLONIES_SERVER_PORT"), (Some("99".into()), "environment, COLONIES_SERVER_PORT".into()));
    assert_eq!(setting(&shown, "AWS_S3_SECRETKEY").0.as_deref(), Some("***"));
    assert!(!shown.all().contains(KEY) && !shown.all().contains("5ec5e7\""));
    // The default of the file, and a choice by variable.
    assert_eq!(setting(&lab.run(["config", "--json"]).expect_code(0), "COLONIES_COLONY_NAME").0.as_deref(), Some("lumi"));
    let mut other = lab.command(["config"]);
    other.env("POLLINATOR_PROFILE", "other");
    assert!(lab::finish(other).expect_code(2).stderr.contains("COLONIES_COLONY_NAME"));
    let unknown = lab.run(["config", "--profile", "nobody"]).expect_code(2);
    assert!(unknown.stderr.contains("nobody") && unknown.stderr.contains("lumi, other"), "{}", unknown.stderr);
}

#[test]
fn a_key_command_runs_only_where_its_key_is_needed() {
    let lab = lab(&[("COLONIES_PRVKEY", KEY), ("AWS_S3_SECRETKEY", KEY)]);
    config_file(&lab, PROFILES, 0o644);
    lab.run(["config"]).expect_code(0);
    assert!(!lab.home().join("called").exists());
    let failing = PROFILES.replace("echo called >> $HOME/called; echo 5ec5e7", "exit 3");
    let lab = Lab::new().with("AWS_S3_SECRETKEY", KEY);
    config_file(&lab, &failing, 0o644);
    let refused = lab.run(["config"]).expect_code(2);
    assert!(refused.stderr.contains("colony.key-command") && refused.stderr.contains('3'), "{}", refused.stderr);
}

#[test]
fn keys_that_others_can_read_are_refused_with_the_remedy() {
    let lab = Lab::new();
    let written = PROFILES.replace("secret-key-file = \"s3.key\"", &format!("secret-key = \"{KEY}\""));
    let path = config_file(&lab, &written, 0o640);
    let refused = lab.run(["config"]).expect_code(2);
    assert!(refused.stderr.contains(&format!("hint: chmod 600 {}", path.display())), "{}", refused.stderr);
    config_file(&lab, &written, 0o600);
    lab.run(["config"]).expect_code(0);
    // A key file likewise.
    let path = config_file(&lab, PROFILES, 0o644).with_file_name("s3.key");
    fs::write(&path, KEY).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o604)).unwrap();
    let refused = lab.run(["config"]).expect_code(2);
    assert!(refused.stderr.contains(&format!("hint: chmod 600 {}", path.display())), "{}", refused.stderr);
    assert!(!refused.all().contains(KEY));
}

#[test]
fn a_config_file_that_is_not_understood_says_where_and_shows_no_key() {
    let lab = Lab::new();
    let path = config_file(&lab, &format!("[profile.x.colony]\nkey = \"{KEY}\nhost = 1\n"), 0o600);
    let refused = lab.run(["config"]).expect_code(2);
    assert!(refused.stderr.contains(&path.display().to_string()) && refused.stderr.contains("line 2"), "{}", refused.stderr);
    assert!(!refused.all().contains("5ec5e7"), "{}", refused.stderr);
    config_file(&lab, "default = \"x\"\n[profile.x.colony]\nhots = \"h\"\n", 0o600);
    assert!(lab.run(["config"]).expect_code(2).stderr.contains("colony.hots"));
}

#[test]
fn the_state_folder_is_where_it_is_said_to_be() {
    let lab = Lab::new();
    assert_eq!(lab.run(["config", "--json"]).json()["state_folder"], lab.state().display().to_string());
    let mut command = lab.command(["config", "--json"]);
    command.env("POLLINATOR_STATE_DIR", "relative/state");
    let folder = lab::finish(command).json()["state_folder"].as_str().unwrap().to_owned();
    assert!(folder.starts_with('/') && folder.ends_with("relative/state"), "{folder}");
    let mut command = lab.command(["config", "--json"]);
    command.env_remove("POLLINATOR_STATE_DIR").env("XDG_STATE_HOME", lab.home().join("x"));
    let folder = lab::finish(command).json()["state_folder"].as_str().unwrap().to_owned();
    assert!(folder.ends_with("x/pollinator"), "{folder}");
}
