//! The only place that prints.
//!
//! Standard output carries what was asked for: listings, JSON, the job's own output byte for byte. Everything said about it
//! goes to standard error.

pub mod log;
pub mod progress;
pub mod sizes;
pub mod times;

use super::CliError;
use comfy_table::ContentArrangement;
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde::Serialize;
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
        let line =
            if self.colored && !word.is_empty() { format!("{color}{word}\x1b[0m{text}\n") } else { format!("{word}{text}\n") };
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

/// Whoever read our output has gone (`| head`): that is no error, and there is nothing left to do. A full disk is told.
fn end_without_reader(error: &std::io::Error) {
    if error.kind() == ErrorKind::BrokenPipe {
        // As a program that a broken pipe's signal ends.
        std::process::exit(141);
    }
    let _ = writeln!(std::io::stderr(), "error: cannot write to standard output: {error}");
    std::process::exit(i32::from(super::error::FAILED));
}
