//! What an executor has to be allowed in its namespace, looked at when it starts: what is missing is said before a job fails of it.

use super::cluster::Cluster;
use k8s_openapi::api::authorization::v1::ResourceAttributes;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Group, resource, and what is done with it.
const RIGHTS: [(&str, &str, &[&str]); 4] = [
    ("batch", "jobs", &["create", "get", "list", "watch", "delete"]),
    ("", "pods", &["list", "watch", "delete"]),
    ("", "services", &["create", "delete"]),
    // Only to say why pods are not made.
    ("", "events", &["list"]),
];

/// Warns of rights that are missing. That the cluster does not answer, or does not answer this, is no reason to stay away.
pub async fn check(cluster: Arc<Cluster>, shutdown: CancellationToken) {
    let missing = tokio::select! {
        found = missing(&cluster) => found,
        () = shutdown.cancelled() => return,
    };
    if !missing.is_empty() {
        tracing::warn!(
            namespace = cluster.namespace(),
            missing = missing.join(", "),
            "this executor may not do all that it has to in the cluster: the Role in examples/kubernetes/executor.yaml grants it"
        );
    }
}

/// The rights that are surely missing: `create jobs`, `list events`.
async fn missing(cluster: &Cluster) -> Vec<String> {
    let mut missing = Vec::new();
    for (name, wish) in wishes() {
        match cluster.allows(wish).await {
            Ok(true) => {}
            Ok(false) => missing.push(name),
            Err(error) => {
                tracing::debug!(%error, "the cluster does not say what this executor may do");
                break;
            }
        }
    }
    missing
}

/// Each right with its name.
fn wishes() -> Vec<(String, ResourceAttributes)> {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let mut wishes = Vec::new();
    for (group, resource, verbs) in RIGHTS {
        for &verb in verbs {
            let wish = ResourceAttributes {
                group: some(group),
                resource: some(resource),
                verb: some(verb),
                ..ResourceAttributes::default()
            };
            wishes.push((format!("{verb} {resource}"), wish));
        }
    }
    wishes
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use serde_json::Value;

    /// The rules of the Role in the example.
    fn rules() -> Vec<Value> {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/kubernetes/executor.yaml");
        let text = std::fs::read_to_string(path).unwrap();
        let documents = serde_yaml::Deserializer::from_str(&text).map(|document| Value::deserialize(document).unwrap());
        let mut roles = documents.filter(|document| document["kind"] == "Role");
        roles.next().unwrap()["rules"].as_array().unwrap().clone()
    }

    #[test]
    fn the_example_grants_what_is_needed() {
        let rules = rules();
        let has = |list: &Value, word: &str| list.as_array().unwrap().iter().any(|found| found == word);
        for (name, wish) in wishes() {
            let (verb, resource) = name.split_once(' ').unwrap();
            let group = wish.group.unwrap_or_default();
            let grants =
                |rule: &Value| has(&rule["apiGroups"], &group) && has(&rule["resources"], resource) && has(&rule["verbs"], verb);
            assert!(rules.iter().any(grants), "{name}");
        }
    }

    #[test]
    fn rights_are_asked_for_as_the_cluster_names_them() {
        let wishes = wishes();
        let (_, list) = wishes.iter().find(|(name, _)| name == "list events").unwrap();
        assert_eq!(serde_json::to_string(list).unwrap(), r#"{"resource":"events","verb":"list"}"#);
        assert_eq!(wishes[0].1.group.as_deref(), Some("batch"));
        assert_eq!(wishes.len(), 11);
    }
}
