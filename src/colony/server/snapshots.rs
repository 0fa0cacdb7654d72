//! Snapshots: the latest revisions of a label and those below it, by id.

use super::Context;
use super::Payload;
use super::Refused;
use super::Work;
use super::files;
use super::members;
use super::processes;
use crate::colonies::Snapshot;
use crate::colonies::time::Time;
use crate::colony::database::now;
use rusqlite::OptionalExtension;
use rusqlite::Row;
use rusqlite::params;
use serde_json::Value;
use serde_json::json;

/// Unlike the real server's, it holds files of sub-labels though the label itself holds none, no files of other labels that a
/// wildcard would match, and a name with a colon is refused instead of breaking all listings.
pub(super) fn create(work: &Work<'_>, context: &Context, payload: &Payload) -> Result<Value, Refused> {
    let (colony, label, name) = (payload.text("colonyname")?, payload.text("label")?, payload.text("name")?);
    members::require_member(work.db, context, &colony)?;
    if name.contains(':') {
        return Err(Refused::bad("Failed to create snapshot, the name must not contain a colon"));
    }
    let taken = work.db.query_row("SELECT 1 FROM snapshot WHERE colony = ?1 AND name = ?2", params![colony, name], |_| Ok(()));
    if taken.optional()?.is_some() {
        return Err(Refused::internal(format!("Snapshot with name <{name}> in Colony <{colony}> already exists")));
    }
    let root = if label.len() > 1 { label.trim_end_matches('/') } else { label.as_str() };
    let mut ids: Vec<String> = Vec::new();
    let labels = if context.settings.faulty_labels {
        files::faulty(work.db, &colony, root, true)?
    } else {
        files::below(work.db, &colony, root)?
    };
    for found in labels {
        let sql = "SELECT file_id FROM file WHERE sequence IN
                   (SELECT max(sequence) FROM file WHERE colony = ?1 AND label = ?2 GROUP BY name)";
        let mut rows = work.db.prepare_cached(sql)?;
        let rows = rows.query_map(params![colony, found.name], |r| r.get(0))?;
        ids.extend(rows.collect::<Result<Vec<String>, _>>()?);
    }
    let added = now();
    let snapshot = Snapshot {
        snapshotid: processes::new_id()?,
        colonyname: colony,
        label: root.to_owned(),
        name,
        fileids: (!ids.is_empty()).then_some(ids),
        added: Time::from_nanos(added),
    };
    work.db.execute(
        "INSERT INTO snapshot(snapshot_id, colony, label, name, file_ids, added) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![
            snapshot.snapshotid,
            snapshot.colonyname,
            snapshot.label,
            snapshot.name,
            serde_json::to_string(&snapshot.fileids)?,
            added
        ],
    )?;
    Ok(json!(snapshot))
}

const COLUMNS: &str = "snapshot_id, colony, label, name, file_ids, added";

fn read(row: &Row<'_>) -> rusqlite::Result<(Snapshot, String)> {
    let added: i64 = row.get(5)?;
    let snapshot = Snapshot {
        snapshotid: row.get(0)?,
        colonyname: row.get(1)?,
        label: row.get(2)?,
        name: row.get(3)?,
        fileids: None,
        added: Time::from_nanos(added),
    };
    Ok((snapshot, row.get(4)?))
}

fn whole((snapshot, ids): (Snapshot, String)) -> Result<Snapshot, Refused> {
    Ok(Snapshot { fileids: serde_json::from_str(&ids)?, ..snapshot })
}

pub(super) fn get(work: &Work<'_>, context: &Context, payload: &Payload) -> Result<Value, Refused> {
    let (colony, id, name) = (payload.text("colonyname")?, payload.text("snapshotid")?, payload.text("name")?);
    members::require_member(work.db, context, &colony)?;
    let (column, value, shown) = if !id.is_empty() {
        ("snapshot_id", &id, format!("Id <{id}>"))
    } else if !name.is_empty() {
        ("name", &name, format!("name <{name}>"))
    } else {
        return Err(Refused::internal("Failed to get snapshot, malformatted msg"));
    };
    let sql = format!("SELECT {COLUMNS} FROM snapshot WHERE colony = ?1 AND {column} = ?2");
    let found = work.db.query_row(&sql, params![colony, value], read).optional()?;
    let unknown = || Refused::internal(format!("Snapshot not found with {shown} in Colony <{colony}> does not exists"));
    Ok(json!(whole(found.ok_or_else(unknown)?)?))
}

pub(super) fn list(work: &Work<'_>, context: &Context, payload: &Payload) -> Result<Value, Refused> {
    let colony = payload.text("colonyname")?;
    members::require_member(work.db, context, &colony)?;
    let sql = format!("SELECT {COLUMNS} FROM snapshot WHERE colony = ?1 ORDER BY added");
    let rows: Vec<_> = work.db.prepare_cached(&sql)?.query_map([&colony], read)?.collect::<Result<_, _>>()?;
    let all = rows.into_iter().map(whole).collect::<Result<Vec<_>, _>>()?;
    Ok(if all.is_empty() { Value::Null } else { json!(all) })
}

pub(super) fn remove(work: &Work<'_>, context: &Context, payload: &Payload) -> Result<Value, Refused> {
    let (colony, id, name) = (payload.text("colonyname")?, payload.text("snapshotid")?, payload.text("name")?);
    members::require_member(work.db, context, &colony)?;
    if id.is_empty() && name.is_empty() {
        return Err(Refused::internal("Failed to remove snapsnot, malformatted msg"));
    }
    let sql = "DELETE FROM snapshot WHERE colony = ?1 AND ((?2 <> '' AND snapshot_id = ?2) OR (?2 = '' AND name = ?3))";
    work.db.execute(sql, params![colony, id, name])?;
    Ok(json!({}))
}

pub(super) fn remove_all(work: &Work<'_>, context: &Context, payload: &Payload) -> Result<Value, Refused> {
    let colony = payload.text("colonyname")?;
    members::require_member(work.db, context, &colony)?;
    work.db.execute("DELETE FROM snapshot WHERE colony = ?1", [&colony])?;
    Ok(json!({}))
}
