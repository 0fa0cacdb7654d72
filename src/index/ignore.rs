//! Ignore rules: `.cfsignore` files in the syntax of .gitignore, in any folder, and what is left out always.

use super::Error;
use ::ignore::Match;
use ::ignore::gitignore::Gitignore;
use ::ignore::gitignore::GitignoreBuilder;
use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

/// Name of the files that hold rules.
pub const FILE_NAME: &str = ".cfsignore";

/// Left out whatever the files say: version control, our own and other clients' marks, editors' temporary files.
const ALWAYS: [&str; 16] = [
    ".git",
    ".hg",
    ".svn",
    ".pollinator",
    ".cfs",
    ".pollinator-folder",
    ".*.pollinator-*",
    "*~",
    ".*.sw?",
    ".#*",
    // In this syntax, a bare # begins a comment.
    "\\#*#",
    "4913",
    "*___jb_tmp___",
    "*___jb_old___",
    ".DS_Store",
    ".nfs*",
];

/// The rules of one tree.
#[derive(Debug)]
pub struct Rules {
    /// Where rule files are looked for from: the tree's root, or a folder above it.
    top: PathBuf,
    /// The tree's real place, where it is elsewhere than its name says: behind a symbolic link, to another disk.
    real: Option<(PathBuf, PathBuf)>,
    always: Gitignore,
    folders: HashMap<PathBuf, Option<Arc<Gitignore>>>,
}

/// The rules for the entries of one folder, the nearest file first.
#[derive(Clone, Debug, Default)]
pub struct InFolder {
    files: Vec<Arc<Gitignore>>,
}

/// Whether something is left out, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Left out.
    pub ignored: bool,
    /// The rule that decided: `file:line: pattern`, or `always: pattern`. None where no rule speaks of it.
    pub rule: Option<String>,
}

impl Rules {
    /// Rules of the tree at `root`; files in the folders from `top` down to it count, too.
    pub fn new(root: &Path, top: Option<&Path>) -> Result<Rules, Error> {
        let top = top.filter(|top| root.starts_with(top)).unwrap_or(root).to_owned();
        let mut builder = GitignoreBuilder::new(&top);
        for pattern in ALWAYS {
            builder.add_line(None, pattern).map_err(|e| Error::BadRule { reason: e.to_string() })?;
        }
        let always = builder.build().map_err(|e| Error::BadRule { reason: e.to_string() })?;
        Ok(Rules { top, real: None, always, folders: HashMap::new() })
    }

    /// As [`Rules::new`], of a tree by its name in the project. Its files are asked for by their real paths or by those below that
    /// name; the rules above it count as well where it is a link to another disk.
    pub fn of_tree(named: &Path, top: Option<&Path>) -> Result<Rules, Error> {
        let real = named.canonicalize().unwrap_or_else(|_| named.to_owned());
        let is_below = |root: &Path| top.is_none_or(|top| root.starts_with(top));
        if is_below(&real) || !is_below(named) {
            return Rules::new(&real, top);
        }
        Ok(Rules { real: Some((real, named.to_owned())), ..Rules::new(named, top)? })
    }

    /// A path by the tree's name in the project.
    fn named<'a>(&self, path: &'a Path) -> Cow<'a, Path> {
        let Some((real, named)) = &self.real else { return Cow::Borrowed(path) };
        match path.strip_prefix(real) {
            Ok(below) if below.as_os_str().is_empty() => Cow::Owned(named.clone()),
            Ok(below) => Cow::Owned(named.join(below)),
            Err(_) => Cow::Borrowed(path),
        }
    }

    /// Whether an entry is left out, its parents being known not to be.
    pub fn check(&mut self, path: &Path, is_folder: bool) -> Result<Verdict, Error> {
        let rules = match path.parent() {
            Some(folder) => self.in_folder(folder)?,
            None => InFolder::default(),
        };
        Ok(self.check_in(&rules, path, is_folder))
    }

    /// The rules that count for the entries of one folder.
    pub fn in_folder(&mut self, folder: &Path) -> Result<InFolder, Error> {
        let folder = &*self.named(folder);
        let above: Vec<&Path> = folder.ancestors().take_while(|f| f.starts_with(&self.top)).collect();
        let mut files = Vec::new();
        for folder in above {
            files.extend(self.of_folder(folder)?);
        }
        Ok(InFolder { files })
    }

    /// As [`Rules::check`], for an entry of the folder that `rules` are of.
    pub fn check_in(&self, rules: &InFolder, path: &Path, is_folder: bool) -> Verdict {
        let path = &*self.named(path);
        if let Match::Ignore(glob) = self.always.matched(path, is_folder) {
            return Verdict { ignored: true, rule: Some(format!("always: {}", glob.original())) };
        }
        // The nearest file that speaks of it decides.
        for file in &rules.files {
            match file.matched(path, is_folder) {
                Match::None => {}
                Match::Ignore(glob) => return Verdict { ignored: true, rule: Some(place(glob)) },
                Match::Whitelist(glob) => return Verdict { ignored: false, rule: Some(place(glob)) },
            }
        }
        Verdict { ignored: false, rule: None }
    }

    /// Whether a path is left out, by itself or with a folder above it. What it is, is looked up on the disk.
    pub fn explain(&mut self, path: &Path) -> Result<Verdict, Error> {
        self.explain_as(path, path.is_dir())
    }

    /// As [`Rules::explain`] for what need not be on the disk.
    pub fn explain_as(&mut self, path: &Path, is_folder: bool) -> Result<Verdict, Error> {
        let path = &*self.named(path);
        let mut above: Vec<&Path> = path.ancestors().skip(1).take_while(|f| f.starts_with(&self.top) && *f != self.top).collect();
        above.reverse();
        for folder in above {
            let verdict = self.check(folder, true)?;
            if verdict.ignored {
                return Ok(verdict);
            }
        }
        self.check(path, is_folder)
    }

    fn of_folder(&mut self, folder: &Path) -> Result<Option<Arc<Gitignore>>, Error> {
        if let Some(known) = self.folders.get(folder) {
            return Ok(known.clone());
        }
        let file = folder.join(FILE_NAME);
        let rules = if file.is_file() {
            let mut builder = GitignoreBuilder::new(folder);
            if let Some(error) = builder.add(&file) {
                return Err(Error::BadRule { reason: error.to_string() });
            }
            let built = builder.build().map_err(|e| Error::BadRule { reason: format!("{}: {e}", file.display()) })?;
            Some(Arc::new(built))
        } else {
            None
        };
        self.folders.insert(folder.to_owned(), rules.clone());
        Ok(rules)
    }
}

