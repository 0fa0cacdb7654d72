//! `sweep` and `conditions.array`: one process for each of several sets of values.

use super::yaml::Node;
use super::yaml::Scalar;
use super::yaml::Step;
use super::yaml::Value;
use std::ops::RangeInclusive;

/// The values of one process by their names, in the order of the file.
pub type Values = Vec<(String, String)>;

/// Name of the one value of an array.
pub const INDEX: &str = "index";
/// Largest index of an array.
const MOST_INDEX: u64 = 1_000_000_000;
/// Longest value, in bytes: it becomes part of a variable and of a command.
const LONGEST: usize = 4096;

/// The sets of values that a project asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sweep {
    /// Every combination of the values of several names: the last name changes fastest.
    Product(Vec<(String, Vec<String>)>),
    /// The combinations one by one.
    List(Vec<Values>),
    /// Indices, ascending, without repetition.
    Array(Vec<RangeInclusive<u64>>),
}

impl Sweep {
    /// How many processes it asks for.
    pub fn count(&self) -> u64 {
        match self {
            Sweep::Product(axes) => axes.iter().fold(1, |n: u64, (_, values)| n.saturating_mul(values.len() as u64)),
            Sweep::List(points) => points.len() as u64,
            Sweep::Array(ranges) => ranges.iter().fold(0, |n: u64, r| n.saturating_add(r.end() - r.start() + 1)),
        }
    }

    /// Whether it is a list of indices.
    pub fn is_array(&self) -> bool {
        matches!(self, Sweep::Array(_))
    }

    /// The values of each process. To be asked for after [`Sweep::count`] was found bearable.
    pub fn points(&self) -> Vec<Values> {
        match self {
            Sweep::Product(axes) => product(axes),
            Sweep::List(points) => points.clone(),
            Sweep::Array(ranges) => {
                ranges.iter().cloned().flatten().map(|index| vec![(INDEX.to_owned(), index.to_string())]).collect()
            }
        }
    }
}

fn product(axes: &[(String, Vec<String>)]) -> Vec<Values> {
    axes.iter().fold(vec![Vec::new()], |points: Vec<Values>, (name, values)| {
        let with = |point: &Values, value: &String| [point.as_slice(), &[(name.clone(), value.clone())]].concat();
        points.iter().flat_map(|point| values.iter().map(move |value| with(point, value))).collect()
    })
}

/// What is wrong, and where.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) way: Vec<Step>,
    pub(super) message: String,
}

fn wrong<T>(way: &[Step], message: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong { way: way.to_vec(), message: message.into() })
}

/// Reads the value of `sweep`. `shown` tells what a node is.
pub(super) fn read(node: &Node, shown: fn(&Node) -> String) -> Result<Option<Sweep>, Wrong> {
    match &node.value {
        Value::Null => Ok(None),
        Value::Map(entries) => {
            let mut axes: Vec<(String, Vec<String>)> = Vec::new();
            for entry in entries {
                name(&entry.key, axes.iter().map(|(name, _)| name.as_str()), &entry.way)?;
                let values = match &entry.node.value {
                    Value::List(items) if !items.is_empty() => items,
                    _ => {
                        let found = shown(&entry.node);
                        let said =
                            format!("`{}` in `sweep` must be a list of values such as [0.1, 0.01], found {found}", entry.key);
                        return wrong(&entry.node.way, said);
                    }
                };
                let values = values.iter().map(|item| value(&entry.key, item, shown)).collect::<Result<_, _>>()?;
                axes.push((entry.key.clone(), values));
            }
            if axes.is_empty() {
                return wrong(&node.way, "`sweep` names nothing");
            }
            Ok(Some(Sweep::Product(axes)))
        }
        Value::List(items) if !items.is_empty() => {
            let mut points: Vec<Values> = Vec::new();
            for item in items {
                let point = point(item, shown)?;
                alike(points.first(), &point, item)?;
                points.push(point);
            }
            Ok(Some(Sweep::List(points)))
        }
        _ => {
            let wanted = "names with lists of values (lr: [0.1, 0.01]), or a list of combinations (- {lr: 0.1, seed: 1})";
            wrong(&node.way, format!("`sweep` must be {wanted}, found {}", shown(node)))
        }
    }
}

/// One combination of a list.
fn point(item: &Node, shown: fn(&Node) -> String) -> Result<Values, Wrong> {
    let entries = match &item.value {
        Value::Map(entries) if !entries.is_empty() => entries,
        _ => {
            let found = shown(item);
            return wrong(&item.way, format!("each of `sweep` must be names and values such as {{lr: 0.1}}, found {found}"));
        }
    };
    let mut values = Values::new();
    for entry in entries {
        name(&entry.key, values.iter().map(|(name, _)| name.as_str()), &entry.way)?;
        values.push((entry.key.clone(), value(&entry.key, &entry.node, shown)?));
    }
    Ok(values)
}

