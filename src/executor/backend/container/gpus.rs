//! GPUs of this machine, each given to one job at a time.

use crate::executor::backend::Failure;
use crate::executor::backend::Task;
use crate::executor::backend::payload;
use std::collections::HashSet;
use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;

/// The file of a job's folder that names its GPUs; they are free again when the folder is gone.
const FILE: &str = "gpus";

/// The GPUs that the settings list.
#[derive(Debug)]
pub(super) struct Gpus {
    all: Vec<String>,
    alone: Mutex<()>,
}

impl Gpus {
    pub(super) fn new(all: Vec<String>) -> Gpus {
        Gpus { all, alone: Mutex::default() }
    }

    /// Those of a job, taken where it has none yet; none where the settings list none.
    ///
    /// # Errors
    /// More are asked for than there are; or, for a while, than are free.
    pub(super) fn take(&self, task: &Task) -> Result<Vec<String>, Failure> {
        let wanted = task.job.gpu_count as usize;
        if wanted == 0 || self.all.is_empty() {
            return Ok(Vec::new());
        }
        if wanted > self.all.len() {
            let reason = format!("{wanted} are asked for, and this machine gives {}", self.all.len());
            return Err(Failure::Unsupported { field: "conditions.gpu.count".into(), reason });
        }
        let _alone = self.alone.lock().unwrap_or_else(PoisonError::into_inner);
        let own = taken(&task.folder);
        if own.len() == wanted {
            return Ok(own);
        }
        let used = self.used(task)?;
        let free: Vec<String> = self.all.iter().filter(|gpu| !used.contains(*gpu)).take(wanted).cloned().collect();
        if free.len() < wanted {
            let reason = format!("{wanted} are asked for, and {} are free", free.len());
            return Err(Failure::Unanswered { what: "GPUs".into(), reason });
        }
        let text: String = free.iter().map(|gpu| format!("{gpu}\n")).collect();
        payload::private_file(&task.folder.join(FILE), text.as_bytes())?;
        Ok(free)
    }

    fn used(&self, task: &Task) -> Result<HashSet<String>, Failure> {
        let jobs = task.folder.parent().unwrap_or(&task.folder);
        let failed = || Failure::io("cannot look which GPUs jobs have", jobs);
        let mut used = HashSet::new();
        for entry in std::fs::read_dir(jobs).map_err(failed())? {
            let folder = entry.map_err(failed())?.path();
            if folder != task.folder {
                used.extend(taken(&folder));
            }
        }
        Ok(used)
    }
}

fn taken(folder: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(folder.join(FILE)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::backend::process::tests::task;
    use serde_json::json;
    use std::sync::Arc;

    fn job(root: &Path, name: &str, gpus: u32) -> Task {
        let mut task = task(root, "true", &[], json!({}));
        let mut job = (*task.job).clone();
        job.gpu_count = gpus;
        task.job = Arc::new(job);
        task.folder = root.join("jobs").join(name);
        std::fs::create_dir_all(&task.folder).unwrap();
        task
    }

    #[test]
    fn no_gpu_is_given_twice() {
        let root = tempfile::tempdir().unwrap();
        let gpus = Gpus::new(vec!["0".into(), "1".into(), "2".into()]);
        let (one, two, three) = (job(root.path(), "a", 2), job(root.path(), "b", 2), job(root.path(), "c", 1));
        assert_eq!(gpus.take(&one).unwrap(), ["0", "1"]);
        assert!(gpus.take(&two).unwrap_err().is_temporary());
        assert_eq!(gpus.take(&three).unwrap(), ["2"]);
        assert_eq!(gpus.take(&one).unwrap(), ["0", "1"], "once more, the same");
        std::fs::remove_dir_all(&one.folder).unwrap();
        assert_eq!(gpus.take(&two).unwrap(), ["0", "1"]);
        assert!(!gpus.take(&job(root.path(), "d", 4)).unwrap_err().is_temporary());
        assert_eq!(gpus.take(&job(root.path(), "e", 0)).unwrap(), [""; 0]);
        assert_eq!(Gpus::new(Vec::new()).take(&job(root.path(), "f", 4)).unwrap(), [""; 0]);
    }
}
