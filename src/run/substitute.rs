//! Puts values in the place of `{name}`: as they are in a literal word, quoted where the text is a shell's. Pure.
//!
//! In shell text a value stays one piece of data, whatever it holds: outside quotes it becomes one quoted word, inside them
//! what would end or change the quotes is escaped. Values of plain characters only stand as they are, everywhere.
//!
//! What is not read in the same way by all shells, or not to be followed without reading a whole language (the patterns of a
//! `case` inside `$(…)`), is not guessed at: from there on values of other than plain characters are refused.

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
/// [`Unfit`] for a value of other than plain characters between backquotes, in `$'…'`, in `${…}`, in arithmetic, or behind what
/// is not followed (a here-document, a `case` inside `$(…)`, quotes inside `${…}`), where no quoting is sure to hold.
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
                place.pass_value(value);
                rest = &rest[length..];
                last = Some('}');
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
    /// `$(…)` and `(…)`: words anew.
    Paren,
    /// `'…'`
    Single,
    /// `"…"`
    Double,
    /// `$'…'`
    Dollar,
    /// `` `…` ``
    Back,
    /// `${…}`
    Brace,
    /// `$((…))` and `((…))`, each of the parentheses. It may be a subshell in a subshell, too.
    Arithmetic,
    /// `# …`
    Comment,
}

/// The word behind which `)` may stand alone.
const CASE: &str = "case";
/// What else can be done with a value.
macro_rules! instead {
    ($place:literal) => {
        concat!($place, ": give it to the command by its variable, or as an argument")
    };
}

/// Where in shell text a reader stands.
#[derive(Debug)]
struct Place {
    /// The innermost last. `$(…)` and `(…)` open words anew.
    quotes: Vec<Quote>,
    /// The character before, a line that was continued left out.
    before: Option<char>,
    /// How many `$` it is: of one the next character may make something, two are a value of their own.
    dollars: u8,
    /// The next character is escaped.
    escaped: bool,
    /// How much of `case` the word is that was begun; none: it is another.
    word: Option<usize>,
    /// Behind what the text is not understood any more.
    lost: Option<&'static str>,
}

