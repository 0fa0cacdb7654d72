//! Tests of the settings as a whole.

use super::*;
use std::collections::BTreeMap;

const COLONY: [(&str, &str); 6] = [
    ("COLONIES_SERVER_HOST", "colonies.example.org"),
    ("COLONIES_COLONY_NAME", "lab"),
    ("AWS_S3_ENDPOINT", "s3.example.org:9000"),
    ("AWS_S3_ACCESSKEY", "access"),
    ("AWS_S3_SECRETKEY", "5ecre7too"),
    ("AWS_S3_BUCKET", "b"),
];
const KEY: &str = "1111111111111111111111111111111111111111111111111111111111111111";
const OWNER: &str = "2222222222222222222222222222222222222222222222222222222222222222";

struct Desk {
    home: tempfile::TempDir,
}

impl Desk {
    fn new() -> Desk {
        Desk { home: tempfile::tempdir().unwrap() }
    }

    fn sources(&self, variables: &[(&str, &str)]) -> Sources {
        let all = COLONY.iter().chain(variables);
        let mut environment: BTreeMap<String, String> = all.map(|(k, v)| ((*k).into(), (*v).into())).collect();
        environment.insert("HOME".into(), self.home.path().to_string_lossy().into_owned());
        Sources { environment, profile: None }
    }

    fn asked(&self, backend: &str, text: &str) -> Asked {
        let path = self.home.path().join("e.toml");
        std::fs::write(&path, text).unwrap();
        let backend = (!backend.is_empty()).then(|| backend.to_owned());
        Asked { backend, config: Some(path), ..Asked::default() }
    }

    fn load(&self, backend: &str, text: &str, variables: &[(&str, &str)]) -> Result<Loaded, Error> {
        load(&self.sources(variables), &self.asked(backend, text))
    }
}

#[test]
fn the_command_line_wins_over_the_environment_and_that_over_the_file() {
    let desk = Desk::new();
    let text = "backend = \"process\"\nname = \"file\"\ntype = \"t\"\nfs-dir = \"files\"\n[limits]\ncpu = 16\nmem = \"none\"\n";
    let mut asked = desk.asked("slurm", text);
    let sources = desk.sources(&[("COLONIES_EXECUTOR_NAME", "variable"), ("SLURM_ACCOUNT", "project_1")]);
    let loaded = load(&sources, &asked).unwrap();
    let options = &loaded.options;
    assert_eq!((options.name.as_str(), options.executor_type.as_str()), ("variable", "t"));
    assert!(matches!(&options.backend, Backend::Slurm(s) if s.account.as_deref() == Some("project_1")));
    assert_eq!(options.fs_dir, desk.home.path().join("files"), "beside the file");
    assert!(options.state_dir.ends_with(".local/state/pollinator/executors/variable"));
    let want = Capacity { slots: SLOTS_THERE, cpu_millis: Some(16_000), mem_mib: None, gpus: None };
    assert_eq!(options.capacity, want);
    asked.name = Some("flag".into());
    asked.state_dir = Some("/elsewhere".into());
    let loaded = load(&sources, &asked).unwrap();
    assert_eq!(loaded.options.name, "flag");
    let origin = |name: &str| loaded.shown.rows.iter().find(|row| row.name == name).unwrap().origin.clone();
    assert_eq!((origin("name").as_str(), origin("slurm.account").as_str()), ("command line", "environment, SLURM_ACCOUNT"));
    assert_eq!(origin("state-dir"), "command line");
    assert!(origin("limits.cpu").ends_with("e.toml"));
    assert_eq!(origin("limits.slots"), "default");
}

#[test]
fn paths_are_meant_from_the_files_own_folder() {
    let desk = Desk::new();
    let text = "backend = \"slurm\"\nname = \"n\"\njobs-dir = \"../jobs\"\n[slurm]\nprograms = \"bin\"\naccount = \"a\"\n\
                [images]\nprogram = \"apptainer\"\nfolder = \"sif\"\nlocal-folders = [\"~/images\", \"more\", \"/opt/sif\"]\n";
    let loaded = desk.load("", text, &[]).unwrap();
    let home = desk.home.path();
    let Backend::Slurm(slurm) = &loaded.options.backend else { panic!() };
    assert_eq!(loaded.options.jobs_dir, Some(home.join("../jobs")));
    assert_eq!((&slurm.programs, slurm.account.as_deref()), (&Some(home.join("bin")), Some("a")));
    assert_eq!(slurm.images.program.as_deref(), Some(Path::new("apptainer")), "a program of PATH");
    assert_eq!(slurm.images.folder, Some(home.join("sif")));
    assert_eq!(slurm.images.local_folders, [home.join("images"), home.join("more"), "/opt/sif".into()]);
}