/// `file:line: pattern`. The library keeps no line, so it is looked up; of equal lines the last one decides.
fn place(glob: &::ignore::gitignore::Glob) -> String {
    let Some(file) = glob.from() else { return glob.original().to_owned() };
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().collect::<Vec<_>>().iter().rposition(|line| line.trim_end() == glob.original().trim_end());
    match line {
        Some(at) => format!("{}:{}: {}", file.display(), at + 1, glob.original()),
        None => format!("{}: {}", file.display(), glob.original()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn rules_are_those_of_git() {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("cfs/src");
        fs::create_dir_all(root.join("sub/deep")).unwrap();
        fs::write(home.path().join(".cfsignore"), "# models\n*.ckpt\n").unwrap();
        fs::write(root.join(".cfsignore"), "build/\n/only-here\n!keep.ckpt\n").unwrap();
        fs::write(root.join("sub/.cfsignore"), "!build/\n").unwrap();
        let mut rules = Rules::new(&root, Some(home.path())).unwrap();
        let mut verdict = |below: &str, folder: bool| rules.check(&root.join(below), folder).unwrap();
        assert!(verdict("a.ckpt", false).ignored);
        assert!(verdict("a.ckpt", false).rule.unwrap().ends_with(".cfsignore:2: *.ckpt"));
        assert!(!verdict("keep.ckpt", false).ignored);
        assert!(verdict("build", true).ignored && !verdict("build", false).ignored);
        assert!(!verdict("sub/build", true).ignored);
        assert!(verdict("only-here", false).ignored && !verdict("sub/only-here", false).ignored);
        for always in [
            ".git",
            "x~",
            ".main.py.swp",
            ".cfs",
            "sub/.x.pollinator-ab12",
            "a.py___jb_tmp___",
            "a.py___jb_old___",
            "#main.py#",
            ".#main.py",
        ] {
            assert!(verdict(always, false).ignored, "{always}");
        }
        assert!(!verdict("main.py", false).ignored && !verdict(".gitignore", false).ignored);
        assert!(rules.explain(&root.join("build/x/y.o")).unwrap().rule.unwrap().ends_with(".cfsignore:1: build/"));
    }

    #[test]
    fn rules_above_a_tree_count_where_it_is_a_link_to_another_disk() {
        let home = tempfile::tempdir().unwrap();
        let (project, disk) = (home.path().join("p"), home.path().join("disk"));
        fs::create_dir_all(project.join("cfs")).unwrap();
        fs::create_dir_all(disk.join("sub")).unwrap();
        fs::write(project.join(".cfsignore"), "*.ckpt\n/cfs/data/sub/only\n").unwrap();
        fs::write(disk.join(".cfsignore"), "!keep.ckpt\n").unwrap();
        let named = project.join("cfs/data");
        std::os::unix::fs::symlink(&disk, &named).unwrap();
        let real = disk.canonicalize().unwrap();
        for root in [&named, &real] {
            let mut rules = Rules::of_tree(&named, Some(&project)).unwrap();
            let mut is_ignored = |below: &str| rules.explain_as(&root.join(below), false).unwrap().ignored;
            assert!(is_ignored("a.ckpt") && is_ignored("sub/a.ckpt") && is_ignored("sub/only"), "{}", root.display());
            assert!(!is_ignored("keep.ckpt") && !is_ignored("only"), "{}", root.display());
        }
    }
}
