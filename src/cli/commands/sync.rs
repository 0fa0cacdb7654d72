//! `pollinator sync`: brings the trees in step, or shows what it would do; also the look at what makes a first upload big.

use crate::agent::control::model::Job;
use crate::blocking;
use crate::cfs::Plan;
use crate::cfs::SyncReport;
use crate::cfs::VerifyReport;
use crate::cfs::plan::Entry;
use crate::cli::CliError;
use crate::cli::Context;
use crate::cli::handover::hand_over;
use crate::cli::render::sizes;
use crate::event::Tree;
use crate::index;
use crate::project::Project;
use crate::run;
use crate::run::Connection;
use crate::run::trees;
use crate::run::trees::TreeOptions;

/// Number of files from which a first upload is looked at before it begins.
const MANY_FILES: u64 = 10_000;
/// Bytes from which a first upload is looked at before it begins: 5 GiB.
const MANY_BYTES: u64 = 5 << 30;

/// Arguments of `pollinator sync`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only these trees
    #[arg(value_name = "TREE", value_parser = super::tree_argument)]
    pub trees: Vec<Tree>,
    /// Show what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Afterwards read every stored file back and compare it with its registered checksum; send again what is damaged
    #[arg(long, conflicts_with = "dry_run")]
    pub verify: bool,
    /// How the trees are brought over
    #[command(flatten)]
    pub trees_how: super::TreeArgs,
}

/// Runs the command.
pub async fn run(context: &Context, args: Args) -> Result<(), CliError> {
    let project = context.project()?;
    let connection = context.connect_with(args.trees_how.limit_up).await?;
    let options = args.trees_how.options(context, args.dry_run)?;
    let chosen = chosen(&args.trees);
    if args.dry_run {
        return show_plans(context, &connection, &project, &chosen, &options).await;
    }
    look_before_first_upload(context, &connection, &project, &[Tree::Src, Tree::Data]).await?;
    if !args.verify && args.trees_how.limit_up.is_none() {
        let job = Job::Sync { trees: args.trees.clone(), allow_deletes: options.allow_deletes, jobs: Some(options.jobs) };
        if hand_over(context, &connection, &project, job).await?.is_some() {
            return Ok(());
        }
    }
    let events = context.events();
    let _lock = run::submission::lock(&connection, &project, &events).await?;
    let mut first_complaint = Ok(());
    for tree in chosen {
        let report = context.interruptible(trees::sync(&connection, &project, tree, &options, &events)).await??;
        if let (Ok(()), Err(complaint)) = (&first_complaint, complain(tree, &report)) {
            first_complaint = Err(complaint);
        }
        if args.verify {
            let verified = context.interruptible(trees::verify(&connection, &project, tree, &options, &events)).await??;
            if let (Ok(()), Err(complaint)) = (&first_complaint, complain_of_stored(tree, &verified)) {
                first_complaint = Err(complaint);
            }
        }
    }
    first_complaint
}

/// All trees where none was named.
pub fn chosen(named: &[Tree]) -> Vec<Tree> {
    if named.is_empty() { Tree::ALL.to_vec() } else { named.to_vec() }
}

/// Shows what a synchronization would do: one line a file, with its size.
pub async fn show_plans(
    context: &Context,
    connection: &Connection,
    project: &Project,
    chosen: &[Tree],
    options: &TreeOptions,
) -> Result<(), CliError> {
    let options = TreeOptions { dry_run: true, ..*options };
    let mut plans = Vec::new();
    for tree in chosen {
        let report = trees::sync(connection, project, *tree, &options, &crate::event::Events::none()).await?;
        plans.push((*tree, report));
    }
    if context.json() {
        return context.print_json(&documents(&plans));
    }
    print_plans(context, &plans);
    Ok(())
}

/// Plans for machines.
pub fn documents(plans: &[(Tree, SyncReport)]) -> Vec<serde_json::Value> {
    let document = |(tree, r): &(Tree, SyncReport)| serde_json::json!({ "tree": tree, "plan": r.plan, "problems": r.problems });
    plans.iter().map(document).collect()
}

