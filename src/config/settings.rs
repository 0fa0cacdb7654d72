//! The settings that hold, put together from all sources and checked as a whole.

use super::ColonyAccess;
use super::Error;
use super::Secret;
use super::StoreAccess;
use super::file;
use super::values::Found;
use super::values::Origin;
use super::values::Setting;
use super::values::Values;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

const fn plain(variables: &'static [&'static str], key: &'static str) -> Setting {
    Setting { variables, key, secret: false }
}

const fn secret(variables: &'static [&'static str], key: &'static str) -> Setting {
    Setting { variables, key, secret: true }
}

const HOST: Setting = plain(&["COLONIES_SERVER_HOST"], "colony.host");
const PORT: Setting = plain(&["COLONIES_SERVER_PORT"], "colony.port");
const TLS: Setting = plain(&["COLONIES_TLS", "COLONIES_SERVER_TLS"], "colony.tls");
const SKIP_VERIFY: Setting = plain(&["COLONIES_SKIPVERIFY", "COLONIES_SKIP_TLS_VERIFY"], "colony.skip-verify");
const COLONY: Setting = plain(&["COLONIES_COLONY_NAME"], "colony.name");
pub(super) const KEY: Setting = secret(&["COLONIES_PRVKEY"], "colony.key");
pub(super) const OWNER_KEY: Setting = secret(&["COLONIES_COLONY_PRVKEY"], "colony.owner-key");
const ENDPOINT: Setting = plain(&["AWS_S3_ENDPOINT"], "store.endpoint");
const STORE_TLS: Setting = plain(&["AWS_S3_TLS"], "store.tls");
const STORE_SKIP_VERIFY: Setting = plain(&["AWS_S3_SKIPVERIFY"], "store.skip-verify");
const REGION: Setting = plain(&["AWS_S3_REGION", "AWS_S3_REGION_KEY"], "store.region");
const BUCKET: Setting = plain(&["AWS_S3_BUCKET"], "store.bucket");
const ACCESS_KEY: Setting = plain(&["AWS_S3_ACCESSKEY"], "store.access-key");
const SECRET_KEY: Setting = secret(&["AWS_S3_SECRETKEY"], "store.secret-key");
const DASHBOARD: Setting = plain(&["COLONYOS_DASHBOARD_URL"], "dashboard");
const VERBOSE: Setting = plain(&["COLONIES_VERBOSE"], "verbose");
const TIMEOUT: Setting = plain(&["POLLINATOR_TIMEOUT"], "timeout");
const LIMIT_UP: Setting = plain(&["POLLINATOR_LIMIT_UP"], "limit-up");
const JOBS: Setting = plain(&["POLLINATOR_JOBS"], "jobs");

/// Every setting, in the order in which `pollinator config` shows them.
pub(super) const ALL: [Setting; 18] = [
    HOST,
    PORT,
    TLS,
    SKIP_VERIFY,
    COLONY,
    KEY,
    ENDPOINT,
    STORE_TLS,
    STORE_SKIP_VERIFY,
    REGION,
    BUCKET,
    ACCESS_KEY,
    SECRET_KEY,
    DASHBOARD,
    VERBOSE,
    TIMEOUT,
    LIMIT_UP,
    JOBS,
];

/// Without these there is no colony; any of them makes it a configuration.
pub(super) const NEEDED: [Setting; 7] = [HOST, COLONY, KEY, ENDPOINT, BUCKET, ACCESS_KEY, SECRET_KEY];

/// What makes it a configuration, though it is not needed: whoever sets it means a colony of their own.
const OPTIONAL: [Setting; 6] = [PORT, TLS, SKIP_VERIFY, STORE_TLS, STORE_SKIP_VERIFY, REGION];

/// Variables of ours that are no settings of a colony.
const OTHERS: [&str; 3] = ["POLLINATOR_STATE_DIR", "POLLINATOR_CONFIG", "POLLINATOR_PROFILE"];

/// Stands for bytes that are not text.
const NOT_TEXT: char = char::REPLACEMENT_CHARACTER;

/// Where settings are looked for.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Environment variables.
    pub environment: BTreeMap<String, String>,
    /// Profile named on the command line.
    pub profile: Option<String>,
}

