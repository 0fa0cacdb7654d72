//! The engine in a world of its own: edits, events that are dropped, doubled, late and out of order, operations that fail half
//! way, kills, pauses, sleep. After quiet the colony holds what is here, and no run was lost or doubled.
//!
//! `POLLINATOR_SEED=n` replays one seed, `POLLINATOR_SEEDS=n` tries so many.

use super::*;
use crate::event::Tree;
use crate::project::OnSave;
use crate::project::WhenBusy;
use std::collections::BTreeMap;
use std::collections::VecDeque;

/// Seeds tried where nothing is said.
const SEEDS: u64 = 100_000;
/// Inputs of chaos in each.
const STEPS: u32 = 60;

type Files = BTreeMap<Place, u64>;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

#[derive(Clone, Debug)]
struct Run {
    id: String,
    ran: Files,
    for_save: bool,
    ends: Millis,
    open: bool,
    fetched: u32,
}

/// What an operation under way saw.
struct UnderWay {
    action: Action,
    /// When it looks, and what it saw then.
    looks: Millis,
    saw: Option<(Files, Vec<Place>)>,
    ends: Millis,
}

struct World {
    random: Random,
    now: Millis,
    engine: Engine,
    manners: Manners,
    here: Files,
    /// Files in the middle of being written, and when their writer is done. Their content is odd.
    writing: BTreeMap<Place, Millis>,
    colony: Files,
    events: VecDeque<(Millis, Place, bool)>,
    watches_stand: Millis,
    under_way: Option<UnderWay>,
    /// The journal: survives kills.
    runs: Vec<Run>,
    asks: BTreeMap<AskId, (Ask, Files)>,
    next_ask: AskId,
    version: u64,
    calm: bool,
    /// Events are lost without a word: only the regular look helps.
    silent_losses: bool,
    lost_silently: bool,
    /// What happened, line by line; none: nobody reads it, and words cost more than what they are about.
    trail: Option<Vec<String>>,
}

impl World {
    fn new(seed: u64, tell: bool) -> World {
        let mut random = Random(seed);
        let manners = Manners {
            on_save: [OnSave::Sync, OnSave::Run][random.below(2) as usize],
            when_busy: [WhenBusy::Queue, WhenBusy::Replace, WhenBusy::Skip][random.below(3) as usize],
            quiet: [50, 300, 2000][random.below(3) as usize],
            fetch: true,
        };
        let silent_losses = random.one_in(4);
        let mut world = World {
            engine: Engine::new(manners, seed, 0),
            random,
            now: 0,
            manners,
            here: Files::new(),
            writing: BTreeMap::new(),
            colony: Files::new(),
            events: VecDeque::new(),
            watches_stand: 0,
            under_way: None,
            runs: Vec::new(),
            asks: BTreeMap::new(),
            next_ask: 0,
            version: 0,
            calm: false,
            silent_losses,
            lost_silently: false,
            trail: tell.then(Vec::new),
        };
        for _ in 0..world.random.below(4) {
            world.save();
        }
        world.boot();
        world
    }

    /// The agent starts: nothing but the journal is left of what it knew.
    fn boot(&mut self) {
        self.events.clear();
        self.under_way = None;
        let seed = self.random.next();
        self.engine = Engine::new(self.manners, seed, self.now);
        self.watches_stand = self.now + 1 + self.random.below(500);
        // Nobody waits for an answer of the one that was killed.
        self.asks.clear();
        self.say(|_| "boot".into());
        for run in self.runs.clone() {
            if run.open {
                self.step(Input::Opened(run.id));
            } else if run.fetched == 0 {
                self.step(Input::Closed { run: run.id, fetch: true });
            }
        }
    }

    fn say(&mut self, what: impl FnOnce(&World) -> String) {
        if self.trail.is_some() {
            let line = format!("{:>9} {}", self.now, what(self));
            self.trail.get_or_insert_default().push(line);
        }
    }

