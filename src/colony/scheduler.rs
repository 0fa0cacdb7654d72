//! Which process an executor gets, and what becomes of one whose time is up. Pure.

use crate::colonies::Conditions;
use crate::colonies::FunctionSpec;
use crate::colonies::Process;
use crate::colonies::ProcessState;
use crate::colonies::time::Time;

/// Nanoseconds of a second.
const SECOND: i64 = 1_000_000_000;
/// One step of priority is worth one day of waiting.
const DAY: i64 = 86_400 * SECOND;
/// Largest number of nodes, or of processes on one, that is ever assigned (the real server keeps them in a byte).
const MOST: i64 = 127;

/// Why a specification cannot be taken, in the real server's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unusable {
    Priority,
    Cpu,
    Memory,
}

impl Unusable {
    pub(super) fn message(self) -> &'static str {
        match self {
            Unusable::Priority => "Failed to submit function spec, priority outside range [-50000, 50000]",
            Unusable::Cpu => "Error converting CPU to int",
            Unusable::Memory => "error converting memory to int: strconv.ParseInt: parsing \"\": invalid syntax",
        }
    }
}

/// Millicores of `<integer>m`; anything without `m` counts as nothing, as on the real server.
pub(super) fn millicores(text: &str) -> Result<i64, Unusable> {
    match text.strip_suffix('m') {
        Some(number) => number.parse().map_err(|_| Unusable::Cpu),
        None => Ok(0),
    }
}

/// Bytes of an integer with a unit; empty is nothing.
pub(super) fn bytes(text: &str) -> Result<i64, Unusable> {
    if text.is_empty() {
        return Ok(0);
    }
    let units: [(&str, i64); 6] =
        [("Ki", 1 << 10), ("Mi", 1 << 20), ("Gi", 1 << 30), ("K", 1000), ("M", 1_000_000), ("G", 1_000_000_000)];
    for (unit, size) in units {
        if let Some(number) = text.strip_suffix(unit) {
            let number: i64 = number.parse().map_err(|_| Unusable::Memory)?;
            return number.checked_mul(size).ok_or(Unusable::Memory);
        }
    }
    Err(Unusable::Memory)
}

fn whole_mebibytes(text: &str) -> Result<String, Unusable> {
    Ok(format!("{}Mi", bytes(text)? >> 20))
}

/// Brings a specification into the form in which it is kept.
pub(super) fn normalise(spec: &mut FunctionSpec) -> Result<(), Unusable> {
    if !(-50_000..=50_000).contains(&spec.priority) {
        return Err(Unusable::Priority);
    }
    let conditions = &mut spec.conditions;
    conditions.cpu = format!("{}m", millicores(&conditions.cpu)?);
    conditions.mem = whole_mebibytes(&conditions.mem)?;
    conditions.storage = whole_mebibytes(&conditions.storage)?;
    conditions.gpu.mem = whole_mebibytes(&conditions.gpu.mem)?;
    conditions.gpu.nodecount = 0;
    Ok(())
}

/// Place in the queue: the smallest is assigned first.
pub(super) fn priority_time(submitted: i64, priority: i64) -> i64 {
    submitted - priority * DAY
}

/// What an executor that asks for work is and has free.
#[derive(Clone, Debug, Default)]
pub(super) struct Offer {
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) location: String,
    /// Millicores; none: no limit.
    pub(super) cpu: Option<i64>,
    /// Bytes; none: no limit.
    pub(super) mem: Option<i64>,
}

/// Whether a process may go to an executor. Names are compared as they are; `*` is a name like any other.
pub(super) fn fits(conditions: &Conditions, offer: &Offer) -> bool {
    let named = match conditions.executornames.as_deref() {
        None | Some([]) => true,
        Some(names) => names.contains(&offer.name),
    };
    let small = conditions.nodes <= MOST && conditions.processes <= MOST && conditions.processespernode <= MOST;
    let within = |wanted: Result<i64, Unusable>, free: Option<i64>| match (wanted, free) {
        (Ok(wanted), Some(free)) => wanted <= free,
        (Ok(_), None) => true,
        (Err(_), _) => false,
    };
    let place = conditions.locationname.is_empty() || conditions.locationname.eq_ignore_ascii_case(&offer.location);
    named
        && place
        && small
        && conditions.executortype == offer.kind
        && bytes(&conditions.storage) == Ok(0)
        && within(millicores(&conditions.cpu), offer.cpu)
        && within(bytes(&conditions.mem), offer.mem)
}

/// When a running process is taken away (ns); 0: never. A limit of 0 seconds is over at once.
pub(super) fn exec_deadline(started: i64, max_seconds: i64) -> i64 {
    if max_seconds < 0 { 0 } else { started.saturating_add(max_seconds.saturating_mul(SECOND)) }
}

/// When a waiting process has failed (ns); 0: never.
pub(super) fn wait_deadline(submitted: i64, max_seconds: i64) -> i64 {
    if max_seconds <= 0 { 0 } else { submitted.saturating_add(max_seconds.saturating_mul(SECOND)) }
}

