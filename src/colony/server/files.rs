//! Rows of CFS: revisions of files under labels. The bytes are never the server's business.

use super::Context;
use super::Payload;
use super::Refused;
use super::Work;
use super::members;
use super::processes;
use crate::colonies::File;
use crate::colonies::FileData;
use crate::colonies::Label;
use crate::colonies::time::Time;
use crate::colony::database::now;
use rusqlite::Connection;
use rusqlite::OptionalExtension;
use rusqlite::params;
use serde_json::Value;
use serde_json::json;

pub(super) fn add(work: &Work<'_>, context: &Context, payload: &Payload) -> Result<Value, Refused> {
    let mut file: File = payload.get("file")?;
    members::require_member(work.db, context, &file.colonyname)?;
    let texts = [&file.label, &file.name, &file.checksum, &file.reference.s3object.object];
    if texts.iter().any(|text| text.contains('\0')) {
        // The real server says that all is well, and stores nothing.
        return Err(Refused::bad("Failed to add file, a NUL character cannot be stored"));
    }
    if file.reference.protocol.is_empty() {
        file.reference.protocol = "s3".into();
    }
    file.fileid = processes::new_id()?;
    file.added = Time::from_nanos(now());
    work.db
        .prepare_cached("INSERT INTO file(file_id, colony, label, name, body) VALUES (?1, ?2, ?3, ?4, '')")?
        .execute(params![file.fileid, file.colonyname, file.label, file.name])?;
    file.sequencenr = work.db.last_insert_rowid();
    work.db
        .prepare_cached("UPDATE file SET body = ?2 WHERE sequence = ?1")?
        .execute(params![file.sequencenr, serde_json::to_string(&file)?])?;
    Ok(json!(file))
}

pub(super) fn get(work: &Work<'_>, context: &Context, payload: &Payload) -> Result<Value, Refused> {
    let colony = payload.text("colonyname")?;
    members::require_member(work.db, context, &colony)?;
    let (id, label, name) = (payload.text("fileid")?, payload.text("label")?, payload.text("name")?);
    let latest: bool = payload.get("latest")?;
    let (sql, values, unknown) = if !id.is_empty() {
        ("SELECT body FROM file WHERE colony = ?1 AND file_id = ?2 AND ?3 = ?3", [id, String::new()], 400)
    } else if !name.is_empty() {
        ("SELECT body FROM file WHERE colony = ?1 AND label = ?2 AND name = ?3 ORDER BY sequence DESC", [label, name], 404)
    } else {
        return Err(Refused::internal("malformatted get file msg"));
    };
    let bodies: Vec<String> =
        work.db.prepare_cached(sql)?.query_map(params![colony, values[0], values[1]], |r| r.get(0))?.collect::<Result<_, _>>()?;
    if bodies.is_empty() {
        return Err(Refused::new(unknown, "Failed to get file"));
    }
    let shown = if latest { 1 } else { bodies.len() };
    let files = bodies.iter().take(shown).map(|body| serde_json::from_str(body)).collect::<Result<Vec<File>, _>>()?;
    Ok(json!(files))
}

/// Latest revisions of one label.
pub(super) fn list(work: &Work<'_>, context: &Context, payload: &Payload) -> Result<Value, Refused> {
    let colony = payload.text("colonyname")?;
    members::require_member(work.db, context, &colony)?;
    let sql = "SELECT body FROM file WHERE sequence IN
               (SELECT max(sequence) FROM file WHERE colony = ?1 AND label = ?2 GROUP BY name)";
    let bodies: Vec<String> = work
        .db
        .prepare_cached(sql)?
        .query_map(params![colony, payload.text("label")?], |r| r.get(0))?
        .collect::<Result<_, _>>()?;
    let data = |body: &String| -> Result<FileData, Refused> {
        let file: File = serde_json::from_str(body)?;
        Ok(FileData { name: file.name, checksum: file.checksum, size: file.size, s3filename: file.reference.s3object.object })
    };
    Ok(json!(bodies.iter().map(data).collect::<Result<Vec<_>, _>>()?))
}