    fn place(&mut self) -> Place {
        let tree = [Tree::Src, Tree::Data][self.random.below(2) as usize];
        (tree, format!("f{}", self.random.below(5)))
    }

    /// Somebody writes, removes or begins to write a file.
    fn save(&mut self) {
        let place = self.place();
        if self.writing.contains_key(&place) {
            return;
        }
        self.version += 2;
        match self.random.below(6) {
            0 => {
                self.here.remove(&place);
                self.tell(place, false);
            }
            1 => {
                let done = self.now + self.random.below(5_000);
                self.here.insert(place.clone(), self.version + 1);
                self.writing.insert(place.clone(), done);
                self.tell(place, true);
            }
            _ => {
                self.here.insert(place.clone(), self.version);
                if self.random.one_in(3) {
                    self.tell(place.clone(), true);
                }
                self.tell(place, false);
            }
        }
    }

    fn finish_writing(&mut self) {
        let done: Vec<Place> = self.writing.iter().filter(|(_, at)| **at <= self.now).map(|(place, _)| place.clone()).collect();
        for place in done {
            self.writing.remove(&place);
            if let Some(content) = self.here.get_mut(&place) {
                *content -= 1;
            }
            self.tell(place, false);
        }
    }

    /// The system tells of it, more or less. Before the watches stand it may or may not.
    fn tell(&mut self, place: Place, open: bool) {
        self.say(|world| {
            let what = if open { "write" } else { "save" };
            format!("{what} {}/{} {:?}", place.0, place.1, world.here.get(&place))
        });
        if self.now < self.watches_stand && self.random.one_in(2) {
            return;
        }
        if self.silent_losses && !self.calm && self.random.one_in(6) {
            self.lost_silently = true;
            return self.say(|_| "lost silently".into());
        }
        for _ in 0..=u64::from(self.random.one_in(8)) {
            // Those of one file keep their order; those of several need not.
            let earliest = self.events.iter().filter(|(_, other, _)| *other == place).map(|(at, ..)| *at).max().unwrap_or(0);
            let at = (self.now + self.random.below(200)).max(earliest);
            self.events.push_back((at, place.clone(), open));
        }
    }

    /// The queue was too short.
    fn overflow(&mut self) {
        self.events.clear();
        self.say(|_| "overflow".into());
        self.step(Input::Rescan);
    }

    fn deliver(&mut self, until: Millis) {
        let mut due: Vec<_> = Vec::new();
        self.events.retain(|event| {
            let is_due = event.0 <= until;
            if is_due {
                due.push(event.clone());
            }
            !is_due
        });
        due.sort_by_key(|event| event.0);
        for (_, place, open) in due {
            self.step(Input::Touched { place, open });
        }
    }

    fn ask(&mut self, ask: Ask) {
        // The barrier: what the system was told of before is handed over before the ask.
        self.deliver(Millis::MAX);
        self.next_ask += 1;
        self.asks.insert(self.next_ask, (ask, self.here.clone()));
        self.say(|world| format!("ask {} {ask:?}", world.next_ask));
        self.step(Input::Ask(self.next_ask, ask));
    }

    fn step(&mut self, input: Input) {
        if !matches!(input, Input::Tick) {
            self.say(|_| format!("  -> {input:?}"));
        }
        let actions = self.engine.step(self.now, input);
        for action in actions {
            self.say(|_| format!("  <- {action:?}"));
            match action {
                Action::Answer(id, answer) => self.answered(id, answer),
                action => {
                    assert!(self.under_way.is_none(), "two operations at once");
                    let looks = self.now + self.random.below(100);
                    let ends = looks + self.random.below(1_000);
                    self.under_way = Some(UnderWay { action, looks, saw: None, ends });
                }
            }
        }
        if let Some(wake) = self.engine.wake() {
            assert!(wake > self.now, "it would wake at {wake}, not after {}: {:?}", self.now, self.engine);
        }
        let told = self.events.is_empty() && self.now >= self.watches_stand && !self.lost_silently && self.writing.is_empty();
        if self.engine.is_in_sync() && told {
            assert_eq!(self.colony, self.here, "it says that all is in sync");
        }
    }

