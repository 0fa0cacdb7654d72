//! `project.yaml`: the keys of today's tool, read strictly.

use super::Error;
use super::agent;
use super::agent::AgentSettings;
use super::scalar;
use super::scalar::Check;
use super::sweep;
use super::sweep::Sweep;
use super::sweep::Wrong;
use super::yaml::Document;
use super::yaml::Entry;
use super::yaml::Fault;
use super::yaml::Kind;
use super::yaml::Node;
use super::yaml::Scalar;
use super::yaml::Step;
use super::yaml::Value;
use std::path::Path;

/// GPUs a project asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gpu {
    /// How many.
    pub count: i64,
    /// Model; empty: any.
    pub name: String,
}

/// A tunnel to the first node of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Tunnel {
    pub user: String,
    pub jump_host: String,
    pub jump_host_port: u16,
    pub ssh_key: String,
    pub local_port: u16,
    pub remote_port: u16,
}

/// Where the results of runs lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Results {
    /// All runs write to one folder.
    #[default]
    Shared,
    /// Each run has a folder of its own.
    PerRun,
}

/// What `project.yaml` says, checked and normalised.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProjectFile {
    /// Its place in the colony.
    pub projectname: String,
    /// Executors that may run it.
    pub executor_names: Vec<String>,
    /// Nodes.
    pub nodes: i64,
    /// Processes on each node.
    pub processes_per_node: i64,
    /// CPU, millicores: `1000m`.
    pub cpu: String,
    /// Memory, MiB: `1000Mi`.
    pub mem: String,
    /// Seconds.
    pub walltime: i64,
    /// GPUs.
    pub gpu: Gpu,
    /// Image.
    pub docker: String,
    /// Pull or build it anew.
    pub rebuild_image: bool,
    /// Runs once before the command.
    pub init_cmd: String,
    /// The command, shell text.
    pub cmd: String,
    /// File below cfs/src, handed to the command.
    pub source: Option<String>,
    /// What happens by itself.
    pub agent: AgentSettings,
    /// Tunnel.
    pub tunnel: Option<Tunnel>,
    /// Where results lie.
    pub results: Results,
    /// One process for each of these, instead of one.
    pub sweep: Option<Sweep>,
}

/// Name of the whole file, as a section.
const ROOT: &str = "";

/// Keys by the section they stand in. Those of later versions are known too, and not used yet.
const KNOWN: &[(&str, &[&str])] = &[
    (ROOT, &["projectname", "conditions", "environment", "results", "tunnel", "agent", "sweep"]),
    ("conditions", &["executorNames", "nodes", "processesPerNode", "cpu", "mem", "walltime", "gpu", "array"]),
    ("gpu", &["count", "name"]),
    ("environment", &["docker", "rebuildImage", "init-cmd", "cmd", "source"]),
    ("tunnel", &["user", "jumpHost", "jumpHostPort", "sshKey", "localPort", "remotePort"]),
    ("agent", agent::KEYS),
];

/// Values that hold where the file says nothing, as `pollinator new` writes them.
mod default {
    pub(super) const PLACES: i64 = 1;
    pub(super) const CPU: &str = "1000m";
    pub(super) const MEM: &str = "1000Mi";
    pub(super) const WALLTIME: i64 = 600;
    pub(super) const SSH_PORT: u16 = 22;
}

/// Reads the file's bytes. `path` is how errors name it.
pub(super) fn read(bytes: &[u8], path: &Path) -> Result<(ProjectFile, Vec<String>), Error> {
    let invalid = |line, column, message: String| Error::Invalid { path: path.into(), line, column, message };
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let before = String::from_utf8_lossy(&bytes[..e.valid_up_to()]);
        let last = before.rsplit('\n').next().unwrap_or_default();
        let line = 1 + before.matches('\n').count();
        invalid(line, 1 + last.chars().count(), "the text is not UTF-8".into())
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let document = Document::parse(text).map_err(|Fault { line, column, message }| {
        let indent = text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
        let indent = &indent[..indent.len() - indent.trim_start().len()];
        let advice = if indent.contains('\t') { "; YAML is indented with spaces, not with tabs" } else { "" };
        invalid(line, column, format!("{message}{advice}"))
    })?;
    let mut warnings = Vec::new();
    let settings = Reader { document, path }.settings(&mut warnings)?;
    Ok((settings, warnings))
}

