//! YAML as a tree whose every key and value can tell its line and column, over serde_yaml.
//!
//! serde_yaml keeps no positions in its values, but an error that is raised while a value is being read carries the place
//! of that value. [`Document::place`] reads the text once more and fails on purpose at the node in question, so positions
//! are the parser's own. Scalars keep their text as it stands in the file: `1.10` is the name `1.10`, not the number 1.1.

use serde::Deserialize;
use serde::de::DeserializeSeed;
use serde::de::Deserializer;
use serde::de::Error as _;
use serde::de::IgnoredAny;
use serde::de::MapAccess;
use serde::de::SeqAccess;
use serde::de::Visitor;
use std::fmt;

/// What YAML takes a scalar for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    /// Text, quoted or not.
    Text,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any other number.
    Float(f64),
}

/// A scalar with its text as it stands in the file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Scalar {
    /// The text, without quotes.
    pub(super) text: String,
    /// What YAML takes it for.
    pub(super) kind: Kind,
}

/// The way from the root to a node: which entry or item, and whether its key is meant.
pub(super) type Way = Vec<Step>;

/// One step of a [`Way`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Key of the entry with this number.
    Key(usize),
    /// Value of the entry, or the item, with this number.
    Value(usize),
}

/// A value and the way to it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    /// The value.
    pub(super) value: Value,
    /// The way to it.
    pub(super) way: Way,
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// A scalar.
    Scalar(Scalar),
    /// A list.
    List(Vec<Node>),
    /// Keys and values, in the order of the file; a key may stand in it twice.
    Map(Vec<Entry>),
}

/// A key and its value.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    /// The key's text.
    pub(super) key: String,
    /// The way to the key.
    pub(super) way: Way,
    /// The value.
    pub(super) node: Node,
}

/// Why a text is no YAML: line and column from 1, and the parser's words.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) line: usize,
    pub(super) column: usize,
    pub(super) message: String,
}

/// The first document of a text.
pub(super) struct Document<'t> {
    text: &'t str,
    /// The whole document.
    pub(super) root: Node,
    /// Whether further documents follow.
    pub(super) more: bool,
}

impl<'t> Document<'t> {
    /// Reads it.
    pub(super) fn parse(text: &'t str) -> Result<Document<'t>, Fault> {
        let mut documents = serde_yaml::Deserializer::from_str(text);
        let mut root = match documents.next() {
            Some(first) => Build(Vec::new()).deserialize(first).map_err(|error| fault(&error))?,
            None => Node { value: Value::Null, way: Vec::new() },
        };
        let more = documents.next().is_some();
        if let Some(first) = serde_yaml::Deserializer::from_str(text).next() {
            Fill(&mut root).deserialize(first).map_err(|error| fault(&error))?;
        }
        merge(&mut root);
        Ok(Document { text, root, more })
    }

    /// Line and column of a node, from 1.
    pub(super) fn place(&self, way: &[Step]) -> (usize, usize) {
        let first = serde_yaml::Deserializer::from_str(self.text).next();
        let outcome = first.map(|first| Find(way).deserialize(first));
        match outcome {
            Some(Err(error)) => error.location().map_or((1, 1), |place| (place.line(), place.column())),
            _ => (1, 1),
        }
    }
}

fn fault(error: &serde_yaml::Error) -> Fault {
    let (line, column) = error.location().map_or((1, 1), |place| (place.line(), place.column()));
    let text = error.to_string();
    // Our own words stand behind the path of the value; the parser's before the place.
    let text = text.split_once(MARK).map_or(text.as_str(), |(_, ours)| ours);
    let message = text.split(" at line ").next().unwrap_or(text).to_owned();
    Fault { line, column, message }
}

/// Stands before our own words in an error of serde_yaml.
const MARK: char = '\u{1}';

/// YAML's merge keys (`<<: *defaults`): what the map does not say itself comes from there.
fn merge(node: &mut Node) {
    match &mut node.value {
        Value::List(items) => items.iter_mut().for_each(merge),
        Value::Map(entries) => {
            entries.iter_mut().for_each(|entry| merge(&mut entry.node));
            let (merged, mut own): (Vec<Entry>, Vec<Entry>) = entries.drain(..).partition(|entry| entry.key == "<<");
            for from in merged.into_iter().flat_map(|entry| sources(entry.node)) {
                if own.iter().all(|entry| entry.key != from.key) {
                    own.push(from);
                }
            }
            *entries = own;
        }
        _ => {}
    }
}

fn sources(node: Node) -> Vec<Entry> {
    match node.value {
        Value::Map(entries) => entries,
        Value::List(items) => items.into_iter().flat_map(sources).collect(),
        _ => Vec::new(),
    }
}

/// Builds a tree; scalars that are no text get their text from [`Fill`].
struct Build(Way);

impl Build {
    fn below(&self, step: Step) -> Way {
        let mut way = self.0.clone();
        way.push(step);
        way
    }