    /// What was asked for is so: the colony has each file as it was at the ask, or newer.
    fn answered(&mut self, id: AskId, answer: Result<(), Failure>) {
        let (ask, then) = self.asks.remove(&id).expect("one answer to one ask");
        if answer.is_err() || self.lost_silently || !matches!(ask, Ask::Flush | Ask::Sync) {
            return;
        }
        let colony = self.colony.clone();
        self.has_all(&then, &colony);
    }

    fn has_all(&self, then: &Files, colony: &Files) {
        for (place, content) in then {
            let has = colony.get(place).copied();
            // A file that was gone later may be gone; versions only grow; a torn one has an odd number, one above.
            let is_newer = has.is_some_and(|has| has + 1 >= *content) || self.here.get(place) != Some(content);
            assert!(is_newer, "{place:?} was {content} when it was asked for, and the colony has {has:?}");
        }
    }

    fn look(&mut self) {
        let Some(under_way) = &mut self.under_way else { return };
        if under_way.saw.is_some() || under_way.looks > self.now {
            return;
        }
        let all = matches!(under_way.action, Action::Sync { all: true, .. } | Action::Run { by: Some(_), .. });
        let busy: Vec<Place> = if all { Vec::new() } else { self.writing.keys().cloned().collect() };
        let mut saw = self.here.clone();
        for place in &busy {
            saw.remove(place);
        }
        under_way.saw = Some((saw, busy));
    }

    fn end(&mut self) {
        let is_over = self.under_way.as_ref().is_some_and(|under_way| under_way.ends <= self.now && under_way.saw.is_some());
        if !is_over {
            return;
        }
        let Some(UnderWay { action, saw: Some((saw, busy)), .. }) = self.under_way.take() else { return };
        let fails = !self.calm && self.random.one_in(4);
        let outcome = match action {
            Action::Sync { scope, .. } => self.sync(&scope, &saw, &busy, fails),
            Action::Run { by, fresh, replace } => self.run(by, fresh, &replace, &saw, &busy, fails),
            Action::Fetch { runs, .. } => self.fetch(runs, fails),
            Action::Answer(..) => unreachable!(),
        };
        self.step(Input::Ended(outcome));
    }

    fn failure(&mut self, synced: bool) -> Outcome {
        let offline = self.random.one_in(2);
        let temporary = offline || self.random.one_in(2);
        Outcome::Failed { failure: Failure { reason: "chaos".into(), offline, temporary, ..Failure::default() }, synced }
    }

    /// Brings over what was seen; half of it where it fails.
    fn bring(&mut self, scope: &Scope, saw: &Files, busy: &[Place], half: bool) {
        let places: Vec<Place> = match scope {
            Scope::Paths(paths) => paths.clone(),
            Scope::Whole => saw.keys().chain(self.colony.keys()).cloned().collect(),
        };
        for place in places {
            if busy.contains(&place) || (half && self.random.one_in(2)) {
                continue;
            }
            match saw.get(&place) {
                Some(content) => self.colony.insert(place, *content),
                None => self.colony.remove(&place),
            };
        }
    }

    fn sync(&mut self, scope: &Scope, saw: &Files, busy: &[Place], fails: bool) -> Outcome {
        self.bring(scope, saw, busy, fails);
        if fails {
            return self.failure(false);
        }
        let concerned = |place: &&Place| match scope {
            Scope::Whole => true,
            Scope::Paths(paths) => paths.contains(place),
        };
        Outcome::Done(Done { busy: busy.iter().filter(concerned).cloned().collect(), ..Done::default() })
    }

