//! `project.yaml`: the keys of today's tool, read strictly.

use super::Error;
use super::scalar::Count;
use super::scalar::Cpu;
use super::scalar::Flag;
use super::scalar::MARK;
use super::scalar::Mem;
use super::scalar::Name;
use super::scalar::Places;
use super::scalar::Port;
use super::scalar::Seconds;
use super::scalar::Source;
use super::scalar::Text;
use serde::Deserialize;
use serde_yaml::Value;
use std::path::Path;

/// GPUs a project asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gpu {
    /// How many.
    pub count: i64,
    /// Model; empty: any.
    pub name: String,
}

/// A tunnel to the first node of a process. Read and checked; not opened yet.
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
    /// Tunnel.
    pub tunnel: Option<Tunnel>,
}

#[derive(Deserialize)]
struct Raw {
    projectname: Name,
    #[serde(default)]
    conditions: RawConditions,
    environment: RawEnvironment,
    #[serde(default)]
    tunnel: Option<RawTunnel>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawConditions {
    executor_names: Vec<Text>,
    nodes: Option<Places>,
    processes_per_node: Option<Places>,
    cpu: Option<Cpu>,
    mem: Option<Mem>,
    walltime: Option<Seconds>,
    gpu: RawGpu,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawGpu {
    count: Option<Count>,
    name: Option<Text>,
}

#[derive(Deserialize)]
struct RawEnvironment {
    docker: Option<Text>,
    #[serde(rename = "rebuildImage")]
    rebuild_image: Option<Flag>,
    #[serde(rename = "init-cmd")]
    init_cmd: Option<Text>,
    cmd: Text,
    source: Option<Source>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawTunnel {
    user: Text,
    jump_host: Text,
    jump_host_port: Option<Port>,
    ssh_key: Option<Text>,
    local_port: Port,
    remote_port: Port,
}

impl From<Raw> for ProjectFile {
    fn from(raw: Raw) -> ProjectFile {
        let text = |t: Option<Text>| t.map(|t| t.0).unwrap_or_default();
        let RawConditions { executor_names, nodes, processes_per_node, cpu, mem, walltime, gpu } = raw.conditions;
        let environment = raw.environment;
        ProjectFile {
            projectname: raw.projectname.0,
            executor_names: executor_names.into_iter().map(|name| name.0.trim().to_owned()).filter(|n| !n.is_empty()).collect(),
            nodes: nodes.map_or(1, |n| n.0),
            processes_per_node: processes_per_node.map_or(1, |n| n.0),
            cpu: cpu.map_or_else(|| "1000m".into(), |c| c.0),
            mem: mem.map_or_else(|| "1000Mi".into(), |m| m.0),
            walltime: walltime.map_or(600, |w| w.0),
            gpu: Gpu { count: gpu.count.map_or(0, |c| c.0), name: text(gpu.name) },
            docker: text(environment.docker),
            rebuild_image: environment.rebuild_image.is_some_and(|f| f.0),
            init_cmd: text(environment.init_cmd),
            cmd: environment.cmd.0,
            source: environment.source.and_then(|s| s.0),
            tunnel: raw.tunnel.map(|t| Tunnel {
                user: t.user.0,
                jump_host: t.jump_host.0,
                jump_host_port: t.jump_host_port.map_or(22, |p| p.0),
                ssh_key: text(t.ssh_key),
                local_port: t.local_port.0,
                remote_port: t.remote_port.0,
            }),
        }
    }
}

/// Keys by the map they stand in; `""` is the whole file. Those of later versions are known too, and not used yet.
const KNOWN: &[(&str, &[&str])] = &[
    ("", &["projectname", "conditions", "environment", "tunnel", "agent", "sweep"]),
    ("conditions", &["executorNames", "nodes", "processesPerNode", "cpu", "mem", "walltime", "gpu", "array"]),
    ("conditions.gpu", &["count", "name"]),
    ("environment", &["docker", "rebuildImage", "init-cmd", "cmd", "source"]),
    ("tunnel", &["user", "jumpHost", "jumpHostPort", "sshKey", "localPort", "remotePort"]),
];

/// Reads the file's bytes. `path` is how errors name it.
pub(super) fn read(bytes: &[u8], path: &Path) -> Result<(ProjectFile, Vec<String>), Error> {
    let invalid = |line, column, message: String| Error::Invalid { path: path.into(), line, column, message };
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let before = &bytes[..e.valid_up_to()];
        let line = 1 + before.iter().filter(|b| **b == b'\n').count();
        let column = 1 + before.iter().rev().take_while(|b| **b != b'\n').count();
        invalid(line, column, "the text is not UTF-8".into())
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let wrong = |error: serde_yaml::Error| {
        let place = error.location();
        let (line, column) = place.map_or((1, 1), |p| (p.line(), p.column()));
        invalid(line, column, message(&error))
    };
    let value: Value = serde_yaml::from_str(text).map_err(wrong)?;
    if !value.is_mapping() {
        return Err(invalid(1, 1, "the file must hold keys and values, such as `projectname: my-project`".into()));
    }
    let raw: Raw = serde_yaml::from_str(text).map_err(wrong)?;
    let mut warnings = Vec::new();
    for (place, known) in KNOWN {
        unknown_keys(&value, place, known, text, path, &mut warnings);
    }
    let settings = ProjectFile::from(raw);
    if settings.cmd.trim().is_empty() {
        return Err(invalid(line_of(text, "cmd").unwrap_or(1), 1, "`cmd` must be a command, found nothing".into()));
    }
    if settings.source.is_none() {
        warnings.push(format!("{} names no `source`: the command gets no argument", path.display()));
    }
    if settings.tunnel.is_some() {
        warnings.push("`tunnel` is read, but this version opens no tunnel".into());
    }
    Ok((settings, warnings))
}

/// serde_yaml's message in our words: `` `key` must be …`` instead of `conditions.key: … at line 1 column 2`.
fn message(error: &serde_yaml::Error) -> String {
    let text = error.to_string();
    let text = match text.rfind(" at line ") {
        Some(at) if error.location().is_some() => &text[..at],
        _ => &text,
    };
    if let Some((path, ours)) = text.split_once(MARK) {
        let path = path.trim_end_matches(": ");
        // A list or map where a scalar was wanted: `invalid type: map, expected \u{1}a text`.
        if let Some((path, found)) = path.split_once("invalid type: ").map(|(p, rest)| (p.trim_end_matches(": "), rest)) {
            let found = found.split(',').next().unwrap_or(found);
            return format!("`{}` must be {ours}, found a {}", last(path), if found == "sequence" { "list" } else { found });
        }
        return format!("`{}` {ours}", last(path));
    }
    if let Some(missing) = text.strip_prefix("missing field ").or_else(|| text.split(": missing field ").nth(1)) {
        return format!("the key {missing} is missing");
    }
    match text.split_once(": invalid type: ") {
        Some((path, rest)) => format!("`{}` has the wrong type: {rest}", last(path)),
        None => text.to_owned(),
    }
}

/// The key itself of a path such as `conditions.gpu.count` or `conditions.executorNames[0]`.
fn last(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

fn unknown_keys(value: &Value, place: &str, known: &[&str], text: &str, path: &Path, warnings: &mut Vec<String>) {
    let map = place.split('.').filter(|p| !p.is_empty()).try_fold(value, |v, key| v.get(key));
    let Some(map) = map.and_then(Value::as_mapping) else { return };
    for key in map.keys() {
        let Some(key) = key.as_str() else { continue };
        if known.contains(&key) {
            continue;
        }
        let all = KNOWN.iter().flat_map(|(_, keys)| keys.iter());
        let near = known.iter().chain(all).map(|k| (strsim::jaro_winkler(&k.to_lowercase(), &key.to_lowercase()), *k));
        let best = near.fold((0.0, ""), |best, next| if next.0 > best.0 { next } else { best });
        let line = line_of(text, key).map_or_else(String::new, |line| format!(":{line}"));
        let advice = if best.0 > 0.75 { format!("; did you mean `{}`?", best.1) } else { String::new() };
        warnings.push(format!("unknown key `{key}` at {}{line} is not used{advice}", path.display()));
    }
}

/// Line of a key, from 1: the first line that begins with it.
fn line_of(text: &str, key: &str) -> Option<usize> {
    let begins = |line: &str| {
        let rest = line.trim_start_matches([' ', '-', '"', '\'']).strip_prefix(key);
        rest.is_some_and(|rest| rest.trim_start_matches(['"', '\'']).trim_start().starts_with(':'))
    };
    text.lines().position(begins).map(|at| at + 1)
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
        assert!(refused(&format!("{WHOLE}projectname: q\n")).contains("duplicate"));
        let latin = [b"projectname: p\nconditions: \xe5".as_slice()].concat();
        let said = read(&latin, Path::new("project.yaml")).unwrap_err().to_string();
        assert_eq!(said, "the text is not UTF-8 at project.yaml:2:13");
        let list = refused(&WHOLE.replace("walltime: 600", "walltime: [1]"));
        assert!(list.starts_with("`walltime` must be a number of seconds above 0, found a list at project.yaml:9"), "{list}");
    }

    #[test]
    fn unknown_keys_are_named_with_the_nearest() {
        let typo = warned(&WHOLE.replace("walltime", "walltme"));
        assert_eq!(typo, ["unknown key `walltme` at project.yaml:9 is not used; did you mean `walltime`?"]);
        let moved = warned(&WHOLE.replace("rebuildImage", "rebuild-image"));
        assert!(moved[0].contains("did you mean `rebuildImage`?"), "{moved:?}");
        assert!(warned(&format!("{WHOLE}agent:\n  onSave: sync\nsweep:\n  lr: [1]\n")).is_empty());
    }
}
