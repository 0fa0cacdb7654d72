//! Puts values in the place of `{name}`: as they are in a literal word, quoted where the text is a shell's. Pure.
//!
//! In shell text a value stays one piece of data, whatever it holds: outside quotes it becomes one quoted word, inside them
//! what would end or change the quotes is escaped. Values of plain characters only stand as they are, everywhere.

/// Why a value cannot be put where the shell text wants it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the value {value:?} of `{{{name}}}` cannot be written {place}")]
pub struct Unfit {
    /// Name of the value.
    pub name: String,
    /// The value.
    pub value: String,
    /// Where it would stand.
    pub place: &'static str,
}

/// Replaces every `{name}` of a known name in a text that nothing interprets.
pub fn literal(text: &str, values: &[(String, String)]) -> String {
    let mut made = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('{') {
        made.push_str(&rest[..at]);
        rest = &rest[at..];
        match mark(rest, values) {
            Some((_, value, length)) => {
                made.push_str(value);
                rest = &rest[length..];
            }
            None => {
                made.push('{');
                rest = &rest[1..];
            }
        }
    }
    made + rest
}

/// Replaces every `{name}` of a known name in shell text, but for `${name}`, which is the shell's own.
///
/// # Errors
/// [`Unfit`] for a value of other than plain characters in a here-document, between backquotes, in `$'…'` or in a comment, where
/// no quoting is sure to hold.
pub fn shell(text: &str, values: &[(String, String)]) -> Result<String, Unfit> {
    let mut made = String::with_capacity(text.len());
    let mut place = Place::default();
    let mut last = None;
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let found = if next == '{' && last != Some('$') { mark(rest, values) } else { None };
        match found {
            Some((name, value, length)) => {
                let unfit = |place| Unfit { name: name.to_owned(), value: value.to_owned(), place };
                made.push_str(&place.write(value).map_err(unfit)?);
                rest = &rest[length..];
                place.before = Some('}');
                last = place.before;
            }
            None => {
                made.push(next);
                place.pass(next);
                last = Some(next);
                rest = &rest[next.len_utf8()..];
            }
        }
    }
    Ok(made)
}

/// The name and value that are meant by the beginning of a text, and how long the mark is.
fn mark<'a>(text: &'a str, values: &'a [(String, String)]) -> Option<(&'a str, &'a str, usize)> {
    let end = text.find('}')?;
    let name = &text[1..end];
    values.iter().find(|(known, _)| known == name).map(|(known, value)| (known.as_str(), value.as_str(), end + 1))
}

/// What a shell makes of a piece of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quote {
    /// Words.
    Bare,
    /// `'…'`
    Single,
    /// `"…"`
    Double,
    /// `$'…'`
    Dollar,
    /// `` `…` ``
    Back,
    /// `# …`
    Comment,
}

/// Where in shell text a reader stands.
#[derive(Debug)]
struct Place {
    /// The innermost last. `$(…)` and `(…)` open words anew.
    quotes: Vec<Quote>,
    /// The character before.
    before: Option<char>,
    /// The next character is escaped.
    escaped: bool,
    /// A here-document was begun: the text behind it is not understood any more.
    here: bool,
}

impl Default for Place {
    fn default() -> Place {
        Place { quotes: vec![Quote::Bare], before: None, escaped: false, here: false }
    }
}

impl Place {
    fn quote(&self) -> Quote {
        self.quotes.last().copied().unwrap_or(Quote::Bare)
    }

    fn leave(&mut self) {
        if self.quotes.len() > 1 {
            self.quotes.pop();
        }
    }

    /// Goes on behind a character.
    fn pass(&mut self, c: char) {
        let before = self.before.replace(c);
        if std::mem::take(&mut self.escaped) {
            // Neither does it begin anything, nor does the next character see it as itself.
            self.before = Some('\\');
            return;
        }
        match (self.quote(), c) {
            (Quote::Single, '\'') | (Quote::Dollar, '\'') | (Quote::Double, '"') | (Quote::Comment, '\n') => self.leave(),
            (Quote::Single | Quote::Comment, _) => {}
            (_, '\\') => self.escaped = true,
            (Quote::Dollar, _) => {}
            (_, '`') if self.quotes.contains(&Quote::Back) => {
                while self.quote() != Quote::Back {
                    self.leave();
                }
                self.leave();
            }
            (_, '`') => self.quotes.push(Quote::Back),
            (Quote::Double, '(') if before == Some('$') => self.quotes.push(Quote::Bare),
            (Quote::Double, _) => {}
            (_, '"') => self.quotes.push(Quote::Double),
            (_, '\'') if before == Some('$') => self.quotes.push(Quote::Dollar),
            (_, '\'') => self.quotes.push(Quote::Single),
            (_, '(') => self.quotes.push(Quote::Bare),
            (_, ')') => self.leave(),
            (_, '#') if before.is_none_or(|b| b.is_whitespace() || ";&|()".contains(b)) => self.quotes.push(Quote::Comment),
            (_, '<') if before == Some('<') => self.here = true,
            _ => {}
        }
    }

