//! What calls left behind that were killed while they submitted: found, taken into the books, and gone on with.

use super::Connection;
use super::Error;
use super::batch;
use super::batch::AT_ONCE;
use super::follow::ExecutorNames;
use super::spec;
use crate::colonies;
use crate::colonies::Process;
use crate::colonies::ProcessFilter;
use crate::colonies::ProcessState;
use crate::event::Events;
use crate::journal::runs::Run;
use crate::project::Project;
use futures_util::StreamExt;
use futures_util::TryStreamExt;

/// The process of a run, found by its label in any state.
pub async fn find(connection: &Connection, run_id: &str) -> Result<Option<Process>, colonies::Error> {
    let label = ProcessFilter::Label(run_id.to_owned());
    for number in 0..=4 {
        let Some(state) = ProcessState::from_number(number) else { continue };
        let found = connection.client().processes(state, 1, &label).await?;
        if let Some(process) = found.into_iter().find(|p| p.spec.label == run_id) {
            return Ok(Some(process));
        }
    }
    Ok(None)
}

/// Runs with their processes, as far as there are any.
pub(super) async fn found(connection: &Connection, runs: Vec<Run>) -> Result<Vec<(Option<Process>, Run)>, colonies::Error> {
    let look = |run: Run| async { Ok((find(connection, &run.run_id).await?, run)) };
    futures_util::stream::iter(runs).map(look).buffered(AT_ONCE).try_collect().await
}

/// What killed calls left behind.
#[derive(Clone, Debug, Default)]
pub struct Interrupted {
    /// Runs that were submitted, and have not ended.
    pub runs: Vec<Run>,
    /// Sweeps that may not have been submitted as a whole. What they lack is an intent still.
    pub sweeps: Vec<String>,
}

/// Settles what killed calls left behind: intents whose process exists are taken into the books, the others were never
/// submitted. Called with the project's lock held, so nobody is still at it.
pub async fn settle_intents(connection: &Connection, project: &Project, events: &Events) -> Result<Interrupted, Error> {
    let client = connection.client();
    let intents = connection.journal.intents(&project.settings.projectname, &client.server(), client.colony())?;
    let mut left = Interrupted::default();
    let mut names = ExecutorNames::new(client);
    for (found, mut run) in found(connection, intents).await? {
        if let Some(sweep) = run.sweep.as_ref().filter(|sweep| !left.sweeps.contains(sweep)) {
            left.sweeps.push(sweep.clone());
        }
        match found {
            Some(process) => {
                connection.journal.update_run(&run.run_id, &process, names.of(&process).await.as_deref())?;
                run.state = process.state.into();
                if run.sweep.is_some() {
                    continue;
                }
                if process.state.is_final() {
                    let (run, process) = (&run.run_id, &process.processid);
                    events.warn(format!("an interrupted call had submitted run {run}: process {process} has ended"));
                } else {
                    left.runs.push(Run { process_id: Some(process.processid), ..run });
                }
            }
            None => match &run.sweep {
                Some(sweep) => connection.journal.reopen(sweep)?,
                None => connection.journal.mark_run_lost(&run.run_id)?,
            },
        }
    }
    Ok(left)
}

/// Takes an interrupted run that is the same in everything but its id.
pub(super) fn take_same(interrupted: &mut Vec<Run>, run: &Run) -> Option<Run> {
    let same = |earlier: &Run| spec::without_id(&earlier.spec, &earlier.run_id) == spec::without_id(&run.spec, &run.run_id);
    let at = interrupted.iter().position(same)?;
    Some(interrupted.remove(at))
}

/// Runs that give way to the new ones: not those of an interrupted sweep that is about to be completed.
pub(super) fn replaced(
    connection: &Connection,
    runs: &[String],
    sweep: Option<&[Run]>,
    interrupted: &Interrupted,
) -> Result<Vec<String>, Error> {
    let mut runs = runs.to_vec();
    let Some(fresh) = sweep.filter(|_| !runs.is_empty()) else { return Ok(runs) };
    if let Some(earlier) = batch::continued(connection, fresh, &interrupted.sweeps)? {
        let of_it = connection.journal.sweep(&earlier)?;
        runs.retain(|run| of_it.iter().all(|other| other.run_id != *run));
    }
    Ok(runs)
}