impl Default for Place {
    fn default() -> Place {
        Place { quotes: vec![Quote::Bare], before: None, dollars: 0, escaped: false, word: Some(0), lost: None }
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

    fn lose(&mut self, behind: &'static str) {
        self.lost = self.lost.or(Some(behind));
    }

    /// Goes on behind a character.
    fn pass(&mut self, c: char) {
        if std::mem::take(&mut self.escaped) {
            return self.pass_escaped(c);
        }
        let quote = self.quote();
        if c == '\\' && !matches!(quote, Quote::Single | Quote::Comment) {
            self.escaped = true;
            if matches!(quote, Quote::Dollar | Quote::Brace | Quote::Arithmetic) {
                // Not all shells know `$'…'`, and of `\}` they think differently.
                self.lose(instead!("behind a backslash inside $'…', ${…} or ((…))"));
            }
            return;
        }
        if matches!(quote, Quote::Bare | Quote::Paren | Quote::Arithmetic) {
            self.read_word(c);
        }
        let (before, dollars) = (self.before.replace(c), std::mem::take(&mut self.dollars));
        let dollar = dollars == 1;
        match (quote, c) {
            (Quote::Single | Quote::Dollar, '\'') | (Quote::Double, '"') | (Quote::Back, '`') => self.leave(),
            (Quote::Brace, '}') | (Quote::Arithmetic, ')') => self.leave(),
            (Quote::Comment, '\n') => {
                self.leave();
                self.word = Some(0);
            }
            // Some shells look for the closing backquote in the comment, some do not.
            (Quote::Back, '#') => self.lose(instead!("behind `#` between backquotes")),
            // The first backquote that is not escaped ends them, whatever stands between.
            (Quote::Single | Quote::Dollar | Quote::Back | Quote::Comment, _) => {}
            (_, '`') => self.quotes.push(Quote::Back),
            // Inside double quotes some shells take the second `$` for the beginning of another value.
            (_, '$' | '(' | '{' | '[') if dollars == 2 => self.lose(instead!("behind `$$$`, `$$(`, `$${` or `$$[`")),
            (_, '$') => self.dollars = dollars + 1,
            (_, '{') if dollar => self.quotes.push(Quote::Brace),
            (_, '(') if dollar => {
                self.quotes.push(Quote::Paren);
                self.word = Some(0);
            }
            (_, '[') if dollar => self.lose(instead!("behind `$[`")),
            (Quote::Double, _) => {}
            (Quote::Brace, _) => self.pass_in_brace(before, c),
            (Quote::Arithmetic, _) => self.pass_in_arithmetic(before, c),
            (Quote::Bare | Quote::Paren, _) => self.pass_in_words(before, dollar, c),
        }
    }

    fn pass_in_words(&mut self, before: Option<char>, dollar: bool, c: char) {
        match c {
            '"' => self.quotes.push(Quote::Double),
            '\'' if dollar => self.quotes.push(Quote::Dollar),
            '\'' => self.quotes.push(Quote::Single),
            '(' if before == Some('(') => {
                self.leave();
                self.quotes.extend([Quote::Arithmetic; 2]);
            }
            '(' => self.quotes.push(Quote::Paren),
            ')' => self.leave(),
            '#' if before.is_none_or(|b| " \t\n;|(".contains(b)) => self.quotes.push(Quote::Comment),
            // Behind the `)` of `$(…)` it goes on with a word, behind that of `(…)` it begins a comment.
            '#' if before.is_some_and(|b| ")<>&".contains(b)) => self.lose(instead!("behind `)#`, `<#`, `>#` or `&#`")),
            '<' if before == Some('<') => self.lose(instead!("behind `<<`")),
            _ => {}
        }
    }

    /// Inside double quotes some shells take quotes in here for quotes, and some do not; `${ …}` is a command to some.
    fn pass_in_brace(&mut self, before: Option<char>, c: char) {
        if c == '\'' || c == '"' {
            self.lose(instead!("behind quotes inside ${…}"));
        }
        if before == Some('{') && " \t\n|".contains(c) {
            self.lose(instead!("behind `${ ` or `${|`"));
        }
    }

    /// What has no place in arithmetic: these may be two subshells.
    fn pass_in_arithmetic(&mut self, before: Option<char>, c: char) {
        match c {
            '(' => self.quotes.push(Quote::Arithmetic),
            '\'' | '"' | '#' => self.lose(instead!("behind a quote or `#` inside ((…))")),
            '<' if before == Some('<') => self.lose(instead!("behind `<<`")),
            _ => {}
        }
    }

    /// Goes on behind a character that a backslash stands before.
    fn pass_escaped(&mut self, c: char) {
        if c == '\n' && self.quote() != Quote::Back {
            // Both are taken away, as if they were not there; but not by all shells in the midst of an operator.
            let words = matches!(self.quote(), Quote::Bare | Quote::Paren);
            if self.dollars > 0 || words && self.before.is_some_and(|b| "<()".contains(b)) {
                self.lose(instead!("behind a line that is continued behind `$`, `<`, `(` or `)`"));
            }
            return;
        }
        // Neither does it begin anything, nor does the next character see it as itself.
        (self.before, self.dollars, self.word) = (Some('\\'), 0, None);
    }

    /// Looks for the word `case`: the `)` behind its patterns ends no `$(`, and nothing less than a shell knows which those are.
    fn read_word(&mut self, c: char) {
        if " \t\n;&|()<>".contains(c) {
            // Where there are no quotes around, it is all the same which parentheses are open.
            let quoted = self.quotes.iter().any(|quote| !matches!(quote, Quote::Bare | Quote::Paren));
            if self.word == Some(CASE.len()) && quoted {
                self.lose(instead!("behind `case` inside $(…)"));
            }
            self.word = Some(0);
        } else {
            self.word = self.word.filter(|read| CASE[*read..].starts_with(c)).map(|read| read + 1);
        }
    }

    /// Goes on behind a value that was written.
    fn pass_value(&mut self, value: &str) {
        if is_plain(value) {
            return value.chars().for_each(|c| self.pass(c));
        }
        // A quoted piece of a word.
        (self.before, self.dollars, self.word) = (Some('}'), 0, None);
    }

    /// A value as it is to be written here.
    fn write(&self, value: &str) -> Result<String, &'static str> {
        if is_plain(value) {
            return Ok(value.to_owned());
        }
        if let Some(behind) = self.lost {
            return Err(behind);
        }
        if self.escaped {
            return Err("behind a backslash");
        }
        match self.quote() {
            Quote::Bare | Quote::Paren => Ok(in_single_quotes(value)),
            Quote::Single => Ok(value.replace('\'', "'\\''")),
            Quote::Double => Ok(in_double_quotes(value)),
            Quote::Dollar => Err("inside $'…': use other quotes"),
            Quote::Back => Err("between backquotes: write $(…) instead of `…`"),
            Quote::Brace => Err(instead!("inside ${…}")),
            Quote::Arithmetic => Err(instead!("inside ((…))")),
            Quote::Comment if value.contains('\n') => Err("in a comment"),
            // Should it not be one after all, it is data all the same.
            Quote::Comment => Ok(in_single_quotes(value)),
        }
    }
}