    /// A value as it is to be written here.
    fn write(&self, value: &str) -> Result<String, &'static str> {
        if !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-+/:=,@%".contains(&b)) {
            return Ok(value.to_owned());
        }
        if self.here {
            return Err("behind `<<`: give it to the command by its variable, or as an argument");
        }
        if self.quotes.contains(&Quote::Back) {
            return Err("between backquotes: write $(…) instead of `…`");
        }
        match self.quote() {
            _ if self.escaped => Err("behind a backslash"),
            Quote::Bare => Ok(format!("'{}'", value.replace('\'', "'\\''"))),
            Quote::Single => Ok(value.replace('\'', "'\\''")),
            Quote::Double => Ok(in_double_quotes(value)),
            Quote::Dollar => Err("inside $'…': use other quotes"),
            Quote::Comment if value.contains('\n') => Err("in a comment"),
            Quote::Comment | Quote::Back => Ok(value.to_owned()),
        }
    }
}

fn in_double_quotes(value: &str) -> String {
    let mut made = String::with_capacity(value.len());
    for c in value.chars() {
        if "\"\\$`".contains(c) {
            made.push('\\');
        }
        made.push(c);
    }
    made
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn with(name: &str, value: &str) -> Vec<(String, String)> {
        vec![(name.to_owned(), value.to_owned())]
    }

    #[test]
    fn only_known_names_are_replaced() {
        let values = [with("lr", "0.1"), with("seed", "{lr}")].concat();
        let cases = [
            ("train --lr {lr} --seed {seed}", "train --lr 0.1 --seed '{lr}'"),
            ("{processid} {other} {} {lr {lr}} {{lr}}", "{processid} {other} {} {lr 0.1} {0.1}"),
            ("echo ${lr} \\${lr} ${lr:-{lr}}", "echo ${lr} \\${lr} ${lr:-0.1}"),
            ("awk '{print $1}' {a,b} ü{lr}ü", "awk '{print $1}' {a,b} ü0.1ü"),
        ];
        for (text, made) in cases {
            assert_eq!(shell(text, &values).as_deref(), Ok(made), "{text}");
        }
        assert_eq!(literal("a {lr}${lr}{seed}{x}{", &values), "a 0.1$0.1{lr}{x}{");
    }

    #[test]
    fn what_no_quoting_is_sure_for_is_refused() {
        let values = with("v", "a b");
        for text in ["cat <<E\n{v}\nE", "echo `echo {v}`", "echo $'{v}'", "echo \\{v}", "echo \"`echo \"{v}\"`\""] {
            assert!(shell(text, &values).is_err(), "{text}");
            assert!(shell(text, &with("v", "0.1")).is_ok(), "{text}");
        }
        assert!(shell("true # {v}\necho {v}", &values).is_ok_and(|made| made == "true # a b\necho 'a b'"));
        assert!(shell("true # {v}", &with("v", "\nrm")).is_err());
    }

    /// Texts around a value, each of which prints `<value>`.
    const AROUND: [&str; 12] = [
        "printf '<%s>' {v}",
        "printf '<%s>' \"{v}\"",
        "printf '<%s>' '{v}'",
        "printf \"<%s>\" \"$(printf '%s.' \"{v}\")\" | sed 's/\\.>$/>/'",
        "# it's a comment\nprintf '<%s>' {v}",
        "echo \\' >/dev/null; printf '<%s>' \"{v}\"",
        "echo it\\'s \"a\\\"b\" >/dev/null && printf '<%s>' {v}",
        "x={v}; printf '<%s>' \"$x\"",
        "(printf '<%s>' '{v}')",
        "printf '<%s>' \"\"{v}''",
        "case a in (b) ;; a) printf '<%s>' {v};; esac",
        "true a#b; printf '<%s>' {v} #",
    ];

    fn said(text: &str) -> String {
        let ended = std::process::Command::new("/bin/sh").args(["-c", text]).output().unwrap();
        assert!(ended.status.success(), "{text}: {ended:?}");
        String::from_utf8(ended.stdout).unwrap()
    }

    #[test]
    fn a_value_stays_one_word_whatever_it_holds() {
        for value in
            ["", " ", "a b", "$(id)`id`$HOME", "it's \"so\" \\n \\", "*?[a]{x}~", "-n;&|<>#", "ü\t", "a\nb", "{processid}"]
        {
            for around in AROUND {
                let text = shell(around, &with("v", value)).unwrap();
                assert_eq!(said(&text), format!("<{value}>"), "{text}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
        #[test]
        fn any_value_survives_the_shell(value in "[^\\x00\n]{0,30}", around in 0..AROUND.len()) {
            let text = shell(AROUND[around], &with("v", &value)).unwrap();
            prop_assert_eq!(said(&text), format!("<{value}>"));
        }

        #[test]
        fn any_text_is_gone_through(text in "[{}v$'\"`\\\\#()<\n a]{0,40}", value in "[a'\" ]{0,3}") {
            let _ = shell(&text, &with("v", &value));
        }
    }
}