/// Labels that begin with a text; with `exact` a label and those below it, nothing where it holds no file itself. Wildcards in
/// the name match themselves only, unlike on the real server.
pub(super) fn labels(work: &Work<'_>, context: &Context, payload: &Payload) -> Result<Value, Refused> {
    let colony = payload.text("colonyname")?;
    members::require_member(work.db, context, &colony)?;
    let (name, exact): (String, bool) = (payload.text("name")?, payload.get("exact")?);
    if context.settings.faulty_labels {
        let all = faulty(work.db, &colony, &name, exact)?;
        return Ok(if all.is_empty() { Value::Null } else { json!(all) });
    }
    let all = if exact && !name.is_empty() {
        let own = "SELECT 1 FROM file WHERE colony = ?1 AND label = ?2 LIMIT 1";
        if work.db.query_row(own, params![colony, name], |_| Ok(())).optional()?.is_none() {
            return Ok(Value::Null);
        }
        below(work.db, &colony, &name)?
    } else {
        beginning_with(work.db, &colony, &name)?
    };
    Ok(if all.is_empty() { Value::Null } else { json!(all) })
}

/// All labels that begin with a text, with how many rows each has.
fn beginning_with(db: &Connection, colony: &str, prefix: &str) -> Result<Vec<Label>, Refused> {
    // By a range, so that the index is read from the first such label on, and no other row.
    let sql = "SELECT label, count(*) FROM file WHERE colony = ?1 AND label >= ?2 GROUP BY label ORDER BY label";
    let mut rows = db.prepare_cached(sql)?;
    let rows = rows.query_map(params![colony, prefix], |r| Ok(Label { name: r.get(0)?, files: r.get(1)? }))?;
    let is_ours = |row: &rusqlite::Result<Label>| row.as_ref().map_or(true, |label| label.name.starts_with(prefix));
    Ok(rows.take_while(is_ours).collect::<Result<_, _>>()?)
}

/// As the real server answers: with wildcards, and nothing where the label itself holds no file.
pub(super) fn faulty(db: &Connection, colony: &str, name: &str, exact: bool) -> Result<Vec<Label>, Refused> {
    let all = beginning_with(db, colony, "")?;
    if !exact || name.is_empty() {
        return Ok(all.into_iter().filter(|l| matches(&format!("{name}%"), &l.name)).collect());
    }
    if !all.iter().any(|l| l.name == name) {
        return Ok(Vec::new());
    }
    Ok(all.into_iter().filter(|l| l.name == name || matches(&format!("{name}/%"), &l.name)).collect())
}

/// SQL's LIKE, with regard to case.
fn matches(pattern: &str, text: &str) -> bool {
    let mut rest = pattern.chars();
    match rest.next() {
        None => text.is_empty(),
        Some('%') => (0..=text.len()).filter(|at| text.is_char_boundary(*at)).any(|at| matches(rest.as_str(), &text[at..])),
        Some(wanted) => {
            let mut text = text.chars();
            text.next().is_some_and(|c| wanted == '_' || c == wanted) && matches(rest.as_str(), text.as_str())
        }
    }
}

/// A label and those below it.
pub(super) fn below(db: &Connection, colony: &str, root: &str) -> Result<Vec<Label>, Refused> {
    let all = beginning_with(db, colony, root)?;
    Ok(all.into_iter().filter(|l| crate::cfs::labels::is_below(root, &l.name)).collect())
}

pub(super) fn remove(work: &Work<'_>, context: &Context, payload: &Payload) -> Result<Value, Refused> {
    let colony = payload.text("colonyname")?;
    members::require_member(work.db, context, &colony)?;
    let (id, label, name) = (payload.text("fileid")?, payload.text("label")?, payload.text("name")?);
    if !id.is_empty() {
        work.db.execute("DELETE FROM file WHERE colony = ?1 AND file_id = ?2", params![colony, id])?;
    } else if !name.is_empty() {
        work.db.execute("DELETE FROM file WHERE colony = ?1 AND label = ?2 AND name = ?3", params![colony, label, name])?;
    } else {
        return Err(Refused::bad("malformatted remove file msg"));
    }
    Ok(json!({}))
}