/// Plans for people.
pub fn print_plans(context: &Context, plans: &[(Tree, SyncReport)]) {
    let mut any = false;
    for (tree, report) in plans {
        for (sign, path, size, note) in lines(&report.plan) {
            any = true;
            context.print(&format!("{sign} {tree}/{path}  {}{note}", sizes::human(size)));
        }
        for (path, why) in &report.problems {
            any = true;
            context.print(&format!("! {tree}/{path}  {why}"));
        }
    }
    if !any {
        context.print("nothing to do: the trees are in step");
    }
}

/// What a plan would do: a sign, the path, its size, and a word more.
fn lines(plan: &Plan) -> Vec<(char, String, u64, &'static str)> {
    let groups = [
        ('>', &plan.uploads, ""),
        ('<', &plan.downloads, ""),
        ('-', &plan.remove_remote, "  removed from the colony"),
        ('x', &plan.remove_local, "  removed here"),
        ('k', &plan.keep_aside, "  yours is kept as .local-<time>"),
        ('?', &plan.foreign, "  somebody else's, left alone"),
        ('!', &plan.clashes, "  a file on one side, a folder on the other"),
    ];
    let line = |(sign, entries, note): (char, &Vec<Entry>, &'static str)| {
        entries
            .iter()
            .filter(|e| !e.path.is_folder_marker())
            .map(move |e| (sign, e.path.to_string(), e.size, note))
            .collect::<Vec<_>>()
    };
    let mut lines: Vec<_> = groups.into_iter().flat_map(line).collect();
    lines.sort_by(|a, b| a.1.cmp(&b.1));
    lines
}

/// Before the first upload of a very large tree: what makes it big, and how to leave it out. On a terminal it asks.
pub async fn look_before_first_upload(
    context: &Context,
    connection: &Connection,
    project: &Project,
    chosen: &[Tree],
) -> Result<(), CliError> {
    for tree in chosen.iter().copied() {
        if trees::was_synchronized(connection, project, tree)? {
            continue;
        }
        let (root, folder) = (project.tree_folder(tree), project.folder.clone());
        let look = blocking::run(move || {
            let mut rules = index::ignore::Rules::of_tree(&root, Some(&folder))?;
            index::survey::survey(&root, &mut rules)
        });
        let survey = look.await?;
        if survey.files > MANY_FILES || survey.bytes > MANY_BYTES {
            tell_survey(context, tree, &survey);
            if !context.confirm("Bring it over as it is?")? {
                return Err(CliError::usage("nothing was brought over").with_hint("name what is to be left out in .cfsignore"));
            }
        }
    }
    Ok(())
}

fn tell_survey(context: &Context, tree: Tree, survey: &index::survey::Survey) {
    context.warn(&format!(
        "{tree} holds {} ({}) that were never brought over",
        sizes::files(survey.files),
        sizes::human(survey.bytes)
    ));
    let told = |share: &index::survey::Share| {
        let size = format!("{}, {}", sizes::files(share.files), sizes::human(share.bytes));
        context.note(&format!("  {} holds {size}; to leave it out: {} in cfs/{tree}/.cfsignore", share.what, share.rule));
    };
    survey.suspects.iter().take(8).for_each(told);
    let known: Vec<&str> = survey.suspects.iter().map(|share| share.rule.as_str()).collect();
    survey.largest.iter().filter(|share| !known.contains(&share.rule.as_str())).for_each(told);
}

/// Tells what was found wrong in the colony.
fn complain_of_stored(tree: Tree, report: &VerifyReport) -> Result<(), CliError> {
    let again = match report.sent_again {
        0 => "none of them could be sent again from here".to_owned(),
        n => format!("{n} of them sent again from here; a further --verify shows what is left"),
    };
    match report.problems.len() as u64 {
        0 => Ok(()),
        // Each was told when it came up.
        n => Err(CliError::failed(format!("{} of {tree} not stored as registered; {again}", sizes::files(n)))),
    }
}

/// Tells what a synchronization left undone.
pub fn complain(tree: Tree, report: &SyncReport) -> Result<(), CliError> {
    match report.problems.len() as u64 {
        0 => Ok(()),
        // Each was told when it came up.
        n => Err(CliError::failed(format!("{} of {tree} could not be brought over; everything else was", sizes::files(n)))),
    }
}
