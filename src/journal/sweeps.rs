//! Sweeps: runs that were made together, and are shown, followed and cancelled together.

use super::Error;
use super::Journal;
use super::runs;
use super::runs::COLUMNS;
use super::runs::Run;
use super::runs::RunFilter;
use super::watched;
use super::watched::Watched;
use rusqlite::params;
use std::collections::HashSet;

impl Journal {
    /// Writes all runs of a sweep down before anything of it is submitted, and with them what they run, where that is watched.
    pub fn add_sweep(&self, runs: &[Run], watched: Option<&Watched>) -> Result<(), Error> {
        let mut db = self.lock();
        let mut write = || -> rusqlite::Result<()> {
            let transaction = db.transaction()?;
            for run in runs {
                runs::insert(&transaction, run)?;
            }
            if let (Some(watched), Some(first)) = (watched, runs.first()) {
                watched::note(&transaction, watched, &first.run_id)?;
            }
            transaction.commit()
        };
        write().map_err(|e| self.failed(e))
    }

    /// Runs of a sweep, in the order of their numbers.
    pub fn sweep(&self, sweep: &str) -> Result<Vec<Run>, Error> {
        self.query(&format!("SELECT {COLUMNS} FROM run WHERE sweep = ?1 ORDER BY point"), params![sweep])
    }

    /// Ids of sweeps that begin with `prefix`, newest first.
    pub fn sweeps_with_prefix(&self, prefix: &str) -> Result<Vec<String>, Error> {
        let sql = "SELECT sweep FROM run WHERE sweep IS NOT NULL AND substr(sweep, 1, length(?1)) = ?1
                   GROUP BY sweep ORDER BY max(created) DESC";
        let db = self.lock();
        let rows =
            || -> rusqlite::Result<Vec<String>> { db.prepare_cached(sql)?.query_map([prefix], |row| row.get(0))?.collect() };
        rows().map_err(|e| self.failed(e))
    }

    /// Runs, newest first, where all runs of a sweep count as one: `limit` of these, each with all of its runs, in their order.
    pub fn runs_and_sweeps(&self, filter: &RunFilter) -> Result<Vec<Vec<Run>>, Error> {
        let folder = filter.project_folder.as_ref().map(|f| f.to_string_lossy().into_owned());
        let limit = filter.limit.map_or(usize::MAX, |limit| limit as usize);
        let mut all: Vec<(String, bool)> = Vec::new();
        let mut list = || -> rusqlite::Result<()> {
            let db = self.lock();
            let mut query = db.prepare_cached(
                "SELECT COALESCE(sweep, run_id), sweep IS NOT NULL FROM run WHERE ?1 IS NULL OR project_folder = ?1
                 ORDER BY created DESC, rowid DESC",
            )?;
            let mut rows = query.query(params![folder])?;
            let mut seen = HashSet::new();
            while all.len() < limit
                && let Some(row) = rows.next()?
            {
                let id: String = row.get(0)?;
                if seen.insert(id.clone()) {
                    all.push((id, row.get(1)?));
                }
            }
            Ok(())
        };
        list().map_err(|e| self.failed(e))?;
        let runs =
            |(id, is_sweep): (String, bool)| if is_sweep { self.sweep(&id) } else { Ok(self.run(&id)?.into_iter().collect()) };
        all.into_iter().map(runs).collect()
    }

    /// Sweeps of a project in a colony that were cut off on their way to it, and are what its inputs ran at last. (Where that was taken
    /// back, [`Journal::reopen`], the next run takes the sweep over.)
    pub fn cut_sweeps(&self, project_name: &str, server: &str, colony: &str) -> Result<Vec<String>, Error> {
        let sql = "SELECT DISTINCT run.sweep FROM watched JOIN run ON run.run_id = watched.run_id
                   WHERE watched.digest <> '' AND run.project_name = ?1 AND run.server = ?2 AND run.colony = ?3
                   AND EXISTS (SELECT 1 FROM run AS other WHERE other.sweep = run.sweep AND other.state = 'intent')";
        let db = self.lock();
        let rows = || -> rusqlite::Result<Vec<String>> {
            db.prepare_cached(sql)?.query_map([project_name, server, colony], |row| row.get(0))?.collect()
        };
        rows().map_err(|e| self.failed(e))
    }

    /// Says that a sweep was not submitted as a whole: what it runs is to run.
    pub fn reopen(&self, sweep: &str) -> Result<(), Error> {
        let sql = "UPDATE watched SET digest = '' WHERE run_id IN (SELECT run_id FROM run WHERE sweep = ?1)";
        self.lock().execute(sql, [sweep]).map(drop).map_err(|e| self.failed(e))
    }
}

#[cfg(test)]
mod tests {
    use super::super::runs::tests::intent;
    use super::*;

    #[test]
    fn runs_of_a_sweep_stand_together_and_count_as_one() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        let point = |id: &str, created, number, value: &str| Run {
            sweep: Some("ee00".into()),
            point: Some(number),
            params: vec![("lr".into(), value.into())],
            ..intent(id, created)
        };
        let watched = Watched { place: "w".into(), digest: "d".into() };
        journal.add_run(&intent("old", 1)).unwrap();
        journal.add_sweep(&[point("b", 2, 1, "0.2"), point("a", 2, 0, "0.1")], Some(&watched)).unwrap();
        journal.add_run(&intent("new", 3)).unwrap();
        let ids = |limit| {
            let all = journal.runs_and_sweeps(&RunFilter { limit, ..RunFilter::default() }).unwrap();
            all.into_iter().map(|runs| runs.into_iter().map(|r| r.run_id).collect::<Vec<_>>().join("+")).collect::<Vec<_>>()
        };
        assert_eq!((ids(None), ids(Some(2))), (vec!["new".into(), "a+b".into(), "old".into()], vec!["new".into(), "a+b".into()]));
        assert_eq!(journal.sweeps_with_prefix("ee").unwrap(), ["ee00"]);
        let runs = journal.sweep("ee00").unwrap();
        assert_eq!((runs[0].point, runs[1].params[0].1.as_str()), (Some(0), "0.2"));
        assert_eq!(serde_json::to_value(&runs[0]).unwrap()["params"], serde_json::json!({ "lr": "0.1" }));
        assert_eq!(journal.watched("w").unwrap().as_deref(), Some("d"));
        // One of it that never came to the server: all of it is to run again.
        journal.mark_run_lost("a").unwrap();
        assert_eq!(journal.watched("w").unwrap().as_deref(), Some(""));
        journal.take_up_again(&watched, "b").unwrap();
        journal.reopen("ee00").unwrap();
        assert_eq!(journal.watched("w").unwrap().as_deref(), Some(""));
    }
}