impl Sources {
    /// Those of this process. Bytes that are not text become a mark of their own; [`load`] refuses them in variables of ours.
    pub fn of_process(profile: Option<String>) -> Sources {
        let environment =
            std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.to_string_lossy().into_owned()))).collect();
        Sources { environment, profile }
    }

    /// A variable of ours that is not text would be taken for one that is not set, and the wrong colony used.
    pub(super) fn refuse_what_is_no_text(&self) -> Result<(), Error> {
        let ours = ALL.iter().flat_map(|setting| setting.variables).chain(&OTHERS);
        for name in ours {
            if self.environment.get(*name).is_some_and(|text| text.contains(NOT_TEXT)) {
                let (what, wanted) = (format!("environment, {name}"), "text in UTF-8".to_owned());
                return Err(Error::Invalid { what, wanted, found: "other bytes".into() });
            }
        }
        Ok(())
    }

    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.environment.get(name).map(|t| t.trim()).filter(|t| !t.is_empty())
    }
}

/// One line of `pollinator config`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The setting's first environment variable.
    pub name: String,
    /// Its value; `***` for a secret that is set; none where it is not set.
    pub value: Option<String>,
    /// Where it came from.
    pub origin: String,
}

/// The settings that hold.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The colony; none: the embedded local one.
    pub colony: Option<ColonyAccess>,
    /// Its object store; set whenever the colony is.
    pub store: Option<StoreAccess>,
    /// Base address of a dashboard.
    pub dashboard: Option<String>,
    /// Say more.
    pub verbose: bool,
    /// How long a server may keep silent on one request; none: as long as each client thinks right.
    pub timeout: Option<Duration>,
    /// Most bytes a second that uploads may take; none: as much as there is.
    pub limit_up: Option<u64>,
    /// Files transferred at once; none: as many as each command thinks right.
    pub jobs: Option<u16>,
    /// Our state folder.
    pub state_dir: PathBuf,
    /// Where the config file is, or would be.
    pub config_file: PathBuf,
    /// Name of the profile that was asked for.
    pub profile: Option<String>,
    /// All settings with their origins, secrets hidden.
    pub rows: Vec<Row>,
}

/// Puts the settings together.
///
/// # Errors
/// Everything in [`Error`]; all that is missing is named at once.
pub fn load(sources: &Sources) -> Result<Settings, Error> {
    sources.refuse_what_is_no_text()?;
    let Folders { state_dir, config_file, home } = folders(sources)?;
    let profile = sources.profile.clone().or_else(|| sources.variable("POLLINATOR_PROFILE").map(str::to_owned));
    let values =
        Values { environment: sources.environment.clone(), profile: file::read(&config_file, profile.as_deref(), &home)? };
    let (colony, store) = match is_configured(&values)? {
        Some(because) => {
            complete(&values, &NEEDED, &because)?;
            (Some(colony(&values)?), Some(store(&values)?))
        }
        None => (None, None),
    };
    let rows = ALL.iter().map(|setting| row(&values, setting, colony.as_ref(), store.as_ref())).collect::<Result<_, _>>()?;
    Ok(Settings {
        colony,
        store,
        dashboard: values.find(&DASHBOARD)?.map(|found| found.text),
        verbose: values.switch(&VERBOSE, false)?,
        timeout: timeout(&values)?,
        limit_up: parsed(&values, &LIMIT_UP, rate)?,
        jobs: parsed(&values, &JOBS, jobs)?,
        state_dir,
        config_file,
        profile,
        rows,
    })
}

/// Where our files are.
pub(super) struct Folders {
    pub(super) state_dir: PathBuf,
    pub(super) config_file: PathBuf,
    /// Stands for `~`; empty where there is none.
    pub(super) home: PathBuf,
}

