//! What Slurm says about jobs: the output of `squeue`, `sacct` and `scontrol show job`, read. Pure and total.

use super::hostlist;
use std::collections::BTreeMap;

/// Fields asked of `squeue`, in this order; the reason last, for it is free text.
pub const SQUEUE_FORMAT: &str = "%A|%T|%N|%r";
/// Fields asked of `sacct`.
pub const SACCT_FORMAT: &str = "JobIDRaw,State,ExitCode,NodeList,Reason";

/// A job as Slurm sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Slurm's word: `RUNNING`.
    pub state: String,
    /// Nodes it was given.
    pub nodes: Vec<String>,
    /// Why it is in that state; empty where nobody says.
    pub reason: String,
    /// Exit status and signal of the batch script, where they are told.
    pub exit: Option<(i32, i32)>,
}

/// What a state means for whoever waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It has not begun.
    Waiting,
    /// It runs, or is about to end, or is stopped for a while.
    Going,
    /// It is over.
    Over,
}

impl Report {
    /// How far it is. A word that is not known counts as going: not knowing is no end.
    pub fn phase(&self) -> Phase {
        match self.state.as_str() {
            "PENDING" | "CONFIGURING" | "REQUEUED" | "REQUEUE_FED" | "REQUEUE_HOLD" | "RESV_DEL_HOLD" => Phase::Waiting,
            "BOOT_FAIL" | "CANCELLED" | "COMPLETED" | "DEADLINE" | "FAILED" | "NODE_FAIL" | "OUT_OF_MEMORY" | "PREEMPTED"
            | "REVOKED" | "SPECIAL_EXIT" | "TIMEOUT" => Phase::Over,
            _ => Phase::Going,
        }
    }

    /// Why it does not run yet, for a person; none where it does, or nobody says.
    pub fn waiting(&self) -> Option<String> {
        let advice = match self.reason.as_str() {
            "Resources" => "the nodes it needs are in use",
            "Priority" => "jobs of higher priority come first",
            "PartitionDown" | "PartitionInactive" => "the partition is closed",
            "ReqNodeNotAvail" | "NodeDown" => "a node it needs is down or reserved",
            "PartitionTimeLimit" => "its walltime is longer than the partition allows",
            "PartitionNodeLimit" => "it asks for more nodes than the partition has",
            "JobHeldUser" | "JobHeldAdmin" => "it is held: `scontrol release` lets it go",
            reason if reason.starts_with("QOS") => "a limit of the quality of service is reached",
            reason if reason.starts_with("Assoc") => "a limit of the account is reached",
            _ => "",
        };
        let told = !matches!(self.reason.as_str(), "" | "None");
        (told && self.phase() == Phase::Waiting).then(|| match (self.reason.as_str(), advice) {
            (reason, "") => format!("Slurm: {} ({reason})", self.state),
            (reason, advice) => format!("Slurm: {} ({reason}: {advice})", self.state),
        })
    }

    /// Why Slurm ended it, beginning with its word; none where it ended by itself.
    pub fn because(&self) -> Option<String> {
        let meaning = match self.state.as_str() {
            "TIMEOUT" => "its walltime is over",
            "OUT_OF_MEMORY" => "it used more memory than it asked for",
            "NODE_FAIL" => "a node it ran on failed",
            "PREEMPTED" => "another job took its place",
            "CANCELLED" => "somebody ended it with scancel, or an administrator did",
            "BOOT_FAIL" => "a node could not be started for it",
            "DEADLINE" => "its deadline passed",
            "REVOKED" => "another cluster of the federation took it",
            _ => return None,
        };
        let reason = Some(self.reason.as_str()).filter(|r| !r.is_empty() && *r != "None" && *r != self.state);
        Some(match reason {
            Some(reason) => format!("{}: {meaning} ({reason})", self.state),
            None => format!("{}: {meaning}", self.state),
        })
    }
}

/// The first word of a state: `CANCELLED by 1000`, `RUNNING+`.
fn word(text: &str) -> String {
    text.split_whitespace().next().unwrap_or_default().trim_end_matches('+').to_owned()
}

