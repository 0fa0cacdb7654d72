//! What is known of each watched project: its folders, its rules, how well it is watched.

use super::Kind;
use super::State;
use super::Target;
use crate::event::Tree;
use crate::index::ignore;
use crate::index::ignore::Rules;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;

/// The trees whose changes are brought over: `result` is what others write.
pub(super) const TREES: [Tree; 2] = [Tree::Src, Tree::Data];

/// Where a path stands in a project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Spot {
    /// `project.yaml`.
    Settings,
    /// A file of ignore rules that counts for a tree.
    Rules,
    /// `cfs`, or the root of a tree: another folder may stand there now.
    Root,
    /// Below a tree.
    Below(Tree, String),
    /// Below a tree, with a name that is no text.
    Unnamed,
    /// Nothing that is watched.
    Elsewhere,
}

/// One watched project.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) target: Target,
    pub(super) rules: Option<Rules>,
    pub(super) overflows: u64,
    /// Folders in the queue whose watch is not set.
    pub(super) queued: usize,
    /// The watches that are set belong to a project that is taken up, or that is looked at again as a whole.
    pub(super) installing: bool,
    pub(super) limited: bool,
    /// Folders that the system does not let us watch: unreadable ones, mostly. All others are watched all the same.
    pub(super) refused: BTreeMap<PathBuf, String>,
    pub(super) reason: Option<String>,
    pub(super) polling: bool,
    pub(super) lost: bool,
    /// File system and inode of the folders that must stand: to notice that others stand there now.
    pub(super) stand: Vec<Option<(u64, u64)>>,
    /// Places that are symbolic links (a data tree on another disk), or lie behind one: by their name in the project, and where
    /// they are. The system tells of the latter.
    aliases: Vec<(PathBuf, PathBuf)>,
    told: Option<State>,
}

impl Watched {
    pub(super) fn new(target: Target) -> Watched {
        Watched {
            target,
            rules: None,
            overflows: 0,
            queued: 0,
            installing: true,
            limited: false,
            refused: BTreeMap::new(),
            reason: None,
            polling: false,
            lost: false,
            stand: Vec::new(),
            aliases: Vec::new(),
            told: None,
        }
    }

    pub(super) fn cfs(&self) -> PathBuf {
        self.target.folder.join("cfs")
    }

    pub(super) fn roots(&self) -> Vec<PathBuf> {
        TREES.iter().map(|tree| self.cfs().join(tree.name())).collect()
    }

    /// Looks where its places are: behind symbolic links, perhaps.
    pub(super) fn find_places(&mut self) {
        let places = [self.cfs()].into_iter().chain(self.roots());
        let elsewhere = |place: PathBuf| place.canonicalize().ok().filter(|real| *real != place).map(|real| (place, real));
        self.aliases = places.filter_map(elsewhere).collect();
    }

    /// Where the folder that stands at one of its places is.
    pub(super) fn real(&self, place: &Path) -> PathBuf {
        self.aliases.iter().find(|(named, _)| named == place).map_or_else(|| place.to_owned(), |(_, real)| real.clone())
    }

    /// The folders outside its own that it watches.
    pub(super) fn elsewhere(&self) -> impl Iterator<Item = &Path> {
        self.aliases.iter().map(|(_, real)| real.as_path())
    }

