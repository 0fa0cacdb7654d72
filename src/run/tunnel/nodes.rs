//! The first node of what an executor tells: names with commas, or a scheduler's short form (`n[01-03,07]`). Pure.

/// The first node; none where the text names none. What it gives is checked before it is used.
pub(super) fn first(text: &str) -> Option<String> {
    let mut depth = 0_u32;
    let end = text.find(|c: char| {
        match c {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0 && (c == ',' || c.is_whitespace())
    });
    let one = text[..end.unwrap_or(text.len())].trim();
    let mut name = String::new();
    let mut rest = one;
    while let Some((before, inside)) = rest.split_once('[') {
        let (inside, after) = inside.split_once(']')?;
        let first = inside.split([',', '-']).next()?.trim();
        if first.is_empty() || !first.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return None;
        }
        name.push_str(before);
        name.push_str(first);
        rest = after;
    }
    name.push_str(rest);
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_node_of_lists() {
        for (text, node) in [
            ("n1", "n1"),
            ("n1,n2", "n1"),
            ("n[01-03]", "n01"),
            ("n[1,3-5],m", "n1"),
            ("r[1-2]c[08-09]-ib,x", "r1c08-ib"),
            (" n1 ", "n1"),
            ("nid[002345-002346].site", "nid002345.site"),
        ] {
            assert_eq!(first(text.trim()).as_deref(), Some(node), "{text}");
        }
        for bad in ["", ",", "n[", "n[]", "n[-3]", "n[;]"] {
            assert_eq!(first(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "[n0-9\\[\\],\\- ]{0,20}") {
            let _ = first(&text);
        }
    }
}