pub(super) fn folders(sources: &Sources) -> Result<Folders, Error> {
    let home = sources.variable("HOME").map(PathBuf::from);
    let folders = directories::ProjectDirs::from("", "", "pollinator");
    let state_dir = match (sources.variable("POLLINATOR_STATE_DIR"), sources.variable("XDG_STATE_HOME"), &home, &folders) {
        (Some(folder), ..) => PathBuf::from(folder),
        (None, Some(folder), ..) => PathBuf::from(folder).join("pollinator"),
        (None, None, Some(home), Some(_)) if cfg!(target_os = "linux") => home.join(".local/state/pollinator"),
        (None, None, _, Some(folders)) => folders.data_local_dir().to_owned(),
        (None, None, _, None) => return Err(Error::NoHome),
    };
    let config_file = match (sources.variable("POLLINATOR_CONFIG"), sources.variable("XDG_CONFIG_HOME"), &home, &folders) {
        (Some(file), ..) => PathBuf::from(file),
        (None, Some(folder), ..) => file::default_path(&PathBuf::from(folder).join("pollinator")),
        (None, None, Some(home), Some(_)) if cfg!(target_os = "linux") => file::default_path(&home.join(".config/pollinator")),
        (None, None, _, Some(folders)) => file::default_path(folders.config_dir()),
        (None, None, _, None) => return Err(Error::NoHome),
    };
    // The local colony's process and a command given elsewhere must mean the same folder.
    let state_dir = std::path::absolute(&state_dir).unwrap_or(state_dir);
    Ok(Folders { state_dir, config_file, home: home.unwrap_or_default() })
}

/// What makes it a configuration: the first setting of a colony that is set.
pub(super) fn is_configured(values: &Values) -> Result<Option<String>, Error> {
    for setting in NEEDED.iter().chain(&OPTIONAL) {
        if let Some(found) = values.find(setting)? {
            return Ok(Some(match found.origin {
                Origin::Variable(name) => name,
                other => other.to_string(),
            }));
        }
    }
    Ok(None)
}

pub(super) fn complete(values: &Values, needed: &[Setting], because: &str) -> Result<(), Error> {
    let mut missing = Vec::new();
    for setting in needed {
        if values.find(setting)?.is_none() {
            missing.push(format!("{} ({} in a profile)", setting.variables[0], setting.key));
        }
    }
    if missing.is_empty() { Ok(()) } else { Err(Error::Incomplete { missing, because: because.into() }) }
}

/// The text of a setting that [`complete`] has seen.
fn text(values: &Values, setting: &Setting) -> Result<String, Error> {
    Ok(values.find(setting)?.map(|found| found.text).unwrap_or_default())
}

fn hidden(values: &Values, setting: &Setting) -> Result<Secret, Error> {
    Ok(values.secret(setting)?.unwrap_or_else(|| Secret::new("")))
}

pub(super) fn colony(values: &Values) -> Result<ColonyAccess, Error> {
    let tls = values.switch(&TLS, true)?;
    let port = match values.find(&PORT)? {
        None => {
            if tls {
                443
            } else {
                80
            }
        }
        Some(Found { text, origin, .. }) => match text.parse::<u16>() {
            Ok(port) if port > 0 => port,
            _ => return Err(Error::Invalid { what: origin.to_string(), wanted: "a port from 1 to 65535".into(), found: text }),
        },
    };
    Ok(ColonyAccess {
        host: host(values)?,
        port,
        tls,
        skip_verify: values.switch(&SKIP_VERIFY, false)?,
        colony: text(values, &COLONY)?,
        key: hidden(values, &KEY)?,
    })
}

fn timeout(values: &Values) -> Result<Option<Duration>, Error> {
    let Some(Found { text, origin, .. }) = values.find(&TIMEOUT)? else { return Ok(None) };
    match text.parse::<u64>() {
        Ok(seconds @ 1..=86_400) => Ok(Some(Duration::from_secs(seconds))),
        _ => Err(Error::Invalid { what: origin.to_string(), wanted: "a number of seconds from 1 to 86400".into(), found: text }),
    }
}

/// A setting with a parser of its own, which says what it wants.
fn parsed<T>(values: &Values, setting: &Setting, parse: fn(&str) -> Result<T, String>) -> Result<Option<T>, Error> {
    let Some(Found { text, origin, .. }) = values.find(setting)? else { return Ok(None) };
    let invalid = |wanted| Error::Invalid { what: origin.to_string(), wanted, found: text.clone() };
    parse(&text).map(Some).map_err(invalid)
}

