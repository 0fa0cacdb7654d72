//! Files of CFS as the protocol carries them: rows, listings, labels, snapshots.

use super::model::nullable;
use super::time::Time;
use serde::Deserialize;
use serde::Serialize;

/// Where the bytes of a file are. Keys stay empty: readers use their own, and every member can read this.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct S3Object {
    /// Endpoint as the writer knew it (readers use their own settings).
    #[serde(deserialize_with = "nullable")]
    pub server: String,
    /// -1 by convention of other clients: it stands in `server`.
    #[serde(deserialize_with = "nullable")]
    pub port: i64,
    /// TLS.
    #[serde(deserialize_with = "nullable")]
    pub tls: bool,
    /// Never filled by us.
    #[serde(deserialize_with = "nullable")]
    pub accesskey: String,
    /// Never filled by us.
    #[serde(deserialize_with = "nullable")]
    pub secretkey: String,
    /// Region.
    #[serde(deserialize_with = "nullable")]
    pub region: String,
    /// Not used.
    #[serde(deserialize_with = "nullable")]
    pub encryptionkey: String,
    /// Not used.
    #[serde(deserialize_with = "nullable")]
    pub encryptionalg: String,
    /// Object key.
    #[serde(deserialize_with = "nullable")]
    pub object: String,
    /// Bucket.
    #[serde(deserialize_with = "nullable")]
    pub bucket: String,
}

/// Reference to the bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FileRef {
    /// `s3`.
    #[serde(deserialize_with = "nullable")]
    pub protocol: String,
    /// Where.
    #[serde(deserialize_with = "nullable")]
    pub s3object: S3Object,
}

/// A row of CFS: one revision of `(label, name)`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct File {
    /// Set by the server.
    #[serde(deserialize_with = "nullable")]
    pub fileid: String,
    /// The colony.
    #[serde(deserialize_with = "nullable")]
    pub colonyname: String,
    /// Folder in CFS. Never to be trusted as a path.
    #[serde(deserialize_with = "nullable")]
    pub label: String,
    /// File name. Never to be trusted as a path.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    /// Bytes.
    #[serde(deserialize_with = "nullable")]
    pub size: i64,
    /// Set by the server; the highest is the latest revision.
    #[serde(deserialize_with = "nullable")]
    pub sequencenr: i64,
    /// SHA-256, hex.
    #[serde(deserialize_with = "nullable")]
    pub checksum: String,
    /// `SHA256`.
    #[serde(deserialize_with = "nullable")]
    pub checksumalg: String,
    /// Where the bytes are.
    #[serde(rename = "ref", deserialize_with = "nullable")]
    pub reference: FileRef,
    /// Set by the server.
    pub added: Time,
}

/// What `getfiles` tells of the latest revision of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FileData {
    /// Name.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    /// SHA-256, hex.
    #[serde(deserialize_with = "nullable")]
    pub checksum: String,
    /// Bytes.
    #[serde(deserialize_with = "nullable")]
    pub size: i64,
    /// Object key.
    #[serde(deserialize_with = "nullable")]
    pub s3filename: String,
}

/// A label and how many names and revisions it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Label {
    /// The label.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    /// Count.
    #[serde(deserialize_with = "nullable")]
    pub files: i64,
}

/// A list of file ids under a name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Snapshot {
    /// Set by the server.
    #[serde(deserialize_with = "nullable")]
    pub snapshotid: String,
    /// The colony.
    #[serde(deserialize_with = "nullable")]
    pub colonyname: String,
    /// Label it was made of.
    #[serde(deserialize_with = "nullable")]
    pub label: String,
    /// Name, unique in the colony; must not contain `:`.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    /// Ids; `null` where empty.
    pub fileids: Option<Vec<String>>,
    /// When it was made.
    pub added: Time,
}
