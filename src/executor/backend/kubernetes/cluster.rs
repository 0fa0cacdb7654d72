//! The connection to a cluster, and what is asked of it.

use super::manifest::Objects;
use super::names;
use super::settings::Settings;
use super::view;
use crate::executor::backend::Failure;
use k8s_openapi::api::authorization::v1::ResourceAttributes;
use k8s_openapi::api::authorization::v1::SelfSubjectAccessReview;
use k8s_openapi::api::authorization::v1::SelfSubjectAccessReviewSpec;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Event;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::Client;
use kube::Config;
use kube::ResourceExt;
use kube::api::DeleteParams;
use kube::api::ListParams;
use kube::api::PostParams;
use kube::config::KubeConfigOptions;
use kube::config::Kubeconfig;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::sync::OnceCell;
use tokio::time::Instant;

/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(30);
/// What was said about pods that are not made is believed for so long.
const SAID: Duration = Duration::from_secs(8);
/// Pause after the cluster did not let us ask.
const UNSAID: Duration = Duration::from_secs(600);
/// First minor version whose indexed Jobs are there to stay.
const INDEXED_SINCE: u32 = 24;

/// A namespace of a cluster.
pub struct Cluster {
    pub(super) jobs: Api<Job>,
    pub(super) pods: Api<Pod>,
    services: Api<Service>,
    events: Api<Event>,
    client: Client,
    namespace: String,
    indexed: OnceCell<bool>,
    refusals: Mutex<Refusals>,
}

/// What is said about pods that are not made.
#[derive(Default)]
struct Refusals {
    known: Arc<BTreeMap<String, String>>,
    /// Not asked again before.
    next: Option<Instant>,
}

impl Cluster {
    /// Reads the credentials. Nothing is asked of the cluster yet.
    ///
    /// # Errors
    /// What is wrong with them, for a person.
    pub fn new(settings: &Settings) -> Result<Cluster, String> {
        let config = configuration(settings)?;
        let namespace = settings.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client =
            Client::try_from(config).map_err(|e| format!("the credentials for the cluster cannot be used: {}", chain(&e)))?;
        Ok(Cluster {
            jobs: Api::namespaced(client.clone(), &namespace),
            pods: Api::namespaced(client.clone(), &namespace),
            services: Api::namespaced(client.clone(), &namespace),
            events: Api::namespaced(client.clone(), &namespace),
            client,
            namespace,
            indexed: OnceCell::new(),
            refusals: Mutex::default(),
        })
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Whether we may do something in the namespace.
    ///
    /// # Errors
    /// Those of the cluster.
    pub async fn allows(&self, wish: ResourceAttributes) -> Result<bool, Failure> {
        let reviews: Api<SelfSubjectAccessReview> = Api::all(self.client.clone());
        let wish = ResourceAttributes { namespace: Some(self.namespace.clone()), ..wish };
        let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(wish), ..SelfSubjectAccessReviewSpec::default() };
        let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
        let reviewed = answer("ask what we may do", reviews.create(&PostParams::default(), &review)).await?;
        Ok(reviewed.status.is_none_or(|status| status.allowed))
    }

    /// Why Jobs get no pods, by their unique ids, in the words of the cluster: a quota is full, a policy refuses them. One
    /// question for all jobs. Nothing is known where events may not be read: a job waits without a reason, then.
    pub async fn refusals(&self) -> Arc<BTreeMap<String, String>> {
        let mut refusals = self.refusals.lock().await;
        if refusals.next.is_some_and(|next| Instant::now() < next) {
            return refusals.known.clone();
        }
        let list = ListParams::default().fields(&format!("involvedObject.kind=Job,reason={}", view::NOT_MADE));
        let pause = match answer("ask why pods are not made", self.events.list(&list)).await.map_err(Failure::from) {
            Ok(events) => {
                refusals.known = Arc::new(view::refusals(&events.items));
                SAID
            }
            Err(error) => {
                tracing::debug!(%error, "the cluster does not say why pods are not made");
                if error.is_temporary() { SAID } else { UNSAID }
            }
        };
        refusals.next = Some(Instant::now() + pause);
        refusals.known.clone()
    }

