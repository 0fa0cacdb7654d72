//! What every command needs: the global options, settings, the project, the colony, and the screen. Each is made when it is
//! first asked for, so that `version` works with a broken configuration.

use super::CliError;
use super::arguments::Global;
use super::error;
use super::render::Screen;
use super::render::Tone;
use super::render::progress;
use crate::agent::control::client::Agent;
use crate::colony;
use crate::config;
use crate::config::Settings;
use crate::config::Sources;
use crate::event::Event;
use crate::event::Events;
use crate::project;
use crate::project::Project;
use crate::run::Connection;
use crate::run::Manners;
use serde::Serialize;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::OnceLock;

/// The surroundings of one command.
pub struct Context {
    global: Global,
    screen: Screen,
    events: Events,
    settings: OnceLock<Settings>,
}

impl Context {
    /// From the global options. `streams`: with `--json` the command writes events, not one document.
    pub fn new(global: &Global, streams: bool) -> Context {
        let screen = Screen::new(global.color);
        // Beside a document, events would make standard output no JSON: they are told on standard error.
        let events = if global.json && streams { progress::json_lines(screen) } else { progress::for_people(screen) };
        Context { global: global.clone(), screen, events, settings: OnceLock::new() }
    }

    /// Where output goes.
    pub fn screen(&self) -> Screen {
        self.screen
    }

    /// Whether output is for machines.
    pub fn json(&self) -> bool {
        self.global.json
    }

    /// Whether to say more: the flag, or COLONIES_VERBOSE.
    pub fn verbose(&self) -> bool {
        let variable = std::env::var("COLONIES_VERBOSE").ok().and_then(|text| config::boolean(&text));
        self.global.verbose || variable == Some(true)
    }

    /// The event stream of long operations.
    pub fn events(&self) -> Events {
        self.events.clone()
    }

    /// A line of what was asked for.
    pub fn print(&self, text: &str) {
        self.screen.line(text);
    }

    /// A value as JSON.
    pub fn print_json(&self, value: &impl Serialize) -> Result<(), CliError> {
        self.screen.json(value)
    }

    /// A table.
    pub fn print_table(&self, headers: &[&str], rows: Vec<Vec<String>>) {
        self.screen.table(headers, rows);
    }

    /// A warning.
    pub fn warn(&self, text: &str) {
        self.events.warn(text);
    }

    /// A line on what happens.
    pub fn note(&self, text: &str) {
        self.events.emit(Event::Note { message: text.to_owned() });
    }

