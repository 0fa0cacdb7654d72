//! Carrying out what the engine orders: the same calls as the command line's, as the agent wants them.

use super::control::model::Job;
use super::engine::Action;
use super::engine::Done;
use super::engine::Failure;
use super::engine::Outcome;
use super::engine::Place;
use super::engine::Scope;
use super::links::Links;
use crate::cfs::SyncReport;
use crate::event::Events;
use crate::event::Tree;
use crate::index::RelPath;
use crate::journal::runs::Run;
use crate::project;
use crate::project::Project;
use crate::run;
use crate::run::Connection;
use crate::run::source::Source;
use crate::run::submission;
use crate::run::trees;
use crate::run::trees::Frozen;
use crate::run::trees::JOBS;
use crate::run::trees::TreeOptions;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The trees whose changes are brought over as they happen.
const WATCHED: [Tree; 2] = [Tree::Src, Tree::Data];
/// So many paths of a tree are looked at one by one; beyond, the tree as a whole.
const MOST_PATHS: usize = 256;

/// An order with all that it needs.
pub struct Order {
    /// Ways to colonies.
    pub links: Links,
    /// Which one.
    pub profile: Option<String>,
    /// The project's folder.
    pub root: PathBuf,
    /// What is to be done.
    pub action: Action,
    /// The wishes of who asked for it.
    pub job: Option<Job>,
    /// The src tree as it is frozen, where it is known to be the same as here.
    pub frozen: Option<Frozen>,
    /// Where events go.
    pub events: Events,
}

/// What is known of the frozen src tree after an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// The same as before.
    Keep,
    /// Nothing.
    Forget,
    /// This.
    Now(FrozenTree),
}

/// [`Frozen`], comparable.
pub type FrozenTree = (String, String, String);

/// How an order ended.
pub struct Report {
    /// For the engine.
    pub outcome: Outcome,
    /// The frozen src tree.
    pub frozen: Freshness,
    /// Runs that were made.
    pub made: Vec<Run>,
    /// The connection, where there is one.
    pub connection: Option<Connection>,
}

/// Carries one order out.
pub async fn perform(order: Order) -> Report {
    let connection = match order.links.get(&order.profile).await {
        Ok(connection) => connection,
        Err(failure) => return Report::failed(failure, None),
    };
    let project = match project::load(&order.root) {
        Ok((project, _)) => project,
        Err(error) => return Report::failed(Failure::of_project(&error), Some(connection)),
    };
    let work = Work { connection: &connection, project: &project, job: order.job.as_ref(), events: &order.events };
    let done = match &order.action {
        Action::Sync { scope, all, .. } => work.sync(scope, *all, order.frozen.as_ref()).await,
        Action::Run { by, fresh, replace } => work.run(by.is_none(), *fresh, replace, order.frozen.as_ref()).await,
        Action::Fetch { runs, .. } => work.fetch(runs).await,
        // Answers are given where they are ordered.
        Action::Answer(..) => Ok(Finished::default()),
    };
    match done {
        Ok(Finished { done, frozen, made }) => {
            Report { outcome: Outcome::Done(done), frozen: frozen.unwrap_or(Freshness::Keep), made, connection: Some(connection) }
        }
        Err(error) => {
            let failure = Failure::of_run(&error);
            Report { frozen: Freshness::Forget, ..Report::failed(failure, Some(connection)) }
        }
    }
}

impl Report {
    /// Of an operation that ended in a way that nobody thought of.
    pub fn broken(reason: &str) -> Report {
        let reason = format!("an operation broke off: {reason}");
        Report::failed(Failure { reason, temporary: true, code: 1, ..Failure::default() }, None)
    }

    fn failed(failure: Failure, connection: Option<Connection>) -> Report {
        let outcome = Outcome::Failed { failure, synced: false };
        Report { outcome, frozen: Freshness::Keep, made: Vec::new(), connection }
    }
}

#[derive(Default)]
struct Finished {
    done: Done,
    frozen: Option<Freshness>,
    made: Vec<Run>,
}

struct Work<'a> {
    connection: &'a Connection,
    project: &'a Project,
    job: Option<&'a Job>,
    events: &'a Events,
}