/// A combination that lacks a name would leave `{name}` in the command.
fn alike(first: Option<&Values>, point: &Values, item: &Node) -> Result<(), Wrong> {
    let Some(first) = first else { return Ok(()) };
    let has = |values: &Values, name: &str| values.iter().any(|(other, _)| other == name);
    if let Some((name, _)) = first.iter().find(|(name, _)| !has(point, name)) {
        return wrong(&item.way, format!("this combination of `sweep` lacks `{name}`, which the first one has"));
    }
    match point.iter().find(|(name, _)| !has(first, name)) {
        Some((name, _)) => wrong(&item.way, format!("this combination of `sweep` has `{name}`, which the first one lacks")),
        None => Ok(()),
    }
}

/// The variable that carries a value.
pub fn variable(name: &str) -> String {
    format!("POLLINATOR_PARAM_{}", name.to_ascii_uppercase().replace('-', "_"))
}

fn name<'a>(name: &str, mut others: impl Iterator<Item = &'a str>, way: &[Step]) -> Result<(), Wrong> {
    let fine = name.len() <= 64
        && name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if !fine {
        return wrong(way, format!("{name:?} in `sweep` must begin with a letter and hold letters, digits, _ and - only"));
    }
    if name.eq_ignore_ascii_case("processid") {
        return wrong(way, format!("`{name}` in `sweep` must be another name: {{processid}} stands for the process's id"));
    }
    match others.find(|other| variable(other) == variable(name)) {
        Some(other) => wrong(way, format!("`{name}` in `sweep` and `{other}` would both be the variable {}", variable(name))),
        None => Ok(()),
    }
}

fn value(name: &str, node: &Node, shown: fn(&Node) -> String) -> Result<String, Wrong> {
    match &node.value {
        Value::Scalar(Scalar { text, .. }) if !text.contains('\0') && text.len() <= LONGEST => Ok(text.clone()),
        Value::Scalar(_) => {
            wrong(&node.way, format!("a value of `{name}` in `sweep` is longer than {LONGEST} bytes or holds a NUL character"))
        }
        _ => wrong(&node.way, format!("a value of `{name}` in `sweep` must be a number or a text, found {}", shown(node))),
    }
}

/// Reads `conditions.array`: `0-9`, `1,3,5-9`, `0-20:5`. The error is as in "must be …".
pub(super) fn indices(text: &str) -> Result<Sweep, String> {
    let wanted = || "indices such as 0-9, 1,3,5-9 or 0-20:5".to_owned();
    if text.contains('%') {
        // Only who watches the processes could hold it: the colony and its executors count none of a group.
        return Err("indices without `%`: how many run at once is the executor's to say, and no colony holds such a limit".into());
    }
    let mut ranges = Vec::new();
    for part in text.split(',') {
        let (range, step) = match part.trim().split_once(':') {
            Some((range, step)) => (range, index(step).filter(|step| *step > 0).ok_or_else(wanted)?),
            None => (part.trim(), 1),
        };
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        match (index(first), index(last)) {
            (Some(first), Some(last)) if first <= last && step == 1 => ranges.push(first..=last),
            // Bounded, so that a typo in a step fills no memory.
            (Some(first), Some(last)) if first <= last && (last - first) / step <= 1_000_000 => {
                ranges.extend((first..=last).step_by(step as usize).map(|index| index..=index));
            }
            _ => return Err(wanted()),
        }
    }
    ranges.sort_by_key(|range| *range.start());
    match ranges.windows(2).find(|pair| pair[0].end() >= pair[1].start()) {
        Some(pair) => Err(format!("indices that are named once each ({} is named twice)", pair[1].start())),
        None => Ok(Sweep::Array(ranges)),
    }
}