    /// Asks a person, where one sits at the terminal; otherwise goes on.
    pub fn confirm(&self, question: &str) -> Result<bool, CliError> {
        use std::io::IsTerminal;
        if !self.screen.stderr_is_terminal || !std::io::stdin().is_terminal() || self.json() {
            return Ok(true);
        }
        self.screen.say(Tone::Note, &format!("{question} [y/N]"));
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer).map_err(|e| CliError::failed(format!("no answer can be read: {e}")))?;
        Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
    }

    /// Says so where the agent is of another version.
    pub fn warn_of_other_version(&self, agent: &Agent) {
        if !agent.is_same_version() {
            let own = env!("CARGO_PKG_VERSION");
            self.warn(&format!("the agent is version {}, this is {own}; `pollinatord restart` replaces it", agent.version));
        }
    }

    /// The settings.
    pub fn settings(&self) -> Result<&Settings, CliError> {
        if let Some(settings) = self.settings.get() {
            return Ok(settings);
        }
        let loaded = config::load(&Sources::of_process(self.global.profile.clone()))?;
        Ok(self.settings.get_or_init(|| loaded))
    }

    /// The profile that was named on the command line.
    pub fn profile(&self) -> Option<&str> {
        self.global.profile.as_deref()
    }

    /// Where a project is looked for.
    fn start(&self) -> PathBuf {
        self.global.project.clone().unwrap_or_else(|| PathBuf::from("."))
    }

    /// The folder named by `-C`, or this one.
    pub fn folder(&self) -> PathBuf {
        self.start()
    }

    /// The project in this folder (or the one named), with its warnings told.
    pub fn project(&self) -> Result<Project, CliError> {
        let (project, warnings) = project::find(&self.start())?;
        warnings.iter().for_each(|warning| self.warn(warning));
        Ok(project)
    }

    /// The project in that folder.
    pub fn project_at(&self, folder: &Path) -> Result<Project, CliError> {
        Ok(project::load(folder)?.0)
    }

    /// The project in this folder, where there is one. A folder that was named must hold one.
    pub fn project_if_any(&self) -> Result<Option<Project>, CliError> {
        match project::find(&self.start()) {
            Ok((project, _)) => Ok(Some(project)),
            Err(project::Error::NotFound { .. }) if self.global.project.is_none() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The colony that is configured, or the local one, started when it is not there.
    pub async fn connect(&self) -> Result<Connection, CliError> {
        self.connect_with(None).await
    }

    /// As [`Context::connect`], with an uplink limit (bytes a second) that stands before the one of the settings.
    pub async fn connect_with(&self, limit_up: Option<u64>) -> Result<Connection, CliError> {
        let settings = self.settings()?;
        let (access, store) = match (&settings.colony, &settings.store) {
            (Some(access), Some(store)) => (access.clone(), store.clone()),
            _ => self.local_colony(settings).await?,
        };
        let manners = Manners {
            dashboard: settings.dashboard.clone(),
            timeout: settings.timeout,
            limit_up: limit_up.or(settings.limit_up),
        };
        Ok(Connection::open(&access, &store, manners, &settings.state_dir)?)
    }

    async fn local_colony(&self, settings: &Settings) -> Result<(config::ColonyAccess, config::StoreAccess), CliError> {
        let running = colony::ensure_running(&settings.state_dir).await?;
        if running.started {
            let server = format!("{}:{}", running.colony.host, running.colony.port);
            self.events.emit(Event::ColonyStarted { server });
        }
        let (state, events) = (settings.state_dir.clone(), self.events.clone());
        tokio::spawn(async move {
            match colony::keep_running(&state).await {
                Ok(()) => events.warn("the local colony was stopped; `pollinator colony start` starts it again"),
                Err(error) => events.warn(format!("the local colony has ended: {error}")),
            }
        });
        Ok((running.colony, running.store))
    }

    /// Name of the colony, without asking it anything.
    pub fn colony_name(&self) -> Result<String, CliError> {
        let settings = self.settings()?;
        Ok(settings.colony.as_ref().map_or_else(|| colony::COLONY.to_owned(), |access| access.colony.clone()))
    }

    /// Does something until it is done or the user presses Ctrl-C; then it is dropped where it stands.
    pub async fn interruptible<T>(&self, work: impl Future<Output = T>) -> Result<T, CliError> {
        tokio::select! {
            done = work => Ok(done),
            heard = tokio::signal::ctrl_c() => match heard {
                Ok(()) => Err(CliError::interrupted("interrupted")),
                Err(error) => Err(CliError::failed(format!("Ctrl-C cannot be listened for: {error}"))),
            },
        }
    }

    /// Tells an error, and gives its exit code.
    pub fn report(&self, failure: &CliError) -> ExitCode {
        if self.json() {
            let line = serde_json::json!({ "event": "error", "code": failure.code, "message": failure.message,
                "details": failure.details, "hints": failure.hints });
            self.screen.line(&line.to_string());
        } else {
            let tone = if failure.code == error::INTERRUPTED { Tone::Note } else { Tone::Error };
            self.screen.say(tone, &failure.message);
            failure.details.iter().for_each(|detail| self.screen.say(Tone::Note, &format!("  {}", detail.trim_end())));
            failure.hints.iter().for_each(|hint| self.screen.say(Tone::Hint, hint));
        }
        ExitCode::from(failure.code)
    }
}