impl Work<'_> {
    fn options(&self, leave_open: bool) -> TreeOptions {
        let (allow_deletes, jobs) = match self.job {
            Some(Job::Sync { allow_deletes, jobs, .. } | Job::Run { allow_deletes, jobs, .. }) => (*allow_deletes, *jobs),
            _ => (false, None),
        };
        TreeOptions { jobs: jobs.unwrap_or(JOBS), allow_deletes, dry_run: false, leave_open }
    }

    async fn sync(&self, scope: &Scope, all: bool, frozen: Option<&Frozen>) -> Result<Finished, run::Error> {
        let options = self.options(!all);
        let _lock = submission::lock(self.connection, self.project, self.events).await?;
        let mut finished = Finished::default();
        match scope {
            Scope::Whole => {
                let trees: &[Tree] = if let Some(Job::Sync { .. }) = self.job { &Tree::ALL } else { &WATCHED };
                for tree in trees {
                    self.sync_tree(*tree, &options, frozen, &mut finished).await?;
                }
            }
            Scope::Paths(places) => {
                for (tree, paths) in by_tree(places) {
                    self.sync_paths(tree, paths, &options, frozen, &mut finished).await?;
                }
            }
        }
        Ok(finished)
    }

    async fn sync_tree(
        &self,
        tree: Tree,
        options: &TreeOptions,
        frozen: Option<&Frozen>,
        finished: &mut Finished,
    ) -> Result<(), run::Error> {
        let began = submission::now();
        let report = trees::sync(self.connection, self.project, tree, options, self.events).await?;
        if tree == Tree::Src {
            let is_same = frozen.is_some_and(|frozen| frozen.digest == report.tree_digest) && report.last_removal < began;
            finished.frozen = Some(if is_same && report.busy.is_empty() { Freshness::Keep } else { Freshness::Forget });
        }
        note(tree, &report, &mut finished.done);
        Ok(())
    }

    async fn sync_paths(
        &self,
        tree: Tree,
        paths: Option<Vec<RelPath>>,
        options: &TreeOptions,
        frozen: Option<&Frozen>,
        finished: &mut Finished,
    ) -> Result<(), run::Error> {
        let some = match paths {
            Some(paths) => trees::sync_some(self.connection, self.project, tree, paths, options, self.events).await?,
            None => None,
        };
        let Some(report) = some else { return self.sync_tree(tree, options, frozen, finished).await };
        let touched = report.uploaded.0 > 0 || !report.plan.remove_remote.is_empty() || !report.busy.is_empty();
        if tree == Tree::Src && touched {
            finished.frozen = Some(Freshness::Forget);
        }
        note(tree, &report, &mut finished.done);
        Ok(())
    }

    async fn run(
        &self,
        for_save: bool,
        fresh: bool,
        replace: &[String],
        frozen: Option<&Frozen>,
    ) -> Result<Finished, run::Error> {
        let (processes, executor) = match self.job {
            Some(Job::Run { processes, executor, .. }) => (*processes, executor.clone()),
            _ => (1, None),
        };
        let source = match self.job {
            Some(Job::Run { commit: Some(commit), .. }) => Source::Commit(commit.clone()),
            _ => Source::WorkingTree,
        };
        let is_commit = source != Source::WorkingTree;
        let max_points = match self.job {
            Some(Job::Run { max_points: Some(most), .. }) => *most,
            _ => run::points::MOST,
        };
        let trees = self.options(for_save);
        let replace = replace.to_vec();
        let options = submission::Options { processes, executor, trees, source, only_new: for_save, replace, max_points };
        let submitted = match frozen {
            Some(frozen) if fresh && !is_commit => {
                run::submission::submit_frozen(self.connection, self.project, &options, frozen, self.events).await?
            }
            _ => run::submit(self.connection, self.project, &options, self.events).await?,
        };
        let busy: Vec<Place> = submitted.busy.into_iter().map(|(tree, path)| (tree, path.to_string())).collect();
        let frozen = match submitted.frozen {
            // What a commit holds says nothing of what lies here.
            _ if is_commit => Freshness::Keep,
            Some(frozen) if busy.is_empty() => Freshness::Now((frozen.snapshot_id, frozen.label, frozen.digest)),
            _ => Freshness::Forget,
        };
        let runs = submitted.runs.iter().map(|run| run.run_id.clone()).collect();
        Ok(Finished { done: Done { busy, runs, ..Done::default() }, frozen: Some(frozen), made: submitted.runs })
    }

    async fn fetch(&self, ids: &[String]) -> Result<Finished, run::Error> {
        if let Some(Job::Sync { trees, .. }) = self.job {
            return self.sync_some_trees(trees).await;
        }
        let mut runs = Vec::new();
        for id in ids {
            runs.extend(self.connection.journal.run(id)?);
        }
        let runs: Vec<&Run> = runs.iter().filter(|run| run.results_fetched.is_none()).collect();
        let done = Done { fetched: ids.to_vec(), ..Done::default() };
        if !runs.is_empty() {
            let report = run::results::fetch(self.connection, self.project, &runs, &self.options(false), self.events).await?;
            if let Some((path, why)) = report.problems.first() {
                return Err(run::Error::Incomplete { problems: vec![(format!("result/{path}"), why.clone())] });
            }
        }
        Ok(Finished { done, ..Finished::default() })
    }

    /// Trees that somebody named, not all that are watched: the engine learns nothing from it.
    async fn sync_some_trees(&self, named: &[Tree]) -> Result<Finished, run::Error> {
        let _lock = submission::lock(self.connection, self.project, self.events).await?;
        let mut finished = Finished::default();
        for tree in named {
            self.sync_tree(*tree, &self.options(false), None, &mut finished).await?;
        }
        Ok(Finished { frozen: Some(Freshness::Forget), ..finished })
    }
}

fn note(tree: Tree, report: &SyncReport, done: &mut Done) {
    done.busy.extend(report.busy.iter().map(|path| (tree, path.to_string())));
    done.problems.extend(report.problems.iter().map(|(path, why)| ((tree, path.clone()), why.clone())));
}

/// Paths by their tree; none where they are too many, or one of them is no path of a tree.
fn by_tree(places: &[Place]) -> BTreeMap<Tree, Option<Vec<RelPath>>> {
    let mut trees: BTreeMap<Tree, Option<Vec<RelPath>>> = BTreeMap::new();
    for (tree, path) in places {
        let paths = trees.entry(*tree).or_insert_with(|| Some(Vec::new()));
        match (RelPath::parse(path), paths.as_mut()) {
            (Ok(path), Some(list)) if list.len() < MOST_PATHS => list.push(path),
            _ => *paths = None,
        }
    }
    trees
}