/// `squeue -o` [`SQUEUE_FORMAT`]: reports by job id. Lines that are not understood say nothing.
pub fn squeue(text: &str) -> BTreeMap<u64, Report> {
    let line = |line: &str| {
        let mut fields = line.splitn(4, '|').map(str::trim);
        let id: u64 = fields.next()?.parse().ok()?;
        let state = word(fields.next()?);
        let nodes = hostlist::expand(fields.next()?);
        let reason = fields.next().unwrap_or_default().trim_matches(['(', ')']).to_owned();
        (!state.is_empty()).then_some((id, Report { state, nodes, reason, exit: None }))
    };
    text.lines().filter_map(line).collect()
}

/// `sacct --parsable2 --allocations` with [`SACCT_FORMAT`]: reports by job id; of several for one id the last.
pub fn sacct(text: &str) -> BTreeMap<u64, Report> {
    let line = |line: &str| {
        let mut fields = line.splitn(5, '|').map(str::trim);
        let id: u64 = fields.next()?.parse().ok()?;
        let state = word(fields.next()?);
        let exit = exit(fields.next()?);
        let nodes = hostlist::expand(fields.next().unwrap_or_default());
        let reason = fields.next().unwrap_or_default().to_owned();
        (!state.is_empty()).then_some((id, Report { state, nodes, reason, exit }))
    };
    text.lines().filter_map(line).collect()
}

/// `3:0`: status and signal.
fn exit(text: &str) -> Option<(i32, i32)> {
    let (status, signal) = text.split_once(':')?;
    Some((status.parse().ok()?, signal.parse().ok()?))
}

/// `scontrol --oneliner show job`: the report of one job.
pub fn scontrol(text: &str) -> Option<Report> {
    let field = |name: &str| {
        let key = format!(" {name}=");
        let at = text.find(&key)? + key.len();
        text[at..].split_whitespace().next().map(str::to_owned)
    };
    let state = field("JobState")?;
    Some(Report {
        state,
        nodes: field("NodeList").map(|n| hostlist::expand(&n)).unwrap_or_default(),
        reason: field("Reason").unwrap_or_default(),
        exit: field("ExitCode").as_deref().and_then(exit),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_queue() {
        let text = "12|PENDING||Resources\n13|RUNNING|n[1-2]|None\nrubbish\n14|COMPLETED|n1|None\n15|FAILED|n2|NonZeroExitCode\n";
        let jobs = squeue(text);
        assert_eq!(jobs.len(), 4);
        assert_eq!(jobs[&12].waiting().unwrap(), "Slurm: PENDING (Resources: the nodes it needs are in use)");
        assert_eq!((jobs[&13].phase(), jobs[&13].nodes.join(" ")), (Phase::Going, "n1 n2".into()));
        assert_eq!((jobs[&14].phase(), jobs[&14].because()), (Phase::Over, None));
        assert_eq!(jobs[&15].because(), None);
    }

    #[test]
    fn accounting() {
        let text = "7|CANCELLED by 0|0:15|n1|None\n8|FAILED|3:0|n[1-2]|None\n8|TIMEOUT|0:0|n1|\n9|OUT_OF_MEMORY|0:125|n1|None\n";
        let jobs = sacct(text);
        assert_eq!(jobs[&7].exit, Some((0, 15)));
        assert!(jobs[&7].because().unwrap().starts_with("CANCELLED: "));
        assert_eq!(jobs[&8].because().unwrap(), "TIMEOUT: its walltime is over");
        assert!(jobs[&9].because().unwrap().starts_with("OUT_OF_MEMORY: it used more memory"));
    }

    #[test]
    fn one_job() {
        let text = "JobId=4 JobName=a b UserId=root(0) JobState=NODE_FAIL Reason=NodeDown Dependency=(null) ExitCode=1:0 NodeList=n[1-2]\n";
        let report = scontrol(text).unwrap();
        assert_eq!((report.state.as_str(), report.exit, report.nodes.len()), ("NODE_FAIL", Some((1, 0)), 2));
        assert_eq!(report.because().unwrap(), "NODE_FAIL: a node it ran on failed (NodeDown)");
        assert_eq!(scontrol("slurm_load_jobs error: Invalid job id specified"), None);
    }

    #[test]
    fn an_unknown_word_is_no_end() {
        for state in ["COMPLETING", "SUSPENDED", "STAGE_OUT", "SIGNALING", "RESIZING", "STOPPED", "NEW_WORD"] {
            assert_eq!(Report { state: state.into(), ..Report::default() }.phase(), Phase::Going, "{state}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "[0-9A-Z|:\\n \\[\\]a-c=(),-]{0,200}") {
            squeue(&text);
            sacct(&text);
            scontrol(&text);
        }
    }
}
