//! The processes of a sweep: for each set of values the settings, variables and folder of its run. Pure.

use super::Error;
use super::substitute;
use crate::project::ProjectFile;
use crate::project::Sweep;
use crate::project::sweep::INDEX;
use crate::project::sweep::Values;
use crate::project::sweep::variable;
use std::collections::BTreeMap;
use std::collections::BTreeSet;

/// So many points a sweep may have where nothing else is said.
pub const MOST: u32 = 1_000;
/// So many points can be asked for.
pub const MOST_EVER: u64 = 100_000;
/// The id of the sweep that a process belongs to.
pub const SWEEP_ID: &str = "POLLINATOR_SWEEP_ID";
/// An array's index.
pub const ARRAY_INDEX: &str = "POLLINATOR_ARRAY_INDEX";
/// Longest name of a point's folder, before its id.
const LONGEST_NAME: usize = 80;

/// One process of a sweep.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// Its number, from 0.
    pub number: u32,
    /// Its values.
    pub values: Values,
    /// The project's settings with the values in their places.
    pub settings: ProjectFile,
    /// Variables that carry them.
    pub env: BTreeMap<String, String>,
}

/// The processes that a project asks for; none where it asks for a single one.
///
/// # Errors
/// [`Error::TooManyPoints`] above `most`; [`Error::Sweep`] where a value cannot stand where it is wanted.
pub fn of(project: &ProjectFile, most: u32) -> Result<Option<Vec<Point>>, Error> {
    let Some(sweep) = &project.sweep else { return Ok(None) };
    let count = sweep.count();
    if count > u64::from(most) {
        return Err(Error::TooManyPoints { points: count, most });
    }
    let points = sweep.points();
    let range = indices(sweep, &points);
    let point = |(number, values): (usize, Values)| {
        let settings = with_values(project, &values)?;
        let mut env: BTreeMap<String, String> = values.iter().map(|(n, v)| (variable(n), v.clone())).collect();
        if let (Some((first, last)), Some((_, index))) = (&range, values.first()) {
            let told = [
                (ARRAY_INDEX, index.clone()),
                // Programs that were written for an array of a scheduler find it there.
                ("SLURM_ARRAY_TASK_ID", index.clone()),
                ("SLURM_ARRAY_TASK_COUNT", count.to_string()),
                ("SLURM_ARRAY_TASK_MIN", first.clone()),
                ("SLURM_ARRAY_TASK_MAX", last.clone()),
            ];
            env.extend(told.map(|(name, value)| (name.to_owned(), value)));
        }
        Ok(Point { number: u32::try_from(number).unwrap_or(u32::MAX), values, settings, env })
    };
    points.into_iter().enumerate().map(point).collect::<Result<_, Error>>().map(Some)
}

/// The files that the commands get: one, or those of a sweep.
pub(super) fn sources(project: &ProjectFile) -> Vec<String> {
    let Some(source) = &project.source else { return Vec::new() };
    match &project.sweep {
        // One with more points is refused for their number.
        Some(sweep) if source.contains('{') && sweep.count() <= MOST_EVER => {
            let all: BTreeSet<String> = sweep.points().iter().map(|values| substitute::literal(source, values)).collect();
            all.into_iter().collect()
        }
        Some(_) if source.contains('{') => Vec::new(),
        _ => vec![source.clone()],
    }
}

/// First and last index of an array.
fn indices(sweep: &Sweep, points: &[Values]) -> Option<(String, String)> {
    let index = |point: Option<&Values>| point.and_then(|values| values.first()).map(|(_, index)| index.clone());
    index(points.first()).zip(index(points.last())).filter(|_| sweep.is_array())
}