#[test]
fn every_variable_of_todays_executors_has_an_effect() {
    let desk = Desk::new();
    let set = [
        ("COLONIES_EXECUTOR_NAME", "lumi"),
        ("EXECUTOR_TYPE", "hpc"),
        ("EXECUTOR_FS_DIR", "/scratch/cfs"),
        ("EXECUTOR_LOG_DIR", "/scratch/logs"),
        ("EXECUTOR_IMAGE_DIR", "/scratch/images"),
        ("EXECUTOR_HOME_DIR", "/home/x"),
        ("EXECUTOR_HW_MODEL", "AMD"),
        ("EXECUTOR_HW_NODES", "10"),
        ("EXECUTOR_HW_CPU", "2560000m"),
        ("EXECUTOR_HW_MEM", "512Gi"),
        ("EXECUTOR_HW_STORAGE", "1Ti"),
        ("EXECUTOR_HW_GPU_NAME", "mi250"),
        ("EXECUTOR_HW_GPU_MEM", "64Gi"),
        ("EXECUTOR_HW_GPU_COUNT", "8"),
        ("EXECUTOR_HW_GPU_NODES_COUNT", "8"),
        ("EXECUTOR_SW_NAME", "colonyos/hpcexecutor"),
        ("EXECUTOR_SW_TYPE", "hpc"),
        ("EXECUTOR_SW_VERSION", "1"),
        ("EXECUTOR_LOCATION_LONG", "27.7"),
        ("EXECUTOR_LOCATION_LAT", "64.2"),
        ("EXECUTOR_LOCATION_DESC", "Kajaani"),
        ("EXECUTOR_HW_CORES", "20480"),
        ("EXECUTOR_HW_PLATFORM", "linux"),
        ("EXECUTOR_HW_ARCHITECTURE", "x86_64"),
        ("EXECUTOR_HW_NETWORK", "slingshot ethernet"),
        ("SLURM_ACCOUNT", "project_1"),
        ("SLURM_PARTITION", "small-g"),
        ("SLURM_MODULE", "rocm"),
        ("GRES", "false"),
        ("EXECUTOR_ROCM", "true"),
        ("EXECUTOR_DEVMODE", "true"),
        ("SINGULARITY_CACHEDIR", "/scratch/cache"),
        ("SINGULARITY_TMPDIR", "/scratch/tmp"),
        ("EXECUTOR_ADD_DEBUG_LOGS", "true"),
        ("COLONIES_SERVER_TLS", "false"),
        ("COLONIES_PRVKEY", KEY),
        ("AWS_S3_REGION_KEY", "eu"),
    ];
    let loaded = desk.load("slurm", "", &set).unwrap();
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    let options = loaded.into_options().unwrap();
    let Backend::Slurm(slurm) = &options.backend else { panic!("{:?}", options.backend) };
    assert_eq!((options.name.as_str(), options.executor_type.as_str()), ("lumi", "hpc"));
    assert_eq!(options.fs_dir, Path::new("/scratch/cfs"));
    assert_eq!((slurm.partition.as_deref(), slurm.account.as_deref()), (Some("small-g"), Some("project_1")));
    assert_eq!((slurm.modules.as_slice(), slurm.request_resources), (&["rocm".to_owned()][..], false));
    assert_eq!(slurm.gpu_request, crate::executor::backend::slurm::GpuRequest::GpusPerNode);
    assert!(slurm.images.rocm);
    assert_eq!(slurm.images.folder.as_deref(), Some(Path::new("/scratch/images")));
    assert_eq!(slurm.images.cache.as_deref(), Some(Path::new("/scratch/cache")));
    assert_eq!(slurm.images.temporary.as_deref(), Some(Path::new("/scratch/tmp")));
    assert_eq!(options.jobs_dir.as_deref(), Some(Path::new("/scratch/logs")));
    assert_eq!((slurm.home.as_deref(), options.tell_steps), (Some("/home/x"), true));
    let gpu = Gpu { name: "mi250".into(), mem: "64Gi".into(), count: 8, nodecount: 8 };
    let hardware = Hardware {
        model: "AMD".into(),
        nodes: 10,
        cpu: "2560000m".into(),
        cores: 20480,
        mem: "512Gi".into(),
        storage: "1Ti".into(),
        platform: "linux".into(),
        architecture: "x86_64".into(),
        network: vec!["slingshot".into(), "ethernet".into()],
        gpu,
    };
    assert_eq!(options.described.hardware, hardware);
    let software = Software { name: "colonyos/hpcexecutor".into(), kind: "hpc".into(), version: "1".into() };
    assert_eq!((options.described.software.as_slice(), options.described.location.as_str()), (&[software][..], "Kajaani"));
    assert_eq!((options.access.tls, options.access.key.expose(), options.store.region.as_str()), (false, KEY, "eu"));
    let kubernetes = [
        ("EXECUTOR_HW_TOTAL_CPU", "4000m"),
        ("EXECUTOR_HW_TOTAL_MEM", "8Gi"),
        ("EXECUTOR_K8S_NAMESPACE", "jobs"),
        ("EXECUTOR_K8S_PVC", "files"),
        // Known, and without an effect.
        ("EXECUTOR_K8S_NAME", "cluster"),
    ];
    let loaded = desk.load("kubernetes", "", &kubernetes).unwrap();
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    let (capacity, told) = (loaded.options.capacity, &loaded.options.described.hardware);
    assert_eq!((capacity.cpu_millis, capacity.mem_mib), (Some(4000), Some(8192)));
    assert_eq!((told.cpu.as_str(), told.mem.as_str()), ("4000m", "8Gi"));
    let Backend::Kubernetes(kubernetes) = &loaded.options.backend else { panic!("{:?}", loaded.options.backend) };
    assert_eq!((kubernetes.namespace.as_deref(), kubernetes.volume_claim.as_str()), (Some("jobs"), "files"));
    assert!(!loaded.shown.rows.iter().any(|row| row.value.as_deref() == Some("cluster")));
}

