//! Keys, ids and signatures: secp256k1 ECDSA with public key recovery over SHA3-256.
//!
//! The signer is never sent: a verifier recovers the public key from the signature, and its hash is the id.

use crate::config::Secret;
use k256::ecdsa::RecoveryId;
use k256::ecdsa::Signature;
use k256::ecdsa::SigningKey;
use k256::ecdsa::VerifyingKey;
use keccak_asm::Sha3_256;

/// Why a key or a signature was refused. The texts of [`SignatureError`] follow the real verifier's.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeyError {
    /// Not 64 hex digits of a valid private key.
    #[error("not a private key: expected 64 hexadecimal digits of a secp256k1 key")]
    BadPrivateKey,
    /// The system gave no randomness for a new key.
    #[error("no randomness from the operating system for a new key")]
    NoRandomness,
}

/// Why a signature was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SignatureError {
    /// Not hexadecimal text.
    #[error("encoding/hex: {0}")]
    NotHex(String),
    /// Not 65 bytes.
    #[error("Invalid signature length")]
    Length,
    /// `s` in the upper half of the group order.
    #[error("Failed verify signature: Signature s value is over half the order")]
    HighS,
    /// No public key belongs to these numbers.
    #[error("Failed to recover public key: invalid signature: {0}")]
    Unrecoverable(&'static str),
}

/// A private key with its id. `Debug` shows the id only.
#[derive(Clone)]
pub struct Identity {
    key: SigningKey,
    id: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Identity {
    /// From the private key's 64 hex digits.
    pub fn from_key(key: &Secret) -> Result<Identity, KeyError> {
        let bytes = hex::decode(key.expose().trim()).map_err(|_| KeyError::BadPrivateKey)?;
        if bytes.len() != 32 {
            return Err(KeyError::BadPrivateKey);
        }
        let key = SigningKey::from_slice(&bytes).map_err(|_| KeyError::BadPrivateKey)?;
        let id = id_of(key.verifying_key());
        Ok(Identity { key, id })
    }

    /// A new random key: the identity and the private key's text, to be kept in a 0600 file.
    pub fn generate() -> Result<(Identity, Secret), KeyError> {
        loop {
            let mut bytes = zeroize::Zeroizing::new([0u8; 32]);
            getrandom::fill(bytes.as_mut()).map_err(|_| KeyError::NoRandomness)?;
            let text = Secret::new(hex::encode(*bytes));
            // Of 2^256 numbers only some 2^128 are no key; then draw again.
            if let Ok(identity) = Identity::from_key(&text) {
                return Ok((identity, text));
            }
        }
    }

    /// The id: hex SHA3-256 over the hex text of the uncompressed public key.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Signs a message: hex of `r || s || v`, `v` 0 or 1, `s` in the lower half.
    pub fn sign(&self, message: &str) -> String {
        let digest: [u8; 32] = Sha3_256::digest(message.as_bytes()).into();
        let (signature, recovery) = self.key.sign_prehash_recoverable(&digest);
        let mut bytes = signature.to_bytes().to_vec();
        bytes.push(recovery.to_byte());
        hex::encode(bytes)
    }
}

/// The uncompressed public key as the protocol hashes it: 130 lower-case hex digits, `04…`.
pub fn public_key_text(key: &VerifyingKey) -> String {
    hex::encode(key.to_sec1_point(false).as_bytes())
}

fn id_of(key: &VerifyingKey) -> String {
    hex::encode(Sha3_256::digest(public_key_text(key).as_bytes()))
}

/// The id of whoever signed `message`.
///
/// # Errors
/// [`SignatureError`] when no id can be recovered. A changed message or recovery byte gives *another* id, not an error.
pub fn recover(message: &str, signature: &str) -> Result<String, SignatureError> {
    let bytes = hex::decode(signature).map_err(|e| {
        SignatureError::NotHex(match e {
            hex::FromHexError::OddLength => "odd length hex string".to_owned(),
            hex::FromHexError::InvalidHexCharacter { c, .. } => format!("invalid byte: U+{:04X} '{c}'", c as u32),
            other => other.to_string(),
        })
    })?;
    let (numbers, v) = match bytes.split_last() {
        Some((v, numbers)) if numbers.len() == 64 => (numbers, *v),
        _ => return Err(SignatureError::Length),
    };
    if numbers[..32].iter().all(|b| *b == 0) {
        return Err(SignatureError::Unrecoverable("R is 0"));
    }
    let signature = Signature::from_slice(numbers).map_err(|_| SignatureError::Unrecoverable("r or s is out of range"))?;
    if signature.normalize_s() != signature {
        return Err(SignatureError::HighS);
    }
    let recovery = match v {
        0..=3 => RecoveryId::from_byte(v),
        _ => None,
    }
    .ok_or(SignatureError::Unrecoverable("public key recovery code is not in the valid range"))?;
    let digest: [u8; 32] = Sha3_256::digest(message.as_bytes()).into();
    VerifyingKey::recover_from_prehash(&digest, &signature, recovery)
        .map(|key| id_of(&key))
        .map_err(|_| SignatureError::Unrecoverable("no public key belongs to it"))
}
