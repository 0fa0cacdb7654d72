//! What a colony ever held: also what was removed again at once.

use crate::lab::Lab;
use crate::lab::until;
use std::collections::BTreeSet;

/// Every row that was ever written to the local colony, noted by its database itself. So nothing escapes that was stored for a
/// moment only, whoever stored it and whatever he says of it.
pub struct Ledger {
    database: rusqlite::Connection,
}

impl Ledger {
    /// Begins to note. The colony must have been started.
    pub fn of(lab: &Lab) -> Ledger {
        let database = rusqlite::Connection::open(lab.state().join("colony/colony.db")).unwrap();
        database.busy_timeout(crate::lab::PATIENCE).unwrap();
        let sql = "CREATE TABLE noted (place TEXT NOT NULL);
            CREATE TRIGGER note AFTER INSERT ON file BEGIN INSERT INTO noted VALUES (NEW.label || '/' || NEW.name); END;";
        database.execute_batch(sql).unwrap();
        Ledger { database }
    }

    /// Whatever was stored since the last time this was asked, below the tree's label: once for each time.
    pub fn since(&self, tree: &str) -> Vec<String> {
        let mut statement = self.database.prepare("DELETE FROM noted RETURNING place").unwrap();
        let rows: Vec<String> = statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        let start = format!("/{tree}/");
        let below = |place: &String| Some(place.split_once(&start)?.1.to_owned());
        rows.iter().map(|place| below(place).unwrap_or_else(|| format!("elsewhere: {place}"))).collect()
    }

    /// The same without order and number, and without the markers of folders.
    pub fn names_since(&self, tree: &str) -> BTreeSet<String> {
        self.since(tree).into_iter().filter(|name| !name.ends_with(".pollinator-folder")).collect()
    }

    /// Whether a row was noted and not asked for yet.
    pub fn has(&self, ending: &str) -> bool {
        let sql = "SELECT count(*) FROM noted WHERE substr(place, -length(?1)) = ?1";
        self.database.query_row(sql, [ending], |row| row.get::<_, i64>(0)).unwrap() > 0
    }

    /// The places of all files that the colony holds now.
    pub fn held(&self) -> BTreeSet<String> {
        let mut statement = self.database.prepare("SELECT label || '/' || name FROM file").unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }

    /// Waits until a file was stored.
    #[track_caller]
    pub fn until_stored(&self, ending: &str) {
        until(&format!("{ending} is stored"), || self.has(ending));
    }
}