fn with_values(project: &ProjectFile, values: &Values) -> Result<ProjectFile, Error> {
    let shell = |key: &'static str, text: &str| {
        substitute::shell(text, values).map_err(|unfit| Error::Sweep { reason: format!("{unfit} in `{key}`") })
    };
    let source = project.source.as_ref().map(|source| substitute::literal(source, values));
    if let Some(bad) = source.as_deref().filter(|source| !stays_below(source)) {
        return Err(Error::Sweep { reason: format!("`source` becomes {bad:?}, which is no path below cfs/src") });
    }
    Ok(ProjectFile {
        cmd: shell("cmd", &project.cmd)?,
        init_cmd: shell("init-cmd", &project.init_cmd)?,
        source,
        ..project.clone()
    })
}

fn stays_below(source: &str) -> bool {
    !source.starts_with('/') && !source.ends_with('/') && source.split('/').all(|part| !part.is_empty() && part != "..")
}

/// Values for a person: `lr=0.1 seed=1`; those of an array: `3`.
pub fn shown(values: &[(String, String)]) -> String {
    match values {
        [(name, index)] if name == INDEX => index.clone(),
        _ => values.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" "),
    }
}

/// The name of a point's folder: its values as far as a file name can tell them, and the beginning of its run's id.
pub(super) fn folder_name(values: &[(String, String)], id: &str) -> String {
    // `%` and `_` stand for any text where other programs ask for labels.
    let fine = |c: char| c.is_ascii_alphanumeric() || ".=,+-".contains(c);
    let told = values.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",");
    let name: String = told.chars().take(LONGEST_NAME).map(|c| if fine(c) { c } else { '-' }).collect();
    format!("{}-{id}", name.trim_start_matches(['.', '-']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(sweep: Sweep) -> ProjectFile {
        ProjectFile {
            projectname: "p".into(),
            cmd: "python3 --lr {lr} --name \"{name}\"".into(),
            source: Some("train-{lr}.py".into()),
            sweep: Some(sweep),
            ..ProjectFile::default()
        }
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.into(), value.into())
    }

    #[test]
    fn values_stand_in_commands_arguments_and_variables() {
        let project = project(Sweep::List(vec![vec![pair("lr", "0.1"), pair("name", "a \"b\"")]]));
        let point = of(&project, MOST).unwrap().unwrap().remove(0);
        assert_eq!(point.settings.cmd, "python3 --lr 0.1 --name \"a \\\"b\\\"\"");
        assert_eq!(point.settings.source.as_deref(), Some("train-0.1.py"));
        let env: Vec<(&str, &str)> = point.env.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(env, [("POLLINATOR_PARAM_LR", "0.1"), ("POLLINATOR_PARAM_NAME", "a \"b\"")]);
        assert_eq!(shown(&point.values), "lr=0.1 name=a \"b\"");
        assert_eq!(folder_name(&point.values, "0123"), "lr=0.1,name=a--b--0123");
    }

    #[test]
    fn an_array_tells_its_index_twice() {
        let array = ProjectFile { cmd: "echo {index}".into(), source: None, ..project(Sweep::Array(vec![3..=4, 9..=9])) };
        let points = of(&array, 3).unwrap().unwrap();
        let env = |name: &str| points.iter().map(|p| p.env[name].as_str()).collect::<Vec<_>>();
        assert_eq!((env(ARRAY_INDEX), env("SLURM_ARRAY_TASK_ID")), (vec!["3", "4", "9"], vec!["3", "4", "9"]));
        assert_eq!((env("SLURM_ARRAY_TASK_COUNT")[0], env("SLURM_ARRAY_TASK_MAX")[0]), ("3", "9"));
        assert_eq!((points[2].settings.cmd.as_str(), shown(&points[2].values)), ("echo 9", "9".to_owned()));
        assert!(matches!(of(&array, 2), Err(Error::TooManyPoints { points: 3, most: 2 })));
    }

    #[test]
    fn a_source_that_would_leave_src_is_refused() {
        for bad in ["../x", "/etc/passwd", "a//b", "a/"] {
            let odd = ProjectFile { source: Some("{lr}".into()), ..project(Sweep::List(vec![vec![pair("lr", bad)]])) };
            assert!(matches!(of(&odd, MOST), Err(Error::Sweep { .. })), "{bad}");
        }
    }
}
