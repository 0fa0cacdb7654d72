//! A Kubernetes cluster of our own: real control plane, real node, started on free ports, gone with the process that
//! started it.

#![allow(dead_code)] // Each test program uses another part of it.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Event;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::core::v1::PersistentVolume;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::core::v1::ResourceQuota;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::Role;
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::Api;
use kube::Client;
use kube::Config;
use kube::ResourceExt;
use kube::api::DeleteParams;
use kube::api::ListParams;
use kube::api::PostParams;
use kube::config::KubeConfigOptions;
use kube::config::Kubeconfig;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::json;
use std::fmt::Debug;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

/// The namespace of the example manifests.
pub const NAMESPACE: &str = "pollinator";
/// Image that the node has.
pub const IMAGE: &str = "localhost/busybox:1";

/// How long anything may take before it has hung.
const PATIENCE: Duration = Duration::from_secs(240);
/// Ports that a cluster takes.
const PORTS: u16 = 12;

/// The cluster.
pub struct Kube {
    root: PathBuf,
    base: u16,
    /// Holds the pipe whose end, when this process is gone, ends the cluster.
    _keeper: Child,
}

impl Kube {
    /// Starts one, with the service account, the rights and the namespace of the example manifests.
    pub async fn start() -> Kube {
        assert!(
            Path::new("/usr/lib/cni/ptp").exists() && Path::new("/usr/bin/containerd").exists(),
            "parts of the cluster are missing: run scripts/test.sh, or scripts/parts.sh kubernetes"
        );
        // The keeper removes it.
        let root = tempfile::tempdir().unwrap().keep();
        let base = free_ports();
        let mut keeper = script(&root, base, "down");
        let shell = "cat >/dev/null; scripts/kube-up.sh down >/dev/null 2>&1; rm -rf \"$KUBE_ROOT\"";
        keeper.process_group(0).stdin(Stdio::piped());
        let keeper = with_shell(keeper, shell).spawn().unwrap();
        let kube = Kube { root, base, _keeper: keeper };
        kube.run("all").await;
        kube.set_up().await;
        kube
    }

