//! How much more can run: reserved at assignment, released at the end.

use crate::executor::control::model::Share;
use crate::executor::control::model::Usage;
use crate::executor::options::Capacity;
use crate::executor::spec::Job;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::sync::watch;

/// What one job takes of the whole, all its processes together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Need {
    cpu: u64,
    mem: u64,
    gpus: u64,
}

impl Need {
    /// Of a job. One that asks for more than the whole gets the whole: it runs alone.
    fn of(job: Option<&Job>, capacity: &Capacity) -> Need {
        let Some(job) = job else { return Need::default() };
        let all = u64::from(job.processes());
        let cpu = job.cpu_millis.saturating_mul(all);
        let mem = job.mem_mib.saturating_mul(all);
        let gpus = u64::from(job.gpu_count) * u64::from(job.nodes);
        Need {
            cpu: cpu.min(capacity.cpu_millis.unwrap_or(u64::MAX)),
            mem: mem.min(capacity.mem_mib.unwrap_or(u64::MAX)),
            gpus: gpus.min(capacity.gpus.map_or(u64::MAX, u64::from)),
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    slots: u32,
    cpu: u64,
    mem: u64,
    gpus: u64,
}

impl Sum {
    fn add(&mut self, need: Need) {
        self.slots += 1;
        self.cpu = self.cpu.saturating_add(need.cpu);
        self.mem = self.mem.saturating_add(need.mem);
        self.gpus = self.gpus.saturating_add(need.gpus);
    }

    fn remove(&mut self, need: Need) {
        self.slots = self.slots.saturating_sub(1);
        self.cpu = self.cpu.saturating_sub(need.cpu);
        self.mem = self.mem.saturating_sub(need.mem);
        self.gpus = self.gpus.saturating_sub(need.gpus);
    }

    fn without(self, other: Sum) -> Sum {
        Sum {
            slots: self.slots.saturating_sub(other.slots),
            cpu: self.cpu.saturating_sub(other.cpu),
            mem: self.mem.saturating_sub(other.mem),
            gpus: self.gpus.saturating_sub(other.gpus),
        }
    }
}

#[derive(Debug, Default)]
struct Sums {
    /// Assigned to us, started or not.
    held: Sum,
    /// May run.
    ready: Sum,
    /// The same for each project.
    projects: BTreeMap<String, Project>,
    /// Of jobs whose processes went back to waiting: offered, so that they may come back.
    lent: Sum,
    /// Nothing more may be assigned.
    draining: bool,
    /// And no earlier offer is open any more.
    settled: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Project {
    held: Sum,
    ready: Sum,
}

/// What the jobs of one project take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The project.
    pub project: String,
    /// Millicores of all its jobs, and of those that run.
    pub cpu: (u64, u64),
    /// GPUs, the same way.
    pub gpus: (u64, u64),
}

/// The room of an executor.
#[derive(Debug)]
pub struct Room {
    capacity: Capacity,
    sums: Mutex<Sums>,
    changed: Notify,
    /// Changes of any kind, for who tells of them.
    news: watch::Sender<()>,
}

/// What is told to the server in a long poll.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Free CPU as the protocol writes it; empty: no limit.
    pub cpu: String,
    /// Free memory; empty: no limit.
    pub mem: String,
    /// Whether nothing may be assigned now.
    pub full: bool,
}

impl Room {
    /// All of it free.
    pub fn new(capacity: Capacity) -> Arc<Room> {
        let capacity = Capacity { slots: capacity.slots.max(1), ..capacity };
        Arc::new(Room { capacity, sums: Mutex::default(), changed: Notify::new(), news: watch::Sender::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Sums> {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is free.
    pub fn offer(&self) -> Offer {
        let Sums { held, lent, draining, .. } = *self.lock();
        let held = held.without(lent);
        let full = draining || held.slots >= self.capacity.slots;
        if full {
            // The poll must go on, for it is the only sign of life. Nothing fits below nothing, not even a process that
            // asks for no CPU.
            return Offer { cpu: "-1m".into(), mem: "0Mi".into(), full };
        }
        let cpu = self.capacity.cpu_millis.map_or_else(String::new, |all| format!("{}m", all.saturating_sub(held.cpu)));
        let mem = self.capacity.mem_mib.map_or_else(String::new, |all| format!("{}Mi", all.saturating_sub(held.mem)));
        Offer { cpu, mem, full }
    }

    /// Reserves for a job that was assigned. It may be more than is free (the server counts one process, not all of a
    /// job's): the job then waits, see [`Ticket::ready`].
    pub fn hold(self: &Arc<Room>, job: Option<&Job>) -> Ticket {
        let need = Need::of(job, &self.capacity);
        let project = job.and_then(Job::project).unwrap_or_default().to_owned();
        let mut sums = self.lock();
        sums.held.add(need);
        sums.projects.entry(project.clone()).or_default().held.add(need);
        drop(sums);
        self.news.send_replace(());
        Ticket { room: self.clone(), need, project, is_ready: false }
    }

    /// Offers what a job takes, since its process went back to waiting and is to come back; until this is dropped. What comes in
    /// its place waits, see [`Ticket::ready`].
    pub fn lend(self: &Arc<Room>, job: Option<&Job>) -> Lent {
        let need = Need::of(job, &self.capacity);
        self.lock().lent.add(need);
        Lent { room: self.clone(), need }
    }

    /// Hears of every change from now on.
    pub fn news(&self) -> watch::Receiver<()> {
        self.news.subscribe()
    }

    /// Offers nothing more, or offers again.
    pub fn set_draining(&self, draining: bool) {
        let mut sums = self.lock();
        if sums.draining != draining {
            (sums.draining, sums.settled) = (draining, false);
            drop(sums);
            self.changed.notify_waiters();
            self.news.send_replace(());
        }
    }

    /// Whether nothing more is offered.
    pub fn is_draining(&self) -> bool {
        self.lock().draining
    }

    /// No earlier offer is open: what was assigned to us has arrived.
    pub fn settle(&self) {
        let mut sums = self.lock();
        if sums.draining && !sums.settled {
            sums.settled = true;
            drop(sums);
            self.news.send_replace(());
        }
    }

    /// Whether nothing more is offered, nothing can come any more, and nothing is left.
    pub fn is_drained(&self) -> bool {
        let sums = self.lock();
        sums.draining && sums.settled && sums.held.slots == 0
    }

    /// What is taken of what there is.
    pub fn usage(&self) -> Usage {
        let held = self.lock().held;
        let share = |used, all| Share { used, all };
        Usage {
            slots: share(held.slots.into(), Some(self.capacity.slots.into())),
            cpu_millis: share(held.cpu, self.capacity.cpu_millis),
            mem_mib: share(held.mem, self.capacity.mem_mib),
            gpus: share(held.gpus, self.capacity.gpus.map(u64::from)),
        }
    }

    /// What the projects take.
    pub fn by_project(&self) -> Vec<Taken> {
        let taken = |(project, Project { held, ready }): (&String, &Project)| Taken {
            project: project.clone(),
            cpu: (held.cpu, ready.cpu),
            gpus: (held.gpus, ready.gpus),
        };
        self.lock().projects.iter().map(taken).collect()
    }

    /// Becomes ready when something is released after this call.
    pub fn released(&self) -> Pin<Box<Notified<'_>>> {
        let mut released = Box::pin(self.changed.notified());
        released.as_mut().enable();
        released
    }
}

/// A reservation that is offered all the same; on drop no more.
#[derive(Debug)]
pub struct Lent {
    room: Arc<Room>,
    need: Need,
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.room.lock().lent.remove(self.need);
    }
}

/// A reservation; released on drop.
#[derive(Debug)]
pub struct Ticket {
    room: Arc<Room>,
    need: Need,
    project: String,
    is_ready: bool,
}

impl Ticket {
    /// Marks the job as running, whatever the room: it runs already.
    pub fn take(&mut self) {
        if !self.is_ready {
            let mut sums = self.room.lock();
            sums.ready.add(self.need);
            sums.projects.entry(self.project.clone()).or_default().ready.add(self.need);
            drop(sums);
            self.is_ready = true;
            self.room.news.send_replace(());
        }
    }

    /// Waits until the job fits beside those that run.
    pub async fn ready(&mut self) {
        let room = self.room.clone();
        loop {
            let changed = room.changed.notified();
            tokio::pin!(changed);
            // Registered before looking, so that no release is missed.
            changed.as_mut().enable();
            if self.fits() {
                return self.take();
            }
            changed.await;
        }
    }

    fn fits(&self) -> bool {
        let (capacity, ready) = (&self.room.capacity, self.room.lock().ready);
        let within = |used: u64, more: u64, all: Option<u64>| all.is_none_or(|all| used.saturating_add(more) <= all);
        self.is_ready
            || (ready.slots < capacity.slots
                && within(ready.cpu, self.need.cpu, capacity.cpu_millis)
                && within(ready.mem, self.need.mem, capacity.mem_mib)
                && within(ready.gpus, self.need.gpus, capacity.gpus.map(u64::from)))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut sums = self.room.lock();
        sums.held.remove(self.need);
        if self.is_ready {
            sums.ready.remove(self.need);
        }
        if let Some(project) = sums.projects.get_mut(&self.project) {
            project.held.remove(self.need);
            if self.is_ready {
                project.ready.remove(self.need);
            }
            if project.held.slots == 0 {
                sums.projects.remove(&self.project);
            }
        }
        drop(sums);
        self.room.changed.notify_waiters();
        self.room.news.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::backend::process::tests::task;

    fn job(cpu: u64, mem: u64, nodes: u32) -> Job {
        let root = tempfile::tempdir().unwrap();
        let mut job = (*task(root.path(), "true", &[], serde_json::json!({})).job).clone();
        (job.cpu_millis, job.mem_mib, job.nodes) = (cpu, mem, nodes);
        job
    }

    #[tokio::test]
    async fn processes_of_all_nodes_count() {
        let room = Room::new(Capacity { slots: 3, cpu_millis: Some(4000), mem_mib: Some(1000), gpus: None });
        assert_eq!(room.offer(), Offer { cpu: "4000m".into(), mem: "1000Mi".into(), full: false });
        let mut one = room.hold(Some(&job(1000, 100, 3)));
        assert_eq!(room.offer().cpu, "1000m");
        assert_eq!(room.offer().mem, "700Mi");
        one.ready().await;
        let mut two = room.hold(Some(&job(2000, 100, 1)));
        assert_eq!(room.offer().cpu, "0m");
        assert!(!two.fits());
        let waiting = tokio::spawn(async move {
            two.ready().await;
            two
        });
        drop(one);
        let two = tokio::time::timeout(std::time::Duration::from_secs(10), waiting).await.unwrap().unwrap();
        drop(two);
        assert_eq!(room.offer().cpu, "4000m");
    }

    #[tokio::test]
    async fn full_offers_nothing_and_too_large_runs_alone() {
        let room = Room::new(Capacity { slots: 1, cpu_millis: Some(1000), mem_mib: None, gpus: None });
        let mut large = room.hold(Some(&job(9000, 1, 1)));
        large.ready().await;
        assert!(room.offer().full);
        drop(large);
        assert_eq!(room.offer(), Offer { cpu: "1000m".into(), mem: String::new(), full: false });
    }

    #[tokio::test]
    async fn a_drained_room_offers_nothing_until_it_is_opened_again() {
        let room = Room::new(Capacity { slots: 2, cpu_millis: Some(4000), mem_mib: None, gpus: None });
        let one = room.hold(Some(&job(1000, 1, 1)));
        let mut news = room.news();
        room.set_draining(true);
        assert!(news.has_changed().unwrap() && room.offer().full);
        news.mark_unchanged();
        // A poll that offered something may still bring a process.
        drop(one);
        assert!(!room.is_drained());
        room.settle();
        assert!(room.is_drained() && news.has_changed().unwrap());
        let waiting = room.released();
        room.set_draining(false);
        waiting.await;
        assert_eq!(room.offer().cpu, "4000m");
        assert!(!room.is_drained());
    }

    #[tokio::test]
    async fn each_project_has_its_sums() {
        let room = Room::new(Capacity { gpus: Some(8), ..Capacity::default() });
        let of = |project: &str| {
            let mut job = Job { gpu_count: 1, ..job(1000, 1, 2) };
            job.env.insert("PROJECT_DIR".into(), format!("/cfs/pollinator/{project}"));
            job
        };
        let mut one = room.hold(Some(&of("a")));
        one.ready().await;
        let _two = room.hold(Some(&of("a")));
        let three = room.hold(Some(&of("b")));
        let taken = |project: &str, cpu, gpus| Taken { project: project.into(), cpu, gpus };
        assert_eq!(room.by_project(), [taken("a", (4000, 2000), (4, 2)), taken("b", (2000, 0), (2, 0))]);
        assert_eq!((room.usage().slots, room.usage().gpus), (Share { used: 3, all: Some(4) }, Share { used: 6, all: Some(8) }));
        drop((one, three));
        assert_eq!(room.by_project(), [taken("a", (2000, 0), (2, 0))]);
    }

    #[tokio::test]
    async fn gpus_are_shared_out() {
        let room = Room::new(Capacity { gpus: Some(2), ..Capacity::default() });
        let with = |gpus| Job { gpu_count: gpus, ..job(100, 1, 1) };
        let mut one = room.hold(Some(&with(2)));
        let (mut two, mut none) = (room.hold(Some(&with(1))), room.hold(Some(&with(0))));
        one.ready().await;
        assert!(!two.fits());
        none.ready().await;
        drop(one);
        two.ready().await;
    }
}
