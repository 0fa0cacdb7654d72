//! Paging through keys as S3 does: prefix, delimiter, markers. Pure; the catalogue only says which key comes next.

use percent_encoding::AsciiSet;
use percent_encoding::NON_ALPHANUMERIC;
use percent_encoding::utf8_percent_encode;

/// S3's limit on the entries of one page.
pub(super) const PAGE: usize = 1000;

/// What `encoding-type=url` leaves as it is.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'*');

/// What to list.
#[derive(Clone, Debug, Default)]
pub(super) struct Query {
    pub(super) prefix: String,
    pub(super) delimiter: Option<String>,
    /// The first key that may be listed.
    pub(super) from: String,
    pub(super) limit: usize,
}

/// One page of a listing, in key order.
#[derive(Debug)]
pub(super) struct Page<T> {
    pub(super) entries: Vec<T>,
    pub(super) prefixes: Vec<String>,
    /// Where the next page begins, if there is one.
    pub(super) next: Option<String>,
    /// The last key or common prefix of this page (the marker of the first version of the call).
    pub(super) last: Option<String>,
}

/// Builds a page from `rows`: `rows(from, count)` gives up to `count` entries whose keys are at least `from`, in key order.
pub(super) fn page<T, E>(
    query: &Query,
    key: impl Fn(&T) -> &str,
    mut rows: impl FnMut(&str, usize) -> Result<Vec<T>, E>,
) -> Result<Page<T>, E> {
    let mut page = Page { entries: Vec::new(), prefixes: Vec::new(), next: None, last: None };
    let mut from = query.from.as_str().max(&query.prefix).to_owned();
    let mut count = 0;
    if query.limit == 0 {
        return Ok(page);
    }
    loop {
        // One more than fits, to see whether there is more.
        let asked = query.limit - count + 1;
        let found = rows(&from, asked)?;
        let exhausted = found.len() < asked;
        let mut skipped = false;
        for entry in found {
            let name = key(&entry);
            if !name.starts_with(&query.prefix) {
                return Ok(page);
            }
            if count == query.limit {
                page.next = Some(name.to_owned());
                return Ok(page);
            }
            count += 1;
            if let Some(common) = common_prefix(name, query) {
                page.last = Some(common.clone());
                let Some(after) = successor(&common) else {
                    page.prefixes.push(common);
                    return Ok(page);
                };
                page.prefixes.push(common);
                from = after;
                skipped = true;
                break;
            }
            page.last = Some(name.to_owned());
            from = format!("{name}\0");
            page.entries.push(entry);
        }
        if exhausted && !skipped {
            return Ok(page);
        }
    }
}

fn common_prefix(key: &str, query: &Query) -> Option<String> {
    let delimiter = query.delimiter.as_deref().filter(|d| !d.is_empty())?;
    let at = key[query.prefix.len()..].find(delimiter)?;
    Some(key[..query.prefix.len() + at + delimiter.len()].to_owned())
}

/// The first text that is larger than everything that begins with `prefix`.
fn successor(prefix: &str) -> Option<String> {
    let mut chars: Vec<char> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        let next = match last {
            '\u{d7ff}' => Some('\u{e000}'),
            _ => char::from_u32(last as u32 + 1),
        };
        if let Some(next) = next {
            chars.push(next);
            return Some(chars.into_iter().collect());
        }
    }
    None
}

/// Where a listing goes on behind `marker`: behind the key, or behind everything below it where it is a common prefix.
pub(super) fn behind(marker: &str, query: &Query) -> String {
    match common_prefix_of_marker(marker, query) {
        true => successor(marker).unwrap_or_else(|| format!("{marker}\0")),
        false => format!("{marker}\0"),
    }
}

fn common_prefix_of_marker(marker: &str, query: &Query) -> bool {
    marker.starts_with(&query.prefix) && common_prefix(marker, query).is_some_and(|common| common == marker)
}

/// A text as it stands in a reply: percent-encoded where the client asked for that.
pub(super) fn encoded(text: &str, url: bool) -> String {
    if url { utf8_percent_encode(text, PLAIN).to_string() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    fn list(keys: &[&str], prefix: &str, delimiter: &str, limit: usize) -> Vec<(Vec<String>, Vec<String>)> {
        let mut sorted: Vec<String> = keys.iter().map(|k| (*k).to_owned()).collect();
        sorted.sort();
        let delimiter = (!delimiter.is_empty()).then(|| delimiter.to_owned());
        let mut query = Query { prefix: prefix.into(), delimiter, from: String::new(), limit };
        let mut pages = Vec::new();
        loop {
            let rows = |from: &str, count: usize| {
                Ok::<_, Infallible>(sorted.iter().filter(|k| k.as_str() >= from).take(count).cloned().collect::<Vec<_>>())
            };
            let Ok(page) = page(&query, |k: &String| k.as_str(), rows);
            pages.push((page.entries, page.prefixes));
            match page.next {
                Some(next) => query.from = next,
                None => return pages,
            }
        }
    }

    #[test]
    fn common_prefixes_are_listed_once_and_counted() {
        let keys = ["a", "b/1", "b/2", "b/c/3", "c", "d/1"];
        let all = list(&keys, "", "/", 10);
        assert_eq!(all, [(vec!["a".into(), "c".into()], vec!["b/".into(), "d/".into()])]);
        let paged = list(&keys, "", "/", 1);
        assert_eq!(paged.len(), 4);
        assert_eq!(paged[1], (vec![], vec!["b/".to_owned()]));
        assert_eq!(list(&keys, "b/", "/", 10), [(vec!["b/1".into(), "b/2".into()], vec!["b/c/".into()])]);
    }

    #[test]
    fn every_key_is_listed_once_whatever_the_page_size() {
        let keys: Vec<String> = (0..57).map(|n| format!("k/{}/{n}", n % 5)).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        for limit in [1, 2, 3, 7, 56, 57, 58, 1000] {
            let pages = list(&keys, "k/", "", limit);
            let mut seen: Vec<String> = pages.into_iter().flat_map(|p| p.0).collect();
            assert!(seen.is_sorted());
            seen.dedup();
            assert_eq!(seen.len(), 57, "pages of {limit}");
        }
    }

    #[test]
    fn a_prefix_of_the_largest_characters_ends() {
        assert_eq!(successor("a/").unwrap(), "a0");
        assert_eq!(successor("\u{d7ff}").unwrap(), "\u{e000}");
        assert_eq!(successor("a\u{10ffff}").unwrap(), "b");
        assert_eq!(successor("\u{10ffff}"), None);
    }

    #[test]
    fn a_marker_that_is_a_common_prefix_skips_all_below_it() {
        let query = Query { delimiter: Some("/".into()), ..Query::default() };
        assert_eq!(behind("b/", &query), "b0");
        assert_eq!(behind("b/1", &query), "b/1\0");
        assert_eq!(behind("b", &query), "b\0");
    }
}
