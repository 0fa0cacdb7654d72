//! What is about to be pushed, as git tells a pre-push hook. Pure.

/// Ids of the commits that branches are pushed at, without repetition, in git's order.
///
/// Git gives a line for each ref: `<local ref> <local id> <remote ref> <remote id>`, in later versions perhaps with more.
/// What is deleted has an id of zeros. A tag starts nothing: it names a commit that a branch brought before, or will bring.
pub fn commits(lines: &str) -> Vec<&str> {
    let mut commits: Vec<&str> = Vec::new();
    for line in lines.lines() {
        let mut words = line.split_whitespace();
        let (Some(_), Some(local), Some(remote)) = (words.next(), words.next(), words.next()) else { continue };
        let is_deleted = local.bytes().all(|b| b == b'0');
        let is_id = local.bytes().all(|b| b.is_ascii_hexdigit());
        if remote.starts_with("refs/heads/") && is_id && !is_deleted && !commits.contains(&local) {
            commits.push(local);
        }
    }
    commits
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
    const ZERO: &str = "0000000000000000000000000000000000000000";

    #[test]
    fn branches_count_and_what_is_deleted_or_a_tag_does_not() {
        let lines = format!(
            "refs/heads/main {A} refs/heads/main {ZERO}\nrefs/tags/v1 {B} refs/tags/v1 {ZERO}\n(delete) {ZERO} refs/heads/old {B}\n"
        );
        assert_eq!(commits(&lines), [A]);
        assert_eq!(commits(&format!("(delete) {ZERO} refs/heads/old {B}\n")), [""; 0]);
        assert_eq!(commits(&format!("refs/tags/v1 {B} refs/tags/v1 {ZERO}\n")), [""; 0]);
        assert_eq!(commits(""), [""; 0]);
    }

    #[test]
    fn a_commit_is_pushed_once_under_whatever_name() {
        let lines = format!("HEAD {A} refs/heads/x {ZERO}\nHEAD~ {B} refs/heads/y {ZERO}\n{A} {A} refs/heads/z {B}\n");
        assert_eq!(commits(&lines), [A, B]);
        // Longer ids, and what git may add one day.
        let long = "c".repeat(64);
        assert_eq!(commits(&format!("refs/heads/m {long} refs/heads/m {} more", "0".repeat(64))), [long.as_str()]);
        assert_eq!(commits("nonsense\nrefs/heads/m --option refs/heads/m 0\n"), [""; 0]);
    }
}