    fn run(&mut self, by: Option<AskId>, fresh: bool, replace: &[String], saw: &Files, busy: &[Place], fails: bool) -> Outcome {
        let fails_late = fails && self.random.one_in(2);
        if fresh {
            assert!(by.is_some(), "a run for a save looks");
        } else {
            self.bring(&Scope::Whole, saw, busy, fails && !fails_late);
        }
        if fails && !fails_late {
            return self.failure(false);
        }
        if fails_late {
            return self.failure(busy.is_empty());
        }
        if let Some((_, then)) = by.and_then(|id| self.asks.get(&id))
            && !self.lost_silently
        {
            let (then, colony) = (then.clone(), self.colony.clone());
            self.has_all(&then, &colony);
        }
        let last = self.runs.last().map(|run| run.ran.clone());
        let mut done = Done { busy: busy.to_vec(), ..Done::default() };
        // As the journal tells: a first look is not a save, and the same tree does not run twice for saves.
        let is_new = match last {
            Some(last) => last != self.colony,
            None => self.version > 8,
        };
        if by.is_some() || is_new {
            for id in replace {
                self.close(id);
            }
            let id = format!("r{}", self.runs.len());
            let ends = self.now + self.random.below(8_000);
            let run = Run { id: id.clone(), ran: self.colony.clone(), for_save: by.is_none(), ends, open: true, fetched: 0 };
            self.say(|_| format!("run {id} of {:?}", run.ran));
            self.runs.push(run);
            done.runs.push(id);
        }
        // The process may have ended before the operation has.
        Outcome::Done(done)
    }

    fn close(&mut self, id: &str) {
        if let Some(run) = self.runs.iter_mut().find(|run| run.id == id && run.open) {
            (run.open, run.ends) = (false, self.now);
            self.step(Input::Closed { run: id.to_owned(), fetch: true });
        }
    }

    fn close_what_ended(&mut self) {
        let ended: Vec<String> =
            self.runs.iter().filter(|run| run.open && run.ends <= self.now).map(|run| run.id.clone()).collect();
        for id in ended {
            // Told after the run was told of: by one task in the agent.
            if self.under_way.is_none() {
                self.close(&id);
            }
        }
    }

    fn fetch(&mut self, runs: Vec<String>, fails: bool) -> Outcome {
        if fails {
            return self.failure(false);
        }
        for run in self.runs.iter_mut().filter(|run| runs.contains(&run.id)) {
            run.fetched += 1;
        }
        Outcome::Done(Done { fetched: runs, ..Done::default() })
    }

    /// Lets time pass to the next thing that happens, or by `most`.
    fn pass(&mut self, most: Millis) {
        let mut next = self.now + most;
        for at in self.engine.wake().into_iter().chain(self.events.iter().map(|e| e.0)).chain(self.writing.values().copied()) {
            next = next.min(at.max(self.now + 1));
        }
        if let Some(under_way) = &self.under_way {
            let at = if under_way.saw.is_none() { under_way.looks } else { under_way.ends };
            next = next.min(at.max(self.now + 1));
        }
        if self.now < self.watches_stand {
            next = next.min(self.watches_stand);
        }
        for run in self.runs.iter().filter(|run| run.open) {
            next = next.min(run.ends.max(self.now + 1));
        }
        self.now = next;
        self.happen();
    }

    fn happen(&mut self) {
        if self.now >= self.watches_stand && self.watches_stand != 0 {
            self.watches_stand = 0;
            self.step(Input::Watching(Watching::Live));
        }
        self.finish_writing();
        self.deliver(self.now);
        self.look();
        self.end();
        self.close_what_ended();
        self.step(Input::Tick);
    }

