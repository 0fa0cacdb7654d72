//! The comparison against its invariants, on small trees by the thousand.

use super::*;
use proptest::prelude::*;

const POLICIES: [Policy; 9] = [
    Policy::Mirror,
    Policy::LocalWins,
    Policy::RemoteWins,
    Policy::FetchOnly { keep_local: true },
    Policy::FetchOnly { keep_local: false },
    Policy::FetchBeside,
    Policy::SendOnly { keep_local: true },
    Policy::SendOnly { keep_local: false },
    Policy::SendBeside { keep_local: true },
];

#[derive(Clone)]
struct Owned {
    size: u64,
    sha256: String,
    mode: Option<u32>,
}

type Files = BTreeMap<RelPath, Owned>;

fn borrowed(files: &Files) -> super::Files<'_> {
    files.iter().map(|(path, f)| (path, Side { size: f.size, sha256: &f.sha256, mode: f.mode })).collect()
}

fn plan(local: &Files, remote: &Files, base: &BTreeMap<String, BaseFile>, policy: Policy) -> Plan {
    super::plan(&borrowed(local), &borrowed(remote), base, policy)
}

fn side(content: u8) -> Owned {
    Owned { size: u64::from(content), sha256: content.to_string(), mode: Some(0o644) }
}

fn was(content: u8, fetched: bool) -> BaseFile {
    BaseFile { sha256: content.to_string(), mode: 0o644, fetched }
}

fn files(list: &[(&str, u8)]) -> Files {
    list.iter().map(|(path, content)| (RelPath::parse(path).unwrap(), side(*content))).collect()
}

fn base(list: &[(&str, u8)]) -> BTreeMap<String, BaseFile> {
    list.iter().map(|(path, content)| ((*path).to_owned(), was(*content, false))).collect()
}

fn names(entries: &[Entry]) -> Vec<&str> {
    entries.iter().map(|e| e.path.as_str()).collect()
}

#[test]
fn a_deletion_is_a_deletion_and_does_not_come_back() {
    let (local, remote, base) = (files(&[]), files(&[("main.py", 1)]), base(&[("main.py", 1)]));
    for policy in [Policy::Mirror, Policy::LocalWins, Policy::RemoteWins] {
        let plan = plan(&local, &remote, &base, policy);
        assert_eq!((names(&plan.remove_remote), plan.downloads.len()), (vec!["main.py"], 0), "{policy:?}");
    }
}

#[test]
fn what_the_base_does_not_know_is_nobodys_to_delete() {
    let (local, remote) = (files(&[]), files(&[("theirs", 1)]));
    for policy in POLICIES {
        let plan = plan(&local, &remote, &BTreeMap::new(), policy);
        assert!(plan.remove_remote.is_empty(), "{policy:?}");
    }
    assert_eq!(names(&plan(&local, &remote, &BTreeMap::new(), Policy::Mirror).foreign), ["theirs"]);
}

#[test]
fn an_edited_result_is_kept_aside_and_an_untouched_one_is_replaced() {
    let (local, remote) = (files(&[("r", 1)]), files(&[("r", 2)]));
    let untouched = BTreeMap::from([("r".to_owned(), was(1, true))]);
    let plan_untouched = plan(&local, &remote, &untouched, Policy::RemoteWins);
    assert_eq!((names(&plan_untouched.downloads), plan_untouched.keep_aside.len()), (vec!["r"], 0));
    for edited in [BTreeMap::from([("r".to_owned(), was(3, true))]), BTreeMap::new()] {
        let plan = plan(&local, &remote, &edited, Policy::RemoteWins);
        assert_eq!((names(&plan.downloads), names(&plan.keep_aside)), (vec!["r"], vec!["r"]));
    }
}

