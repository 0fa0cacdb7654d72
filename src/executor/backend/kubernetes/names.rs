//! Names and labels of what an executor makes in a cluster. Pure.

use crate::executor::backend::Task;
use std::collections::BTreeMap;

/// Who made it, as Kubernetes' own convention has it.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Label: the executor's state, so that two executors of one name in one namespace leave each other's jobs alone.
pub const INSTANCE: &str = "pollinator/instance";
/// Label: the executor's name.
pub const EXECUTOR: &str = "pollinator/executor";
/// Label: the process, cut to what a label holds.
pub const PROCESS: &str = "pollinator/process";
/// Label: the job as the executor knows it; several objects of Kubernetes may be one.
pub const JOB: &str = "pollinator/job";
/// Label: number of the node, where there is one Job for each.
pub const NODE: &str = "pollinator/node";
/// Annotation: the process id, whole.
pub const PROCESS_ID: &str = "pollinator/process-id";
/// Annotation: name of the job's folder.
pub const FOLDER: &str = "pollinator/folder";
/// Annotation: tells this attempt from one of an executor that lost its state.
pub const NONCE: &str = "pollinator/attempt";
/// Annotation that Kubernetes puts on pods of indexed Jobs.
pub const COMPLETION_INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// Longest value of a label.
const LONGEST_LABEL: usize = 63;

/// Name of a job: the same for the same attempt of the same executor, told apart from others by a digest, and
/// recognizable by the start of the process id. Short enough for pods' names and host names to be made of it.
pub fn job(instance: &str, task: &Task) -> String {
    let start: String = task.job.process_id.to_ascii_lowercase().chars().filter(char::is_ascii_alphanumeric).take(12).collect();
    let digest = blake3::hash(format!("{instance}\n{}\n{}", task.job.process_id, folder(task)).as_bytes()).to_hex();
    format!("p-{start}-{}", &digest[..12])
}

/// Name of the job's folder.
pub fn folder(task: &Task) -> String {
    task.folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Labels of everything that belongs to a job.
pub fn labels(name: &str, executor: &str, instance: &str, task: &Task) -> BTreeMap<String, String> {
    let process = task.job.process_id.chars().take(LONGEST_LABEL).collect::<String>();
    let labels = [
        (MANAGED_BY, "pollinator"),
        (INSTANCE, instance),
        (EXECUTOR, &label(executor)),
        (PROCESS, &label(&process)),
        (JOB, name),
    ];
    labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// A text as the value of a label. One that cannot stand as it is gets a digest, so that it stays its own.
pub fn label(text: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    if text.len() <= LONGEST_LABEL && text.chars().all(fits) && ends(text.chars().next()) && ends(text.chars().last()) {
        return text.to_owned();
    }
    let digest = blake3::hash(text.as_bytes()).to_hex();
    let kept: String = text.chars().map(|c| if fits(c) { c } else { '-' }).take(40).collect();
    format!("x{kept}-{}", &digest[..12])
}

/// A text that Kubernetes leaves as it is, where it would replace `$(NAME)`.
pub fn literal(text: &str) -> String {
    text.replace('$', "$$")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::backend::process::tests::task;
    use serde_json::json;

    #[test]
    fn names_are_legal_and_their_own() {
        let root = tempfile::tempdir().unwrap();
        let one = task(root.path(), "true", &[], json!({}));
        let name = job("instance", &one);
        assert!(name.len() <= 40 && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'), "{name}");
        assert!(name.starts_with("p-ab12-"));
        let mut two = one.clone();
        two.folder = two.folder.with_file_name("other");
        assert_ne!(job("instance", &two), name);
        assert_ne!(job("elsewhere", &one), name);
    }

    #[test]
    fn labels_are_legal() {
        assert_eq!(label("gpu-1.site_a"), "gpu-1.site_a");
        for text in ["", "-x", "x-", "ünï cödé", &"x".repeat(64)] {
            let made = label(text);
            assert!(made.len() <= 63 && made.starts_with('x'), "{made}");
            assert!(made.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)), "{made}");
        }
        assert_ne!(label("a b"), label("a-b"));
    }
}
