//! Which colonies keep objects below a project's prefix.
//!
//! Keys name the project, not the colony. Where two colonies share a bucket and each has a project of the same name, neither may
//! take the other's objects for rubbish. So every colony leaves a mark of its own in the bucket before its first upload.

use super::Cfs;
use super::Error;
use super::labels;
use crate::store::Metadata;
use bytes::Bytes;

/// Says that this colony keeps objects of the project that `root` is a label of. Called before any is stored.
pub(super) async fn claim(cfs: &Cfs, root: &str) -> Result<(), Error> {
    let (colony, bucket) = tokio::join!(cfs.client.colony_info(), cfs.store.ensure_bucket());
    let (colony, ()) = (colony?, bucket?);
    let key = format!("{}{}", marks(root), colony.colonyid);
    if cfs.store.head(&key).await?.is_none() {
        cfs.store.put_bytes(&key, Bytes::from(colony.name), &Metadata::new(), &|_| ()).await?;
    }
    Ok(())
}

/// Whether this colony, and no other, keeps objects of the project that `root` is a label of. Asked after they were listed: the
/// mark is there before the first of them.
pub(super) async fn is_alone(cfs: &Cfs, root: &str) -> Result<bool, Error> {
    let prefix = marks(root);
    let (colony, marks) = tokio::join!(cfs.client.colony_info(), cfs.store.inventory(&prefix));
    let (own, marks) = (format!("{prefix}{}", colony?.colonyid), marks?);
    Ok(!marks.is_empty() && marks.iter().all(|mark| mark.key == own))
}

/// What the keys of a project's marks begin with; the colony's id, unique in the world, follows. They stand apart from the
/// files' objects.
fn marks(root: &str) -> String {
    let prefix = labels::key_prefix(root);
    let (home, project) = prefix.split_once('/').unwrap_or((&prefix, ""));
    format!("{home}/.colonies/{project}/")
}

#[cfg(test)]
mod tests {
    #[test]
    fn marks_stand_apart_from_objects() {
        assert_eq!(super::marks("/pollinator/p/src"), "pollinator/.colonies/p/");
        assert_ne!(super::marks("/pollinator/p2"), super::marks("/pollinator/p"));
    }
}