/// Gives a waiting process to an executor.
pub(super) fn assign(process: &mut Process, executor_id: &str, now: i64) {
    process.state = ProcessState::Running;
    process.isassigned = true;
    process.assignedexecutorid = executor_id.to_owned();
    process.starttime = Time::from_nanos(now);
}

/// Puts a running process back into the queue. Its times keep their last values.
pub(super) fn take_back(process: &mut Process) {
    process.state = ProcessState::Waiting;
    process.isassigned = false;
    process.assignedexecutorid.clear();
}

/// What becomes of a running process whose time is up: another try, or the end.
pub(super) fn out_of_time(process: &mut Process, now: i64) {
    let again = process.spec.maxretries < 0 || process.retries < process.spec.maxretries;
    if again {
        process.retries += 1;
        process.endtime = Time::from_nanos(now);
        take_back(process);
    } else {
        fail(process, "Maximum execution time limit exceeded", now);
    }
}

/// A waiting process whose time is up.
pub(super) fn waited_too_long(process: &mut Process, now: i64) {
    fail(process, "Maximum waiting time limit exceeded", now);
}

fn fail(process: &mut Process, reason: &str, now: i64) {
    process.state = ProcessState::Failed;
    process.errors = vec![reason.to_owned()];
    process.endtime = Time::from_nanos(now);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conditions() -> Conditions {
        Conditions {
            executortype: "t".into(),
            cpu: "1000m".into(),
            mem: "1000Mi".into(),
            storage: "0Mi".into(),
            nodes: 1,
            ..Conditions::default()
        }
    }

    fn offer() -> Offer {
        Offer { name: "e".into(), kind: "t".into(), ..Offer::default() }
    }

    #[test]
    fn numbers_are_kept_as_the_real_server_keeps_them() {
        let mut spec = FunctionSpec::default();
        for (cpu, mem, kept) in [
            ("2", "1G", ("0m", "953Mi")),
            ("1500m", "1M", ("1500m", "0Mi")),
            ("abc", "", ("0m", "0Mi")),
            ("-5m", "1024Ki", ("-5m", "1Mi")),
        ] {
            spec.conditions.cpu = cpu.into();
            spec.conditions.mem = mem.into();
            normalise(&mut spec).unwrap();
            assert_eq!((spec.conditions.cpu.as_str(), spec.conditions.mem.as_str()), kept);
        }
        for mem in ["1T", "5", "1Ti", "1.5Gi", " 1Gi"] {
            spec.conditions.mem = mem.into();
            assert_eq!(normalise(&mut spec), Err(Unusable::Memory), "{mem}");
        }
        spec.conditions.mem.clear();
        spec.conditions.cpu = "1.5m".into();
        assert_eq!(normalise(&mut spec), Err(Unusable::Cpu));
        spec.priority = 50_001;
        assert_eq!(normalise(&mut spec), Err(Unusable::Priority));
    }

    #[test]
    fn a_process_goes_only_where_it_fits() {
        assert!(fits(&conditions(), &offer()));
        let with = |change: fn(&mut Conditions)| {
            let mut c = conditions();
            change(&mut c);
            fits(&c, &offer())
        };
        assert!(with(|c| c.executornames = Some(vec!["x".into(), "e".into()])));
        assert!(with(|c| c.executornames = Some(vec![])));
        assert!(!with(|c| c.executornames = Some(vec!["E".into()])));
        assert!(!with(|c| c.executornames = Some(vec!["*".into()])));
        assert!(!with(|c| c.executortype = "other".into()));
        assert!(!with(|c| c.nodes = 128));
        assert!(!with(|c| c.storage = "1Mi".into()));
        assert!(!fits(&conditions(), &Offer { cpu: Some(999), ..offer() }));
        assert!(!fits(&conditions(), &Offer { mem: Some(999 << 20), ..offer() }));
        assert!(fits(&conditions(), &Offer { cpu: Some(1000), mem: Some(1000 << 20), ..offer() }));
    }

    #[test]
    fn time_limits() {
        assert_eq!(exec_deadline(5 * SECOND, -1), 0);
        assert_eq!(exec_deadline(5 * SECOND, 0), 5 * SECOND);
        assert_eq!(wait_deadline(5 * SECOND, 0), 0);
        assert_eq!(wait_deadline(5 * SECOND, 2), 7 * SECOND);
        let mut process = Process { spec: FunctionSpec { maxretries: 1, ..FunctionSpec::default() }, ..Process::default() };
        assign(&mut process, "e", 1);
        out_of_time(&mut process, 2);
        assert_eq!((process.state, process.retries, process.isassigned), (ProcessState::Waiting, 1, false));
        assign(&mut process, "e", 3);
        out_of_time(&mut process, 4);
        assert_eq!((process.state, process.errors.len()), (ProcessState::Failed, 1));
        assert!(priority_time(DAY, 1) < priority_time(1, 0), "a step of priority is worth a day");
    }
}
