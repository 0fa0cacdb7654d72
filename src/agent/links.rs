//! Ways to colonies: one for each profile of the settings, opened when it is first needed, shared by projects.

use super::engine::Failure;
use crate::colony;
use crate::config;
use crate::config::Settings;
use crate::config::Sources;
use crate::run::Connection;
use crate::run::Manners;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

/// Opened connections by their profile.
#[derive(Clone, Default)]
pub struct Links {
    open: Arc<Mutex<HashMap<Option<String>, Connection>>>,
    /// Keeps the local colony running, once somebody needs it.
    local: Arc<tokio::sync::Mutex<Option<tokio::task::JoinHandle<()>>>>,
}

impl Links {
    /// The connection of a profile, as the settings are now if it is not open.
    pub async fn get(&self, profile: &Option<String>) -> Result<Connection, Failure> {
        if let Some(connection) = self.opened(profile) {
            return Ok(connection);
        }
        let settings = config::load(&Sources::of_process(profile.clone())).map_err(configuration)?;
        let connection = self.open(&settings).await?;
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(profile.clone(), connection.clone());
        Ok(connection)
    }

    /// The connection of a profile, where it is open.
    pub fn opened(&self, profile: &Option<String>) -> Option<Connection> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).get(profile).cloned()
    }

    /// Settings may have changed: the next who asks gets a new one.
    pub fn forget(&self) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    async fn open(&self, settings: &Settings) -> Result<Connection, Failure> {
        let (access, store) = match (&settings.colony, &settings.store) {
            (Some(access), Some(store)) => (access.clone(), store.clone()),
            _ => self.local_colony(&settings.state_dir).await?,
        };
        let manners = Manners { dashboard: settings.dashboard.clone(), timeout: settings.timeout, limit_up: settings.limit_up };
        Connection::open(&access, &store, manners, &settings.state_dir).map_err(|error| Failure::of_run(&error))
    }

    async fn local_colony(&self, state: &std::path::Path) -> Result<(config::ColonyAccess, config::StoreAccess), Failure> {
        let failed = |error: colony::Error| Failure {
            reason: error.to_string(),
            hint: error.hint(),
            temporary: true,
            code: 1,
            ..Failure::default()
        };
        let running = colony::ensure_running(state).await.map_err(failed)?;
        let mut keeper = self.local.lock().await;
        if keeper.as_ref().is_none_or(tokio::task::JoinHandle::is_finished) {
            let state: PathBuf = state.into();
            *keeper = Some(tokio::spawn(async move {
                match colony::keep_running(&state).await {
                    Ok(()) => tracing::info!("the local colony was stopped"),
                    Err(error) => tracing::warn!(%error, "the local colony has ended"),
                }
            }));
        }
        Ok((running.colony, running.store))
    }
}

fn configuration(error: config::Error) -> Failure {
    Failure { reason: error.to_string(), hint: error.hint(), code: 2, ..Failure::default() }
}

impl Failure {
    /// Of something that failed on the way of a run.
    pub fn of_run(error: &crate::run::Error) -> Failure {
        Failure {
            reason: error.to_string(),
            hint: error.hint(),
            offline: error.is_unreachable(),
            temporary: error.is_temporary(),
            code: match error {
                error if error.is_usage() => 2,
                error if error.is_unreachable() => 4,
                _ => 1,
            },
        }
    }

    /// Of a project that cannot be read.
    pub fn of_project(error: &crate::project::Error) -> Failure {
        Failure { reason: error.to_string(), hint: error.hint(), code: 2, ..Failure::default() }
    }
}