/// A section of the file: the entries of a map. Where the section stands twice, those of both, since later ones hold.
struct Section<'n> {
    name: &'static str,
    entries: Vec<&'n Entry>,
    /// Where a missing key is missing.
    way: &'n [Step],
}

impl<'n> Section<'n> {
    /// The entry that holds: the last of that name.
    fn find(&self, key: &str) -> Option<&'n Entry> {
        self.entries.iter().rev().find(|entry| entry.key == key).copied()
    }
}

struct Reader<'t> {
    document: Document<'t>,
    path: &'t Path,
}

impl Reader<'_> {
    fn settings(&self, warnings: &mut Vec<String>) -> Result<ProjectFile, Error> {
        let root = &self.document.root;
        let Value::Map(entries) = &root.value else {
            return Err(self.invalid(&[], "the file must hold keys and values, such as `projectname: my-project`".into()));
        };
        let whole = Section { name: ROOT, entries: entries.iter().collect(), way: &[] };
        let conditions = self.section(&whole, "conditions")?;
        let gpu = self.section(&conditions, "gpu")?;
        let environment = self.section(&whole, "environment")?;
        let tunnel = self.section(&whole, "tunnel")?;
        let agent = self.section(&whole, "agent")?;
        for section in [&whole, &conditions, &gpu, &environment, &tunnel, &agent] {
            self.unknown_keys(section, warnings);
            self.repeated_keys(section, warnings);
        }
        if self.document.more {
            warnings.push(format!("only the first document of {} (up to `---`) is read", self.path.display()));
        }
        let settings = ProjectFile {
            projectname: self.required(&whole, "projectname", &scalar::NAME)?,
            executor_names: self.names(&conditions, "executorNames")?,
            nodes: self.scalar(&conditions, "nodes", &scalar::PLACES)?.unwrap_or(default::PLACES),
            processes_per_node: self.scalar(&conditions, "processesPerNode", &scalar::PLACES)?.unwrap_or(default::PLACES),
            cpu: self.scalar(&conditions, "cpu", &scalar::CPU)?.unwrap_or_else(|| default::CPU.into()),
            mem: self.scalar(&conditions, "mem", &scalar::MEM)?.unwrap_or_else(|| default::MEM.into()),
            walltime: self.scalar(&conditions, "walltime", &scalar::SECONDS)?.unwrap_or(default::WALLTIME),
            gpu: Gpu { count: self.scalar(&gpu, "count", &scalar::COUNT)?.unwrap_or(0), name: self.text(&gpu, "name")? },
            docker: self.text(&environment, "docker")?,
            rebuild_image: self.scalar(&environment, "rebuildImage", &scalar::FLAG)?.unwrap_or(false),
            init_cmd: self.text(&environment, "init-cmd")?,
            cmd: self.command(&whole, &environment)?,
            agent: self.agent(&agent)?,
            source: self.scalar(&environment, "source", &scalar::SOURCE)?.flatten(),
            tunnel: if tunnel.entries.is_empty() { None } else { Some(self.tunnel(&tunnel)?) },
            results: self.scalar(&whole, "results", &scalar::RESULTS)?.unwrap_or_default(),
            sweep: self.sweep(&whole, &conditions)?,
        };
        self.advise(&settings, &conditions, warnings);
        Ok(settings)
    }

    /// What is legal and may still surprise.
    fn advise(&self, settings: &ProjectFile, conditions: &Section<'_>, warnings: &mut Vec<String>) {
        let file = self.path.display();
        if let Some(odd) = settings.projectname.chars().find(|c| ['%', '_'].contains(c)) {
            warnings.push(format!(
                "`{odd}` in `projectname` matches any text in the file labels of a colony, so other tools may list another \
                 project's files with this one's; letters, digits and - are safe"
            ));
        }
        if conditions.find("walltime").is_none() {
            warnings.push(format!("{file} names no `walltime`: the process is ended after {} s", settings.walltime));
        }
        if settings.source.is_none() {
            warnings.push(format!("{file} names no `source`: the command gets no argument"));
        }
    }

    fn command(&self, whole: &Section<'_>, environment: &Section<'_>) -> Result<String, Error> {
        if whole.find("environment").is_none() {
            return Err(self.invalid(&[], "the key `environment` is missing".into()));
        }
        self.required(environment, "cmd", &scalar::COMMAND)
    }

    fn tunnel(&self, tunnel: &Section<'_>) -> Result<Tunnel, Error> {
        Ok(Tunnel {
            user: self.required(tunnel, "user", &scalar::USER)?,
            jump_host: self.required(tunnel, "jumpHost", &scalar::HOST)?,
            jump_host_port: self.scalar(tunnel, "jumpHostPort", &scalar::PORT)?.unwrap_or(default::SSH_PORT),
            ssh_key: self.text(tunnel, "sshKey")?,
            local_port: self.required(tunnel, "localPort", &scalar::PORT)?,
            remote_port: self.required(tunnel, "remotePort", &scalar::PORT)?,
        })
    }

    /// `sweep`, or `array` in `conditions`.
    fn sweep(&self, whole: &Section<'_>, conditions: &Section<'_>) -> Result<Option<Sweep>, Error> {
        let wrong = |Wrong { way, message }| self.invalid(&way, message);
        let sweep = match whole.find("sweep") {
            Some(entry) => sweep::read(&entry.node, shown).map_err(wrong)?,
            None => None,
        };
        let (Some(entry), Some(text)) = (conditions.find("array"), self.scalar(conditions, "array", &scalar::TEXT)?) else {
            return Ok(sweep);
        };
        if sweep.is_some() {
            return Err(
                self.invalid(&entry.way, "`array` and `sweep` cannot stand in one file; an index may be part of `sweep`".into())
            );
        }
        let array = sweep::indices(&text).map_err(|wanted| self.unfit("array", &entry.node, &wanted))?;
        Ok(Some(array))
    }

    fn agent(&self, section: &Section<'_>) -> Result<AgentSettings, Error> {
        let usual = AgentSettings::default();
        Ok(AgentSettings {
            on_save: self.scalar(section, "onSave", &agent::ON_SAVE)?.unwrap_or(usual.on_save),
            quiet: self.scalar(section, "quiet", &agent::QUIET)?.unwrap_or(usual.quiet),
            when_busy: self.scalar(section, "whenBusy", &agent::WHEN_BUSY)?.unwrap_or(usual.when_busy),
            on_commit: self.scalar(section, "onCommit", &agent::ON_COMMIT)?.unwrap_or(usual.on_commit),
            on_push: self.scalar(section, "onPush", &agent::ON_PUSH)?.unwrap_or(usual.on_push),
            results: self.scalar(section, "results", &agent::RESULTS)?.unwrap_or(usual.results),
            notify: self.scalar(section, "notify", &scalar::FLAG)?.unwrap_or(usual.notify),
            gate_timeout: self.scalar(section, "gateTimeout", &agent::GATE_TIMEOUT)?.unwrap_or(usual.gate_timeout),
        })
    }

    fn invalid(&self, way: &[Step], message: String) -> Error {
        let (line, column) = self.document.place(way);
        Error::Invalid { path: self.path.into(), line, column, message }
    }

    fn at(&self, way: &[Step]) -> String {
        let (line, column) = self.document.place(way);
        format!("{}:{line}:{column}", self.path.display())
    }

    /// A section within another; none is one without entries.
    fn section<'n>(&self, within: &Section<'n>, name: &'static str) -> Result<Section<'n>, Error> {
        let mut section = Section { name, entries: Vec::new(), way: within.way };
        for entry in within.entries.iter().filter(|entry| entry.key == name) {
            section.way = &entry.way;
            match &entry.node.value {
                Value::Map(entries) => section.entries.extend(entries),
                Value::Null => {}
                _ => {
                    let found = shown(&entry.node);
                    return Err(self.invalid(&entry.node.way, format!("`{name}` must hold keys and values, found {found}")));
                }
            }
        }
        Ok(section)
    }

    /// A scalar; none where the key is missing or has no value.
    fn scalar<T>(&self, section: &Section<'_>, key: &str, check: &Check<T>) -> Result<Option<T>, Error> {
        let Some(entry) = section.find(key) else { return Ok(None) };
        let value = match &entry.node.value {
            Value::Null => return Ok(None),
            Value::Scalar(scalar) => (check.read)(scalar),
            _ => None,
        };
        match value {
            Some(value) => Ok(Some(value)),
            None => Err(self.unfit(key, &entry.node, check.wanted)),
        }
    }

    fn unfit(&self, key: &str, node: &Node, wanted: &str) -> Error {
        self.invalid(&node.way, format!("`{key}` must be {wanted}, found {}", shown(node)))
    }

    fn required<T>(&self, section: &Section<'_>, key: &str, check: &Check<T>) -> Result<T, Error> {
        match (self.scalar(section, key, check)?, section.find(key)) {
            (Some(value), _) => Ok(value),
            (None, Some(entry)) => Err(self.unfit(key, &entry.node, check.wanted)),
            (None, None) if section.name == ROOT => Err(self.invalid(&[], format!("the key `{key}` is missing"))),
            (None, None) => Err(self.invalid(section.way, format!("the key `{key}` is missing below `{}`", section.name))),
        }
    }

    fn text(&self, section: &Section<'_>, key: &str) -> Result<String, Error> {
        Ok(self.scalar(section, key, &scalar::TEXT)?.unwrap_or_default())
    }

    /// A list of names; empty items are nobody.
    fn names(&self, section: &Section<'_>, key: &str) -> Result<Vec<String>, Error> {
        let Some(entry) = section.find(key) else { return Ok(Vec::new()) };
        let items = match &entry.node.value {
            Value::Null => return Ok(Vec::new()),
            Value::List(items) => items,
            _ => return Err(self.unfit(key, &entry.node, "a list of names, each in a line of its own after a `-`")),
        };
        let mut names = Vec::new();
        for item in items {
            match &item.value {
                Value::Null => {}
                Value::Scalar(Scalar { text, .. }) if !text.chars().any(char::is_control) => names.push(text.trim().to_owned()),
                _ => {
                    return Err(self.invalid(&item.way, format!("each of `{key}` must be a name, found {}", shown(item))));
                }
            }
        }
        names.retain(|name| !name.is_empty());
        Ok(names)
    }

    fn unknown_keys(&self, section: &Section<'_>, warnings: &mut Vec<String>) {
        let known = KNOWN.iter().find(|(name, _)| *name == section.name).map_or(&[][..], |(_, keys)| keys);
        for entry in section.entries.iter().filter(|entry| !known.contains(&entry.key.as_str())) {
            let place = self.at(&entry.way);
            let advice = advice(&entry.key, known).unwrap_or_default();
            warnings.push(format!("unknown key `{}` at {place} is not used{advice}", entry.key));
        }
    }

    fn repeated_keys(&self, section: &Section<'_>, warnings: &mut Vec<String>) {
        for (number, entry) in section.entries.iter().enumerate() {
            let again = section.entries[..number].iter().any(|earlier| earlier.key == entry.key);
            if again {
                let place = self.at(&entry.way);
                warnings.push(format!("the key `{}` stands more than once; the one at {place} holds", entry.key));
            }
        }
    }
}