#[test]
fn where_an_executor_stands_is_checked_and_shown() {
    let desk = Desk::new();
    let set = [("EXECUTOR_LOCATION_LONG", "27.7"), ("EXECUTOR_LOCATION_LAT", "64.2"), ("EXECUTOR_LOCATION_NAME", "Kajaani")];
    let loaded = desk.load("process", "", &set).unwrap();
    let row = |name: &str| {
        let row = loaded.shown.rows.iter().find(|row| row.name == name).unwrap();
        (row.value.clone().unwrap(), row.origin.clone())
    };
    assert_eq!(row("location.long"), ("27.7".into(), "environment, EXECUTOR_LOCATION_LONG".into()));
    assert_eq!(row("location.lat"), ("64.2".into(), "environment, EXECUTOR_LOCATION_LAT".into()));
    for name in ["EXECUTOR_LOCATION_LONG", "EXECUTOR_LOCATION_LAT"] {
        let said = desk.load("process", "", &[(name, "north")]).unwrap_err().to_string();
        assert_eq!(said, format!("environment, {name}: must be a number, found \"north\""));
    }
}

/// The examples as they stand, or with all that is only suggested in them.
fn examples(suggested: bool) -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/executor");
    // `#key = …` is a setting, `# Words` are words.
    let plain = |line: &str| match line.strip_prefix('#').filter(|rest| suggested && !rest.is_empty() && !rest.starts_with(' ')) {
        Some(setting) => format!("{setting}\n"),
        None => format!("{line}\n"),
    };
    let read = |entry: std::fs::DirEntry| {
        let text = std::fs::read_to_string(entry.path()).unwrap();
        (entry.file_name().into_string().unwrap(), text.lines().map(plain).collect::<String>())
    };
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries.filter(|entry| entry.path().extension().is_some_and(|ending| ending == "toml")).map(read).collect()
}