/// Reads a rate: bytes a second, with `K`, `M` or `G` (or `Ki`, `KiB`… which is the same) for 1024, 1024² or 1024³.
///
/// # Errors
/// What a rate looks like.
pub fn rate(text: &str) -> Result<u64, String> {
    let wanted = || "a number of bytes a second, as 500K, 2.5M or 1G (1 K is 1024)".to_owned();
    let number = text.trim_end_matches("/s").trim_end_matches(['B', 'b']).trim_end_matches('i').trim();
    let (number, unit) = match number.char_indices().last() {
        Some((at, 'k' | 'K')) => (&number[..at], 1024.0),
        Some((at, 'm' | 'M')) => (&number[..at], 1024.0 * 1024.0),
        Some((at, 'g' | 'G')) => (&number[..at], 1024.0 * 1024.0 * 1024.0),
        _ => (number, 1.0),
    };
    let bytes = number.trim().parse::<f64>().map_err(|_| wanted())? * unit;
    if bytes.is_finite() && bytes >= 1.0 { Ok(bytes as u64) } else { Err(wanted()) }
}

/// Reads a number of files that are handled at once.
///
/// # Errors
/// What such a number looks like.
pub fn jobs(text: &str) -> Result<u16, String> {
    text.parse().ok().filter(|n| (1..=256).contains(n)).ok_or_else(|| "a number from 1 to 256".to_owned())
}

/// A host name alone: a scheme, a path or a port in it is a mistake that would only show as "cannot reach".
fn host(values: &Values) -> Result<String, Error> {
    let Some(Found { text, origin, .. }) = values.find(&HOST)? else { return Ok(String::new()) };
    let plain = text.trim_start_matches('[').trim_end_matches(']');
    let is_address = plain.parse::<std::net::Ipv6Addr>().is_ok();
    if !is_address && text.contains(['/', ':', ' ', '@']) {
        return Err(Error::Invalid {
            what: origin.to_string(),
            wanted: "a host name without scheme, port and path".into(),
            found: text,
        });
    }
    Ok(text)
}

pub(super) fn store(values: &Values) -> Result<StoreAccess, Error> {
    let Some(found) = values.find(&ENDPOINT)? else { return Err(Error::NoHome) };
    let invalid =
        |wanted: &str| Error::Invalid { what: found.origin.to_string(), wanted: wanted.into(), found: found.text.clone() };
    let (scheme, endpoint) = match found.text.split_once("://") {
        None => (None, found.text.as_str()),
        Some(("http", rest)) => (Some(false), rest),
        Some(("https", rest)) => (Some(true), rest),
        Some(_) => return Err(invalid("host:port, http://host:port or https://host:port")),
    };
    let endpoint = endpoint.trim_end_matches('/');
    if endpoint.is_empty() || endpoint.contains(['/', ' ', '@', '?', '#']) || !has_good_port(endpoint) {
        return Err(invalid("host or host:port"));
    }
    let tls = values.switch(&STORE_TLS, scheme.unwrap_or(true))?;
    if let (Some(scheme), Some(said)) = (scheme, values.find(&STORE_TLS)?)
        && scheme != tls
    {
        return Err(Error::Contradiction { first: found.origin.to_string(), second: said.origin.to_string() });
    }
    Ok(StoreAccess {
        endpoint: endpoint.to_owned(),
        tls,
        skip_verify: values.switch(&STORE_SKIP_VERIFY, false)?,
        access_key: text(values, &ACCESS_KEY)?,
        secret_key: hidden(values, &SECRET_KEY)?,
        region: text(values, &REGION)?,
        bucket: text(values, &BUCKET)?,
    })
}

/// Whether what stands behind the last colon of `host:port`, if anything, is a port. `[::1]` has none.
fn has_good_port(endpoint: &str) -> bool {
    match endpoint.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0),
        _ => true,
    }
}

/// What holds where a colony is configured and nothing is said about this.
fn default(setting: &Setting) -> Option<&'static str> {
    match setting.key {
        "colony.tls" | "store.tls" => Some("true"),
        "colony.skip-verify" | "store.skip-verify" | "verbose" => Some("false"),
        "store.region" => Some("us-east-1"),
        _ => None,
    }
}