/// Whether a value is the same to a shell wherever it stands.
fn is_plain(value: &str) -> bool {
    !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-+/:=,@%".contains(&b))
}

fn in_single_quotes(value: &str) -> String {
    format!("'{}'", value.replace('\'', "'\\''"))
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
        for text in UNSURE {
            assert!(shell(text, &values).is_err(), "{text}");
            assert!(shell(text, &with("v", "0.1")).is_ok(), "{text}");
        }
        assert!(shell("true # {v}\necho {v}", &values).is_ok_and(|made| made == "true # 'a b'\necho 'a b'"));
        assert!(shell("true # {v}", &with("v", "\nrm")).is_err());
        let told = shell(UNSURE[5], &values).unwrap_err().to_string();
        assert!(told.contains("of `{v}` cannot be written behind `case` inside $(…): give it"), "{told}");
        // A plain value may be the word, too.
        let values = [with("v", "a b"), with("w", "se")].concat();
        assert!(shell("x=\"$(ca{w} k in a) :;; esac)\"; echo {v}", &values).is_err());
    }

    /// Where the value is sure to be written nowhere.
    const UNSURE: [&str; 24] = [
        "cat <<E\n{v}\nE",
        "echo `echo {v}`",
        "echo $'{v}'",
        "echo \\{v}",
        "echo \"`echo \"{v}\"`\"",
        "x=\"$(case k in a) :;; k) echo {v};; esac)\"",
        "x=\"$(ca\\\nse k in a) :;; k) echo {v};; esac)\"",
        "x=\"$( (case k in a) :;; esac) )\"; echo {v}",
        "echo ${x:-{v}}",
        "echo \"${x:-{v}}\"",
        "echo \"${x:-'a'}\" {v}",
        "echo \"${x%\\}}\" {v}",
        "echo $(( {v} ))",
        "echo \"$((1 + {v}))\"",
        "(( {v} ))",
        "echo $[ {v} ]",
        "echo \"$[{v}]\"",
        "echo $(true)#'{v}'",
        "cat <#'{v}'",
        "echo `true # a`; echo {v}",
        "echo $'\\'' {v}",
        "echo \"$\\\n({v})\"",
        "cat <\\\n<E\n{v}\nE",
        "x=\"$$({v})\"",
    ];

    /// Texts around a value, each of which prints `<value>`.
    const AROUND: [&str; 21] = [
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
        "printf \"<%s>\" \"$(# it's a \"comment\"\nprintf '%s.' {v})\" | sed 's/\\.>$/>/'",
        "x=${y:-a}; printf '<%s>' \"{v}\"",
        "printf '<%s>' \\\n  {v}",
        "(case a in a) printf \"<%s>\" \"{v}\";; esac)",
        "echo $((1+2)) \"${y:-$(echo 1)}\" >/dev/null; printf '<%s>' {v}",
        "echo \"`echo \"it's\"`\" >/dev/null; printf '<%s>' {v}",
        "echo \"$$\" ${#y} $# >/dev/null; printf '<%s>' {v}",
        "echo a\\\n#it\\'s >/dev/null; printf '<%s>' {v}",
        "f() { printf '<%s>' \"$1\"; }; f {v}",
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

    /// Values that leave a file where one of them is run.
    const ATTACKS: [&str; 20] = [
        "a; touch $INJECTED",
        "$(touch $INJECTED)",
        "`touch $INJECTED`",
        "'; touch $INJECTED; '",
        "\"; touch $INJECTED; \"",
        "a\ntouch $INJECTED\n",
        "a\ntouch $INJECTED #",
        "'\ntouch $INJECTED #",
        "\";\ntouch $INJECTED\n\"",
        "); touch $INJECTED; (",
        "}; touch $INJECTED; {",
        "a) touch $INJECTED;; esac; touch $INJECTED",
        "' $(touch $INJECTED) '",
        "' `touch $INJECTED` '",
        "\" ' $(touch $INJECTED) ' \"",
        "\\'; touch $INJECTED; \\'",
        "\\$(touch $INJECTED)",
        "|touch $INJECTED|",
        "E\ntouch $INJECTED\n",
        "\\",
    ];

    /// Texts, a value among them; `@` is where others stand.
    const NESTS: [&str; 24] = [
        "echo \"$(@)\"",
        "x=$(@)",
        "x=\"a $(echo \"$(@)\") b\"",
        "(@)",
        "( (@) )",
        "((@))",
        "$((@))",
        "{ @\n}",
        "if :; then @\nfi",
        "case k in k) @\n;; esac",
        "case k in a) :;; (k) @\n;; esac",
        "echo \"$(case k in a) :;; k) @\n;; esac)\"",
        "x=$(case \"k\" in k) @\n;; esac)",
        "echo \"${x:-$(@)}\"",
        "echo `@`",
        "echo \"`@`\"",
        "# it's {v}\n@",
        "true # \"$( {v}\n@",
        "echo \\\n#'{v}\n@",
        "echo $$'\\'\n@",
        "echo \"$$(\"; @",
        "echo $'\\''\n@",
        "@ | cat",
        "cat <<E\n@\nE\n",
    ];

    /// Texts with a value.
    const CORES: [&str; 14] = [
        "echo {v}",
        "echo \"{v}\"",
        "echo '{v}'",
        "echo \"it's {v}\"",
        "echo 'a \"'{v}'\" b'",
        "x=${y:-'{v}'}",
        "echo \"${y:-'a'}{v}\"",
        "echo $((1 + {v}))",
        "echo $(true)#'{v}'",
        "echo a# '{v}'",
        "case a in {v}) :;; esac",
        "echo \"$(echo case; echo '{v}')\"",
        "x=\"$$({v})\"",
        ": {v} # {v}",
    ];

    /// Pieces of such texts.
    fn pieces() -> Vec<&'static str> {
        let all = "{v}~{v}~{v}~$(~$(~)~)~\"~\"~'~'~\"$(~)\"~`~case k in a) ~ k) ~;; esac~ca~se ~#~ # ~\n~\\\n~${x:-~${x#~}~$((~))~$'~\\'~$$~$~\\~<<E\n~\nE\n~echo ~ ~;~a~x=";
        all.split('~').collect()
    }

    /// Whether a shell runs what a value holds, whichever of the attacks stands in the text.
    fn injected(text: &str) -> Option<&'static str> {
        let folder = tempfile::tempdir().unwrap();
        let mark = folder.path().join("INJECTED");
        let made: Vec<String> = ATTACKS.iter().filter_map(|attack| shell(text, &with("v", attack)).ok()).collect();
        let shells = ["/bin/sh", "/bin/bash"].into_iter().filter(|shell| std::path::Path::new(shell).exists());
        let mut tried = shells.map(|shell| {
            let mut command = std::process::Command::new(shell);
            command.args(["-c", "for text; do (eval \"$text\"); done", "sh"]).args(&made).current_dir(folder.path());
            command.env("INJECTED", &mark).stdin(std::process::Stdio::null()).output().unwrap();
            (shell, mark.exists())
        });
        tried.find(|(_, injected)| *injected).map(|(shell, _)| shell)
    }

    #[test]
    fn what_is_written_is_never_run() {
        assert!(injected("eval {v}").is_some(), "an attack is seen");
        for text in UNSURE.iter().chain(&CORES).chain(&AROUND) {
            assert_eq!(injected(text), None, "{text}");
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
        fn no_value_is_run_however_deep_it_stands(nests in prop::collection::vec(0..NESTS.len(), 0..4), core in 0..CORES.len(), behind in 0..CORES.len()) {
            let text = nests.iter().fold(CORES[core].to_owned(), |text, nest| NESTS[*nest].replace('@', &text));
            let text = format!("{text}\n{}", CORES[behind]);
            prop_assert_eq!(injected(&text), None, "{}", text);
        }

        #[test]
        fn no_value_is_run_in_whatever_text(pieces in prop::collection::vec(prop::sample::select(pieces()), 2..14)) {
            let text = pieces.concat();
            prop_assert_eq!(injected(&text), None, "{}", text);
        }

        #[test]
        fn any_text_is_gone_through(text in "[{}v$'\"`\\\\#()<\n a]{0,40}", value in "[a'\" ]{0,3}") {
            let _ = shell(&text, &with("v", &value));
        }
    }
}