#[test]
fn what_the_colony_no_longer_has_goes_only_if_it_came_from_there() {
    let (local, remote) = (files(&[("x", 1)]), files(&[]));
    for policy in [Policy::LocalWins, Policy::RemoteWins] {
        let fetched = plan(&local, &remote, &BTreeMap::from([("x".to_owned(), was(1, true))]), policy);
        assert_eq!((names(&fetched.remove_local), fetched.uploads.len()), (vec!["x"], 0), "{policy:?}");
        for before in [was(1, false), was(2, true)] {
            let written = plan(&local, &remote, &BTreeMap::from([("x".to_owned(), before)]), policy);
            assert_eq!((written.remove_local.len(), names(&written.uploads)), (0, vec!["x"]), "{policy:?}");
        }
    }
}

#[test]
fn an_executor_sends_nothing_that_it_did_not_change() {
    let (local, remote, base) = (files(&[("x", 1)]), files(&[("x", 2)]), base(&[("x", 1)]));
    for keep_local in [false, true] {
        assert!(plan(&local, &remote, &base, Policy::SendOnly { keep_local }).is_empty());
    }
}

#[test]
fn a_changed_executable_bit_is_sent_again() {
    let mut local = files(&[("run.sh", 1)]);
    let remote = local.clone();
    local.get_mut(&RelPath::parse("run.sh").unwrap()).unwrap().mode = Some(0o755);
    assert_eq!(names(&plan(&local, &remote, &base(&[("run.sh", 1)]), Policy::Mirror).uploads), ["run.sh"]);
}

#[test]
fn a_file_where_the_other_side_has_a_folder_is_listed_and_nothing_is_lost() {
    let below = plan(&files(&[("x", 1)]), &files(&[("x/y", 2), ("z", 3)]), &BTreeMap::new(), Policy::LocalWins);
    assert_eq!((names(&below.clashes), names(&below.downloads), names(&below.uploads)), (vec!["x/y"], vec!["z"], vec!["x"]));
    let over = plan(&files(&[("x/y", 1)]), &files(&[("x", 2)]), &BTreeMap::new(), Policy::RemoteWins);
    assert_eq!((names(&over.clashes), names(&over.uploads)), (vec!["x"], vec!["x/y"]));
    // A file that the colony turned into a folder, and nobody touched here.
    let base = BTreeMap::from([("x".to_owned(), was(1, true))]);
    let turned = plan(&files(&[("x", 1)]), &files(&[("x/y", 2)]), &base, Policy::RemoteWins);
    assert_eq!((names(&turned.remove_local), names(&turned.downloads)), (vec!["x"], vec!["x/y"]));
}

/// Both sides after a plan was carried out.
fn carry_out(
    plan: &Plan,
    local: &Files,
    remote: &Files,
    base: &BTreeMap<String, BaseFile>,
) -> (Files, Files, BTreeMap<String, BaseFile>) {
    let (mut l, mut r, mut b) = (local.clone(), remote.clone(), base.clone());
    for entry in &plan.keep_aside {
        let kept = RelPath::parse(&format!("{}.local", entry.path)).unwrap();
        let file = l.remove(&entry.path).unwrap();
        l.insert(kept, file);
    }
    for entry in &plan.remove_local {
        l.remove(&entry.path);
        b.remove(entry.path.as_str());
    }
    for entry in &plan.remove_remote {
        r.remove(&entry.path);
        b.remove(entry.path.as_str());
    }
    for entry in &plan.uploads {
        let file = l[&entry.path].clone();
        b.insert(entry.path.to_string(), BaseFile { sha256: file.sha256.clone(), mode: 0o644, fetched: false });
        r.insert(entry.path.clone(), file);
    }
    for entry in &plan.downloads {
        let file = r[&entry.path].clone();
        b.insert(entry.path.to_string(), BaseFile { sha256: file.sha256.clone(), mode: 0o644, fetched: true });
        l.insert(entry.path.clone(), file);
    }
    for path in &plan.agree {
        let file = &l[path];
        b.insert(path.to_string(), BaseFile { sha256: file.sha256.clone(), mode: 0o644, fetched: false });
    }
    for path in &plan.forget {
        b.remove(path);
    }
    (l, r, b)
}