    /// What keeps a pod from being begun on its node, in the words of the latest event that says so.
    pub async fn trouble(&self, uid: &str) -> Option<String> {
        let list = ListParams::default().fields(&format!("involvedObject.uid={uid},type=Warning"));
        match answer("ask why a pod is not begun", self.events.list(&list)).await.map_err(Failure::from) {
            Ok(events) => view::trouble(&events.items),
            Err(error) => {
                tracing::debug!(%error, "the cluster does not say why a pod is not begun");
                None
            }
        }
    }

    /// Whether the server knows indexed Jobs.
    ///
    /// # Errors
    /// [`Failure::Unanswered`].
    pub async fn knows_indexed_jobs(&self) -> Result<bool, Failure> {
        let ask = || async {
            let version = answer("ask for the version of the cluster", self.client.apiserver_version()).await?;
            Ok(has_indexed_jobs(&version.major, &version.minor))
        };
        self.indexed.get_or_try_init(ask).await.copied()
    }

    /// Makes the objects of a job, those that are missing.
    ///
    /// # Errors
    /// Those of the cluster.
    pub async fn create(&self, objects: &Objects, nonce: &str) -> Result<(), Failure> {
        if let Some(service) = &objects.service {
            let made = answer("make the service of the job", self.services.create(&PostParams::default(), service)).await;
            made.map(|_| ()).or_else(unless_there)?;
        }
        for job in &objects.jobs {
            self.create_job(job, nonce).await?;
        }
        Ok(())
    }

    /// One that is there is ours, if it is of this attempt; else it is of an executor that lost its state, and goes.
    async fn create_job(&self, job: &Job, nonce: &str) -> Result<(), Failure> {
        let name = job.name_any();
        let what = format!("make the Job {name}");
        let made = answer(&what, self.jobs.create(&PostParams::default(), job)).await;
        match made {
            Ok(_) => return Ok(()),
            Err(Answer::There(_)) => {}
            Err(other) => return Err(other.into()),
        }
        let there = answer(&format!("look up the Job {name}"), self.jobs.get_opt(&name)).await?;
        match there {
            Some(there) if there.annotations().get(names::NONCE).is_some_and(|found| found == nonce) => Ok(()),
            Some(_) => {
                tracing::warn!(job = name, "a Job of this name is left from an earlier life of this executor: it is deleted");
                self.delete_job(&name).await?;
                let reason = "one of an earlier life of this executor is being deleted".into();
                Err(Failure::Unanswered { what, reason })
            }
            None => Err(Failure::Unanswered { what, reason: "it was there and is not".into() }),
        }
    }

    /// Whether there is any Job of this job.
    ///
    /// # Errors
    /// Those of the cluster.
    pub async fn has(&self, name: &str) -> Result<bool, Failure> {
        let list = ListParams::default().labels(&format!("{}={name}", names::JOB));
        let found = answer(&format!("look up the job {name}"), self.jobs.list(&list)).await?;
        Ok(!found.items.is_empty())
    }

    /// Asks for the end of a job: its Jobs, its pods after so many seconds, its service.
    ///
    /// # Errors
    /// Those of the cluster.
    pub async fn delete(&self, name: &str, grace: u32) -> Result<(), Failure> {
        let list = ListParams::default().labels(&format!("{}={name}", names::JOB));
        let found = answer(&format!("look up the job {name}"), self.jobs.list(&list)).await?;
        for job in &found.items {
            self.delete_job(&job.name_any()).await?;
        }
        // After the Jobs, which would start others in their place.
        let pods = answer(&format!("look up the pods of {name}"), self.pods.list(&list)).await?;
        for pod in &pods.items {
            let how = DeleteParams { grace_period_seconds: Some(grace), ..DeleteParams::default() };
            let pod = pod.name_any();
            let deleted = answer(&format!("delete the pod {pod}"), self.pods.delete(&pod, &how)).await;
            deleted.map(|_| ()).or_else(unless_gone)?;
        }
        if found.items.len() != 1 || found.items.iter().any(has_peers) {
            let deleted =
                answer(&format!("delete the service {name}"), self.services.delete(name, &DeleteParams::default())).await;
            deleted.map(|_| ()).or_else(unless_gone)?;
        }
        Ok(())
    }

    async fn delete_job(&self, name: &str) -> Result<(), Failure> {
        let deleted = answer(&format!("delete the Job {name}"), self.jobs.delete(name, &DeleteParams::background())).await;
        deleted.map(|_| ()).or_else(unless_gone)
    }
}

