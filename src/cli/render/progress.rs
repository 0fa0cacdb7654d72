//! Readers of the event stream: bars on a terminal, plain lines elsewhere, one JSON object a line with `--json`.

use super::Screen;
use super::Tone;
use super::sizes;
use crate::event::Direction;
use crate::event::Event;
use crate::event::Events;
use crate::event::Tree;
use indicatif::MultiProgress;
use indicatif::ProgressBar;
use indicatif::ProgressDrawTarget;
use indicatif::ProgressStyle;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

/// Up to so many files of a tree are named one by one.
const NAMED: u64 = 20;

/// Events as JSON lines on standard output.
pub fn json_lines(screen: Screen) -> Events {
    Events::new(move |event| match serde_json::to_string(&event) {
        Ok(line) => screen.line(&line),
        Err(error) => tracing::error!(%error, "an event cannot be written as JSON"),
    })
}

/// Events for a person.
pub fn for_people(screen: Screen) -> Events {
    let target = if screen.stderr_is_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let state = State { bars: HashMap::new(), multi: MultiProgress::with_draw_target(target), line_is_open: false, screen };
    let state = Arc::new(Mutex::new(state));
    Events::new(move |event| state.lock().unwrap_or_else(PoisonError::into_inner).show(event))
}

struct Bar {
    bar: ProgressBar,
    files: u64,
    done: u64,
}

struct State {
    bars: HashMap<(Tree, Direction), Bar>,
    multi: MultiProgress,
    /// The job's last piece of output did not end its line.
    line_is_open: bool,
    screen: Screen,
}

impl State {
    fn show(&mut self, event: Event) {
        match event {
            Event::TransferStarted { tree, direction, files, bytes } => self.start(tree, direction, files, bytes),
            Event::TransferProgress { tree, direction, bytes, .. } => {
                if let Some(bar) = self.bars.get(&(tree, direction)) {
                    bar.bar.inc(bytes);
                }
            }
            Event::FileDone { tree, direction, path, size, travelled } => {
                self.file_done(tree, direction, &path, (size, travelled));
            }
            Event::TransferFinished { tree, direction, files, bytes, travelled, problems } => {
                self.finish(tree, direction, files, (bytes, travelled), problems);
            }
            Event::Log { message, .. } => self.log(&message),
            other => self.tell(other),
        }
    }

    fn start(&mut self, tree: Tree, direction: Direction, files: u64, bytes: u64) {
        if files == 0 {
            return;
        }
        let bar = self.multi.add(ProgressBar::new(bytes));
        let template = "{prefix} [{bar:24}] {bytes}/{total_bytes} {binary_bytes_per_sec} {eta} {wide_msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(format!("{} {tree}", doing(direction)));
        bar.set_message(format!("0 of {}", sizes::files(files)));
        self.bars.insert((tree, direction), Bar { bar, files, done: 0 });
    }

    fn file_done(&mut self, tree: Tree, direction: Direction, path: &str, sizes: (u64, u64)) {
        let Some(bar) = self.bars.get_mut(&(tree, direction)) else { return };
        bar.done += 1;
        bar.bar.set_message(format!("{} of {}", bar.done, sizes::files(bar.files)));
        if bar.files <= NAMED {
            let line = format!("{} {tree}/{path} ({})", done(direction), moved(direction, sizes));
            self.say(Tone::Note, &line);
        }
    }

    fn finish(&mut self, tree: Tree, direction: Direction, files: u64, sizes: (u64, u64), problems: u64) {
        let Some(bar) = self.bars.remove(&(tree, direction)) else { return };
        bar.bar.finish_and_clear();
        self.multi.remove(&bar.bar);
        if bar.files > NAMED || problems > 0 {
            let mut line = format!("{} {} of {tree} ({})", done(direction), sizes::files(files), moved(direction, sizes));
            if problems > 0 {
                line.push_str(&format!("; {} with problems", sizes::files(problems)));
            }
            self.say(Tone::Note, &line);
        }
    }

    /// The job's own output, byte for byte.
    fn log(&mut self, message: &str) {
        let screen = self.screen;
        self.multi.suspend(|| screen.out(message.as_bytes()));
        if !message.is_empty() {
            self.line_is_open = !message.ends_with('\n');
        }
    }

    fn say(&mut self, tone: Tone, text: &str) {
        let screen = self.screen;
        let close = std::mem::take(&mut self.line_is_open) && screen.stdout_is_terminal;
        self.multi.suspend(|| {
            if close {
                screen.out(b"\n");
            }
            screen.say(tone, text);
        });
    }

