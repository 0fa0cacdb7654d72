//! Slurm's hostlists, expanded: `n[1-3,7],gpu05`. Pure.
//!
//! The grammar is that of `scontrol show hostnames`: names separated by commas, each with any number of brackets that hold
//! numbers and ranges; a range keeps the width of its first number. Anything else is left as it stands.

/// Most names that one list gives: a cluster's largest jobs, and no list that fills the memory.
const MOST: usize = 65_536;

/// The names of a list, in its order. Of a list that is longer, or not understood, what can be told.
pub fn expand(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    for part in split(text) {
        let part = part.trim();
        if part.is_empty() || part == "(null)" || part == "None assigned" {
            continue;
        }
        for name in expand_one(part, MOST - names.len()) {
            names.push(name);
        }
        if names.len() >= MOST {
            break;
        }
    }
    names
}

/// The parts between commas that are not in brackets.
fn split(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut depth, mut from) = (0usize, 0);
    for (at, c) in text.char_indices() {
        match c {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[from..]);
    parts
}

fn expand_one(part: &str, most: usize) -> Vec<String> {
    let mut names = vec![String::new()];
    let mut rest = part;
    while let Some((before, after)) = rest.split_once('[') {
        let Some((ranges, after)) = after.split_once(']') else { break };
        let Some(numbers) = numbers(ranges, most) else { break };
        let longer = names.iter().flat_map(|name| numbers.iter().map(move |n| format!("{name}{before}{n}")));
        names = longer.take(most).collect();
        rest = after;
    }
    names.into_iter().map(|name| name + rest).take(most).collect()
}

/// The numbers of a bracket; none where it holds something else.
fn numbers(ranges: &str, most: usize) -> Option<Vec<String>> {
    let mut all = Vec::new();
    for range in ranges.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if !digits(first) || !digits(last) {
            return None;
        }
        let (from, to): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        let width = first.len();
        all.extend((from..=to).take(most - all.len().min(most)).map(|n| format!("{n:0width$}")));
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn as_slurm_expands_them() {
        for (text, want) in [
            ("", ""),
            ("(null)", ""),
            ("n1", "n1"),
            ("n[1-3,7],gpu05", "n1 n2 n3 n7 gpu05"),
            ("nid[001234-001237]", "nid001234 nid001235 nid001236 nid001237"),
            ("n[08-11]", "n08 n09 n10 n11"),
            ("r[1-2]c[0,3]-ib", "r1c0-ib r1c3-ib r2c0-ib r2c3-ib"),
            ("a[1-2],b,c[5]", "a1 a2 b c5"),
            ("broken[1-", "broken[1-"),
            ("odd[x-y]", "odd[x-y]"),
        ] {
            assert_eq!(expand(text).join(" "), want, "{text}");
        }
    }

    #[test]
    fn a_list_without_end_is_cut() {
        assert_eq!(expand("n[0-99999999]").len(), MOST);
        assert_eq!(expand("a[0-9999]b[0-9999]").len(), MOST);
    }

    proptest! {
        #[test]
        fn any_text_gives_names(text in "[a-c0-9\\[\\],\\- ]{0,40}") {
            prop_assert!(expand(&text).len() <= MOST);
        }

        #[test]
        fn ranges_hold_all_between(from in 0u32..500, more in 0u32..500) {
            let names = expand(&format!("n[{from}-{}]", from + more));
            prop_assert_eq!(names.len() as u32, more + 1);
            prop_assert_eq!(names.last().unwrap(), &format!("n{}", from + more));
        }
    }
}