    fn scalar(self, kind: Kind, text: &str) -> Node {
        Node { value: Value::Scalar(Scalar { text: text.to_owned(), kind }), way: self.0 }
    }
}

impl<'de> DeserializeSeed<'de> for Build {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Node, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Build {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value without a tag")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node { value: Value::Null, way: self.0 })
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node { value: Value::Null, way: self.0 })
    }

    fn visit_bool<E>(self, b: bool) -> Result<Node, E> {
        Ok(self.scalar(Kind::Bool(b), ""))
    }

    fn visit_i64<E>(self, n: i64) -> Result<Node, E> {
        Ok(self.scalar(Kind::Int(n), ""))
    }

    fn visit_u64<E>(self, n: u64) -> Result<Node, E> {
        Ok(self.scalar(i64::try_from(n).map_or(Kind::Float(n as f64), Kind::Int), ""))
    }

    fn visit_i128<E>(self, n: i128) -> Result<Node, E> {
        Ok(self.scalar(Kind::Float(n as f64), ""))
    }

    fn visit_u128<E>(self, n: u128) -> Result<Node, E> {
        Ok(self.scalar(Kind::Float(n as f64), ""))
    }

    fn visit_f64<E>(self, x: f64) -> Result<Node, E> {
        Ok(self.scalar(Kind::Float(x), ""))
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(self.scalar(Kind::Text, text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element_seed(Build(self.below(Step::Value(items.len()))))? {
            items.push(item);
        }
        Ok(Node { value: Value::List(items), way: self.0 })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(RawText(key)) = map.next_key()? {
            let number = entries.len();
            let node = map.next_value_seed(Build(self.below(Step::Value(number))))?;
            entries.push(Entry { key, way: self.below(Step::Key(number)), node });
        }
        Ok(Node { value: Value::Map(entries), way: self.0 })
    }
}

/// The text of a scalar, whatever YAML takes it for.
struct RawText(String);

impl<'de> Deserialize<'de> for RawText {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<RawText, D::Error> {
        struct Take;
        impl Visitor<'_> for Take {
            type Value = RawText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_str<E>(self, text: &str) -> Result<RawText, E> {
                Ok(RawText(text.to_owned()))
            }
        }
        d.deserialize_str(Take)
    }
}

/// Goes through a text beside its tree and gives scalars their text.
struct Fill<'n>(&'n mut Node);

impl<'de> DeserializeSeed<'de> for Fill<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        match &mut self.0.value {
            Value::Map(_) => d.deserialize_map(self),
            Value::List(_) => d.deserialize_seq(self),
            Value::Scalar(scalar) if scalar.kind != Kind::Text => {
                scalar.text = RawText::deserialize(d)?.0;
                Ok(())
            }
            _ => IgnoredAny::deserialize(d).map(drop),
        }
    }
}

impl<'de> Visitor<'de> for Fill<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the same as before")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Value::List(items) = &mut self.0.value else { return Err(A::Error::custom("not the same as before")) };
        for item in items {
            list.next_element_seed(Fill(item))?;
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Value::Map(entries) = &mut self.0.value else { return Err(A::Error::custom("not the same as before")) };
        for entry in entries {
            map.next_key::<IgnoredAny>()?;
            map.next_value_seed(Fill(&mut entry.node))?;
        }
        Ok(())
    }
}

/// Goes the way to a node and fails there, so that the error tells where that is.
struct Find<'w>(&'w [Step]);