    fn tell(&mut self, event: Event) {
        match event {
            Event::ColonyStarted { server } => {
                self.say(
                    Tone::Note,
                    &format!("Nothing is configured: started the local colony of this machine (server {server})"),
                );
            }
            Event::FileProblem { tree, path, problem } => self.say(Tone::Warning, &format!("{tree}/{path}: {problem}")),
            Event::FileRemoved { tree, path, local: true } => self.say(Tone::Note, &format!("Removed {tree}/{path}")),
            Event::FileRemoved { tree, path, local: false } => {
                self.say(Tone::Note, &format!("Removed {tree}/{path} from the colony"));
            }
            Event::FileKept { tree, path, kept_as } => {
                self.say(Tone::Warning, &format!("{tree}/{path} differs in the colony: yours is kept as {tree}/{kept_as}"));
            }
            Event::Submitted { process, dashboard, .. } => {
                self.say(Tone::Note, &format!("Process submitted ProcessID={process}"));
                if let Some(page) = dashboard {
                    let screen = self.screen;
                    self.multi.suspend(|| screen.say_address("Follow process at ", &page));
                }
            }
            Event::Sweep { sweep, points, results } => {
                self.say(Tone::Note, &format!("Sweep of {points} processes SweepID={sweep}; results come to cfs/{results}"));
            }
            Event::SweepFinished { sweep, success, failed, cancelled } => {
                let short = &sweep[..sweep.len().min(12)];
                let tone = if failed + cancelled > 0 { Tone::Warning } else { Tone::Note };
                let all = success + failed + cancelled;
                let mut line = format!("Sweep {short}: {success} of {all} processes succeeded");
                for (number, how) in [(failed, "failed"), (cancelled, "were cancelled")] {
                    if number > 0 {
                        line.push_str(&format!(", {number} {how}"));
                    }
                }
                self.say(tone, &line);
            }
            Event::TunnelOpened { local, node, remote, through, .. } => {
                let through = through.map_or(String::new(), |host| format!(" through {host}"));
                self.say(Tone::Note, &format!("Tunnel open: 127.0.0.1:{local} leads to {node}:{remote}{through}"));
            }
            Event::TunnelLost { reason, again_in, .. } => {
                self.say(Tone::Warning, &format!("the tunnel is not open ({reason}); tried again in {again_in} s"));
            }
            Event::TunnelFailed { reason, hint, .. } => {
                self.say(Tone::Warning, &format!("there is no tunnel: {reason}"));
                if let Some(hint) = hint {
                    self.say(Tone::Hint, &hint);
                }
            }
            Event::TunnelClosed { .. } => self.say(Tone::Note, "Tunnel closed"),
            Event::ProcessState { process, state, executor } => self.process_state(&process, &state, executor),
            Event::Finished { process, state, errors } => self.finished(&process, &state, &errors),
            Event::Warning { message } => self.say(Tone::Warning, &message),
            Event::Note { message } => self.say(Tone::Note, &message),
            _ => {}
        }
    }

    fn process_state(&mut self, process: &str, state: &str, executor: Option<String>) {
        let short = &process[..process.len().min(12)];
        match (state, executor) {
            ("waiting", _) => self.say(Tone::Note, &format!("Process {short} waits for an executor")),
            ("running", Some(name)) => self.say(Tone::Note, &format!("Process {short} runs on {name}")),
            ("running", None) => self.say(Tone::Note, &format!("Process {short} runs")),
            // How it ended is told once, by `Finished`.
            _ => {}
        }
    }

    fn finished(&mut self, process: &str, state: &str, errors: &[String]) {
        match state {
            "success" => self.say(Tone::Note, &format!("Process finished successfully ProcessID={process}")),
            "cancelled" => self.say(Tone::Warning, &format!("Process was cancelled ProcessID={process}")),
            _ => {
                self.say(Tone::Warning, &format!("Process failed ProcessID={process}"));
                for error in errors {
                    self.say(Tone::Note, &format!("  {}", error.trim_end().replace('\n', "\n  ")));
                }
            }
        }
    }
}

fn doing(direction: Direction) -> &'static str {
    match direction {
        Direction::Upload => "Uploading",
        Direction::Download => "Downloading",
    }
}

fn done(direction: Direction) -> &'static str {
    match direction {
        Direction::Upload => "Uploaded",
        Direction::Download => "Downloaded",
    }
}

/// Bytes of files, and how many of them travelled where that is fewer.
fn moved(direction: Direction, (size, travelled): (u64, u64)) -> String {
    let word = match direction {
        Direction::Upload => "sent",
        Direction::Download => "fetched",
    };
    match travelled {
        all if all >= size => sizes::human(size),
        less => format!("{}, {} {word}", sizes::human(size), sizes::human(less)),
    }
}
