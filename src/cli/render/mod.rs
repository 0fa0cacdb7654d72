//! The only place that prints.
//!
//! Standard output carries what was asked for: listings, JSON, the job's own output byte for byte. Everything said about it
//! goes to standard error.

pub mod log;
pub mod prefix;
pub mod progress;
pub mod sizes;
pub mod times;

use super::CliError;
use comfy_table::ContentArrangement;
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde::Serialize;
use std::borrow::Cow;
use std::io::ErrorKind;
use std::io::IsTerminal;
use std::io::Write;

/// When colours are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl Color {
    fn holds(self, terminal: bool) -> bool {
        match self {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()),
        }
    }
}

/// The terminal, or what stands in its place.
#[derive(Clone, Copy, Debug)]
pub struct Screen {
    /// Whether standard output is a terminal.
    pub stdout_is_terminal: bool,
    /// Whether standard error is one.
    pub stderr_is_terminal: bool,
    colored: bool,
}

/// Kinds of lines on standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// What happens.
    Note,
    /// Something to know that stops nothing.
    Warning,
    /// What went wrong.
    Error,
    /// Advice.
    Hint,
}

impl Screen {
    /// Looks at what standard output and standard error are.
    pub fn new(color: Color) -> Screen {
        let stderr_is_terminal = std::io::stderr().is_terminal();
        Screen {
            stdout_is_terminal: std::io::stdout().is_terminal(),
            stderr_is_terminal,
            colored: color.holds(stderr_is_terminal),
        }
    }

    /// A line on standard output.
    pub fn line(&self, text: &str) {
        let text = if self.stdout_is_terminal { without_controls(text) } else { Cow::Borrowed(text) };
        self.out(format!("{text}\n").as_bytes());
    }

    /// Bytes on standard output, as they are.
    pub fn out(&self, bytes: &[u8]) {
        let mut stdout = std::io::stdout().lock();
        if let Err(error) = stdout.write_all(bytes).and_then(|()| stdout.flush()) {
            end_without_reader(&error);
        }
    }

    /// A line on standard error.
    pub fn say(&self, tone: Tone, text: &str) {
        let (word, color) = match tone {
            Tone::Note => ("", ""),
            Tone::Warning => ("warning: ", "\x1b[33m"),
            Tone::Error => ("error: ", "\x1b[31;1m"),
            Tone::Hint => ("hint: ", "\x1b[36m"),
        };
        let text = without_controls(text);
        let word = if self.colored && !word.is_empty() { format!("{color}{word}\x1b[0m") } else { word.to_owned() };
        self.err(&format!("{word}{text}\n"));
    }

    /// A line on standard error that ends with an address, which terminals can open.
    pub fn say_address(&self, text: &str, address: &str) {
        let address = without_controls(address);
        if self.stderr_is_terminal {
            self.err(&format!("{text}\x1b]8;;{address}\x1b\\{address}\x1b]8;;\x1b\\\n"));
        } else {
            self.err(&format!("{text}{address}\n"));
        }
    }

    fn err(&self, line: &str) {
        // Nobody can be told that standard error is gone.
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    }

    /// A value as JSON on standard output.
    pub fn json(&self, value: &impl Serialize) -> Result<(), CliError> {
        let text = serde_json::to_string_pretty(value).map_err(|e| CliError::failed(format!("cannot write JSON: {e}")))?;
        self.line(&text);
        Ok(())
    }

    /// A table that fits the terminal; whole and aligned when it goes elsewhere.
    pub fn table(&self, headers: &[&str], rows: Vec<Vec<String>>) {
        let mut table = Table::new();
        table.load_style(NOTHING).set_header(headers.to_vec()).add_rows(rows);
        let arrangement = if self.stdout_is_terminal { ContentArrangement::Dynamic } else { ContentArrangement::Disabled };
        table.set_content_arrangement(arrangement);
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        for line in table.lines() {
            self.line(line.trim_end());
        }
    }
}

/// Text from elsewhere (names of files and executors, reasons of a server) must not move the cursor or change a terminal:
/// control characters are shown as `\u{1b}`, except ends of lines and tabs.
pub fn without_controls(text: &str) -> Cow<'_, str> {
    let bad = |c: char| c.is_control() && c != '\n' && c != '\t';
    if !text.contains(bad) {
        return Cow::Borrowed(text);
    }
    let mut clean = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if bad(c) { clean.extend(c.escape_default()) } else { clean.push(c) }
    }
    Cow::Owned(clean)
}

/// Whoever read our output has gone (`| head`): that is no error, and there is nothing left to do. A full disk is told.
fn end_without_reader(error: &std::io::Error) {
    if error.kind() == ErrorKind::BrokenPipe {
        // As a program that a broken pipe's signal ends.
        std::process::exit(141);
    }
    let _ = writeln!(std::io::stderr(), "error: cannot write to standard output: {error}");
    std::process::exit(i32::from(super::error::FAILED));
}

#[cfg(test)]
mod tests {
    #[test]
    fn text_from_elsewhere_cannot_drive_a_terminal() {
        assert_eq!(super::without_controls("a\tb\nc é"), "a\tb\nc é");
        assert_eq!(super::without_controls("x\u{1b}[2J\r\u{9b}y\u{7f}"), "x\\u{1b}[2J\\r\\u{9b}y\\u{7f}");
    }
}