impl<'de> DeserializeSeed<'de> for Find<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        // At the end of the way, the visitor takes nothing at all.
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Find<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nothing: this is the place")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        if let Some((Step::Value(number) | Step::Key(number), rest)) = self.0.split_first() {
            for _ in 0..*number {
                list.next_element::<IgnoredAny>()?;
            }
            list.next_element_seed(Find(rest))?;
        }
        Err(A::Error::custom("this is the place"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        if let Some((step, rest)) = self.0.split_first() {
            let (Step::Value(number) | Step::Key(number)) = step;
            for _ in 0..*number {
                map.next_entry::<IgnoredAny, IgnoredAny>()?;
            }
            match step {
                Step::Key(_) => drop(map.next_key_seed(Find(&[]))?),
                Step::Value(_) => {
                    map.next_key::<IgnoredAny>()?;
                    map.next_value_seed(Find(rest))?;
                }
            }
        }
        Err(A::Error::custom("this is the place"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(node: &Node) -> &[Entry] {
        match &node.value {
            Value::Map(entries) => entries,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn scalars_keep_their_text() {
        let text =
            "a: 1.10\nb: 007\nc: True\nd: 0x10\ne: \"x y\"\nf: ~\ng:\nh: 12345678901234567890123456789012345678901\ni: yes\n";
        let document = Document::parse(text).unwrap();
        let seen: Vec<Option<&str>> = entries(&document.root)
            .iter()
            .map(|entry| match &entry.node.value {
                Value::Scalar(scalar) => Some(scalar.text.as_str()),
                _ => None,
            })
            .collect();
        let long = "12345678901234567890123456789012345678901";
        let expected = [Some("1.10"), Some("007"), Some("True"), Some("0x10"), Some("x y"), None, None, Some(long), Some("yes")];
        assert_eq!(seen, expected);
    }

    #[test]
    fn every_key_and_value_tells_its_place() {
        let text = "# first\na: 1\nb:\n  c: [x, y]\n  d:\n    - k: v\n    - \"é\": { f: 2 }\nb: again\n";
        let document = Document::parse(text).unwrap();
        let at = |way: &[Step]| document.place(way);
        use Step::Key;
        use Step::Value;
        assert_eq!(at(&[]), (2, 1));
        assert_eq!((at(&[Key(0)]), at(&[Value(0)])), ((2, 1), (2, 4)));
        assert_eq!((at(&[Key(1)]), at(&[Value(1)])), ((3, 1), (4, 3)));
        assert_eq!((at(&[Value(1), Value(0)]), at(&[Value(1), Value(0), Value(1)])), ((4, 6), (4, 10)));
        assert_eq!(at(&[Value(1), Value(1), Value(0), Value(0)]), (6, 10));
        // A column counts characters, not bytes.
        assert_eq!(at(&[Value(1), Value(1), Value(1), Value(0), Value(0)]), (7, 17));
        assert_eq!((at(&[Key(2)]), at(&[Value(2)])), ((8, 1), (8, 4)));
        let merged = Document::parse("base: &b\n  x: 1\n  y: 2\nmine:\n  <<: *b\n  y: 3\n").unwrap();
        let mine = entries(&entries(&merged.root)[1].node);
        assert_eq!(mine.iter().map(|entry| entry.key.as_str()).collect::<Vec<_>>(), ["y", "x"]);
        assert_eq!((merged.place(&mine[0].node.way), merged.place(&mine[1].node.way)), ((6, 6), (2, 6)));
    }

    #[test]
    fn what_is_no_yaml_says_where() {
        for (text, line) in [("a: 1\n\tb: 2\n", 2), ("a: [1\nb: 2\n", 2), ("a: \"x\n", 2), ("a: b: c\n", 1), ("a: *nobody\n", 1)]
        {
            let fault = Document::parse(text).err().unwrap();
            assert_eq!(fault.line, line, "{text:?}: {fault:?}");
            assert!(!fault.message.contains("line") && !fault.message.is_empty(), "{fault:?}");
        }
        assert_eq!(Document::parse("").unwrap().root.value, Value::Null);
        assert_eq!(Document::parse("# nothing\n").unwrap().root.value, Value::Null);
        assert!(Document::parse("a: 1\n---\nb: 2\n").unwrap().more);
    }
}
