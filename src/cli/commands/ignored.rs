//! `pollinator ignored PATH`: whether a file is left out, and by which rule.

use crate::cli::CliError;
use crate::cli::Context;
use crate::event::Tree;
use crate::index::ignore::Rules;
use std::path::Path;
use std::path::PathBuf;

/// Arguments of `pollinator ignored`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Files or folders below cfs/src, cfs/data or cfs/result
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,
}

/// Runs the command.
pub fn run(context: &Context, args: Args) -> Result<(), CliError> {
    let project = context.project()?;
    let mut rows = Vec::new();
    for path in &args.paths {
        // A tree may be a link to another disk, and paths are resolved.
        let stands_in = |root: &Path, full: &Path| full.starts_with(root) && full != root;
        let tree_of = |full: &Path| {
            Tree::ALL
                .into_iter()
                .map(|tree| project.tree_folder(tree))
                .find(|root| stands_in(root, full) || root.canonicalize().is_ok_and(|real| stands_in(&real, full)))
        };
        let mut full = absolute(path)?;
        if tree_of(&full).is_none() {
            // With -C, people write paths as they are below the project.
            full = absolute(&project.folder.join(path))?;
        }
        let Some(root) = tree_of(&full) else {
            return Err(CliError::usage(format!("{} is not below cfs/src, cfs/data or cfs/result", path.display())));
        };
        let mut rules = Rules::of_tree(&root, Some(&project.folder))?;
        rows.push((path, rules.explain(&full)?));
    }
    if context.json() {
        let json = |(path, verdict): &(&PathBuf, crate::index::ignore::Verdict)| serde_json::json!({ "path": path, "ignored": verdict.ignored, "rule": verdict.rule });
        return context.print_json(&rows.iter().map(json).collect::<Vec<_>>());
    }
    for (path, verdict) in rows {
        let what = if verdict.ignored { "is left out" } else { "is brought over" };
        let why = verdict.rule.map_or_else(|| "no rule speaks of it".to_owned(), |rule| format!("by {rule}"));
        context.print(&format!("{} {what} ({why})", path.display()));
    }
    Ok(())
}

/// The path with the folders above it resolved, but not itself: a file need not exist, and a link is meant as it is.
fn absolute(path: &Path) -> Result<PathBuf, CliError> {
    let cannot = |e: std::io::Error| CliError::usage(format!("{}: {e}", path.display()));
    let full = std::path::absolute(path).map_err(cannot)?;
    let (Some(parent), Some(name)) = (full.parent(), full.file_name()) else {
        return Err(CliError::usage(format!("{} is no file", path.display())));
    };
    // A parent that does not exist either is taken as it is written.
    Ok(parent.canonicalize().unwrap_or_else(|_| parent.to_owned()).join(name))
}
