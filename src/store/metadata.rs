//! User metadata in headers: plain ASCII as it is, everything else as RFC 2047 words, which is how S3 itself writes them.

use crate::store::Metadata;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::collections::HashMap;

const BEGIN: &str = "=?UTF-8?B?";
const END: &str = "?=";

/// How many bytes of text a word of at most 75 characters holds.
const WORD: usize = 45;

/// For the SDK, which writes each value into a header.
pub(super) fn to_headers(metadata: &Metadata) -> HashMap<String, String> {
    metadata.iter().map(|(name, value)| (name.clone(), encode(value))).collect()
}

/// From what the SDK read from headers.
pub(super) fn from_headers(metadata: Option<&HashMap<String, String>>) -> Metadata {
    metadata.into_iter().flatten().map(|(name, value)| (name.to_lowercase(), decode(value))).collect()
}

fn encode(value: &str) -> String {
    if value.bytes().all(|b| (0x20..0x7f).contains(&b)) {
        return value.to_owned();
    }
    let (mut words, mut rest) = (Vec::new(), value);
    while !rest.is_empty() {
        // A character has at most four bytes, so there is always one that fits.
        let (word, more) = rest.split_at(rest.floor_char_boundary(WORD));
        words.push(format!("{BEGIN}{}{END}", STANDARD.encode(word)));
        rest = more;
    }
    words.join(" ")
}

/// What is not a row of such words is taken as it is.
fn decode(value: &str) -> String {
    let word = |word: &str| {
        let inner = word.strip_prefix(BEGIN).or_else(|| word.strip_prefix("=?utf-8?B?"))?.strip_suffix(END)?;
        String::from_utf8(STANDARD.decode(inner).ok()?).ok()
    };
    value.split(' ').map(word).collect::<Option<String>>().unwrap_or_else(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn plain_text_stays_readable() {
        assert_eq!(encode("755"), "755");
        assert_eq!(encode("ä"), "=?UTF-8?B?w6Q=?=");
        assert_eq!(decode("=?UTF-8?B?w6Q=?= not a word"), "=?UTF-8?B?w6Q=?= not a word");
    }

    proptest! {
        #[test]
        fn every_text_comes_back_from_visible_ascii(text in "[^=].*") {
            let sent = encode(&text);
            prop_assert!(sent.bytes().all(|b| (0x20..0x7f).contains(&b)));
            prop_assert!(sent.split(' ').all(|word| word.len() <= 75 || word == text || sent == text));
            prop_assert_eq!(decode(&sent), text);
        }
    }
}
