//! The colony and the object store of an executor: the environment, the executor's own file, a profile, in this order.
//!
//! Unlike a client it may have no key yet: it makes one of its own, and registers it with the colony owner's key.

use super::ColonyAccess;
use super::Error;
use super::Row;
use super::Secret;
use super::Sources;
use super::StoreAccess;
use super::file;
use super::settings;
use super::settings::Folders;
use super::settings::KEY;
use super::settings::NEEDED;
use super::settings::OWNER_KEY;
use super::values::Setting;
use super::values::Values;
use std::path::Path;
use std::path::PathBuf;
use toml::Table;

/// The executor's own file, read.
#[derive(Clone, Copy, Debug)]
pub struct ExecutorFile<'a> {
    /// Where it is.
    pub path: &'a Path,
    /// Its `colony` and `store` sections.
    pub sections: &'a Table,
}

/// How an executor reaches its colony.
#[derive(Clone, Debug)]
pub struct ExecutorAccess {
    /// The server and the colony; its key is the one that was given, or empty.
    pub colony: ColonyAccess,
    /// A key that was given to the executor.
    pub key: Option<Secret>,
    /// The colony owner's key.
    pub owner_key: Option<Secret>,
    /// The object store.
    pub store: StoreAccess,
    /// What holds and where it came from, secrets hidden.
    pub rows: Vec<Row>,
}

/// Our state folder and the home folder (empty where there is none).
///
/// # Errors
/// [`Error::NoHome`].
pub fn places(sources: &Sources) -> Result<(PathBuf, PathBuf), Error> {
    settings::folders(sources).map(|folders| (folders.state_dir, folders.home))
}

/// Puts together what an executor needs. A file with a `colony` section stands before the default profile as a whole, so that
/// the key of a person is never taken for the executor's; a profile that is named is read in any case.
///
/// # Errors
/// Everything in [`Error`]; all that is missing is named at once.
pub fn load_executor(sources: &Sources, own: Option<ExecutorFile<'_>>) -> Result<ExecutorAccess, Error> {
    sources.refuse_what_is_no_text()?;
    let Folders { config_file, home, .. } = settings::folders(sources)?;
    let named = sources.profile.clone().or_else(|| sources.variable("POLLINATOR_PROFILE").map(str::to_owned));
    let has_colony = own.is_some_and(|own| own.sections.contains_key("colony"));
    let mut profile = match named {
        None if has_colony => Default::default(),
        named => file::read(&config_file, named.as_deref(), &home)?,
    };
    if let Some(own) = own {
        profile.extend(file::read_sections(own.path, own.sections, &home)?);
    }
    let values = Values { environment: sources.environment.clone(), profile };
    let because = settings::is_configured(&values)?.ok_or(Error::NoColony)?;
    let needed: Vec<Setting> = NEEDED.into_iter().filter(|setting| setting.key != KEY.key).collect();
    settings::complete(&values, &needed, &because)?;
    let (colony, store) = (settings::colony(&values)?, settings::store(&values)?);
    let shown = settings::ALL.iter().take_while(|setting| setting.key != "dashboard").chain([&OWNER_KEY]);
    let rows = shown.map(|setting| settings::row(&values, setting, Some(&colony), Some(&store))).collect::<Result<_, _>>()?;
    Ok(ExecutorAccess { key: values.secret(&KEY)?, owner_key: values.secret(&OWNER_KEY)?, colony, store, rows })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::os::unix::fs::PermissionsExt;

    const FILE: &str = "[colony]\nhost = \"h\"\nname = \"c\"\n[store]\nendpoint = \"e\"\nbucket = \"b\"\naccess-key = \"a\"\n";

    fn load(home: &Path, text: &str, variables: &[(&str, &str)]) -> Result<ExecutorAccess, Error> {
        let mut environment: BTreeMap<String, String> = variables.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        environment.insert("HOME".into(), home.to_string_lossy().into_owned());
        let path = home.join("executor.toml");
        std::fs::write(&path, text).unwrap();
        let sections: Table = toml::from_str(text).unwrap();
        load_executor(&Sources { environment, profile: None }, Some(ExecutorFile { path: &path, sections: &sections }))
    }

    #[test]
    fn an_executor_needs_no_key_and_the_environment_wins() {
        let home = tempfile::tempdir().unwrap();
        let access = load(home.path(), FILE, &[("AWS_S3_SECRETKEY", "5ecre7"), ("COLONIES_SERVER_HOST", "other")]).unwrap();
        assert_eq!((access.colony.host.as_str(), access.colony.colony.as_str()), ("other", "c"));
        assert!(access.key.is_none() && access.owner_key.is_none());
        let shown = format!("{access:?}");
        assert!(!shown.contains("5ecre7"), "{shown}");
        let origin = |name: &str| access.rows.iter().find(|r| r.name == name).unwrap().origin.clone();
        assert_eq!(origin("COLONIES_SERVER_HOST"), "environment, COLONIES_SERVER_HOST");
        assert!(origin("COLONIES_COLONY_NAME").ends_with("executor.toml, colony.name"));
        let access = load(home.path(), FILE, &[("AWS_S3_SECRETKEY", "s"), ("COLONIES_COLONY_PRVKEY", "0123")]).unwrap();
        assert_eq!(access.owner_key.unwrap().expose(), "0123");
    }

    #[test]
    fn what_is_missing_is_named_and_no_key_is_among_it() {
        let home = tempfile::tempdir().unwrap();
        let error = load(home.path(), "[colony]\nhost = \"h\"\n", &[]).unwrap_err().to_string();
        assert!(error.contains("COLONIES_COLONY_NAME") && !error.contains("PRVKEY"), "{error}");
        assert!(matches!(load(home.path(), "", &[]).unwrap_err(), Error::NoColony));
    }

    #[test]
    fn the_key_of_a_person_in_a_profile_is_not_the_executors() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join(".config/pollinator");
        std::fs::create_dir_all(&folder).unwrap();
        let config = folder.join("config.toml");
        std::fs::write(&config, "default = \"p\"\n[profile.p.colony]\nkey = \"mine\"\n[profile.p.store]\nsecret-key = \"s\"\n")
            .unwrap();
        std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o600)).unwrap();
        let access = load(home.path(), FILE, &[("AWS_S3_SECRETKEY", "x")]).unwrap();
        assert!(access.key.is_none());
        let named = load(home.path(), FILE, &[("POLLINATOR_PROFILE", "p")]).unwrap();
        assert_eq!(named.key.unwrap().expose(), "mine");
    }

    #[test]
    fn keys_in_the_file_are_for_its_owner_only_and_slips_are_seen() {
        let home = tempfile::tempdir().unwrap();
        let text = FILE.replace("name = \"c\"", "name = \"c\"\nowner-key = \"0123\"");
        let refused = load(home.path(), &text, &[]).unwrap_err();
        assert!(matches!(refused, Error::ReadableByOthers { .. }), "{refused}");
        let slip = load(home.path(), "[colony]\nhots = \"h\"\n", &[]).unwrap_err().to_string();
        assert!(slip.contains("colony.hots: is not a key of a profile; did you mean `host`?"), "{slip}");
    }
}
