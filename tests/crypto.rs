//! Keys, ids and signatures against those of two other libraries (`tests/wire/crypto.json`, `crypto-refused.json`).

#![allow(clippy::unwrap_used, clippy::expect_used)] // A test fails by panicking.

use pollinator::colonies::Identity;
use pollinator::colonies::identity::recover;
use pollinator::config::Secret;
use serde_json::Value;

fn rows(name: &str) -> Vec<Value> {
    let path = format!("{}/tests/wire/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn text<'a>(row: &'a Value, key: &str) -> &'a str {
    row[key].as_str().unwrap_or_else(|| panic!("{key} is missing in {row}"))
}

#[test]
fn every_recorded_key_signs_and_is_recovered() {
    let rows = rows("crypto.json");
    assert_eq!(rows.len(), 25);
    for row in rows {
        let identity = Identity::from_key(&Secret::new(text(&row, "prvkey"))).unwrap();
        assert_eq!(identity.id(), text(&row, "id"));
        let signature = identity.sign(text(&row, "message"));
        assert_eq!(signature, text(&row, "signature"));
        for theirs in ["signature", "signature_of_go_library"] {
            assert_eq!(recover(text(&row, "message"), text(&row, theirs)).unwrap(), text(&row, "recovered_id"));
            assert_eq!(recover(text(&row, "message"), &text(&row, theirs).to_uppercase()).unwrap(), text(&row, "recovered_id"));
        }
    }
}

#[test]
fn a_new_key_signs_what_others_recover() {
    let (identity, key) = Identity::generate().unwrap();
    assert_eq!(Identity::from_key(&key).unwrap().id(), identity.id());
    assert_eq!(recover("eyJ9", &identity.sign("eyJ9")).unwrap(), identity.id());
    assert_ne!(recover("eyJ8", &identity.sign("eyJ9")).unwrap(), identity.id(), "a changed message is somebody else's");
}

#[test]
fn keys_that_are_none_are_refused_without_being_shown() {
    let zero = "0".repeat(64);
    for bad in ["", "zz", "abcd", zero.as_str()] {
        let refused = Identity::from_key(&Secret::new(bad)).unwrap_err();
        assert!(bad.is_empty() || !refused.to_string().contains(bad), "{refused}");
    }
}

/// What the real verifier says is said here too, up to its library's numbers; "compressed key" recovery bytes, which it
/// happens to take, are refused.
#[test]
fn every_recorded_refusal_is_refused() {
    let path = format!("{}/tests/wire/crypto-refused.json", env!("CARGO_MANIFEST_DIR"));
    let recorded: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let signer = text(&recorded, "signer_id");
    let cases = recorded["cases"].as_array().unwrap();
    assert!(cases.len() >= 10, "only {} cases", cases.len());
    for row in cases {
        let case = text(row, "case");
        let ours = recover(text(row, "message"), text(row, "signature"));
        match (row["recovered_id"].as_str(), &ours) {
            (Some(_), Err(_)) if case.contains("4 + v") => {}
            (Some(id), Ok(found)) => {
                assert_eq!(found, id, "{case}");
                assert_eq!(found == signer, row["same_id_as_signer"].as_bool().unwrap(), "{case}");
            }
            (None, Err(refusal)) => {
                let beginning: String = text(row, "error").chars().take(20).collect();
                assert!(refusal.to_string().starts_with(&beginning), "{case}: {refusal} instead of {}", text(row, "error"));
            }
            (theirs, ours) => panic!("{case}: recorded {theirs:?}, ours {ours:?}"),
        }
    }
}