/// What a node is, for "found …".
fn shown(node: &Node) -> String {
    match &node.value {
        Value::Null => "nothing".into(),
        Value::List(_) => "a list".into(),
        Value::Map(_) => "keys and values".into(),
        Value::Scalar(Scalar { text, kind: Kind::Text }) => format!("{text:?}"),
        Value::Scalar(Scalar { text, .. }) => text.clone(),
    }
}

/// Which known key was probably meant: first among those of the same section.
fn advice(key: &str, known: &[&'static str]) -> Option<String> {
    const NEAR: f64 = 0.75;
    let plain = |text: &str| text.to_lowercase().replace(['-', '_'], "");
    // One slip of the finger is near, however short the word: `mme` for `mem`.
    let rate = |a: &str, b: &str| match strsim::osa_distance(a, b) {
        0 => 1.0,
        1 => 0.95,
        _ => strsim::jaro_winkler(a, b),
    };
    let nearest = |keys: &mut dyn Iterator<Item = (&'static str, &'static str)>| {
        let rated = keys.map(|(place, other)| (rate(&plain(key), &plain(other)), place, other));
        rated.filter(|(near, ..)| *near > NEAR).max_by(|a, b| a.0.total_cmp(&b.0))
    };
    if let Some((_, _, near)) = nearest(&mut known.iter().map(|k| (ROOT, *k))) {
        return Some(format!("; did you mean `{near}`?"));
    }
    let mut elsewhere = KNOWN.iter().flat_map(|(place, keys)| keys.iter().map(move |k| (*place, *k)));
    let (_, place, near) = nearest(&mut elsewhere)?;
    let place = if place == ROOT { "at the beginning of a line".to_owned() } else { format!("below `{place}`") };
    Some(format!("; did you mean `{near}`, {place}?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "projectname: p\nconditions:\n  executorNames:\n  - a\n  nodes: 2\n  processesPerNode: 1\n  cpu: 1000m\n  mem: 1Gi\n  walltime: 600\n  gpu:\n    count: 1\n    name: v100\nenvironment:\n  docker: python:3.12\n  rebuildImage: false\n  init-cmd: pip3 install numpy\n  cmd: python3\n  source: main.py\n";

    fn refused(text: &str) -> String {
        read(text.as_bytes(), Path::new("project.yaml")).unwrap_err().to_string()
    }

    fn warned(text: &str) -> Vec<String> {
        read(text.as_bytes(), Path::new("project.yaml")).unwrap().1
    }

    #[test]
    fn every_key_is_read() {
        let (file, warnings) = read(WHOLE.as_bytes(), Path::new("project.yaml")).unwrap();
        assert!(warnings.is_empty(), "{warnings:?}");
        assert_eq!((file.projectname.as_str(), file.nodes, file.mem.as_str(), file.walltime), ("p", 2, "1024Mi", 600));
        assert_eq!((file.gpu.count, file.gpu.name.as_str()), (1, "v100"));
        assert_eq!(
            (file.init_cmd.as_str(), file.cmd.as_str(), file.source.as_deref()),
            ("pip3 install numpy", "python3", Some("main.py"))
        );
        let windows = format!("\u{feff}{}", WHOLE.replace('\n', "\r\n"));
        assert_eq!(read(windows.as_bytes(), Path::new("p")).unwrap().0, file);
    }

    #[test]
    fn errors_name_key_place_and_what_was_expected() {
        let cases = [
            (WHOLE.replace("600", "ten"), "`walltime` must be a number of seconds above 0, found \"ten\" at project.yaml:9:13"),
            (WHOLE.replace("600", "0"), "`walltime` must be a number of seconds above 0, found 0 at project.yaml:9:13"),
            (WHOLE.replace("nodes: 2", "nodes: 200"), "`nodes` must be a number from 1 to 127, found 200 at project.yaml:5:10"),
            (
                WHOLE.replace("1Gi", "lots"),
                "`mem` must be an amount of memory such as 1000Mi, 16Gi or 1G, found \"lots\" at project.yaml:8:8",
            ),
            (WHOLE.replace("count: 1", "count: -1"), "`count` must be a number, 0 or above, found -1 at project.yaml:11:12"),
            (WHOLE.replace("false", "perhaps"), "`rebuildImage` must be true or false, found \"perhaps\" at project.yaml:15:17"),
            (
                WHOLE.replace("main.py", "../x.py"),
                "`source` must be a path below cfs/src, without `..`, found \"../x.py\" at project.yaml:18:11",
            ),
            (
                WHOLE.replace("projectname: p", "projectname: a/b"),
                "`projectname` must be a name without / and control characters",
            ),
        ];
        for (text, expected) in cases {
            let said = refused(&text);
            assert!(said.starts_with(expected), "{said}\ninstead of\n{expected}");
        }
    }

    #[test]
    fn what_is_no_project_at_all_is_refused_with_a_place() {
        assert_eq!(refused(""), "the file must hold keys and values, such as `projectname: my-project` at project.yaml:1:1");
        assert_eq!(
            refused("- a\n- b\n"),
            "the file must hold keys and values, such as `projectname: my-project` at project.yaml:1:1"
        );
        assert!(refused("projectname: p\n").contains("`environment` is missing"), "{}", refused("projectname: p\n"));
        assert!(refused(&WHOLE.replace("  cmd: python3\n", "")).contains("`cmd` is missing"));
        assert!(refused(&WHOLE.replace("  cmd: python3\n", "  cmd:\n")).contains("`cmd` must be a command"));
        assert!(
            refused(&WHOLE.replace("  nodes", "\tnodes")).contains("project.yaml:5"),
            "{}",
            refused(&WHOLE.replace("  nodes", "\tnodes"))
        );
        let latin = [b"projectname: p\nconditions: \xe5".as_slice()].concat();
        let said = read(&latin, Path::new("project.yaml")).unwrap_err().to_string();
        assert_eq!(said, "the text is not UTF-8 at project.yaml:2:13");
        let list = refused(&WHOLE.replace("walltime: 600", "walltime: [1]"));
        assert!(list.starts_with("`walltime` must be a number of seconds above 0, found a list at project.yaml:9"), "{list}");
    }

    #[test]
    fn results_are_shared_unless_each_run_is_to_have_its_own() {
        let read = |more: &str| read(format!("{WHOLE}{more}").as_bytes(), Path::new("project.yaml")).unwrap();
        for (more, expected) in
            [("", Results::Shared), ("results: shared\n", Results::Shared), ("results: perRun\n", Results::PerRun)]
        {
            let (file, warnings) = read(more);
            assert_eq!((file.results, warnings.len()), (expected, 0), "{more}");
        }
        let said = refused(&format!("{WHOLE}results: perrun\n"));
        assert_eq!(said, "`results` must be shared or perRun, found \"perrun\" at project.yaml:19:10");
        assert!(read("result: perRun\n").1[0].ends_with("did you mean `results`?"));
    }

    #[test]
    fn unknown_keys_are_named_with_the_nearest() {
        let typo = warned(&WHOLE.replace("walltime", "walltme"));
        assert_eq!(typo[0], "unknown key `walltme` at project.yaml:9:3 is not used; did you mean `walltime`?");
        assert_eq!(typo[1], "project.yaml names no `walltime`: the process is ended after 600 s");
        let moved = warned(&WHOLE.replace("rebuildImage", "rebuild-image"));
        assert!(moved[0].contains("did you mean `rebuildImage`?"), "{moved:?}");
        assert!(warned(&format!("{WHOLE}agent:\n  onSave: sync\nsweep:\n  lr: [1]\n")).is_empty());
    }
}