pub(super) fn row(
    values: &Values,
    setting: &Setting,
    colony: Option<&ColonyAccess>,
    store: Option<&StoreAccess>,
) -> Result<Row, Error> {
    let name = setting.variables[0].to_owned();
    if let Some(found) = values.find(setting)? {
        let value = Some(if setting.secret { "***".to_owned() } else { found.text });
        return Ok(Row { name, value, origin: found.origin.to_string() });
    }
    let value = match (setting.key, colony, store) {
        ("verbose", ..) => default(setting).map(str::to_owned),
        (_, None, _) | (_, _, None) => None,
        ("colony.port", Some(colony), _) => Some(colony.port.to_string()),
        // An endpoint with a scheme says it, too.
        ("store.tls", _, Some(store)) => Some(store.tls.to_string()),
        _ => default(setting).map(str::to_owned),
    };
    let origin = if value.is_some() { Origin::Default.to_string() } else { "not set".into() };
    Ok(Row { name, value, origin })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    const WHOLE: [(&str, &str); 8] = [
        ("COLONIES_SERVER_HOST", "colonies.example.org"),
        ("COLONIES_SERVER_PORT", "50080"),
        ("COLONIES_COLONY_NAME", "lab"),
        ("COLONIES_PRVKEY", "5ecre7"),
        ("AWS_S3_ENDPOINT", "s3.example.org:9000"),
        ("AWS_S3_ACCESSKEY", "access"),
        ("AWS_S3_SECRETKEY", "5ecre7too"),
        ("AWS_S3_BUCKET", "b"),
    ];

    fn sources(home: &Path, values: &[(&str, &str)]) -> Sources {
        let mut environment: BTreeMap<String, String> = values.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        environment.insert("HOME".into(), home.to_string_lossy().into_owned());
        Sources { environment, profile: None }
    }

    fn with(more: &[(&str, &str)]) -> Result<Settings, Error> {
        let home = tempfile::tempdir().unwrap();
        load(&sources(home.path(), &[&WHOLE[..], more].concat()))
    }

    #[test]
    fn nothing_configured_is_the_local_colony() {
        let home = tempfile::tempdir().unwrap();
        let settings = load(&sources(home.path(), &[("COLONIES_VERBOSE", "true")])).unwrap();
        assert!(settings.colony.is_none() && settings.store.is_none() && settings.verbose);
        assert!(settings.state_dir.starts_with(home.path()));
    }

    #[test]
    fn half_a_configuration_lists_all_that_is_missing() {
        let home = tempfile::tempdir().unwrap();
        let error = load(&sources(home.path(), &[("COLONIES_SERVER_HOST", "h")])).unwrap_err();
        let said = error.to_string();
        for name in [
            "COLONIES_COLONY_NAME",
            "COLONIES_PRVKEY",
            "AWS_S3_ENDPOINT",
            "AWS_S3_BUCKET",
            "AWS_S3_ACCESSKEY",
            "AWS_S3_SECRETKEY",
        ] {
            assert!(said.contains(name), "{said}");
        }
        assert!(error.hint().unwrap().contains("unset COLONIES_SERVER_HOST"));
    }

    #[test]
    fn aliases_mean_the_same_and_may_not_differ() {
        assert!(!with(&[("COLONIES_SERVER_TLS", "false")]).unwrap().colony.unwrap().tls);
        assert!(!with(&[("COLONIES_TLS", "false"), ("COLONIES_SERVER_TLS", "0")]).unwrap().colony.unwrap().tls);
        let error = with(&[("COLONIES_TLS", "true"), ("COLONIES_SERVER_TLS", "false")]).unwrap_err();
        assert!(matches!(error, Error::Contradiction { .. }), "{error}");
        assert_eq!(with(&[("AWS_S3_REGION_KEY", "eu-north-1")]).unwrap().store.unwrap().region, "eu-north-1");
    }

    #[test]
    fn values_of_the_wrong_kind_are_named() {
        for (name, value) in [
            ("COLONIES_TLS", "maybe"),
            ("COLONIES_SERVER_PORT", "70000"),
            ("AWS_S3_ENDPOINT", "ftp://x"),
            ("POLLINATOR_LIMIT_UP", "fast"),
            ("POLLINATOR_LIMIT_UP", "0"),
            ("POLLINATOR_LIMIT_UP", "-5M"),
            ("POLLINATOR_JOBS", "0"),
            ("POLLINATOR_JOBS", "1000"),
            ("POLLINATOR_TIMEOUT", "soon"),
            ("POLLINATOR_TIMEOUT", "-1"),
            ("COLONIES_SERVER_HOST", "https://x"),
        ] {
            let error = with(&[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(value), "{error}");
        }
        let scheme = with(&[("AWS_S3_ENDPOINT", "http://s3.example.org:9000"), ("AWS_S3_TLS", "true")]).unwrap_err();
        assert!(matches!(scheme, Error::Contradiction { .. }), "{scheme}");
        let store = with(&[("AWS_S3_ENDPOINT", "http://s3.example.org:9000")]).unwrap().store.unwrap();
        assert_eq!((store.endpoint.as_str(), store.tls), ("s3.example.org:9000", false));
    }

    #[test]
    fn secrets_are_nowhere_to_be_seen() {
        let settings = with(&[]).unwrap();
        let shown = format!("{settings:?} {}", serde_json::to_string(&settings.rows).unwrap());
        assert!(!shown.contains("5ecre7"), "{shown}");
        assert!(settings.rows.iter().any(|r| r.name == "COLONIES_PRVKEY" && r.value.as_deref() == Some("***")));
    }

    fn profile(home: &Path, text: &str, mode: u32) -> PathBuf {
        let path = home.join(".config/pollinator/config.toml");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    const PROFILE: &str = "[profile.lumi]\ndashboard = \"https://d\"\n[profile.lumi.colony]\nhost = \"h\"\nport = 1234\nname = \"c\"\nkey-command = \"echo abc\"\n[profile.lumi.store]\nendpoint = \"e\"\nbucket = \"b\"\naccess-key = \"a\"\nsecret-key-file = \"s3.key\"\n";

    #[test]
    fn a_profile_gives_keys_by_file_and_by_command_and_the_environment_wins() {
        let home = tempfile::tempdir().unwrap();
        let path = profile(home.path(), PROFILE, 0o644);
        let key = path.with_file_name("s3.key");
        std::fs::write(&key, "def\n").unwrap();
        let mut from = sources(home.path(), &[("COLONIES_SERVER_PORT", "99")]);
        from.profile = Some("lumi".into());
        let refused = load(&from).unwrap_err();
        assert!(matches!(&refused, Error::ReadableByOthers { path, .. } if *path == key), "{refused}");
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        let settings = load(&from).unwrap();
        let colony = settings.colony.unwrap();
        assert_eq!((colony.host.as_str(), colony.port, colony.key.expose()), ("h", 99, "abc"));
        assert_eq!(settings.store.unwrap().secret_key.expose(), "def");
        let row = settings.rows.iter().find(|r| r.name == "COLONIES_SERVER_HOST").unwrap();
        assert!(row.origin.contains("profile lumi, colony.host"), "{}", row.origin);
        from.profile = Some("nope".into());
        assert!(load(&from).unwrap_err().hint().unwrap().contains("lumi"));
        from.profile = None;
        // What is left of a configuration is half of one.
        assert!(load(&from).unwrap_err().hint().unwrap().contains("unset COLONIES_SERVER_PORT"));
        from.environment.remove("COLONIES_SERVER_PORT");
        assert!(load(&from).unwrap().colony.is_none());
    }

    #[test]
    fn a_file_with_a_key_in_it_is_for_its_owner_only() {
        let home = tempfile::tempdir().unwrap();
        let text = PROFILE.replace("secret-key-file = \"s3.key\"", "secret-key = \"def\"");
        let path = profile(home.path(), &text, 0o640);
        let mut from = sources(home.path(), &[]);
        from.profile = Some("lumi".into());
        let refused = load(&from).unwrap_err();
        assert_eq!(refused.hint().unwrap(), format!("chmod 600 {}", path.display()));
        profile(home.path(), &text, 0o600);
        assert!(load(&from).unwrap().store.is_some());
        profile(home.path(), "[profile.lumi.colony]\nhots = \"h\"\n", 0o600);
        assert!(load(&from).unwrap_err().to_string().contains("colony.hots: is not a key of a profile"));
    }

    #[test]
    fn rates_have_units() {
        for (text, bytes) in
            [("500", 500), ("500K", 512_000), ("2.5M", 2_621_440), ("1 MiB/s", 1 << 20), ("1GB", 1 << 30), ("3kB", 3072)]
        {
            assert_eq!(rate(text), Ok(bytes), "{text}");
        }
        for bad in ["", "K", "fast", "0", "0.1", "-1M", "1T", "NaN", "inf"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }
}
