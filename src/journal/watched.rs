//! What the inputs of a project were when a save was last looked at: a save runs where they are others now.
//!
//! Written in the very transaction that writes a run's intent. So a kill at any moment leaves either both or none, and the same
//! inputs are run once.

use super::Error;
use super::Journal;
use super::runs::Run;
use rusqlite::OptionalExtension;
use rusqlite::params;

/// Tables of this schema version.
pub(super) const SCHEMA_1: &str = "
CREATE TABLE watched (
    place TEXT PRIMARY KEY,         -- server, colony, project and its folder
    digest TEXT NOT NULL,           -- of the inputs; empty: they are to run, whatever they are
    run_id TEXT                     -- the run that ran them; NULL: they were seen when the project was taken up
);
CREATE INDEX run_by_folder ON run(project_folder, created DESC);
";

/// Inputs of a project, as a run or a look saw them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// Server, colony, project and its folder.
    pub place: String,
    /// Digest of src and data.
    pub digest: String,
}

impl Journal {
    /// The inputs that ran last, or were there when the project was taken up; none: it was never looked at.
    pub fn watched(&self, place: &str) -> Result<Option<String>, Error> {
        let db = self.lock();
        let digest = db.query_row("SELECT digest FROM watched WHERE place = ?1", [place], |row| row.get(0)).optional();
        digest.map_err(|e| self.failed(e))
    }

    /// Notes what is there when a project is taken up: only what differs from it is to run.
    pub fn take_up(&self, watched: &Watched) -> Result<(), Error> {
        let sql = "INSERT INTO watched(place, digest) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
        self.lock().execute(sql, params![watched.place, watched.digest]).map(drop).map_err(|e| self.failed(e))
    }

    /// Writes a run down before anything of it is submitted, and with it what it runs.
    pub fn add_run_of(&self, run: &Run, watched: &Watched) -> Result<(), Error> {
        let mut db = self.lock();
        let mut write = || -> rusqlite::Result<()> {
            let transaction = db.transaction()?;
            super::runs::insert(&transaction, run)?;
            note(&transaction, watched, &run.run_id)?;
            transaction.commit()
        };
        write().map_err(|e| self.failed(e))
    }

    /// Notes what a run runs that was written down before.
    pub fn take_up_again(&self, watched: &Watched, run_id: &str) -> Result<(), Error> {
        note(&self.lock(), watched, run_id).map_err(|e| self.failed(e))
    }
}

/// Notes what a run runs.
pub(super) fn note(db: &rusqlite::Connection, watched: &Watched, run_id: &str) -> rusqlite::Result<()> {
    let sql = "INSERT OR REPLACE INTO watched(place, digest, run_id) VALUES (?1, ?2, ?3)";
    db.execute(sql, params![watched.place, watched.digest, run_id]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::super::runs::tests::intent;
    use super::*;

    #[test]
    fn inputs_of_a_run_that_never_came_to_be_are_to_run_again() {
        let state = tempfile::tempdir().unwrap();
        let journal = Journal::open(state.path()).unwrap();
        let watched = |digest: &str| Watched { place: "p".into(), digest: digest.into() };
        assert_eq!(journal.watched("p").unwrap(), None);
        journal.take_up(&watched("1")).unwrap();
        journal.take_up(&watched("2")).unwrap();
        assert_eq!(journal.watched("p").unwrap().as_deref(), Some("1"));
        journal.add_run_of(&intent("aa", 1), &watched("3")).unwrap();
        assert_eq!(journal.watched("p").unwrap().as_deref(), Some("3"));
        journal.mark_run_lost("other").unwrap();
        assert_eq!(journal.watched("p").unwrap().as_deref(), Some("3"));
        journal.mark_run_lost("aa").unwrap();
        assert_eq!(journal.watched("p").unwrap().as_deref(), Some(""));
    }
}
