//! One look at what makes a tree big, before it is uploaded for the first time. Nothing is read but names and sizes.

use super::Error;
use super::ignore::Rules;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// A folder, or a kind of file, with what it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Share {
    /// Path below the tree, with a word on what it is where that is known.
    pub what: String,
    /// A line for .cfsignore that leaves it out.
    pub rule: String,
    /// Files.
    pub files: u64,
    /// Bytes.
    pub bytes: u64,
}

/// What makes a tree big.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Survey {
    /// All files that would travel.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Folders known to be made by tools (virtual environments, package folders…).
    pub suspects: Vec<Share>,
    /// Largest folders directly below the root.
    pub largest: Vec<Share>,
}

/// Endings of files that programs write again and again.
const CHECKPOINTS: [&str; 6] = ["ckpt", "pt", "pth", "safetensors", "h5", "onnx"];

/// Looks at the tree at `root`.
pub fn survey(root: &Path, rules: &mut Rules) -> Result<Survey, Error> {
    let mut counter = Counter { rules, survey: Survey::default(), checkpoints: BTreeMap::new() };
    let Ok(root) = root.canonicalize() else { return Ok(Survey::default()) };
    let mut largest = Vec::new();
    for entry in entries(&root) {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            let name = entry.file_name().to_string_lossy().into_owned();
            let (files, bytes) = counter.folder(&entry.path(), &name)?;
            if files > 0 {
                largest.push(Share { what: format!("{name}/"), rule: format!("/{name}/"), files, bytes });
            }
        } else {
            counter.file(&entry)?;
        }
    }
    let Counter { mut survey, checkpoints, .. } = counter;
    largest.sort_by_key(|share| std::cmp::Reverse((share.bytes, share.files)));
    largest.truncate(5);
    survey.largest = largest;
    survey.suspects.extend(checkpoints.into_values());
    survey.suspects.sort_by_key(|share| std::cmp::Reverse((share.bytes, share.files)));
    Ok(survey)
}

/// What a folder cannot tell is left out of a look.
fn entries(folder: &Path) -> Vec<std::fs::DirEntry> {
    std::fs::read_dir(folder).map(|entries| entries.filter_map(Result::ok).collect()).unwrap_or_default()
}

struct Counter<'a> {
    rules: &'a mut Rules,
    survey: Survey,
    checkpoints: BTreeMap<String, Share>,
}

impl Counter<'_> {
    /// Counts below a folder; gives its files and bytes.
    fn folder(&mut self, folder: &Path, below: &str) -> Result<(u64, u64), Error> {
        if self.rules.check(folder, true)?.ignored {
            return Ok((0, 0));
        }
        let (mut files, mut bytes) = (0, 0);
        for entry in entries(folder) {
            let counted = if entry.file_type().is_ok_and(|t| t.is_dir()) {
                let name = entry.file_name().to_string_lossy().into_owned();
                self.folder(&entry.path(), &format!("{below}/{name}"))?
            } else {
                self.file(&entry)?
            };
            files += counted.0;
            bytes += counted.1;
        }
        if let Some(kind) = kind(folder) {
            self.survey.suspects.push(Share { what: format!("{below}/ ({kind})"), rule: format!("/{below}/"), files, bytes });
        }
        Ok((files, bytes))
    }

    fn file(&mut self, entry: &std::fs::DirEntry) -> Result<(u64, u64), Error> {
        let path = entry.path();
        let size = match entry.metadata() {
            Ok(metadata) if metadata.is_file() => metadata.len(),
            _ => return Ok((0, 0)),
        };
        if self.rules.check(&path, false)?.ignored {
            return Ok((0, 0));
        }
        self.survey.files += 1;
        self.survey.bytes += size;
        let ending = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        if CHECKPOINTS.contains(&ending) {
            let share = self.checkpoints.entry(ending.to_owned()).or_insert_with(|| Share {
                what: format!("*.{ending} (checkpoints and models)"),
                rule: format!("*.{ending}"),
                ..Share::default()
            });
            share.files += 1;
            share.bytes += size;
        }
        Ok((1, size))
    }
}

/// What a folder is, where its name or content tells.
fn kind(folder: &Path) -> Option<&'static str> {
    if folder.join("pyvenv.cfg").is_file() {
        return Some("a Python virtual environment");
    }
    if folder.join("conda-meta").is_dir() {
        return Some("a Conda environment");
    }
    match folder.file_name()?.to_str()? {
        "node_modules" => Some("packages of npm"),
        "__pycache__" => Some("compiled Python"),
        ".ipynb_checkpoints" => Some("notebook checkpoints"),
        "target" if folder.join("CACHEDIR.TAG").is_file() => Some("built by cargo"),
        "wandb" | "mlruns" => Some("experiment logs"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_a_tree_big_is_named_with_a_rule() {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().canonicalize().unwrap();
        for (path, size) in [("venv/pyvenv.cfg", 1), ("venv/lib/x.so", 500), ("a/m.ckpt", 300), ("b/n.ckpt", 100), ("main.py", 5)]
        {
            std::fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            std::fs::write(root.join(path), vec![0; size]).unwrap();
        }
        let survey = survey(&root, &mut Rules::new(&root, None).unwrap()).unwrap();
        assert_eq!((survey.files, survey.bytes), (5, 906));
        let suspects: Vec<(&str, u64)> = survey.suspects.iter().map(|s| (s.rule.as_str(), s.bytes)).collect();
        assert_eq!(suspects, [("/venv/", 501), ("*.ckpt", 400)]);
        assert_eq!(survey.largest[0].rule, "/venv/");
    }
}