    /// What a path of the file system is called in the project: nothing, or more than one name where a tree is a link into another.
    pub(super) fn names(&self, path: &Path) -> Vec<PathBuf> {
        let mut names: Vec<PathBuf> = path.starts_with(&self.target.folder).then(|| path.to_owned()).into_iter().collect();
        for (named, real) in &self.aliases {
            let Ok(below) = path.strip_prefix(real) else { continue };
            let name = if below.as_os_str().is_empty() { named.clone() } else { named.join(below) };
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// Where a path stands, by its name in the project.
    pub(super) fn spot(&self, path: &Path) -> Spot {
        let Ok(below) = path.strip_prefix(&self.target.folder) else { return Spot::Elsewhere };
        let mut parts = below.components();
        let is_rules = |name: &std::ffi::OsStr| name == ignore::FILE_NAME;
        let mut next = || parts.next().map(|part| part.as_os_str());
        match (next(), next()) {
            (Some(name), None) if name == crate::project::FILE_NAME => Spot::Settings,
            (Some(name), None) if is_rules(name) => Spot::Rules,
            (Some(name), None) if name == "cfs" => Spot::Root,
            (Some(cfs), Some(name)) if cfs == "cfs" => {
                let Some(tree) = TREES.into_iter().find(|tree| name == tree.name()) else {
                    let is_last = parts.next().is_none();
                    return if is_last && is_rules(name) { Spot::Rules } else { Spot::Elsewhere };
                };
                let rest = parts.as_path();
                if rest.as_os_str().is_empty() {
                    return Spot::Root;
                }
                if rest.file_name().is_some_and(is_rules) {
                    return Spot::Rules;
                }
                rest.to_str().map_or(Spot::Unnamed, |text| Spot::Below(tree, text.to_owned()))
            }
            _ => Spot::Elsewhere,
        }
    }

    /// Whether a path is left out; its parents are known not to be.
    pub(super) fn is_left_out(&mut self, path: &Path, is_folder: bool) -> bool {
        let Some(rules) = self.rules() else { return false };
        rules.check(path, is_folder).is_ok_and(|verdict| verdict.ignored)
    }

    /// As [`Watched::is_left_out`], where a folder above may be left out.
    pub(super) fn is_left_out_below(&mut self, path: &Path, is_folder: bool) -> bool {
        let Some(rules) = self.rules() else { return false };
        rules.explain_as(path, is_folder).is_ok_and(|verdict| verdict.ignored)
    }

    /// Rules that cannot be read leave nothing out here; the look at the tree says what is wrong with them.
    fn rules(&mut self) -> Option<&mut Rules> {
        if self.rules.is_none() {
            self.rules = Rules::new(&self.target.folder, None).ok();
        }
        self.rules.as_mut()
    }

    /// Which folders stand at its places now.
    pub(super) fn standing(&self) -> Vec<Option<(u64, u64)>> {
        let places = [self.target.folder.clone(), self.cfs()].into_iter().chain(self.roots());
        places.map(|place| std::fs::metadata(place).ok().map(|metadata| (metadata.dev(), metadata.ino()))).collect()
    }

    fn refusals(&self) -> Option<String> {
        let (folder, error) = self.refused.first_key_value()?;
        let more = if self.refused.len() > 1 { format!(" (and {} more)", self.refused.len() - 1) } else { String::new() };
        Some(format!("{} cannot be watched: {error}{more}", folder.display()))
    }

    /// Forgets that folders at and below one were refused: they are gone, or are asked for again.
    pub(super) fn forgive_below(&mut self, folder: &Path) {
        self.refused.retain(|refused, _| !refused.starts_with(folder));
    }

    /// What it is now, where that is another than what was told.
    pub(super) fn news(&mut self, watches: usize) -> Option<State> {
        let state = State {
            kind: match (self.polling, self.limited || !self.refused.is_empty()) {
                (true, _) => Kind::Polling,
                (false, true) => Kind::Partial,
                (false, false) => Kind::Events,
            },
            watches,
            overflows: self.overflows,
            installing: self.installing,
            extending: self.queued > 0 && !self.installing,
            lost: self.lost,
            reason: self.reason.clone().or_else(|| self.refusals()),
        };
        if self.told.as_ref() == Some(&state) {
            return None;
        }
        self.told = Some(state.clone());
        Some(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_behind_a_link_is_told_by_its_name_in_the_project() {
        let mut watched = Watched::new(Target { id: 1, folder: "/p".into(), poll: false });
        watched.aliases = vec![("/p/cfs/data".into(), "/disk/d".into()), ("/p/cfs/src".into(), "/disk/d/src".into())];
        let names = |path: &str| watched.names(Path::new(path)).iter().map(|p| p.display().to_string()).collect::<Vec<_>>();
        assert_eq!(names("/p/cfs/x"), ["/p/cfs/x"]);
        assert_eq!(names("/disk/d/a"), ["/p/cfs/data/a"]);
        assert_eq!(names("/disk/d"), ["/p/cfs/data"]);
        assert_eq!(names("/disk/d/src/a"), ["/p/cfs/data/src/a", "/p/cfs/src/a"]);
        assert!(names("/disk/da").is_empty() && names("/disk").is_empty());
        assert_eq!(watched.real(Path::new("/p/cfs/data")), Path::new("/disk/d"));
        assert_eq!(watched.real(Path::new("/p/cfs")), Path::new("/p/cfs"));
    }

    #[test]
    fn a_path_is_told_where_it_stands() {
        let watched = Watched::new(Target { id: 1, folder: "/p".into(), poll: false });
        let spot = |path: &str| watched.spot(Path::new(path));
        assert_eq!(spot("/p/project.yaml"), Spot::Settings);
        for rules in ["/p/.cfsignore", "/p/cfs/.cfsignore", "/p/cfs/src/.cfsignore", "/p/cfs/data/a/.cfsignore"] {
            assert_eq!(spot(rules), Spot::Rules, "{rules}");
        }
        for root in ["/p/cfs", "/p/cfs/src", "/p/cfs/data"] {
            assert_eq!(spot(root), Spot::Root, "{root}");
        }
        assert_eq!(spot("/p/cfs/src/a/b.py"), Spot::Below(Tree::Src, "a/b.py".into()));
        for other in
            ["/p", "/q/cfs/src/a", "/p/README", "/p/cfs/result/x", "/p/cfs/result", "/p/sub/project.yaml", "/p/sub/.cfsignore"]
        {
            assert_eq!(spot(other), Spot::Elsewhere, "{other}");
        }
    }
}