#[test]
fn every_example_can_be_used_as_it_stands_and_with_what_it_suggests() {
    use std::os::unix::fs::PermissionsExt;
    let home = tempfile::tempdir().unwrap();
    let keys = home.path().join(".config/pollinator");
    std::fs::create_dir_all(&keys).unwrap();
    for (name, key) in [("store.key", "5ecre7too"), ("owner.key", OWNER)] {
        std::fs::write(keys.join(name), key).unwrap();
        std::fs::set_permissions(keys.join(name), std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    let variables = [("HOME", home.path().to_str().unwrap())].map(|(name, value)| (name.to_owned(), value.to_owned()));
    // What comes from a Secret in the cluster.
    let secrets = [("AWS_S3_ACCESSKEY", "lab-access"), ("AWS_S3_SECRETKEY", "5ecre7too"), ("COLONIES_COLONY_PRVKEY", OWNER)];
    let mut backends = Vec::new();
    for (name, text) in examples(false).into_iter().chain(examples(true)) {
        let mut environment = BTreeMap::from(variables.clone());
        if name == "kubernetes.toml" {
            environment.extend(secrets.map(|(name, value)| (name.to_owned(), value.to_owned())));
        }
        // The shell that prints a key has the home folder of whoever runs the test.
        let text = text.replace("\"cat ~/", &format!("\"cat {}/", home.path().display()));
        let path = home.path().join(&name);
        std::fs::write(&path, &text).unwrap();
        let asked = Asked { config: Some(path), ..Asked::default() };
        let loaded = load(&Sources { environment, profile: None }, &asked).unwrap_or_else(|e| panic!("{name}: {e}\n{text}"));
        assert!(loaded.warnings.is_empty(), "{name}: {:?}", loaded.warnings);
        assert_eq!(format!("{}.toml", loaded.options.backend.name()), name);
        assert_eq!(loaded.options.store.secret_key.expose(), "5ecre7too", "{name}");
        if text.contains("\nowner-key-file") {
            assert_eq!(loaded.options.owner_key.as_ref().map(Secret::expose), Some(OWNER), "{name}");
        }
        backends.push(loaded.options.backend.name());
    }
    backends.sort_unstable();
    backends.dedup();
    assert_eq!(backends, ["container", "kubernetes", "process", "slurm"]);
}

#[test]
fn a_key_of_its_own_is_made_once_and_outlives_the_owners() {
    let desk = Desk::new();
    let set = [("COLONIES_COLONY_PRVKEY", OWNER), ("COLONIES_PRVKEY", KEY)];
    let first = desk.load("process", "", &set).unwrap();
    assert!(!first.options.state_dir.exists(), "nothing is made by looking");
    let first = first.into_options().unwrap();
    assert_ne!(first.access.key.expose(), KEY, "with the owner's key, the executor has its own");
    // The owner's key is gone, and the one in the shell is somebody's.
    let again = desk.load("process", "", &[("COLONIES_PRVKEY", KEY)]).unwrap();
    let told = again.shown.rows.iter().find(|row| row.name == "key").unwrap().value.clone().unwrap();
    assert!(told.contains("the key that was given is not used"), "{told}");
    assert_eq!(again.into_options().unwrap().access.key, first.access.key);
}

#[test]
fn nothing_that_is_shown_is_a_secret() {
    let desk = Desk::new();
    let set = [("COLONIES_COLONY_PRVKEY", OWNER), ("COLONIES_PRVKEY", KEY)];
    let loaded = desk.load("process", "", &set).unwrap();
    let shown = format!("{loaded:?} {}", serde_json::to_string(&loaded.shown).unwrap());
    assert!(!shown.contains(KEY) && !shown.contains(OWNER) && !shown.contains("5ecre7too"), "{shown}");
    let options = loaded.into_options().unwrap();
    assert!(!format!("{options:?}").contains(options.access.key.expose()));
}

#[test]
fn what_cannot_work_is_refused_by_name() {
    let desk = Desk::new();
    let said = |backend: &str, text: &str, set: &[(&str, &str)]| desk.load(backend, text, set).unwrap_err().to_string();
    assert!(matches!(desk.load("", "", &[]).unwrap_err(), Error::NoBackend));
    assert!(said("docker", "", &[]).contains("process, container, slurm or kubernetes, found \"docker\""));
    assert!(said("process", "name = \"../x\"\n", &[]).contains("the executor's name"));
    assert!(said("slurm", "[limits]\ncpu = \"auto\"\n", &[]).contains("limits.cpu"));
    assert!(said("process", "[limits]\nmem = \"lots\"\n", &[]).contains("limits.mem"));
    assert!(said("process", "[limits]\nslots = 0\n", &[]).contains("limits.slots"));
    let total = said("kubernetes", "", &[("EXECUTOR_HW_TOTAL_CPU", "some")]);
    assert_eq!(
        total,
        "limits.cpu (environment, EXECUTOR_HW_TOTAL_CPU): must be millicores or cores, as `1500m` or `2`, found \"some\""
    );
    let bad_key = said("process", "", &[("COLONIES_COLONY_PRVKEY", "5ecre7")]);
    assert!(!bad_key.contains("5ecre7") && bad_key.contains("64 hexadecimal digits"), "{bad_key}");
}