fn index(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|index| digits && *index <= MOST_INDEX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(sweep: &Sweep) -> Vec<String> {
        let shown = |values: Values| values.iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>().join(" ");
        sweep.points().into_iter().map(shown).collect()
    }

    #[test]
    fn a_product_has_every_combination_once() {
        let axis = |name: &str, values: &[&str]| (name.to_owned(), values.iter().map(|v| v.to_string()).collect());
        let sweep = Sweep::Product(vec![axis("lr", &["0.1", "0.01"]), axis("seed", &["1", "2", "3"])]);
        assert_eq!(sweep.count(), 6);
        let all = ["lr=0.1 seed=1", "lr=0.1 seed=2", "lr=0.1 seed=3", "lr=0.01 seed=1", "lr=0.01 seed=2", "lr=0.01 seed=3"];
        assert_eq!(seen(&sweep), all);
        let huge: Vec<String> = (0..100_000).map(|n| n.to_string()).collect();
        let axes = ["a", "b", "c", "d"].map(|name| (name.to_owned(), huge.clone()));
        assert_eq!(Sweep::Product(axes.into()).count(), u64::MAX);
    }

    fn read_file(more: &str) -> Result<Option<Sweep>, String> {
        let text = format!("projectname: p\nenvironment:\n  cmd: x\n{more}");
        let read = super::super::parse(text.as_bytes(), std::path::Path::new("project.yaml"));
        read.map(|(file, _)| file.sweep).map_err(|error| error.to_string())
    }

    #[test]
    fn both_ways_to_write_it_are_read_and_values_keep_their_text() {
        let product = read_file("sweep:\n  lr: [0.10, 1e-3]\n  flag: [true]\n").unwrap().unwrap();
        assert_eq!(seen(&product), ["lr=0.10 flag=true", "lr=1e-3 flag=true"]);
        let list = read_file("sweep:\n- {lr: 0.1, seed: 1}\n- {seed: 7, lr: 0.5}\n").unwrap().unwrap();
        assert_eq!(seen(&list), ["lr=0.1 seed=1", "seed=7 lr=0.5"]);
        assert_eq!(read_file("sweep:\n"), Ok(None));
        assert_eq!(read_file("conditions:\n  array: 7\n").unwrap().unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_sweep_is_refused_with_its_place() {
        let cases = [
            ("sweep: 7\n", "`sweep` must be names with lists", "4:8"),
            ("sweep: {}\n", "`sweep` names nothing", "4:8"),
            ("sweep: []\n", "`sweep` must be names with lists", "4:8"),
            ("sweep:\n  lr: 0.1\n", "`lr` in `sweep` must be a list of values such as [0.1, 0.01], found 0.1", "5:7"),
            ("sweep:\n  lr: []\n", "`lr` in `sweep` must be a list of values", "5:7"),
            ("sweep:\n  lr: [[1]]\n", "a value of `lr` in `sweep` must be a number or a text, found a list", "5:8"),
            ("sweep:\n  lr: [1, ~]\n", "a value of `lr` in `sweep` must be a number or a text, found nothing", "5:11"),
            ("sweep:\n  1r: [1]\n", "\"1r\" in `sweep` must begin with a letter", "5:3"),
            ("sweep:\n  processid: [1]\n", "`processid` in `sweep` must be another name", "5:3"),
            ("sweep:\n  a-b: [1]\n  A_B: [1]\n", "would both be the variable POLLINATOR_PARAM_A_B", "6:3"),
            ("sweep:\n- {a: 1}\n- {b: 1}\n", "this combination of `sweep` lacks `a`", "6:3"),
            ("sweep:\n- {a: 1}\n- {a: 1, b: 1}\n", "this combination of `sweep` has `b`", "6:3"),
            ("sweep:\n- 7\n", "each of `sweep` must be names and values", "5:3"),
            ("conditions:\n  array: 3-1\n", "`array` must be indices such as 0-9", "5:10"),
            ("conditions:\n  array: 1\nsweep:\n  a: [1]\n", "`array` and `sweep` cannot stand in one file", "5:3"),
        ];
        for (more, message, place) in cases {
            let said = read_file(more).unwrap_err();
            assert!(said.contains(message) && said.ends_with(&format!("project.yaml:{place}")), "{more}{said}");
        }
    }

    #[test]
    fn indices_are_read() {
        for (text, all) in
            [("0-3", "0 1 2 3"), ("7", "7"), ("5-6, 1,3", "1 3 5 6"), ("0-20:5", "0 5 10 15 20"), ("0-4:3,9", "0 3 9")]
        {
            let sweep = indices(text).unwrap();
            let got: Vec<String> = sweep.points().into_iter().map(|mut point| point.remove(0).1).collect();
            assert_eq!((got.join(" "), got.len() as u64), (all.to_owned(), sweep.count()), "{text}");
        }
        for bad in ["", "a", "3-1", "-1", "1-", "1,,2", "1-3,2", "0-9:0", "0x10", "1 2", "0-9%3", "99999999999", "+1"] {
            assert!(indices(bad).is_err(), "{bad:?}");
        }
        assert_eq!(indices("0-999999999").unwrap().count(), 1_000_000_000);
        assert!(indices("0-99%10").unwrap_err().contains("`%`"));
    }
}