/// Trees over few paths (some below others) and few contents, so that every case comes up.
fn tree() -> impl Strategy<Value = Vec<(&'static str, u8)>> {
    let path = prop::sample::select(vec!["a", "b", "c", "d/e", "d/f", "d"]);
    prop::collection::vec((path, 0u8..4), 0..6).prop_map(|mut list| {
        // On a disk a name is a file or a folder.
        if list.iter().any(|(p, _)| p.starts_with("d/")) {
            list.retain(|(p, _)| *p != "d");
        }
        list
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// Carrying a plan out leaves nothing to do but what cannot be done.
    #[test]
    fn plans_converge(local in tree(), remote in tree(), old in tree(), policy in prop::sample::select(POLICIES.to_vec())) {
        let (local, remote, base) = (files(&local), files(&remote), base(&old));
        let first = plan(&local, &remote, &base, policy);
        let (local, remote, base) = carry_out(&first, &local, &remote, &base);
        let second = plan(&local, &remote, &base, policy);
        // A file kept aside is new, and is sent the next time.
        prop_assert!(second.downloads.is_empty() && second.remove_remote.is_empty() && second.remove_local.is_empty(), "{second:?}");
        let third = { let (l, r, b) = carry_out(&second, &local, &remote, &base); plan(&l, &r, &b, policy) };
        prop_assert!(third.is_empty(), "{third:?}");
    }

    /// Promise 3 on paper: every content that was here is here or in the colony afterwards, or came from the colony.
    #[test]
    fn no_local_content_is_lost(local in tree(), remote in tree(), old in tree(), fetched in any::<bool>(),
                                policy in prop::sample::select(vec![Policy::Mirror, Policy::LocalWins, Policy::RemoteWins])) {
        let (local, remote) = (files(&local), files(&remote));
        let base: BTreeMap<_, _> = old.iter().map(|(p, c)| ((*p).to_owned(), was(*c, fetched))).collect();
        let plan = plan(&local, &remote, &base, policy);
        let (after_local, after_remote, _) = carry_out(&plan, &local, &remote, &base);
        for (path, file) in &local {
            let came_from_there = base.get(path.as_str()).is_some_and(|b| b.fetched && b.sha256 == file.sha256);
            let somewhere = after_local.values().chain(after_remote.values()).any(|s| s.sha256 == file.sha256);
            // Without `fetched`, LocalWins may replace a file that the colony has as an older revision.
            let sent_before = base.get(path.as_str()).is_some_and(|b| b.sha256 == file.sha256);
            prop_assert!(somewhere || came_from_there || (policy == Policy::LocalWins && sent_before), "{path}: {plan:?}");
        }
    }

    /// One way in touches nothing in the colony, one way out nothing here.
    #[test]
    fn one_way_is_one_way(local in tree(), remote in tree(), old in tree(), keep_local in any::<bool>()) {
        let (local, remote, base) = (files(&local), files(&remote), base(&old));
        let fetch = plan(&local, &remote, &base, Policy::FetchOnly { keep_local });
        prop_assert!(fetch.uploads.is_empty() && fetch.remove_remote.is_empty());
        let send = plan(&local, &remote, &base, Policy::SendOnly { keep_local });
        prop_assert!(send.downloads.is_empty() && send.remove_local.is_empty() && send.keep_aside.is_empty());
        // Beside others nothing is removed anywhere, and nothing is taken that was written here.
        let fetch = plan(&local, &remote, &base, Policy::FetchBeside);
        prop_assert!(fetch.uploads.is_empty() && fetch.remove_remote.is_empty() && fetch.remove_local.is_empty());
        let touched = |path: &RelPath| local.get(path).is_some_and(|f| base.get(path.as_str()).is_none_or(|b| b.sha256 != f.sha256));
        prop_assert!(!fetch.downloads.iter().any(|entry| touched(&entry.path)));
        let send = plan(&local, &remote, &base, Policy::SendBeside { keep_local });
        prop_assert!(send.downloads.is_empty() && send.remove_local.is_empty() && send.remove_remote.is_empty());
    }
}