    fn chaos(&mut self) {
        match self.random.below(24) {
            0 => {
                self.say(|_| "kill".into());
                // What was on its way arrives in part.
                if let Some(UnderWay { action: Action::Sync { scope, .. }, saw: Some((saw, busy)), .. }) = self.under_way.take() {
                    self.bring(&scope, &saw, &busy, true);
                }
                self.boot();
            }
            1 => self.overflow(),
            2 => self.ask(Ask::Flush),
            3 => self.ask(Ask::Run),
            4 => self.ask(Ask::Sync),
            5 => {
                // The lid was closed.
                self.now += self.random.below(20_000_000);
                self.happen();
            }
            6 => {
                let until = self.now + 1 + self.random.below(10_000);
                self.step(Input::Pause(Some(until)));
            }
            7 => self.step(Input::Resume),
            8 => {
                self.watches_stand = self.now + 1 + self.random.below(1_000);
                self.step(Input::Watching(Watching::Installing));
            }
            9 => {
                let until = self.now + 1 + self.random.below(5_000);
                self.step(Input::Hold(until));
            }
            _ => self.save(),
        }
    }

    fn settle(&mut self) {
        self.calm = true;
        self.step(Input::Resume);
        let horizon = self.now + 2 * LOOK_LONGEST;
        while self.now < horizon {
            self.pass(LOOK_EVERY);
            let told = self.events.is_empty() && self.writing.is_empty();
            let quiet = told && self.under_way.is_none() && self.runs.iter().all(|run| !run.open);
            // Only the regular look finds what nobody told of.
            if quiet && self.lost_silently && self.now + LOOK_EVERY > horizon {
                self.lost_silently = false;
            }
            if quiet && self.engine.is_in_sync() && self.engine.status().phase == Phase::Idle && !self.lost_silently {
                break;
            }
        }
    }

    fn judge(&self) {
        assert_eq!(self.colony, self.here, "what is stored is what is here");
        assert!(self.engine.is_in_sync(), "{:?}", self.engine.status());
        assert_eq!(self.engine.status().phase, Phase::Idle);
        assert!(self.asks.is_empty(), "unanswered: {:?}", self.asks.keys());
        assert!(self.runs.iter().all(|run| run.fetched > 0), "results that never came home");
        for pair in self.runs.windows(2) {
            assert!(!pair[1].for_save || pair[0].ran != pair[1].ran, "{} ran what {} had run", pair[1].id, pair[0].id);
        }
        // Skipped saves have no run by their own wish.
        let all_run = self.manners.on_save == OnSave::Run && self.manners.when_busy != WhenBusy::Skip;
        if let (true, Some(last)) = (all_run, self.runs.last()) {
            assert_eq!(last.ran, self.here, "the last run ran what is here");
        }
    }
}

/// A life: how it ended, and its trail where that is wanted.
fn life(seed: u64, tell: bool) -> (std::thread::Result<()>, Vec<String>) {
    let mut world = World::new(seed, tell);
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        for _ in 0..STEPS {
            world.chaos();
            let most = 1 + world.random.below(1_500);
            world.pass(most);
        }
        world.settle();
        world.judge();
    }));
    (outcome, world.trail.unwrap_or_default())
}

/// A life that has to go well; one that did not is lived once more, to be told.
fn live(seed: u64) {
    if life(seed, false).0.is_ok() {
        return;
    }
    let (outcome, trail) = life(seed, true);
    for line in &trail[trail.len().saturating_sub(120)..] {
        eprintln!("{line}");
    }
    eprintln!("replay: POLLINATOR_SEED={seed} cargo test --lib agent::engine::simulation");
    std::panic::resume_unwind(outcome.expect_err("a seed is the same life every time"));
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

#[test]
fn after_quiet_the_trees_agree_and_no_run_was_lost_or_doubled() {
    if let Some(seed) = number("POLLINATOR_SEED") {
        let (outcome, trail) = life(seed, true);
        for line in trail {
            eprintln!("{line}");
        }
        return outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }
    let seeds = number("POLLINATOR_SEEDS").unwrap_or(SEEDS);
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get() as u64);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || (thread..seeds).step_by(threads as usize).for_each(live));
        }
    });
}

#[test]
fn a_seed_is_the_same_life_every_time() {
    for seed in 0..20 {
        let (first, second) = (life(seed, true), life(seed, true));
        assert!(first.0.is_ok() && second.0.is_ok());
        assert!(!first.1.is_empty() && first.1 == second.1);
    }
}