/// Whether pods of a Job look each other up.
fn has_peers(job: &Job) -> bool {
    job.spec.as_ref().and_then(|spec| spec.template.spec.as_ref()).is_some_and(|pod| pod.subdomain.is_some())
}

/// What came instead of what was asked for.
#[derive(Debug)]
pub(super) enum Answer {
    /// It is there already.
    There(Failure),
    /// There is none.
    Gone(Failure),
    /// Anything else.
    Failed(Failure),
}

impl From<Answer> for Failure {
    fn from(answer: Answer) -> Failure {
        match answer {
            Answer::There(failure) | Answer::Gone(failure) | Answer::Failed(failure) => failure,
        }
    }
}

fn unless_there(answer: Answer) -> Result<(), Failure> {
    match answer {
        Answer::There(_) => Ok(()),
        other => Err(other.into()),
    }
}

fn unless_gone(answer: Answer) -> Result<(), Failure> {
    match answer {
        Answer::Gone(_) => Ok(()),
        other => Err(other.into()),
    }
}

/// Waits for an answer, but not for ever.
pub(super) async fn answer<T>(what: &str, asking: impl Future<Output = kube::Result<T>>) -> Result<T, Answer> {
    match tokio::time::timeout(ANSWER, asking).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(failed(what, &error)),
        Err(_) => {
            let reason = format!("the cluster did not answer within {} s", ANSWER.as_secs());
            Err(Answer::Failed(Failure::Unanswered { what: format!("cannot {what}"), reason }))
        }
    }
}

fn failed(what: &str, error: &kube::Error) -> Answer {
    let what = format!("cannot {what}");
    let kube::Error::Api(status) = error else {
        return Answer::Failed(Failure::Unanswered { what, reason: chain(error) });
    };
    let reason = match status.message.as_str() {
        "" => format!("{} ({})", status.reason, status.code),
        message => message.to_owned(),
    };
    match status.code {
        409 if status.reason == "AlreadyExists" => Answer::There(Failure::Unanswered { what, reason }),
        404 => Answer::Gone(Failure::Refused { what, reason }),
        // A quota is full until something ends.
        403 if reason.contains("exceeded quota") => Answer::Failed(Failure::Unanswered { what, reason }),
        400 | 403 | 405 | 413 | 422 => Answer::Failed(Failure::Refused { what, reason }),
        _ => Answer::Failed(Failure::Unanswered { what, reason }),
    }
}

/// An error with what caused it.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = cause.source();
    }
    text
}

/// Reads where the cluster is and who we are. Plugins may be run for it, so it has a thread of its own.
fn configuration(settings: &Settings) -> Result<Config, String> {
    let settings = settings.clone();
    let read = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(|e| e.to_string())?.block_on(read(&settings))
    });
    read.join().unwrap_or_else(|_| Err("internal error while the credentials for the cluster were read".into()))
}

async fn read(settings: &Settings) -> Result<Config, String> {
    let options = KubeConfigOptions { context: settings.context.clone(), ..KubeConfigOptions::default() };
    if let Some(path) = &settings.kubeconfig {
        let failed = |e: &dyn std::fmt::Display| format!("`kubeconfig` {}: {e}", path.display());
        let file = Kubeconfig::read_from(path).map_err(|e| failed(&chain(&e)))?;
        return Config::from_custom_kubeconfig(file, &options).await.map_err(|e| failed(&chain(&e)));
    }
    let found = match settings.context {
        Some(_) => Config::from_kubeconfig(&options).await.map_err(|e| chain(&e)),
        None => Config::infer().await.map_err(|e| chain(&e)),
    };
    found.map_err(|e| format!("no cluster is named: set `kubeconfig`, or run in a pod with a service account ({e})"))
}

/// Whether a server of this version has indexed Jobs. Distributors write `28+`.
fn has_indexed_jobs(major: &str, minor: &str) -> bool {
    let number = |text: &str| text.trim_end_matches(|c: char| !c.is_ascii_digit()).parse::<u32>().unwrap_or(0);
    number(major) > 1 || number(minor) >= INDEXED_SINCE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for (major, minor, want) in
            [("1", "20", false), ("1", "23+", false), ("1", "24", true), ("1", "30+", true), ("2", "0", true)]
        {
            assert_eq!(has_indexed_jobs(major, minor), want, "{major}.{minor}");
        }
    }
}
