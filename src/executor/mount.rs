//! The job's `/cfs` on a machine that has no such folder: the mount point is replaced by the real one.
//!
//! Replaced are whole path components only: `/cfs` and `/cfs/a`, not `/cfsx`, `x/cfs` or `$HOME/cfs`. In shell text the
//! real path is quoted as its surroundings need it, since a folder's name may hold spaces or quotes.

/// Replaces the mount point in a text that is data: an argument, the value of a variable.
pub fn in_word(text: &str, mount: &str, real: &str) -> String {
    replace(text, mount, |_| real.to_owned())
}

/// Replaces the mount point in shell text. Outside quotes, within `"…"` and within `'…'` the path is written so that
/// the shell reads it literally (here documents and nested substitutions are taken for what surrounds them).
pub fn in_shell(text: &str, mount: &str, real: &str) -> String {
    let quotes = quoting(text);
    replace(text, mount, |at| match quotes[at] {
        Quote::None => real.chars().flat_map(|c| if is_plain(c) { vec![c] } else { vec!['\\', c] }).collect(),
        Quote::Double => real.chars().flat_map(|c| if "\\\"$`".contains(c) { vec!['\\', c] } else { vec![c] }).collect(),
        Quote::Single => real.replace('\'', r"'\''"),
    })
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || "/_-.,+:@%=".contains(c) || !c.is_ascii()
}

/// Whether a character can be part of a path component that touches the mount point.
fn is_component(c: char) -> bool {
    c.is_alphanumeric() || "_-.~+@%#^".contains(c)
}

/// Whether what stands before makes the mount point the tail of a longer path.
fn leads_on(c: char) -> bool {
    is_component(c) || "/})*?]\\".contains(c)
}

fn replace(text: &str, mount: &str, real: impl Fn(usize) -> String) -> String {
    if mount.is_empty() {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    let mut from = 0;
    while let Some(found) = text[from..].find(mount) {
        let at = from + found;
        let end = at + mount.len();
        let before = text[..at].chars().next_back();
        let after = text[end..].chars().next();
        let whole = !before.is_some_and(leads_on) && !after.is_some_and(is_component);
        out.push_str(&text[from..at]);
        if whole {
            out.push_str(&real(at));
        } else {
            out.push_str(mount);
        }
        from = end;
    }
    out.push_str(&text[from..]);
    out
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quote {
    None,
    Single,
    Double,
}

/// For each byte of shell text, the quotes it stands in.
fn quoting(text: &str) -> Vec<Quote> {
    let mut state = Quote::None;
    let mut escaped = false;
    let mut out = Vec::with_capacity(text.len());
    for byte in text.bytes() {
        out.push(state);
        if escaped {
            escaped = false;
            continue;
        }
        state = match (state, byte) {
            (Quote::None, b'\'') => Quote::Single,
            (Quote::None, b'"') => Quote::Double,
            (Quote::Single, b'\'') | (Quote::Double, b'"') => Quote::None,
            (Quote::None | Quote::Double, b'\\') => {
                escaped = true;
                state
            }
            _ => state,
        };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn whole_components_only() {
        for (text, want) in [
            ("/cfs", "/r"),
            ("/cfs/a/b", "/r/a/b"),
            ("--out=/cfs/a", "--out=/r/a"),
            ("/cfs:/cfs/a:/x", "/r:/r/a:/x"),
            ("ls \"/cfs\" '/cfs/a';cat </cfs/b>/cfs/c", "ls \"/r\" '/r/a';cat </r/b>/r/c"),
            ("/cfsx /cfs-1 /cfs.old /cfs_ /cfsé", "/cfsx /cfs-1 /cfs.old /cfs_ /cfsé"),
            ("x/cfs /a/cfs ${HOME}/cfs $(pwd)/cfs $HOME/cfs */cfs", "x/cfs /a/cfs ${HOME}/cfs $(pwd)/cfs $HOME/cfs */cfs"),
            ("file:///cfs/a", "file:///cfs/a"),
            ("", ""),
        ] {
            assert_eq!(in_word(text, "/cfs", "/r"), want);
            assert_eq!(in_shell(text, "/cfs", "/r"), want);
        }
        assert_eq!(in_word("/cfs/a", "", "/r"), "/cfs/a");
        assert_eq!(in_word("/data/in/x /data/inx", "/data/in", "/r"), "/r/x /data/inx");
    }

    #[test]
    fn the_shell_reads_the_real_path_literally() {
        for real in ["/a b", "/it's", "/q\"u", "/$HOME`x`", "/back\\slash", "/a;b&c|d", "/ü ñ", "/*?[x]", "/#x!~"] {
            let text = "printf '%s\\n' /cfs/x \"/cfs/x\" '/cfs/x' a\"\"/cfs/x";
            let text = in_shell(text, "/cfs", real);
            let out = std::process::Command::new("sh").args(["-c", &text]).output().unwrap();
            let want = format!("{real}/x\n{real}/x\n{real}/x\na{real}/x\n");
            assert_eq!(String::from_utf8(out.stdout).unwrap(), want, "{text}");
        }
    }
    proptest! {
        // Each case is a shell.
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_folder_and_any_name_arrive(real in "/[ -~äß]{1,12}", name in "[a-z]{1,4}") {
            let real = real.replace('\n', " ");
            let text = in_shell(&format!("printf '%s\\n' /cfs/{name} \"/cfs/{name}\" '/cfs/{name}'"), "/cfs", &real);
            let out = std::process::Command::new("sh").args(["-c", &text]).output().unwrap();
            prop_assert_eq!(String::from_utf8(out.stdout).unwrap(), format!("{real}/{name}\n").repeat(3), "{}", text);
        }

        #[test]
        fn any_text_is_taken(text in any::<String>(), near in "[/cfs'\"$\\\\ ]{0,20}") {
            for text in [text, near] {
                let _ = in_shell(&text, "/cfs", "/a b");
                prop_assert_eq!(in_word(&text, "/cfs", "/cfs"), text);
            }
        }
    }
}
