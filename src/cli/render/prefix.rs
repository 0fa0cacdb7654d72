//! The output of several processes at once: whole lines, each with the name of its process before it.

use crate::event::Event;
use crate::event::Events;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

/// A line that does not end is shown in pieces of this size.
const LONGEST: usize = 64 << 10;

/// Events where each line of a process's log has its name before it.
#[derive(Clone)]
pub struct Named(Arc<Inner>);

struct Inner {
    to: Events,
    names: HashMap<String, String>,
    open: Mutex<HashMap<String, String>>,
}

impl Named {
    /// `names`: by process id; the lines of others stay as they are.
    pub fn new(to: Events, names: HashMap<String, String>) -> Named {
        Named(Arc::new(Inner { to, names, open: Mutex::default() }))
    }

    /// Takes them.
    pub fn events(&self) -> Events {
        let this = self.clone();
        Events::new(move |event| this.0.take(event))
    }

    /// Shows the last line of a process that ends nowhere. With the process's end it is shown by itself.
    pub fn finish_line(&self, process: &str) {
        self.0.finish_line(process);
    }
}

impl Inner {
    fn take(&self, event: Event) {
        match event {
            Event::Log { process, timestamp, message } if self.names.contains_key(&process) => {
                // Held until the lines are out, so that those of one process stay in order.
                let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
                let begun = open.entry(process.clone()).or_default();
                begun.push_str(&message);
                let message = take_lines(begun, &self.names[&process]);
                if !message.is_empty() {
                    self.to.emit(Event::Log { process, timestamp, message });
                }
            }
            Event::Finished { process, state, errors } => {
                self.finish_line(&process);
                self.to.emit(Event::Finished { process, state, errors });
            }
            other => self.to.emit(other),
        }
    }

    fn finish_line(&self, process: &str) {
        let rest = self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(process).unwrap_or_default();
        if let Some(name) = self.names.get(process).filter(|_| !rest.is_empty()) {
            let message = format!("[{name}] {rest}\n");
            self.to.emit(Event::Log { process: process.to_owned(), timestamp: 0, message });
        }
    }
}

/// Takes whole lines off a text, each with the name before it; what is no line yet stays.
fn take_lines(text: &mut String, name: &str) -> String {
    let whole = text.rfind('\n').map_or(0, |at| at + 1);
    let rest = text.split_off(whole);
    let mut lines: String = text.split_inclusive('\n').map(|line| format!("[{name}] {line}")).collect();
    *text = rest;
    if text.len() > LONGEST {
        lines.push_str(&format!("[{name}] {}\n", std::mem::take(text)));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_stay_whole_and_the_last_one_is_shown() {
        let seen = Arc::new(Mutex::new(String::new()));
        let sink = {
            let seen = seen.clone();
            Events::new(move |event| match event {
                Event::Log { message, .. } => seen.lock().unwrap().push_str(&message),
                Event::Finished { process, .. } => seen.lock().unwrap().push_str(&format!("end of {process}\n")),
                _ => {}
            })
        };
        let named = Named::new(sink, [("1", "a=1"), ("2", "a=2")].map(|(id, name)| (id.to_owned(), name.to_owned())).into());
        let events = named.events();
        let log = |id: &str, text: &str| events.emit(Event::Log { process: id.into(), timestamp: 1, message: text.into() });
        log("1", "one\ntw");
        log("2", "other\n");
        log("1", "o\nthree");
        log("3", "a stranger's");
        log("2", "");
        events.emit(Event::Finished { process: "1".into(), state: "success".into(), errors: vec![] });
        log("2", "open");
        named.finish_line("2");
        let expected = "[a=1] one\n[a=2] other\n[a=1] two\na stranger's[a=1] three\nend of 1\n[a=2] open\n";
        assert_eq!(*seen.lock().unwrap(), expected);
    }
}