    async fn run(&self, what: &str) {
        let mut command = script(&self.root, self.base, what);
        let done = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        assert!(done.status.success(), "kube-up.sh {what}: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// Kills the API server.
    pub fn kill_api_server(&self) {
        let pid: i32 = std::fs::read_to_string(self.root.join("kube-apiserver.pid")).unwrap().trim().parse().unwrap();
        // SAFETY: a plain call; the process is one that this cluster started.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
        // It is a child of nobody here, and gone when init has reaped it.
        let end = Instant::now() + PATIENCE;
        while Path::new(&format!("/proc/{pid}/exe")).exists() && std::fs::read_link(format!("/proc/{pid}/exe")).is_ok() {
            assert!(Instant::now() < end, "the API server does not die");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Starts what does not run.
    pub async fn up(&self) {
        self.run("up").await;
    }

    /// Waits until a job comes to its end: controllers, scheduler and kubelet take their time after the API server was away.
    pub async fn works_again(&self) {
        let container = json!({ "name": "c", "image": IMAGE, "command": ["true"] });
        let pod = json!({ "restartPolicy": "Never", "containers": [container] });
        let job = json!({ "metadata": { "name": "probe" }, "spec": { "template": { "spec": pod } } });
        let jobs = self.jobs().await;
        create(&jobs, job).await;
        until("a job runs", async || jobs.get("probe").await.ok()?.status?.succeeded).await;
        jobs.delete("probe", &DeleteParams::background()).await.unwrap();
    }

    /// The administrator's credentials.
    pub async fn admin(&self) -> Client {
        let file = Kubeconfig::read_from(self.root.join("kubeconfig")).unwrap();
        Client::try_from(Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.unwrap()).unwrap()
    }

    /// Credentials of the executor's service account, which may do no more than its role says.
    pub fn kubeconfig(&self) -> PathBuf {
        self.root.join("executor.kubeconfig")
    }

    async fn set_up(&self) {
        let admin = self.admin().await;
        for document in documents("examples/kubernetes/executor.yaml") {
            match document["kind"].as_str().unwrap() {
                "Namespace" => create(&Api::<Namespace>::all(admin.clone()), document).await,
                "ServiceAccount" => create(&Api::<ServiceAccount>::namespaced(admin.clone(), NAMESPACE), document).await,
                "Role" => create(&Api::<Role>::namespaced(admin.clone(), NAMESPACE), document).await,
                "RoleBinding" => create(&Api::<RoleBinding>::namespaced(admin.clone(), NAMESPACE), document).await,
                _ => {}
            }
        }
        // Servers of this age make tokens by themselves.
        let secrets: Api<Secret> = Api::namespaced(admin.clone(), NAMESPACE);
        let accounts: Api<ServiceAccount> = Api::namespaced(admin.clone(), NAMESPACE);
        let token = until("the token of the service account", async || {
            let named = accounts.get("pollinator-executor").await.ok()?.secrets?.first()?.name.clone()?;
            let token = secrets.get_opt(&named).await.ok()??.data?.remove("token")?;
            String::from_utf8(token.0).ok()
        })
        .await;
        // Pods are refused until the namespace's own account is there.
        until("the account of pods", async || accounts.get_opt("default").await.ok()?).await;
        let text = std::fs::read_to_string(self.root.join("kubeconfig")).unwrap();
        let admin_token = text.split("token: \"").nth(1).unwrap().split('"').next().unwrap();
        let text = text.replace(admin_token, &token).replace("user: admin}", &format!("user: admin, namespace: {NAMESPACE}}}"));
        std::fs::write(self.kubeconfig(), text).unwrap();
    }

    /// Another namespace, in which the executor has the same rights and no pod has room.
    pub async fn full_namespace(&self, name: &str) {
        let admin = self.admin().await;
        create(&Api::<Namespace>::all(admin.clone()), json!({ "metadata": { "name": name } })).await;
        for mut document in documents("examples/kubernetes/executor.yaml") {
            document["metadata"]["namespace"] = name.into();
            match document["kind"].as_str().unwrap() {
                "Role" => create(&Api::<Role>::namespaced(admin.clone(), name), document).await,
                "RoleBinding" => create(&Api::<RoleBinding>::namespaced(admin.clone(), name), document).await,
                _ => {}
            }
        }
        let quotas: Api<ResourceQuota> = Api::namespaced(admin.clone(), name);
        create(&quotas, json!({ "metadata": { "name": "none" }, "spec": { "hard": { "pods": "0" } } })).await;
        until("the quota holds", async || quotas.get("none").await.ok()?.status?.hard).await;
        let accounts: Api<ServiceAccount> = Api::namespaced(admin, name);
        until("the account of pods", async || accounts.get_opt("default").await.ok()?).await;
    }

    /// Names of the files that the node has of a container's log: the newest, and those that were rotated away.
    pub fn log_files(&self, pod: &str, container: &str) -> Vec<String> {
        let node = std::fs::read_to_string(self.root.join("node.pid")).unwrap();
        // It has a file system of its own there.
        let pods = std::fs::read_dir(format!("/proc/{}/root/var/log/pods", node.trim())).unwrap().flatten();
        let start = format!("{NAMESPACE}_{pod}_");
        let folders = pods.filter(|folder| folder.file_name().to_string_lossy().starts_with(&start));
        let files = folders.flat_map(|folder| std::fs::read_dir(folder.path().join(container)).into_iter().flatten().flatten());
        files.map(|file| file.file_name().to_string_lossy().into_owned()).collect()
    }

    /// What there is and what happened, for whoever reads of a test that failed. Also where a runtime is about to end.
    #[allow(clippy::print_stdout)] // Kept by the harness, shown of a test that failed.
    pub fn tell(&self) {
        std::thread::scope(|threads| {
            let told = threads.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async { tokio::time::timeout(PATIENCE, self.told()).await })
            });
            // Of a cluster that does not answer, its own logs are what is left.
            match told.join() {
                Ok(Ok(text)) => println!("{text}"),
                _ => println!("the cluster does not tell of its pods"),
            }
        });
        for name in ["kubelet", "containerd", "kube-scheduler", "kube-controller-manager"] {
            let text = std::fs::read_to_string(self.root.join(format!("{name}.log"))).unwrap_or_default();
            let from = text.lines().count().saturating_sub(40);
            println!("== {name}\n{}", text.lines().skip(from).collect::<Vec<_>>().join("\n"));
        }
    }

    async fn told(&self) -> String {
        let admin = self.admin().await;
        let pods = Api::<Pod>::all(admin.clone()).list(&ListParams::default()).await.unwrap();
        let events = Api::<Event>::all(admin).list(&ListParams::default()).await.unwrap();
        let of_pods = pods.items.iter().map(|pod| format!("{}: {}", pod.name_any(), json!(pod.status)));
        let of_events = events.items.iter().map(|event| {
            let what = (&event.involved_object.name, &event.reason, &event.message, event.count);
            format!("{:?} {what:?}", event.last_timestamp.as_ref().map(|time| time.0))
        });
        of_pods.chain(of_events).collect::<Vec<_>>().join("\n")
    }

    /// A volume that is a folder of this machine, and the claim of it.
    pub async fn volume(&self, name: &str, folder: &Path) {
        self.volume_of(name, json!({ "path": folder })).await;
    }

    /// The same of what Kubernetes calls a `hostPath`.
    pub async fn volume_of(&self, name: &str, host_path: Value) {
        let admin = self.admin().await;
        let size = json!({ "storage": "1Gi" });
        let volume = json!({ "metadata": { "name": name }, "spec": { "capacity": size, "accessModes": ["ReadWriteMany"],
            "persistentVolumeReclaimPolicy": "Retain", "hostPath": host_path,
            "claimRef": { "namespace": NAMESPACE, "name": name } } });
        create(&Api::<PersistentVolume>::all(admin.clone()), volume).await;
        let claim = json!({ "metadata": { "name": name }, "spec": { "accessModes": ["ReadWriteMany"], "storageClassName": "",
            "volumeName": name, "resources": { "requests": size } } });
        let claims = Api::<PersistentVolumeClaim>::namespaced(admin, NAMESPACE);
        create(&claims, claim).await;
        until("the claim has its volume", async || {
            let phase = claims.get(name).await.ok()?.status?.phase?;
            (phase == "Bound").then_some(())
        })
        .await;
    }

    pub async fn jobs(&self) -> Api<Job> {
        Api::namespaced(self.admin().await, NAMESPACE)
    }

    pub async fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.admin().await, NAMESPACE)
    }

    pub async fn services(&self) -> Api<Service> {
        Api::namespaced(self.admin().await, NAMESPACE)
    }
}

/// Waits until there is something.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The documents of a file of this repository.
pub fn documents(path: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    serde_yaml::Deserializer::from_str(&text).map(|document| serde::Deserialize::deserialize(document).unwrap()).collect()
}

async fn create<K>(api: &Api<K>, object: Value)
where
    K: Clone + DeserializeOwned + Debug + Serialize + kube::Resource,
{
    api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
}

fn script(root: &Path, base: u16, what: &str) -> Command {
    let mut command = Command::new("scripts/kube-up.sh");
    command.arg(what).current_dir(env!("CARGO_MANIFEST_DIR")).env("KUBE_ROOT", root).env("KUBE_BASE", base.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// A shell with the folder and the variables of a command.
fn with_shell(like: Command, text: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", text]).current_dir(like.get_current_dir().unwrap());
    command.envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// The first of some ports in a row that nobody uses.
fn free_ports() -> u16 {
    let free = |base: u16| (base..base + PORTS).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok());
    let first = 20_000 + (std::process::id() % 400) as u16 * PORTS;
    (0..1000).map(|n| first + n * PORTS).find(|base| free(*base)).unwrap()
}
