//! Reading requests as the real server does: names without regard to case, unknown fields dropped, null as nothing.

use super::Refused;
use crate::colonies::envelope::Request;
use serde::de::DeserializeOwned;
use serde_json::Map;
use serde_json::Value;

/// Maps whose keys belong to users.
const THEIRS: [&str; 6] = ["kwargs", "env", "in", "out", "args", "projects"];

/// A checked payload.
#[derive(Debug)]
pub(in crate::colony) struct Payload {
    fields: Map<String, Value>,
    what: String,
}

/// Reads the envelope of a body, field names in any case.
pub(super) fn envelope(body: &[u8]) -> Result<Request, Refused> {
    let value: Value = serde_json::from_slice(body).map_err(|e| Refused::bad(format!("the request is not JSON: {e}")))?;
    serde_json::from_value(lowered(value)).map_err(|e| Refused::bad(format!("the request is not an envelope: {e}")))
}

/// Names in lower case, but for what users may name as they like.
fn lowered(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let lower = |(key, value): (String, Value)| {
                let key = key.to_lowercase();
                let value = if THEIRS.contains(&key.as_str()) { value } else { lowered(value) };
                (key, value)
            };
            Value::Object(map.into_iter().map(lower).collect())
        }
        Value::Array(list) => Value::Array(list.into_iter().map(lowered).collect()),
        other => other,
    }
}

impl Payload {
    /// Opens the payload of a request; `what` is what it asks for, in words.
    pub(super) fn read(request: &Request, what: &str) -> Result<Payload, Refused> {
        let invalid = || Refused::bad(format!("Failed to {what}, invalid JSON"));
        let fields = match lowered(request.decoded().ok_or_else(invalid)?) {
            Value::Object(fields) => fields,
            _ => return Err(invalid()),
        };
        let payload = Payload { fields, what: what.to_owned() };
        if payload.text("msgtype")? != request.payloadtype {
            return Err(Refused::bad(format!("Failed to {what}, msg.MsgType does not match payloadType")));
        }
        Ok(payload)
    }

    /// A field; missing and null are the default.
    pub(super) fn get<T: DeserializeOwned + Default>(&self, field: &str) -> Result<T, Refused> {
        match self.fields.get(field) {
            None | Some(Value::Null) => Ok(T::default()),
            Some(value) => T::deserialize(value).map_err(|_| Refused::bad(format!("Failed to {}, invalid JSON", self.what))),
        }
    }

    /// A text.
    pub(super) fn text(&self, field: &str) -> Result<String, Refused> {
        self.get(field)
    }

    /// A number.
    pub(super) fn number(&self, field: &str) -> Result<i64, Refused> {
        self.get(field)
    }
}
